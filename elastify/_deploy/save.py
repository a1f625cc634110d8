"""Extracted models on disk: safetensors for the tensors, JSON for everything else, never pickle.

A folder holds `elastify.json` (what was done to which full-size model: changed numbers, left-out blocks, shapes of the
tensors that were cut; ties; a description of the example, without data) and `model.safetensors`, a pair that is checked
and replaced as `elastify._files` says. Loading repeats it on a copy of a full-size model, whose weights are never
looked at. The file never names code to import: class names are text for error messages, paths are only looked up in
the model at hand, numbers only replace numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from elastify._adapters import LARGE, Weightless, build_like, known
from elastify._capture import get_in, holder, put_in, resolve
from elastify._deploy.extract import all_tensors, children_of, drop_blocks, marked, own, plain_copy
from elastify._errors import ElastifyError
from elastify._files import FileKind, make_folder
from elastify._ir import FULL, ExampleSpec
from elastify._rewrite import SPEC, InputHook, active_subnet, elastic_state, is_elastic, renumbered

JSON_NAME, WEIGHTS_NAME = "elastify.json", "model.safetensors"
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
_REFUSED = (ArithmeticError, AttributeError, ImportError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
_CALLS_AT_LEAST, _CALLS = 10_000, 500  # of torch in a constructor, in all and for each tensor or block that is noted
_KIND = FileKind("saved model", "format", _FIELDS, "save it again")


def save(model: nn.Module, directory: str | os.PathLike[str]) -> None:
    """Write an extracted model to a folder: `model.safetensors` and `elastify.json`.

    Every parameter and buffer is stored, tied ones once. What is in the folder already is replaced as a whole or not
    at all. Raises ElastifyError for a model that does not come from `extract` or `load`, and where the disk is full.

    >>> import tempfile, torch
    >>> from elastify import elastify, extract
    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(extract(model, 0.5), folder)
    ...     sorted(os.listdir(folder))
    ['elastify.json', 'model.safetensors']
    """
    if not isinstance(model, nn.Module):
        raise ElastifyError(
            f"the model is a {type(model).__name__}", where="save", fix="save(extract(model), directory)"
        )
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
    make_folder(folder, "saved model")
    tensors, ties = _unique(model)
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    notes = {
        **spec,
        "version": _version(),
        "training": model.training,
        "frozen": sorted(n for n, t in tensors.items() if isinstance(t, nn.Parameter) and not t.requires_grad),
        "ties": ties,
    }
    _KIND.write_pair(folder / JSON_NAME, WEIGHTS_NAME, notes, stored)


def load(directory: str | os.PathLike[str], like: nn.Module | Callable[[], nn.Module] | None = None) -> nn.Module:
    """Read an extracted model back from a folder that `save` wrote.

    `like` is a model of the full size, or a function that makes one; it is copied, never changed, and its weights do
    not matter. Without it the full-size model is built by timm, torchvision or transformers, where it came from there.
    Raises ElastifyError for a folder that is missing, damaged, of a newer format, or of another model.

    >>> import tempfile, torch
    >>> from elastify import elastify, extract
    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(extract(model, 0.5), folder)
    ...     load(folder, like=model)[0]
    Linear(in_features=4, out_features=32, bias=True)
    """
    folder = Path(directory)
    spec, tensors = _read(folder)
    if like is None:
        small = _from_library(folder, spec, tensors)
    else:
        full = like if isinstance(like, nn.Module) else like()
        if not isinstance(full, nn.Module):
            raise ElastifyError("`like` is not a model", why=f"it is a {type(full).__name__}", fix="pass a module")
        with active_subnet(full, FULL) if is_elastic(full) else nullcontext():  # the numbers of a subnet are others
            small = _rebuild(folder, full, spec, tensors)
    kept = {key: spec[key] for key in ("class", "source", "attributes", "removed", "aside", "cut", "example")}
    return marked(small, kept).train(spec["training"])


def _named(model: nn.Module) -> dict[str, Tensor]:
    extras = elastic_state(model).extras if is_elastic(model) else {}
    return {name: tensor for name, tensor in all_tensors(model) if name not in extras}


def _unique(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor under its first name, and the other names of each."""
    first: dict[int, str] = {}
    ties = {n: first[id(t)] for n, t in _named(model).items() if first.setdefault(id(t), n) != n}
    return {n: t for n, t in _named(model).items() if n not in ties}, ties


