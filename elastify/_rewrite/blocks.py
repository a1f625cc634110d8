"""Containers that show only the blocks which are kept, and blocks that step aside.

A Sequential, ModuleList or ModuleDict that holds elastic blocks gets a subclass in which iteration, length, indexing,
slicing and membership see the kept blocks; `_modules`, and with it parameters, state_dict and named_modules, stays
whole. A block that steps aside gets a subclass whose forward returns its only input while it is left out.
"""

from __future__ import annotations

import operator
import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import Tensor, nn

from elastify._capture import read, resolve, write
from elastify._errors import ElastifyError
from elastify._ir import Attr
from elastify._rewrite.state import Record

_PLACE = re.compile(r"^(layer|block|depth)_?(idx|index|id|number)$")
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def hidden(module: nn.Module) -> frozenset[str]:
    """Child names that the container does not show at the moment."""
    own: Any = module
    active = own._elastify.active
    return active.hidden.get(own._elastify_path, frozenset()) if active is not None else frozenset()


def shown(module: nn.Module) -> dict[str, nn.Module]:
    """Children that the container shows."""
    out = hidden(module)
    return {name: child for name, child in module._modules.items() if name not in out and child is not None}


def renumbered(model: nn.Module, gone: Mapping[str, Collection[str]]) -> dict[str, dict[str, str]]:
    """New name of every child that stays, by container path: numbered containers close their gaps."""
    result: dict[str, dict[str, str]] = {}
    for path, names in gone.items():
        container = resolve(model, path)
        if not isinstance(container, CONTAINERS):
            continue
        children = list(container._modules)
        numbered = not isinstance(container, nn.ModuleDict) and children == [str(i) for i in range(len(children))]
        kept = [name for name in children if name not in names]
        result[path] = {name: str(i) if numbered else name for i, name in enumerate(kept)}
    return result


def close_gaps(
    model: nn.Module, gone: Mapping[str, Collection[str]], counts: Mapping[Attr, tuple[str, ...]]
) -> dict[Attr, Any]:
    """Set the numbers that change when blocks leave their containers; returns the old ones.

    Blocks after a gap, which caches know by their place (`layer_idx`), get the new one; `counts` maps the numbers and
    lists that tell of the blocks of containers to those.
    """
    before: dict[Attr, Any] = {}

    def change(attr: Attr, value: Any) -> None:
        before[attr] = read(model, attr)
        write(model, attr, value)

    for attr, value in list(shortened(model, counts, gone)):
        change(attr, value)
    for path, names in renumbered(model, gone).items():
        for old, new in names.items():
            if old == new:
                continue
            block = f"{path}.{old}" if path else old
            for inner, module in resolve(model, block).named_modules(prefix=block):
                for name, place in list(vars(module).items()):
                    if type(place) is int and place == int(old) and _PLACE.search(name):
                        change(Attr(inner, name), int(new))
    return before


def shortened(
    model: nn.Module,
    counts: Mapping[Attr, tuple[str, ...]],
    gone: Mapping[str, Collection[str]],
    before: Mapping[Attr, Any] | None = None,
) -> Iterator[tuple[Attr, Any]]:
    """New values of these numbers and lists where some children are gone; `before` has those that are changed already.

    A number counts those that are left of so many. A list has the entries of what is left (in an extracted model: with
    `before`); where blocks are only left out for a while these come first, and the others stay behind, so that forward
    makes all that it made for each kind of layer.
    """
    for attr, containers in counts.items():
        children = {path: list(resolve(model, path)._modules) for path in containers}
        kept = [[i for i, n in enumerate(c) if n not in gone.get(path, ())] for path, c in children.items()]
        longest = max(kept, key=len)
        old = before[attr] if before and attr in before else read(model, attr)
        if type(old) is int:
            new: Any = sum(place < old for place in longest)
        else:
            rest = [] if before is not None else [item for i, item in enumerate(old) if i not in longest]
            new = [*(old[i] for i in longest), *rest]
        if new != old:
            yield attr, new


@contextmanager
def as_extracted(model: nn.Module, entry: Record, *, lists: bool) -> Iterator[None]:
    """The active subnet as it is when it is extracted, inside the block: `nn.Identity` in the place of blocks that
    step aside, and, with `lists`, those with one entry per block cut down to what is left."""
    active = entry.active
    paths = active.aside if active else frozenset()
    parents = {path: resolve(model, path.rpartition(".")[0])._modules for path in paths}
    blocks = {path: parents[path][path.rpartition(".")[2]] for path in paths}
    cut = list(shortened(model, entry.plan.counts, active.hidden, entry.moved)) if active and lists else []
    before = [(attr, read(model, attr)) for attr, _ in cut]
    try:
        for path in paths:
            parents[path][path.rpartition(".")[2]] = nn.Identity()
        for attr, value in cut:
            write(model, attr, value)
        yield
    finally:
        for attr, value in before:
            write(model, attr, value)
        for path in paths:
            parents[path][path.rpartition(".")[2]] = blocks[path]


def container_members(base: type[Any]) -> dict[str, Any]:
    """Methods of the subclass of a container; each leaves the full configuration to `base`."""
    keyed = issubclass(base, nn.ModuleDict)

    def iterate(self: Any) -> Iterator[Any]:
        if not hidden(self):
            return base.__iter__(self)
        return iter(shown(self) if keyed else shown(self).values())

    def length(self: Any) -> int:
        return len(self._modules) - len(hidden(self))

    def contains(self: Any, key: Any) -> bool:
        if keyed:
            return key in shown(self)
        return any(key is child for child in shown(self).values())

    def item(self: Any, index: Any) -> Any:
        if not hidden(self):
            return _plain_slice(self, base, index) if isinstance(index, slice) else base.__getitem__(self, index)
        if keyed:
            return shown(self)[index]
        if isinstance(index, slice):
            return _plain_slice(self, base, index)
        children = list(shown(self).values())
        index = operator.index(index)
        if not -len(children) <= index < len(children):
            raise IndexError(f"index {index} is out of range")
        return children[index]

    members: dict[str, Any] = {
        "__iter__": iterate,
        "__len__": length,
        "__contains__": contains,
        "__getitem__": item,
    }
    if keyed:
        members["keys"] = lambda self: shown(self).keys()
        members["values"] = lambda self: shown(self).values()
        members["items"] = lambda self: shown(self).items()
    for name in ("__setitem__", "__delitem__", "add_module", "insert", "pop", "append", "extend", "clear", "update"):
        if hasattr(base, name):
            members[name] = _refused_while_hidden(base, name)
    return members


def _plain_slice(self: Any, base: type[Any], index: slice) -> nn.Module:
    items = list(shown(self).items())[index]
    if issubclass(base, nn.Sequential):
        return base(OrderedDict(items))
    return base([child for _, child in items])


def _refused_while_hidden(base: type[nn.Module], name: str) -> Any:
    method = getattr(base, name)

    @wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if hidden(self):
            raise ElastifyError(
                f"{base.__name__}.{name} while blocks are left out", fix="activate(model, None) shows all of them first"
            )
        return method(self, *args, **kwargs)

    return checked


def block_members(base: type[nn.Module]) -> dict[str, Any]:
    """A forward that hands on its input while the block is left out."""
    inner = base.forward

    @wraps(inner)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        active = self._elastify.active
        if active is None or self.__dict__["_elastify_path"] not in active.aside:
            return inner(self, *args, **kwargs)
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if len(tensors) != 1:
            raise ElastifyError(
                f"block {self._elastify_path!r} cannot be left out", why=f"it was called with {len(tensors)} tensors"
            )
        return tensors[0]

    return {"forward": forward}
