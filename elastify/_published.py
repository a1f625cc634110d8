"""Numbers that a model's configuration shows to its readers.

Many networks carry a `config` object that says how wide they are and how many heads and layers they have. What
forward reads of it is in the plan; the rest is only shown, and a subnet should show its own sizes. Which number means
what is told by its name and its value: `num_attention_heads = 12` is the outer factor of size 12 in the products of
the modules below the config, `intermediate_size` a whole dimension, `num_hidden_layers` the length of a container of
blocks. Where the layers of a subnet differ, the largest is shown.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn

from elastify._attributes import resolve
from elastify._ints import Attr
from elastify._layout import Axis, Layout, Product, active_size, axes_of
from elastify._plan import Plan

_NOT_SIZES = re.compile(r"token|vocab|position|label|(^|_)(max|min|id|ids|index|kernel|stride|patch|image|window)(_|$)")
_KINDS = (
    ("depth", re.compile(r"(layers?|depth|blocks)$")),
    ("groups", re.compile(r"(key_value|kv)_heads$|n_head_kv$")),
    ("head_dim", re.compile(r"head_dim$|head_size$|^d_kv$|^kv_channels$|^dim_head$|^d_head$")),
    ("heads", re.compile(r"heads?$")),
    ("hidden", re.compile(r"intermediate|ffn|inner|mlp|d_ff$|dim_ff$|feedforward")),
    ("width", re.compile(r"hidden|embd?|embed|d_model|width|dim|proj|channels")),
)


def shown(model: nn.Module, plan: Plan, sizes: Mapping[int, int], gone: Collection[str]) -> Iterator[tuple[Attr, int]]:
    """Numbers of config objects that differ in a subnet; `gone` are the paths of blocks left out."""
    left_out = tuple(f"{path}." for path in gone)
    names = [name for name in plan.tensors if not name.startswith(left_out)]
    configs = _configs(model)
    used = {(id(resolve(model, attr.owner)), attr.name) for attr in plan.used}  # one object may have several paths
    for path, config in configs.items():
        own = _pools(plan, [name for name in names if _nearest(name, configs) is config], sizes)
        below = _pools(plan, [name for name in names if _inside(name, path)], sizes)
        for name, value in vars(config).items():
            kind = _kind(name)
            if type(value) is int and kind and value > 1:
                found = own.get(kind, {}).get(value) or below.get(kind, {}).get(value) or {value}
                if max(found) != value and (id(config), name) not in used:
                    yield _attr(path, name), max(found)


def lengths(model: nn.Module, plan: Plan) -> dict[Attr, tuple[str, ...]]:
    """Numbers and lists of config objects with one entry per child of containers whose depth is elastic."""
    found: dict[Attr, tuple[str, ...]] = {}
    children = {s.container: len(list(resolve(model, s.container).children())) for s in plan.stages if not s.aside}
    common = set.intersection(*(set(c.split(".")) for c in children)) if children else set()
    for path, config in _configs(model).items():
        for name, value in vars(config).items():
            number = value if type(value) is int else len(value) if type(value) is list else 0
            if _kind(name) == "depth" if type(value) is int else not _NOT_SIZES.search(name):
                fits = [c for c in children if children[c] == number and _inside(c, path)]
                named = [c for c in fits if any(word in name for word in {*c.split(".")} - common)]  # decoder_layers
                if named or fits:
                    found[_attr(path, name)] = tuple(named or fits)
    return found


def shortened(
    model: nn.Module,
    counted: Mapping[Attr, tuple[str, ...]],
    gone: Mapping[str, Collection[str]],
    before: Mapping[Attr, Any] | None = None,
) -> Iterator[tuple[Attr, Any]]:
    """New values of these numbers and lists where some children are gone; `before` has those that are changed already.

    A list has the entries of what is left (in an extracted model: with `before`); where blocks are only left out for a
    while these come first, and the others stay behind, so that forward makes all that it made for each kind of layer.
    """
    for attr, containers in counted.items():
        children = {path: list(resolve(model, path)._modules) for path in containers}
        kept = [[i for i, n in enumerate(c) if n not in gone.get(path, ())] for path, c in children.items()]
        old, longest = resolve(model, attr.owner).__dict__[attr.name], max(kept, key=len)
        old = (before or {}).get(attr, old)
        if type(old) is int:
            new: Any = len(longest)
        else:
            rest = [] if before is not None else [item for i, item in enumerate(old) if i not in longest]
            new = [*(old[i] for i in longest), *rest]
        if new != old:
            yield attr, new


def _kind(name: str) -> str:
    if name.startswith("_") or _NOT_SIZES.search(name):
        return ""
    return next((kind for kind, pattern in _KINDS if pattern.search(name)), "")


def _configs(model: nn.Module) -> dict[str, Any]:
    """Config objects by the path of the first module that holds them."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        config = module.__dict__.get("config")
        if config is not None and type(getattr(config, "__dict__", None)) is dict and id(config) not in seen:
            seen.add(id(config))
            found[path] = config
    return found


def _attr(path: str, name: str) -> Attr:
    return Attr(f"{path}.config" if path else "config", name)


def _inside(name: str, path: str) -> bool:
    return not path or name.startswith(f"{path}.")


def _nearest(name: str, configs: Mapping[str, Any]) -> Any:
    return next((configs[path] for path in sorted(configs, key=len, reverse=True) if _inside(name, path)), None)


def _pools(plan: Plan, names: Collection[str], sizes: Mapping[int, int]) -> dict[str, dict[int, set[int]]]:
    """Active sizes by kind and full size."""
    roles = {axis.id: axis.role for axis in plan.axes}
    pools: dict[str, dict[int, set[int]]] = {}

    def put(kind: str, layout: Layout) -> None:
        pools.setdefault(kind, {}).setdefault(layout.size, set()).add(active_size(layout, sizes))

    for whole in {layout for name in names for layout in plan.tensors[name]}:
        for layout in _pieces(whole):
            own = {roles.get(axis.id, "") for axis in axes_of(layout)}
            put("width" if own & {"width", "embedding"} else "hidden", layout)
            if isinstance(layout, Product):
                *outer, last = layout.parts
                put("head_dim", last)
                put("groups", outer[0])
                for start in range(len(outer)):
                    for stop in range(start + 1, len(outer) + 1):
                        put("heads", outer[start] if stop == start + 1 else Product(tuple(outer[start:stop])))
    for size, found in pools.get("hidden", {}).items():
        pools.setdefault("width", {}).setdefault(size, found)
    return pools


def _pieces(layout: Layout) -> Iterator[Layout]:
    """A layout and, of a concat, its parts."""
    yield layout
    if not isinstance(layout, (Axis, Product)):
        for part in layout.parts:
            yield from _pieces(part)
