"""Blocks that are left out: containers that do not show them, and blocks that return their input.

A Sequential, ModuleList or ModuleDict from which blocks may be removed gets a subclass in which iteration, length,
indexing, slicing and membership see the kept blocks; `_modules`, and with it parameters, state_dict and named_modules,
stays whole. So does a list or dictionary, of parameters too, of which entries go with blocks. A block that is bypassed,
because it stands elsewhere, gets a subclass whose forward returns its only input while it is left out.

Code around the blocks knows their places: a `layer_idx` that finds an entry of a cache, a number of layers, a list with
an entry for each. `close_gaps` lets these follow while blocks are removed. With `layers` 0, 2 and 3 kept of four, the
block at 2 has `layer_idx` 1, and `num_layers` is 3.
"""

from __future__ import annotations

import operator
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import Tensor, nn

from elastify._capture import read, resolve, write
from elastify._errors import ElastifyError
from elastify._ir import Attr
from elastify._rewrite.state import Active, elastic_state

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_PARAMETERS = (nn.ParameterList, nn.ParameterDict)
_PLACE = re.compile(r"^(layer|block|depth)_?(idx|index|id|number)$")
_CHANGES = ("__setitem__", "__delitem__", "add_module", "insert", "pop", "append", "extend", "clear", "update")


def container_members(base: type[Any]) -> dict[str, Any]:
    """Methods of the subclass of a container; each leaves the full configuration to `base`."""
    keyed = issubclass(base, (nn.ModuleDict, nn.ParameterDict))

    def iterate(self: Any) -> Iterator[Any]:
        if not _hidden(self):
            return base.__iter__(self)
        return iter(_shown(self) if keyed else _shown(self).values())

    def length(self: Any) -> int:
        return len(_names(self)) - len(_hidden(self))

    def contains(self: Any, key: Any) -> bool:
        if keyed:
            return key in _shown(self)
        return any(key is child for child in _shown(self).values())

    def item(self: Any, index: Any) -> Any:
        if not _hidden(self):
            return _plain_slice(self, base, index) if isinstance(index, slice) else base.__getitem__(self, index)
        if keyed:
            return _shown(self)[index]
        if isinstance(index, slice):
            return _plain_slice(self, base, index)
        children = list(_shown(self).values())
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
        members["keys"] = lambda self: _shown(self).keys()
        members["values"] = lambda self: _shown(self).values()
        members["items"] = lambda self: _shown(self).items()
    for name in _CHANGES:
        if hasattr(base, name):
            members[name] = _refused_while_hidden(base, name)
    return members


def entries(holder: Any) -> list[str] | None:
    """Names of what a list or dictionary of modules or parameters holds, in order; None for other modules."""
    if isinstance(holder, _PARAMETERS):
        names = _names(holder)
        return names if holder._parameters.keys() >= set(names) else None  # not where it holds other things, too
    return list(holder._modules) if isinstance(holder, CONTAINERS) else None


def _names(holder: Any) -> list[str]:
    if isinstance(holder, nn.ParameterList):
        return [str(i) for i in range(holder._size)]
    return list(holder._keys if isinstance(holder, nn.ParameterDict) else holder._modules)


def _hidden(container: Any) -> frozenset[str]:
    """Names of the children that a container does not show at the moment."""
    active = container._elastify.active
    return active.hidden.get(container._elastify_path, frozenset()) if active is not None else frozenset()


def _shown(container: nn.Module) -> dict[str, Any]:
    """What a container shows."""
    hidden = _hidden(container)
    if isinstance(container, _PARAMETERS):
        return {name: getattr(container, name) for name in _names(container) if name not in hidden}
    return {name: child for name, child in container._modules.items() if name not in hidden and child is not None}


def _plain_slice(self: Any, base: type[Any], index: slice) -> Any:
    items = list(_shown(self).items())[index]
    if issubclass(base, nn.Sequential):
        return base(OrderedDict(items))
    children = [child for _, child in items]
    return children if issubclass(base, nn.ParameterList) else base(children)  # parts of parameters are none


def _refused_while_hidden(base: type[nn.Module], name: str) -> Callable[..., Any]:
    method = getattr(base, name)

    @wraps(method)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _hidden(self):
            raise ElastifyError(
                f"{base.__name__}.{name} while blocks are left out", fix="activate(model, None) shows all of them first"
            )
        return method(self, *args, **kwargs)

    return checked


def block_members(base: type[nn.Module]) -> dict[str, Any]:
    """A forward that returns its input while the block is left out."""
    inner = base.forward

    @wraps(inner)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        active = self._elastify.active
        if active is None or self.__dict__["_elastify_path"] not in active.bypassed:
            return inner(self, *args, **kwargs)
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if len(tensors) != 1:
            raise ElastifyError(
                f"block {self._elastify_path!r} cannot be left out", why=f"it was called with {len(tensors)} tensors"
            )
        return tensors[0]

    return {"forward": forward}


