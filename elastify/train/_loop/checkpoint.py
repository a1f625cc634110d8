"""Checkpoints: nested state as safetensors and JSON, written so that a reader finds a whole one or none.

Tensors in the state become entries of `step-N.safetensors`; everything else, with their names in their places, becomes
`checkpoint.json`, which also holds the name, size and checksum of the tensor file. The tensor file is written first,
under a new name; renaming the JSON text over the old one is the moment at which the new checkpoint begins to exist.
Older ones that stay have been given a JSON file of their own, `step-N.json`, before that; all others are removed
afterwards. Reading runs no code of the file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from elastify._errors import ElastifyError

JSON_NAME = "checkpoint.json"
FORMAT = 1
_WEIGHTS = re.compile(r"step-\d+\.safetensors")
_LEFT_OVER = re.compile(r"\.?step-\d+\.(safetensors|json)(\.tmp)?")
_TAG = "$"


def write_checkpoint(folder: Path, step: int, state: Mapping[str, Any], older: Sequence[int] = ()) -> None:
    """Replace the checkpoint of a folder; those of the steps `older`, the last of which was it so far, stay beside it.

    Raises ElastifyError for a state that is not numbers, text and tensors.
    """
    make_folder(folder)
    tensors: dict[str, Tensor] = {}
    packed = pack(state, tensors)
    name = _name(step)
    if older:
        _atomic(folder / _name(older[-1], "json"), lambda path: shutil.copyfile(folder / JSON_NAME, path))
    _atomic(folder / name, lambda path: save_file(tensors, path))
    notes = {
        "elastify_checkpoint": FORMAT,
        "step": step,
        "weights": name,
        "bytes": (folder / name).stat().st_size,
        "crc32": _checksum(folder / name),
        "state": packed,
    }
    text = json.dumps(notes)
    _atomic(folder / JSON_NAME, lambda path: path.write_text(text, encoding="utf-8"))
    stay = {name, *(_name(number, kind) for number in older for kind in ("safetensors", "json"))}
    for old in sorted(folder.iterdir()):  # of an older one first what names the tensors, then these
        if _LEFT_OVER.fullmatch(old.name) and old.name not in stay:
            old.unlink(missing_ok=True)


def _name(step: int, kind: str = "safetensors") -> str:
    return f"step-{step:08d}.{kind}"


def make_folder(folder: Path) -> None:
    """The folder of a checkpoint; an error before anything has been computed for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ElastifyError("a checkpoint needs a folder", where=str(folder), why=str(error.strerror)) from None


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state that `write_checkpoint` wrote there; None where there is none yet."""
    path = folder / JSON_NAME
    if not path.exists():
        return None
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(folder, f"{JSON_NAME}: {error}") from None
    if not isinstance(notes, dict) or type(notes.get("elastify_checkpoint")) is not int:
        raise damaged(folder, f"{JSON_NAME} was not written by elastify")
    if notes["elastify_checkpoint"] > FORMAT:
        raise ElastifyError(
            f"the checkpoint has format {notes['elastify_checkpoint']}, newer than {FORMAT}",
            where=str(folder),
            fix="pip install --upgrade elastify",
        )
    name = notes.get("weights")
    if not isinstance(name, str) or not _WEIGHTS.fullmatch(name) or not (folder / name).is_file():
        raise damaged(folder, f"its tensors, {name!r}, are missing")
    weights = folder / name
    if weights.stat().st_size != notes.get("bytes"):
        raise damaged(folder, f"{name} has {weights.stat().st_size} bytes instead of {notes.get('bytes')}")
    if _checksum(weights) != notes.get("crc32"):
        raise damaged(folder, f"the checksum of {name} is wrong")
    try:
        state = unpack(notes.get("state"), load_file(weights))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder, f"{name}: {error}") from None
    if not isinstance(state, dict):
        raise damaged(folder, f"{JSON_NAME} holds no state")
    return state


def damaged(folder: Path, why: str) -> ElastifyError:
    """The error for a checkpoint that cannot be read."""
    return ElastifyError(
        "the checkpoint is damaged or was not written by elastify",
        where=str(folder),
        why=why,
        fix="resume=False to start over, or another folder",
    )


def pack(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """JSON data for a nested value; tensors go into `tensors` under the path at which they stand.

    >>> pack({"a": (1, 2.5), 3: None}, {})
    {'$': 'dict', 'items': [['a', {'$': 'tuple', 'items': [1, 2.5]}], [3, None]]}
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        name = path or "tensor"
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {_TAG: "tensor", "name": name}
    if isinstance(value, Mapping):
        items = {key: pack(item, tensors, f"{path}/{key}") for key, item in value.items()}
        if all(isinstance(key, str) and key != _TAG for key in items):
            return items
        return {_TAG: "dict", "items": [[pack(key, tensors, path), item] for key, item in items.items()]}
    if isinstance(value, (list, tuple)):
        parts = [pack(item, tensors, f"{path}/{number}") for number, item in enumerate(value)]
        return parts if isinstance(value, list) else {_TAG: "tuple", "items": parts}
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a number of numpy
        return value.item()
    raise ElastifyError(
        f"a checkpoint cannot hold a value of type {type(value).__name__}",
        where=path,
        why="checkpoints hold numbers, text and tensors, never code",
        fix="leave it out of state_dict(), or train without checkpoint=",
    )


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nested value that `pack` was given."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_TAG)
    if kind is None:
        return {key: unpack(item, tensors) for key, item in value.items()}
    if kind == "tensor":
        return tensors[value["name"]]
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in value["items"])
    if kind == "dict":
        return {unpack(key, tensors): unpack(item, tensors) for key, item in value["items"]}
    raise ValueError(f"unknown kind {kind!r}")


def _atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def describe_tensors(state: Mapping[str, object]) -> dict[str, list[int]]:
    """Shapes of the tensors of a state dict, by name."""
    return {name: list(tensor.shape) for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
