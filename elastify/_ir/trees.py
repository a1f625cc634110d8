"""Nested arguments and results of calls, walked in one way."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def inside(tree: Any, kind: type[T], found: list[T] | None = None) -> list[T]:
    """Everything of a kind inside nested tuples, lists, dicts and slices, in order.

    >>> inside((1, {"x": [2, None], "y": slice(3, 4)}), int)
    [1, 2, 3, 4]
    """
    found = [] if found is None else found
    if isinstance(tree, kind):
        found.append(tree)
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            inside(item, kind, found)
    elif isinstance(tree, dict):
        for item in tree.values():
            inside(item, kind, found)
    elif isinstance(tree, slice):
        inside((tree.start, tree.stop, tree.step), kind, found)
    return found