@contextmanager
def as_extracted(model: nn.Module, *, lists: bool) -> Iterator[None]:
    """The active subnet as it is when it is extracted, inside the block: `nn.Identity` in the place of bypassed blocks
    and None in that of tensors which no list holds, and, with `lists`, those with one entry per block cut down to what
    is left."""
    elastic = elastic_state(model)
    active = elastic.active
    counted = shortened(model, elastic.plan.counts, active.hidden, elastic.block_numbers) if active and lists else ()
    places = [stored_in(model, path) for path in (_in_place(model, active) if active else ())]
    blocks = [children[child] for children, child in places]
    new = list(counted)
    before = [(attr, read(model, attr)) for attr, _ in new]
    try:
        for children, child in places:
            children[child] = stand_in(children[child])
        for attr, value in new:
            write(model, attr, value)
        yield
    finally:
        for attr, value in before:
            write(model, attr, value)
        for (children, child), block in zip(places, blocks, strict=True):
            children[child] = block


def stored_in(model: nn.Module, path: str) -> tuple[dict[str, Any], str]:
    """The table of a module in which what stands at a path is stored, and its name there."""
    outer, _, name = path.rpartition(".")
    owner = resolve(model, outer)
    return next((t for t in (owner._parameters, owner._buffers) if name in t), owner._modules), name


def stand_in(item: Any) -> nn.Module | None:
    """What stands in an extracted model in the place of a module or tensor that is gone."""
    return nn.Identity() if isinstance(item, nn.Module) else None


def _in_place(model: nn.Module, active: Active) -> Iterator[str]:
    """What is left out, but has a stand-in in an extracted model: bypassed blocks, and what no list holds."""
    yield from active.bypassed
    for path in active.removed:
        if entries(resolve(model, path.rpartition(".")[0])) is None:
            yield path


def renumbered(model: nn.Module, removed: Mapping[str, Collection[str]]) -> dict[str, dict[str, str]]:
    """New name of every child that stays, by path of the container: numbered containers close their gaps.

    `removed` are the names of the others.
    """
    result: dict[str, dict[str, str]] = {}
    for path, names in removed.items():
        children = entries(container := resolve(model, path))
        if children is None:
            continue
        named = isinstance(container, (nn.ModuleDict, nn.ParameterDict))
        numbered = not named and children == [str(i) for i in range(len(children))]
        kept = [name for name in children if name not in names]
        result[path] = {name: str(i) if numbered else name for i, name in enumerate(kept)}
    return result


def close_gaps(
    model: nn.Module, removed: Mapping[str, Collection[str]], counts: Mapping[Attr, tuple[str, ...]]
) -> dict[Attr, Any]:
    """Set the numbers that change when blocks are removed from their containers; returns the old ones.

    `removed` are names of children by path of the container. Blocks after a gap, which caches know by their place
    (`layer_idx`), get the new one. `counts` maps the numbers and lists that tell of the blocks of containers to those.
    """
    before: dict[Attr, Any] = {}

    def change(attr: Attr, value: Any) -> None:
        before[attr] = read(model, attr)
        write(model, attr, value)

    for attr, value in list(shortened(model, counts, removed)):
        change(attr, value)
    for path, names in renumbered(model, removed).items():
        children = resolve(model, path)._modules
        for old, new in names.items():
            if old == new or old not in children:
                continue
            for inner, module in children[old].named_modules(prefix=f"{path}.{old}" if path else old):
                for name, place in list(vars(module).items()):
                    if type(place) is int and place == int(old) and _PLACE.search(name):
                        change(Attr(inner, name), int(new))
    return before


def keep_entries(holder: Any, names: Mapping[str, str]) -> None:
    """Let a list or dictionary hold these entries alone, under new names."""
    own, table = entries(holder) or (), holder._modules if isinstance(holder, CONTAINERS) else holder._parameters
    others = {name: item for name, item in table.items() if name not in own}
    kept = {new: table[old] for old, new in names.items()}
    table.clear()
    table.update({**kept, **others})
    if isinstance(holder, nn.ParameterList):
        holder._size = len(kept)
    elif isinstance(holder, nn.ParameterDict):
        holder._keys = dict.fromkeys(kept)


def shortened(
    model: nn.Module,
    counts: Mapping[Attr, tuple[str, ...]],
    removed: Mapping[str, Collection[str]],
    before: Mapping[Attr, Any] | None = None,
) -> Iterator[tuple[Attr, Any]]:
    """New values of these numbers and lists where some children are removed; `before` has what is changed already.

    A number counts those that are left of so many. A list has the entries of what is left (in an extracted model: with
    `before`); where blocks are only left out for a while these come first, and the others stay behind, so that forward
    makes all that it made for each kind of layer.
    """
    for attr, containers in counts.items():
        children = {path: list(resolve(model, path)._modules) for path in containers}
        kept = [[i for i, n in enumerate(c) if n not in removed.get(path, ())] for path, c in children.items()]
        longest = max(kept, key=len)
        old = before[attr] if before and attr in before else read(model, attr)
        if type(old) is int:
            new: Any = sum(place < old for place in longest)
        else:
            rest = [] if before is not None else [item for i, item in enumerate(old) if i not in longest]
            new = [*(old[i] for i in longest), *rest]
        if new != old:
            yield attr, new