def _version() -> str:
    try:
        return version("elastify")
    except PackageNotFoundError:
        return "unknown"


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not folder.is_dir():
        raise ElastifyError("there is no saved model", where=str(folder), why="the folder does not exist")
    path = folder / JSON_NAME
    if not path.is_file():
        raise ElastifyError("this folder holds no saved model", where=str(folder), why=f"it has no {JSON_NAME}")
    spec, tensors = _KIND.read_pair(path, WEIGHTS_NAME)
    entries = [*spec["removed"], *spec["aside"], *spec["frozen"], *spec["ties"].values()]
    if not all(isinstance(entry, str) for entry in entries):
        raise _KIND.damaged(folder, f"{JSON_NAME}: a name is not text")
    if not all(_is_attribute(entry) for entry in spec["attributes"]):
        raise _KIND.damaged(folder, f"{JSON_NAME}: an attribute is not [owner, name, index, number]")
    spec.setdefault("source", None)  # this and the others were not always written
    spec.setdefault("example", None)
    cut = spec.setdefault("cut", {})
    if not isinstance(cut, dict) or not all(isinstance(shape, list) for shape in cut.values()):
        raise _KIND.damaged(folder, f"{JSON_NAME}: what was cut is no table of shapes")
    try:
        _ = spec["example"] is None or ExampleSpec.from_json(spec["example"])
    except ElastifyError as error:
        raise _KIND.damaged(folder, f"{JSON_NAME}: {error}") from None
    return spec, tensors


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


def _from_library(folder: Path, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """The model on a full-size one that its library makes without memory; with it where that cannot be done."""
    parts = len(tensors) + len(spec["ties"]) + len(spec["removed"]) + len(spec["aside"])
    why = f"it is not one of the models that {known()} list"
    for how in (Weightless(_CALLS_AT_LEAST + _CALLS * parts), nullcontext()):
        try:
            with how:
                full = build_like(spec["source"], tensors.values())
        except ElastifyError as error:
            why = f"{error.what}: {error.why}"
            break
        except _REFUSED as error:
            why = f"{type(error).__name__}: {error}"
            continue
        if full is None:
            break
        small = _rebuild(folder, full, spec, tensors)
        if not any(_is_unmade(module) for module in small.modules()):
            return small
        why = "its class computes tensors beside its weights"
        if sum(p.numel() for p in full.parameters()) > LARGE:
            break
    raise ElastifyError(
        f"the full-size {spec['class'].get('qualname')} cannot be built from the saved notes",
        where=str(folder),
        why=why,
        fix="load(directory, like=model_of_full_size)",
    )


def _is_unmade(module: nn.Module) -> bool:
    """Whether a module holds tensors without memory that are neither parameters nor buffers."""
    held = [value for name, value in vars(module).items() if name not in ("_parameters", "_buffers", "_modules")]
    inside = [vars(value) for value in held if hasattr(value, "__dict__") and not isinstance(value, nn.Module)]
    return any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves([held, inside]))


def _rebuild(folder: Path, full: nn.Module, spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    def other(why: str) -> ElastifyError:
        said = f"{spec['class'].get('module')}.{spec['class'].get('qualname')}"
        return ElastifyError(
            f"the saved model does not fit this {type(full).__name__}",
            where=str(folder),
            why=why,
            fix=f"pass like=... of the full size it was extracted from, a {said}",
        )

    known = {*dict(full.named_modules(remove_duplicate=False)), *_named(full)}
    left_out = [*spec["removed"], *spec["aside"]]
    for path in left_out:
        if not path or path not in known:
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
            raise _KIND.damaged(folder, f"{name!r} should have another name, but is not stored")
        value = tensors[name]
        here, stored = list(tensor.shape), list(value.shape)
        if not _fits(here, stored, cut := spec["cut"].get(name, here)):
            raise other(f"{old} has shape {here}, the saved one {stored}" + f", cut from {cut}" * (cut != here))
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


def _fits(here: list[int], stored: list[int], cut: list[int]) -> bool:
    """Whether a full tensor is what the stored one was cut from, or was replaced with it (another classifier)."""
    same = len(here) == len(stored) == len(cut)
    return same and all(size in (n, small) and small <= size for size, small, n in zip(here, stored, cut, strict=True))


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
    tensors = _named(full)
    gone = {id(modules[path] if path in modules else tensors[path]) for path in left_out}
    names: dict[str, str] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        around = [modules[".".join(parts[:depth])] for depth in range(len(parts))]
        if gone.isdisjoint(map(id, (*around, tensor))):
            names[name] = ".".join(
                moved.get(outer, {}).get(part, part) for outer, part in zip(around, parts, strict=True)
            )
    return names
