"""Extracted models on disk: safetensors for the tensors, JSON for everything else, never pickle.

A folder holds `elastify.json` (what was done to which full-size model: changed numbers, left-out blocks; shape, dtype
and checksum of every tensor; ties; a description of the example, without data) and `model.safetensors`. Loading repeats
it on a copy of a full-size model, whose weights are never looked at. The file never names code to import: class names
are text for error messages, paths are only looked up in the model at hand, numbers only replace numbers.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from elastify._adapters import build_like, known
from elastify._capture import get_in, holder, put_in, resolve
from elastify._deploy.extract import FORMAT, children_of, drop_blocks, marked, own, plain_copy
from elastify._errors import ElastifyError
from elastify._ir import FULL, ExampleSpec
from elastify._rewrite import SPEC, InputHook, active_subnet, elastic_state, is_elastic, renumbered

JSON_NAME, WEIGHTS_NAME = "elastify.json", "model.safetensors"


def save(model: nn.Module, directory: str | os.PathLike[str]) -> None:
    """Write an extracted model to a folder: `model.safetensors` and `elastify.json`.

    Every parameter and buffer is stored, tied ones once. An existing folder is overwritten file by file, each
    of them whole or not at all. Raises ElastifyError for a model that does not come from `extract` or `load`.

    >>> import tempfile
    >>> from elastify import elastify, extract
    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(extract(model, 0.5), folder)
    ...     sorted(os.listdir(folder))
    ['elastify.json', 'model.safetensors']
    """
    if any("_elastify" in module.__dict__ for module in model.modules()):
        raise ElastifyError("an elastic model cannot be saved", fix="save(extract(model, config), directory)")
    spec = model.__dict__.get(SPEC)
    if spec is None:
        raise ElastifyError(
            f"this {type(model).__name__} was not extracted",
            why="only the difference from a full-size model is written down",
            fix="save(extract(model), directory), or safetensors.torch.save_model for any model",
        )
    hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    if any(isinstance(hook, InputHook) for hook in hooks):
        raise ElastifyError(
            "this model rounds the inputs of its layers",
            why="a saved folder holds only weights: loaded again, the model would compute something else",
            fix="keep the elastic model's checkpoint and extract from it, or train with activations=False",
        )
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, ties = _unique(model)
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    notes = {
        **spec,
        "version": _version(),
        "training": model.training,
        "tensors": {name: _entry(tensor) for name, tensor in stored.items()},
        "frozen": sorted(n for n, t in tensors.items() if isinstance(t, nn.Parameter) and not t.requires_grad),
        "ties": ties,
    }
    text = json.dumps(notes, indent=1)
    _atomic(folder / WEIGHTS_NAME, lambda path: save_file(stored, path))
    _atomic(folder / JSON_NAME, lambda path: Path(path).write_text(text, encoding="utf-8"))


def load(directory: str | os.PathLike[str], like: nn.Module | Callable[[], nn.Module] | None = None) -> nn.Module:
    """Read an extracted model back from a folder that `save` wrote.

    `like` is a model of the full size, or a function that makes one; it is copied, never changed, and its weights do
    not matter. Without it the full-size model is built by timm, torchvision or transformers, where it came from there.
    Raises ElastifyError for a folder that is missing, damaged, of a newer format, or of another model.

    >>> import tempfile
    >>> from elastify import elastify, extract
    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(extract(model, 0.5), folder)
    ...     load(folder, like=model)[0]
    Linear(in_features=4, out_features=32, bias=True)
    """
    folder = Path(directory)
    spec = _read_spec(folder)
    tensors = _read_tensors(folder, spec)
    full = _full_size(folder, spec, like)
    with active_subnet(full, FULL) if is_elastic(full) else nullcontext():  # the numbers of a subnet are others
        small = _rebuild(folder, full, spec, tensors)
    kept = {key: spec[key] for key in ("format", "class", "source", "attributes", "removed", "aside", "example")}
    return marked(small, kept).train(spec["training"])


def _named(model: nn.Module) -> dict[str, Tensor]:
    extras = elastic_state(model).extras if is_elastic(model) else {}
    found = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor for name, tensor in found if name not in extras}


def _unique(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor under its first name, and the other names of each."""
    first: dict[int, str] = {}
    ties = {n: first[id(t)] for n, t in _named(model).items() if first.setdefault(id(t), n) != n}
    return {n: t for n, t in _named(model).items() if n not in ties}, ties


