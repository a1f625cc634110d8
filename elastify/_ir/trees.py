"""Nested arguments and results of calls, walked in one way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def inside(tree: Any, kind: type[T]) -> list[T]:
    """Everything of a kind inside nested tuples, lists, dicts and slices, in order.

    >>> inside((1, {"x": [2, None], "y": slice(3, 4)}), int)
    [1, 2, 3, 4]
    """
    found: list[T] = []
    _collect((tree,), kind, found)
    return found


def _collect(items: Iterable[Any], kind: type[T], found: list[T]) -> None:
    for item in items:
        if isinstance(item, kind):
            found.append(item)
        elif isinstance(item, (tuple, list)):
            _collect(item, kind, found)
        elif isinstance(item, dict):
            _collect(item.values(), kind, found)
        elif isinstance(item, slice):
            _collect((item.start, item.stop, item.step), kind, found)
