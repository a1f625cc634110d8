"""How the indices of a dimension are made of axes.

Every dimension of every tensor has a layout:

    Axis(n)               n interchangeable units
    Product((l1, l2))     row-major, as a reshape of (l1, l2) to one dimension makes it
    Concat((l1, l2))      one after the other, as cat, split, chunk and slices make it

A fused qkv weight has `Product((Axis(3), heads, head_dim))` rows, a GLU input `Concat((hidden, hidden))`. Keep
`k` units of each axis, and the size and the index set of any dimension follow by structural recursion: that is
all that slicing, permuting, counting and printing need to know.

Normal form: products and concats are flat and have at least two parts; factors of size 1 are dropped.
The mutable terms from which layouts are inferred live in `elastify._analysis`. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Axis:
    """`size` units; `id` tells axes apart. A fixed dimension is an axis that no configuration mentions."""

    id: int
    size: int


@dataclass(frozen=True, slots=True)
class Product:
    """Row-major product of layouts: the last part varies fastest."""

    parts: tuple[Layout, ...]

    @property
    def size(self) -> int:
        return reduce(lambda n, part: n * part.size, self.parts, 1)


@dataclass(frozen=True, slots=True)
class Concat:
    """Layouts one after the other."""

    parts: tuple[Layout, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


Layout = Axis | Product | Concat


def mentions(layout: Layout, ids: Container[int]) -> bool:
    """Whether one of some axes is part of a layout."""
    return any(axis.id in ids for axis in axes_of(layout))


def axes_of(layout: Layout) -> Iterator[Axis]:
    """Axes of a layout from left to right, repeats included.

    >>> heads, dim = Axis(0, 3), Axis(1, 4)
    >>> [axis.id for axis in axes_of(Concat((Product((heads, dim)), dim)))]
    [0, 1, 1]
    """
    if isinstance(layout, Axis):
        yield layout
    else:
        for part in layout.parts:
            yield from axes_of(part)


def settled(layout: Layout, moves: Callable[[int], bool]) -> Layout:
    """The layout with its fixed axes as numbers (axes of id -1): equal for two layouts that keep the same indices.

    >>> n, two, deux = Axis(0, 3), Axis(1, 2), Axis(2, 2)
    >>> settled(Product((n, two, deux)), lambda ident: ident == 0)
    Product(parts=(Axis(id=0, size=3), Axis(id=-1, size=4)))
    """
    if isinstance(layout, Axis):
        return layout if moves(layout.id) else Axis(-1, layout.size)
    parts: list[Layout] = []
    for part in (settled(part, moves) for part in layout.parts):
        last = parts[-1] if parts else None
        if isinstance(part, Axis) and isinstance(last, Axis) and part.id == last.id == -1:
            joined = last.size * part.size if isinstance(layout, Product) else last.size + part.size
            parts[-1] = Axis(-1, joined)
        else:
            parts.append(part)
    return parts[0] if len(parts) == 1 else type(layout)(tuple(parts))


def active_size(layout: Layout, sizes: Mapping[int, Any]) -> Any:
    """Size when axis `id` keeps `sizes[id]` units (all of them where it is not mentioned).

    Values may be integers, numpy arrays of configurations, or anything else that adds and multiplies.

    >>> active_size(Product((Axis(0, 3), Axis(1, 4))), {1: 2})
    6
    """
    if isinstance(layout, Axis):
        return sizes.get(layout.id, layout.size)
    parts = [active_size(part, sizes) for part in layout.parts]
    if isinstance(layout, Concat):
        return sum(parts)
    return reduce(lambda a, b: a * b, parts)


def indices(layout: Layout, units: Mapping[int, np.ndarray]) -> np.ndarray:
    """Positions along the full dimension of the given units of each axis, in the order given.

    A prefix of units slices, a permutation of all of them reorders.

    >>> indices(Product((Axis(0, 2), Axis(1, 3))), {1: np.arange(2)})
    array([0, 1, 3, 4])
    """
    if isinstance(layout, Axis):
        chosen = units.get(layout.id)
        return np.arange(layout.size) if chosen is None else np.asarray(chosen)
    parts = [indices(part, units) for part in layout.parts]
    if isinstance(layout, Concat):
        offsets = np.cumsum([0, *(part.size for part in layout.parts[:-1])])
        return np.concatenate([part + offset for part, offset in zip(parts, offsets, strict=True)])
    result = parts[0]
    for part, chosen in zip(layout.parts[1:], parts[1:], strict=True):
        result = (result[:, None] * part.size + chosen[None, :]).reshape(-1)
    return result