def _entry(tensor: Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": _dtype(tensor), "crc32": _checksum(tensor)}


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data) if tensor.numel() else 0


def _atomic(path: Path, write: Callable[[str], Any]) -> None:
    """Write next to `path`, then rename: a reader sees the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _version() -> str:
    try:
        return version("elastify")
    except PackageNotFoundError:
        return "unknown"


_FIELDS: dict[str, type] = {
    "class": dict,
    "attributes": list,
    "removed": list,
    "aside": list,
    "training": bool,
    "tensors": dict,
    "frozen": list,
    "ties": dict,
}


def _damaged(folder: Path, why: str) -> ElastifyError:
    return ElastifyError(
        "the saved model is damaged or was not written by elastify", where=str(folder), why=why, fix="save it again"
    )


def _read_spec(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ElastifyError("there is no saved model", where=str(folder), why="the folder does not exist")
    path = folder / JSON_NAME
    if not path.is_file():
        raise ElastifyError("this folder holds no saved model", where=str(folder), why=f"it has no {JSON_NAME}")
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, f"{JSON_NAME}: {error}") from None
    if not isinstance(spec, dict) or type(spec.get("format")) is not int:
        raise _damaged(folder, f"{JSON_NAME} has no format number")
    if spec["format"] > FORMAT:
        raise ElastifyError(
            f"the saved model has format {spec['format']}, newer than {FORMAT}",
            where=str(folder),
            why=f"it was written by elastify {spec.get('version')}",
            fix="pip install --upgrade elastify",
        )
    for name, kind in _FIELDS.items():
        if not isinstance(spec.get(name), kind):
            raise _damaged(folder, f"{JSON_NAME}: {name!r} is missing or not a {kind.__name__}")
    entries = [*spec["removed"], *spec["aside"], *spec["frozen"], *spec["ties"].values()]
    if not all(isinstance(entry, str) for entry in entries):
        raise _damaged(folder, f"{JSON_NAME}: a name is not text")
    if not all(_is_attribute(entry) for entry in spec["attributes"]):
        raise _damaged(folder, f"{JSON_NAME}: an attribute is not [owner, name, index, number]")
    spec.setdefault("source", None)
    spec.setdefault("example", None)  # not written before 0.1
    try:
        _ = spec["example"] is None or ExampleSpec.from_json(spec["example"])
    except ElastifyError as error:
        raise _damaged(folder, f"{JSON_NAME}: {error}") from None
    return spec


_PLAIN = (int, float, bool, str)


def _is_attribute(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) != 4:
        return False
    owner, name, index, value = entry
    words = [owner, name, *index] if isinstance(index, list) else [None]
    return (
        all(isinstance(word, (str, int)) and "__" not in str(word) for word in words)
        and isinstance(owner, str)
        and isinstance(name, str)
        and (type(value) in (int, float) or (type(value) is list and all(type(v) in _PLAIN for v in value)))
    )


def _read_tensors(folder: Path, spec: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise _damaged(folder, f"it has no {WEIGHTS_NAME}")
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != set(spec["tensors"]):
                different = sorted(names ^ set(spec["tensors"]))
                raise _damaged(folder, f"the two files do not list the same tensors: {', '.join(different[:4])}")
            tensors = {name: file.get_tensor(name) for name in sorted(names)}
    except (SafetensorError, OSError) as error:
        raise _damaged(folder, f"{WEIGHTS_NAME}: {error}") from None
    for name, tensor in tensors.items():
        noted = spec["tensors"][name]
        found = _entry(tensor)
        if not isinstance(noted, dict) or any(noted.get(key) != found[key] for key in ("shape", "dtype")):
            raise _damaged(folder, f"{name} is {found['dtype']} {found['shape']}, {JSON_NAME} says otherwise")
        if noted.get("crc32") != found["crc32"]:
            raise _damaged(folder, f"the checksum of {name} is wrong")
    return tensors


def _full_size(folder: Path, spec: Mapping[str, Any], like: nn.Module | Callable[[], nn.Module] | None) -> nn.Module:
    name = str(spec["class"].get("qualname"))
    if like is None:
        try:
            full = build_like(spec.get("source"))
        except (AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ElastifyError(
                f"the full-size {name} cannot be built from the saved notes",
                where=str(folder),
                why=f"{type(error).__name__}: {error}",
                fix="load(directory, like=model_of_full_size)",
            ) from error
        if full is None:
            raise ElastifyError(
                f"the full-size {name} cannot be built from the saved notes",
                where=str(folder),
                why=f"it is not one of the models that {known()} list",
                fix="load(directory, like=model_of_full_size)",
            )
        return full
    full = like if isinstance(like, nn.Module) else like()
    if not isinstance(full, nn.Module):
        raise ElastifyError("`like` is not a model", why=f"it is a {type(full).__name__}", fix="pass a module")
    return full


def _rebuild(folder: Path, full: nn.Module, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    def other(why: str) -> ElastifyError:
        said = f"{spec['class'].get('module')}.{spec['class'].get('qualname')}"
        return ElastifyError(
            f"the saved model does not fit this {type(full).__name__}",
            where=str(folder),
            why=why,
            fix=f"pass like=... of the full size it was extracted from, a {said}",
        )

    modules = dict(full.named_modules(remove_duplicate=False))
    left_out = [*spec["removed"], *spec["aside"]]
    for path in left_out:
        if not path or path not in modules:
            raise other(f"it has no block {path!r}")
    names = _new_names(full, spec["removed"], left_out)
    missing = (set(tensors) | set(spec["ties"])) ^ set(names.values())
    if missing:
        raise other(f"the tensors differ: {', '.join(sorted(missing)[:4])}")
    frozen = set(spec["frozen"])
    made: dict[str, Tensor] = {}
    pairs: list[tuple[Tensor, Tensor]] = []
    for old, tensor in _named(full).items():
        if old not in names:
            continue
        name = spec["ties"].get(names[old], names[old])
        if name not in tensors:
            raise _damaged(folder, f"{name!r} should have another name, but is not stored")
        value = tensors[name]
        if value.dim() != tensor.dim() or any(a > b for a, b in zip(value.shape, tensor.shape, strict=True)):
            raise other(f"{old} has shape {list(tensor.shape)}, the saved one {list(value.shape)}")
        if name not in made:
            device = "cpu" if tensor.device.type == "meta" else tensor.device
            made[name] = own(value.to(device), tensor)
            made[name].requires_grad_(isinstance(tensor, nn.Parameter) and name not in frozen)
        pairs.append((tensor, made[name]))
    small = plain_copy(full, pairs, left_out)
    gone = tuple(f"{path}." for path in left_out)
    for owner, name, index, value in spec["attributes"]:
        if not f"{owner}.".startswith(gone):
            _set_number(small, owner, name, tuple(index), value, other)
    drop_blocks(small, spec["removed"])
    return small


def _set_number(
    model: nn.Module, owner: str, name: str, index: tuple[Any, ...], value: float, other: Callable[[str], ElastifyError]
) -> None:
    try:
        where = holder(resolve(model, owner), name)
        present = get_in(where[name], index)
    except (ElastifyError, AttributeError, KeyError, IndexError, TypeError, ValueError):
        raise other(f"it has no number {owner}.{name}") from None
    if type(present) is not type(value):
        raise other(f"{owner}.{name} is not a number of the same kind")
    where[name] = put_in(where[name], index, value)


def _new_names(full: nn.Module, removed: list[str], left_out: list[str]) -> dict[str, str]:
    """Name in the small model of every tensor of the full one that stays. Blocks and containers may have several."""
    modules = dict(full.named_modules(remove_duplicate=False))
    moved = {modules[path]: names for path, names in renumbered(full, children_of(removed)).items()}
    gone = {modules[path] for path in left_out}
    names: dict[str, str] = {}
    for name in _named(full):
        parts = name.split(".")
        around = [modules[".".join(parts[:depth])] for depth in range(len(parts))]
        if gone.isdisjoint(around):
            names[name] = ".".join(
                moved.get(outer, {}).get(part, part) for outer, part in zip(around, parts, strict=True)
            )
    return names
