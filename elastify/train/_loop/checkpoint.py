"""Checkpoints: nested state as safetensors and JSON, written so that a reader finds a whole one or none.

Tensors in the state become entries of `step-N.safetensors`; everything else, with their names in their places, becomes
`checkpoint.json` (the pair is checked and replaced as `elastify._files` says). Older ones that stay have been given a
JSON file of their own, `step-N.json`, before that; all others are removed afterwards. Reading runs no code of the file.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elastify._errors import ElastifyError
from elastify._files import FileKind, make_folder, remove, replace

JSON_NAME = "checkpoint.json"
_FILES = re.compile(r"(\.)?(step-\d+\.(?:safetensors|json))(?(1)\..*)")  # with a dot: not yet under its own name
_TAG = "$"
_KIND = FileKind("checkpoint", "elastify_checkpoint", {"state": dict}, "resume=False to start over, or another folder")


def write_checkpoint(folder: Path, step: int, state: Mapping[str, Any], older: Sequence[int] = ()) -> None:
    """Replace the checkpoint of a folder; those of the steps `older`, the last of which was it so far, stay beside it.

    Raises ElastifyError for a state that is not numbers, text and tensors, and where the disk is full.
    """
    make_folder(folder, "checkpoint")
    tensors: dict[str, Tensor] = {}
    notes = {"step": step, "state": pack(state, tensors)}
    name = _name(step)
    if older:
        with _KIND.writing(folder):
            replace(folder / _name(older[-1], "json"), lambda path: shutil.copyfile(folder / JSON_NAME, path))
    _KIND.write_pair(folder / JSON_NAME, name, notes, tensors)
    stay = {name, *(_name(number, kind) for number in older for kind in ("safetensors", "json"))}
    found = [(file, known) for file in sorted(folder.iterdir()) if (known := _FILES.fullmatch(file.name))]
    gone = [file for file, known in found if known[2] not in stay or file.suffix == ".tmp"]
    remove(sorted(gone, key=lambda file: file.suffix != ".json"))  # what names the tensors first


def _name(step: int, kind: str = "safetensors") -> str:
    return f"step-{step:08d}.{kind}"


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state that `write_checkpoint` wrote there; None where there is none yet."""
    if not (folder / JSON_NAME).exists():
        return None
    notes, tensors = _KIND.read_pair(folder / JSON_NAME)
    try:
        state = unpack(notes["state"], tensors)
    except UNREADABLE as error:
        raise damaged(folder, f"{JSON_NAME}: {type(error).__name__}: {error}") from None
    if not isinstance(state, dict):
        raise damaged(folder, f"{JSON_NAME} holds no state")
    return state


damaged = _KIND.damaged
UNREADABLE = (AttributeError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)
"""What taking a state apart raises that is not what was written."""


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


def describe_tensors(state: Mapping[str, object]) -> dict[str, list[int]]:
    """Shapes of the tensors of a state dict, by name."""
    return {name: list(tensor.shape) for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
