"""Caches that a forward pass fills.

Some attention gathers its biases from a table once and keeps them in a dict until training goes on. What such a
dict holds belongs to one configuration, and to weights in one order. Capture tells in which attributes forward
leaves tensors, or numbers where nothing was (`if self.scale is None: ...`, `cached_property`); these are put back to
what they were before the first run whenever the configuration changes, so that each subnet fills its own. Methods
under `lru_cache` forget then. Caches that an earlier run has filled are found by emptying them: forward fills them
again. Any dict with tensors may be one, and any buffer that is not stored with the weights and that code of its module
puts in place which forward may run.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from elastify._capture import Code, resolve, results
from elastify._errors import ElastifyError
from elastify._ir import Attr

_TORCH = frozenset(vars(nn.Module()))
_Place = tuple[dict[str, Any], Attr, Any]  # a table, an attribute in it and what that holds


def remember(model: nn.Module, caches: Iterable[Attr]) -> dict[Attr, Any]:
    """What the attributes hold now, containers as copies; those that do not exist yet are left out."""
    spaces = {attr: _space(model, attr) for attr in caches}
    return _copies({attr: space[attr.name] for attr, space in spaces.items() if attr.name in space})


def reset(model: nn.Module, caches: Iterable[Attr], kept: Mapping[Attr, Any]) -> None:
    """Give the attributes what was `kept` of them.

    >>> model = nn.Identity()
    >>> model.cache, caches = {}, [Attr("", "cache"), Attr("", "last")]
    >>> kept = remember(model, caches)
    >>> model.cache["cpu"] = model.last = 1
    >>> reset(model, caches, kept)
    >>> model.cache, hasattr(model, "last")
    ({}, False)
    """
    fresh = _copies(kept)
    for attr in caches:
        space = _space(model, attr)
        if attr in fresh:
            space[attr.name] = fresh[attr]
        else:
            space.pop(attr.name, None)


def _space(model: nn.Module, attr: Attr) -> dict[str, Any]:
    """The table that holds an attribute: that of the buffers, if it is one."""
    space = vars(resolve(model, attr.owner))
    buffers = space.get("_buffers", {})
    return buffers if attr.name in buffers else space


@contextmanager
def emptied(model: nn.Module, left: Callable[[], Collection[Attr]]) -> Iterator[None]:
    """The model without what earlier runs have left in its caches; it comes back only if the block raises.

    `left` runs the model and tells in which attributes forward leaves tensors.
    """
    taken = _taken(model, left)
    try:
        yield
    except BaseException:
        _put_back(taken)
        raise


def filled(model: nn.Module, left: Callable[[], Collection[Attr]], among: Collection[int]) -> list[Attr]:
    """Caches that hold some of these tensors (given by `id`) since an earlier run; `left` as above."""
    found = [*_properties(model), *(place[1:] for place in _possible(model))]
    if not any(_holds(space[attr.name], among) for space, attr in found):
        return []
    taken = _taken(model, left)
    _put_back(taken)
    return [attr for _, attr, value in taken if _holds(value, among)]


def _holds(value: Any, among: Collection[int]) -> bool:
    return any(id(tensor) in among for tensor in results(value))


def _taken(model: nn.Module, left: Callable[[], Collection[Attr]]) -> list[_Place]:
    """Empty the caches of a model, and what they held."""
    groups: dict[str, list[_Place]] = {}
    for name, space, attr in _possible(model):
        groups.setdefault(name, []).append((space, attr, space[attr.name]))
    taken = [(space, attr, space.pop(attr.name)) for space, attr in list(_properties(model))]
    try:
        for places in groups.values():
            before, taken = taken, [*taken, *places]
            for space, attr, value in places:
                space[attr.name] = None if isinstance(value, Tensor) else type(value)()
            left_again = _quietly(left)
            _put_back([place for place in places if place[1] not in left_again])
            taken = [*before, *(place for place in places if place[1] in left_again)]
    except BaseException:
        _put_back(taken)
        raise
    return taken


def _put_back(places: Iterable[_Place]) -> None:
    for space, attr, value in places:
        space[attr.name] = value


def _properties(model: nn.Module) -> Iterator[tuple[dict[str, Any], Attr]]:
    """What modules have computed once for a `cached_property`, and compute again when it is not there."""
    names: dict[type, set[str]] = {}
    for kind in map(type, model.modules()):
        if kind not in names:
            names[kind] = {n for cls in kind.__mro__ for n, item in vars(cls).items() if type(item) is cached_property}
    for path, module in model.named_modules() if any(names.values()) else ():
        yield from ((vars(module), Attr(path, name)) for name in names[type(module)] & vars(module).keys())


def _possible(model: nn.Module) -> Iterator[tuple[str, dict[str, Any], Attr]]:
    """What may be caches that an earlier run has filled, by name: their tables and attributes; with a buffer the
    numbers that may say how large it is."""
    code = Code(model)
    for path, module in model.named_modules():
        space = vars(module)
        for name, value in space.items():
            if name not in _TORCH and type(value) is dict and any(isinstance(v, Tensor) for v in value.values()):
                yield name, space, Attr(path, name)
        for name in space.get("_non_persistent_buffers_set", ()):
            changing = code.writes(type(module))
            if space["_buffers"].get(name) is not None and name in changing:
                yield name, space["_buffers"], Attr(path, name)
                numbers = [key for key, value in space.items() if type(value) is int and key in changing]
                yield from ((name, space, Attr(path, key)) for key in numbers)


def _quietly(left: Callable[[], Collection[Attr]]) -> Collection[Attr]:
    """What the model fills; nothing where it does not run without what was taken away."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return left()
    except ElastifyError:
        return ()


def _copies(values: Mapping[Attr, Any]) -> dict[Attr, Any]:
    """Copies of containers, one where several attributes share one; other values as they are."""
    made: dict[int, Any] = {}
    found = {}
    for attr, value in values.items():
        container = isinstance(value, (dict, list, set))
        found[attr] = made.setdefault(id(value), copy.copy(value)) if container else value
    return found
