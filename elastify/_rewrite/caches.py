"""Caches that a forward pass fills.

Some attention gathers its biases from a table once and keeps them in a dict until training goes on. What such a
dict holds belongs to one configuration, and to weights in one order. Capture tells in which attributes forward
leaves tensors; these are put back to what they were before the first run whenever the configuration changes, so that
each subnet fills its own. Caches that an earlier run has filled are found by emptying them: forward fills them again.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from elastify._capture import resolve
from elastify._errors import ElastifyError
from elastify._ir import Attr

_TORCH = frozenset(vars(nn.Module()))


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

    `left` runs the model and tells in which attributes forward leaves tensors. Any dict with tensors may be a cache.
    """
    groups: dict[str, list[tuple[dict[str, Any], Attr, Any]]] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in _TORCH and type(value) is dict and any(isinstance(v, Tensor) for v in value.values()):
                groups.setdefault(name, []).append((vars(module), Attr(path, name), value))
    taken: list[tuple[dict[str, Any], Attr, Any]] = []
    try:
        for places in groups.values():
            before, taken = taken, [*taken, *places]
            for space, attr, _ in places:
                space[attr.name] = {}
            filled = _quietly(left)
            for space, attr, value in places:
                if attr not in filled:
                    space[attr.name] = value
            taken = [*before, *(place for place in places if place[1] in filled)]
        yield
    except BaseException:
        for space, attr, value in taken:
            space[attr.name] = value
        raise


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
