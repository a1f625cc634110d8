"""From layouts to slices.

Keeping a prefix of the units of each axis keeps a set of positions of a dimension: a list of runs `(start, length)`,
found by recursion over the layout and merged where they touch. The list becomes one `Cut`, the cheapest that the
pattern allows: nothing (all kept), a narrow (one run: a view), a grid (the dimension viewed as several, each narrowed:
heads and head_dim of a fused qkv, gates of an LSTM), pieces (split once, cat once: long concats), or an index.
All are ordinary differentiable operations, so gradients of what was left out are exact zeros.

A `Ruler` is a layout with its axis ids and its caches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from elastify._layout import Axis, Concat, Layout, Product, active_size, axes_of

Run = tuple[int, int]
MAX_PIECES = 128
MAX_CACHE = 1024


@dataclass(frozen=True, slots=True)
class Narrow:
    """Keep `length` positions from `start`."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Grid:
    """View the dimension as `shape`, narrow each part (None: kept whole), flatten again."""

    shape: tuple[int, ...]
    keep: tuple[Run | None, ...]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Split into pieces of these lengths and join those numbered by `keep`."""

    lengths: tuple[int, ...]
    keep: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """Keep these positions."""

    positions: tuple[int, ...]


Cut = Narrow | Grid | Pieces | Index


def runs(layout: Layout, sizes: Mapping[int, int]) -> list[Run]:
    """Kept positions as maximal runs, in order.

    >>> runs(Product((Axis(0, 3), Axis(1, 4))), {1: 2})
    [(0, 2), (4, 2), (8, 2)]
    >>> runs(Concat((Axis(0, 3), Axis(1, 4))), {1: 2})
    [(0, 5)]
    """
    if isinstance(layout, Axis):
        return [(0, sizes.get(layout.id, layout.size))]
    found: list[Run] = []
    if isinstance(layout, Concat):
        offset = 0
        for part in layout.parts:
            found.extend((offset + start, length) for start, length in runs(part, sizes))
            offset += part.size
        return _merged(found)
    head, *rest = layout.parts
    tail = rest[0] if len(rest) == 1 else Product(tuple(rest))
    inner = runs(tail, sizes)
    if inner == [(0, tail.size)]:
        return [(start * tail.size, length * tail.size) for start, length in runs(head, sizes)]
    for start, length in runs(head, sizes):
        for row in range(start, start + length):
            found.extend((row * tail.size + first, count) for first, count in inner)
    return _merged(found)


def _merged(found: Iterable[Run]) -> list[Run]:
    merged: list[Run] = []
    for start, length in found:
        if merged and merged[-1][0] + merged[-1][1] == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        elif length:
            merged.append((start, length))
    return merged


def cut_of(layout: Layout, sizes: Mapping[int, int]) -> Cut | None:
    """The cheapest cut that keeps what `sizes` keeps; None keeps everything."""
    size, found = layout.size, runs(layout, sizes)
    if found == [(0, size)]:
        return None
    if len(found) == 1:
        return Narrow(*found[0])
    return _grid(layout, sizes) or _periodic(size, found) or _pieces(size, found)


def _grid(layout: Layout, sizes: Mapping[int, int]) -> Grid | None:
    """A product whose parts keep one run each; neighbours kept whole are one part."""
    if not isinstance(layout, Product):
        return None
    shape: list[int] = []
    keep: list[Run | None] = []
    for part in layout.parts:
        kept = runs(part, sizes)
        if len(kept) != 1:
            return None
        run = None if kept[0] == (0, part.size) else kept[0]
        if run is None and keep:  # a whole part joins its left neighbour, which then keeps longer runs
            last = keep[-1]
            keep[-1] = last and (last[0] * part.size, last[1] * part.size)
            shape[-1] *= part.size
        else:
            shape.append(part.size)
            keep.append(run)
    return Grid(tuple(shape), tuple(keep))


def _periodic(size: int, found: list[Run]) -> Grid | None:
    """Equal runs at equal distances: rows of a matrix of which the same columns are kept."""
    count = len(found)
    period, rest = divmod(size, count)
    start, length = found[0]
    if rest or start + length > period or any(run != (start + i * period, length) for i, run in enumerate(found)):
        return None
    return Grid((count, period), (None, (start, length)))


def _pieces(size: int, found: list[Run]) -> Pieces | Index:
    if len(found) > MAX_PIECES:
        return Index(tuple(i for start, length in found for i in range(start, start + length)))
    lengths: list[int] = []
    keep: list[int] = []
    end = 0
    for start, length in found:
        if start > end:
            lengths.append(start - end)
        keep.append(len(lengths))
        lengths.append(length)
        end = start + length
    if end < size:
        lengths.append(size - end)
    return Pieces(tuple(lengths), tuple(keep))


def apply_cuts(tensor: Tensor, cuts: tuple[Cut | None, ...]) -> Tensor:
    """Slice every dimension by its cut: views first, so that copies are small."""
    copies = False
    for dim, cut in enumerate(cuts):
        if isinstance(cut, Narrow):
            tensor = tensor.narrow(dim, cut.start, cut.length)
        elif cut is not None:
            copies = True
    if copies:
        for dim, cut in enumerate(cuts):
            if cut is not None and not isinstance(cut, Narrow):
                tensor = _copy_cut(tensor, dim, cut)
    return tensor


def _copy_cut(tensor: Tensor, dim: int, cut: Grid | Pieces | Index) -> Tensor:
    if isinstance(cut, Grid):
        parts = tensor.unflatten(dim, cut.shape)
        for i, run in enumerate(cut.keep):
            if run is not None:
                parts = parts.narrow(dim + i, *run)
        return parts.flatten(dim, dim + len(cut.shape) - 1)
    if isinstance(cut, Pieces):
        parts = tensor.split_with_sizes(cut.lengths, dim)
        return torch.cat([parts[i] for i in cut.keep], dim)
    # a tensor of indices made here, not kept: under fake tensors or on another device it must be of that kind
    return tensor.index_select(dim, torch.tensor(cut.positions, device=tensor.device))


class Ruler:
    """A layout with the ids of its axes; remembers the sizes and cuts it was asked for."""

    __slots__ = ("_cuts", "_sizes", "full", "ids", "layout")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.full = layout.size
        self.ids = tuple(dict.fromkeys(axis.id for axis in axes_of(layout)))
        self._sizes: dict[tuple[int | None, ...], int] = {}
        self._cuts: dict[tuple[int | None, ...], Cut | None] = {}

    def size(self, sizes: Mapping[int, int]) -> int:
        """Active size of the layout."""
        if len(self.ids) == 1 and isinstance(self.layout, Axis):
            return sizes.get(self.ids[0], self.full)
        key = tuple([sizes.get(i) for i in self.ids])
        size = self._sizes.get(key)
        if size is None:
            if len(self._sizes) >= MAX_CACHE:
                self._sizes.clear()
            size = self._sizes[key] = active_size(self.layout, sizes)
        return size

    def cut(self, sizes: Mapping[int, int]) -> Cut | None:
        """The cut that keeps what `sizes` keeps."""
        key = tuple([sizes.get(i) for i in self.ids])
        try:
            return self._cuts[key]
        except KeyError:
            if len(self._cuts) >= MAX_CACHE:
                self._cuts.clear()
            cut = self._cuts[key] = cut_of(self.layout, sizes)
            return cut

