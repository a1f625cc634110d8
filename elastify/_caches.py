"""Caches that a forward pass fills.

LeViT gathers its attention biases from a table once and keeps them in a dict until training goes on. What such a
dict holds belongs to one configuration, and to weights in one order. Capture tells in which attributes forward
leaves tensors; these are put back to what they were before the first run whenever the configuration changes, so that
each subnet fills its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from elastify._attributes import resolve
from elastify._ints import Attr


def remember(model: nn.Module, caches: Iterable[Attr]) -> dict[Attr, Any]:
    """What the attributes hold now, containers as copies; those that do not exist yet are left out."""
    spaces = {attr: vars(resolve(model, attr.owner)) for attr in caches}
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
        space = vars(resolve(model, attr.owner))
        if attr in fresh:
            space[attr.name] = fresh[attr]
        else:
            space.pop(attr.name, None)


def _copies(values: Mapping[Attr, Any]) -> dict[Attr, Any]:
    """Copies of containers, one where several attributes share one; other values as they are."""
    made: dict[int, Any] = {}
    found = {}
    for attr, value in values.items():
        container = isinstance(value, (dict, list, set))
        found[attr] = made.setdefault(id(value), copy.copy(value)) if container else value
    return found
