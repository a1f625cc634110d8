"""From layouts to slices.

Keeping a prefix of the units of each axis keeps a set of positions of a dimension: a list of ranges `(start, length)`,
found by recursion over the layout and merged where they touch. The list becomes one `Cut`, the cheapest that its
pattern allows: nothing (all is kept), a grid (the dimension viewed as several, one range kept of each: heads and
head_dim of a fused qkv, gates of an LSTM; a single range is the grid of one), or an index. A `Slice` joins the cuts of
a tensor's dimensions: the grids into one crop, a single differentiable operation whose backward writes the gradient
once. Gradients of what was left out are exact zeros.

A `Ruler` is a layout ready to be measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from elastify._ir import Axis, Concat, Layout, Product, axes_of

Range = tuple[int, int]
"""Start and length."""


@dataclass(frozen=True, slots=True)
class Grid:
    """View the dimension as `shape`, keep one range of each part (None: all of it), flatten again."""

    shape: tuple[int, ...]
    keep: tuple[Range | None, ...]


class Index:
    """Keep these positions; the tensor of them is made once per device."""

    def __init__(self, positions: Sequence[int]) -> None:
        self.positions = np.array(positions, np.int32)  # no tensor: under a fake-tensor mode it would be a fake one
        self._tensors: dict[torch.device, Tensor] = {}

    def select(self, tensor: Tensor, dim: int) -> Tensor:
        """The kept positions of `tensor` along `dim`."""
        if isinstance(tensor, FakeTensor):  # a fake tensor wants a fake index, which nobody else may ever see
            return tensor.index_select(dim, torch.tensor(self.positions, device=tensor.device))
        index = self._tensors.get(tensor.device)
        if index is None:
            index = self._tensors[tensor.device] = torch.tensor(self.positions, device=tensor.device)
        return tensor.index_select(dim, index)


Cut = Grid | Index


def kept_ranges(layout: Layout, sizes: Mapping[int, int]) -> list[Range]:
    """Kept positions, as few ranges as possible, in order.

    >>> kept_ranges(Product((Axis(0, 3), Axis(1, 4))), {1: 2})
    [(0, 2), (4, 2), (8, 2)]
    >>> kept_ranges(Concat((Axis(0, 3), Axis(1, 4))), {1: 2})
    [(0, 5)]
    """
    if isinstance(layout, Axis):
        return [(0, sizes.get(layout.id, layout.size))]
    found: list[Range] = []
    if isinstance(layout, Concat):
        offset = 0
        for part in layout.parts:
            found.extend((offset + start, length) for start, length in kept_ranges(part, sizes))
            offset += part.size
        return _merged(found)
    head, *rest = layout.parts
    tail = rest[0] if len(rest) == 1 else Product(tuple(rest))
    inner = kept_ranges(tail, sizes)
    if inner == [(0, tail.size)]:
        return [(start * tail.size, length * tail.size) for start, length in kept_ranges(head, sizes)]
    for start, length in kept_ranges(head, sizes):
        for outer in range(start, start + length):
            found.extend((outer * tail.size + first, count) for first, count in inner)
    return _merged(found)


def _merged(found: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for start, length in found:
        if merged and merged[-1][0] + merged[-1][1] == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        elif length:
            merged.append((start, length))
    return merged


def cut_of(layout: Layout, sizes: Mapping[int, int]) -> Cut | None:
    """The cheapest cut that keeps what `sizes` keeps; None keeps everything."""
    size, found = layout.size, kept_ranges(layout, sizes)
    if found == [(0, size)]:
        return None
    if len(found) == 1:
        return Grid((size,), (found[0],))
    return (
        _grid(layout, sizes)
        or _periodic(size, found)
        or Index([i for start, length in found for i in range(start, start + length)])
    )


def _grid(layout: Layout, sizes: Mapping[int, int]) -> Grid | None:
    """A product whose parts keep one range each; neighbours kept whole are one part."""
    if not isinstance(layout, Product):
        return None
    shape: list[int] = []
    keep: list[Range | None] = []
    for part in layout.parts:
        kept = kept_ranges(part, sizes)
        if len(kept) != 1:
            return None
        some = None if kept[0] == (0, part.size) else kept[0]
        if some is None and keep:  # a whole part joins its left neighbour, which then keeps longer ranges
            last = keep[-1]
            keep[-1] = last and (last[0] * part.size, last[1] * part.size)
            shape[-1] *= part.size
        else:
            shape.append(part.size)
            keep.append(some)
    return Grid(tuple(shape), tuple(keep))


def _periodic(size: int, found: list[Range]) -> Grid | None:
    """Equal ranges at equal distances: rows of a matrix of which the same columns are kept."""
    count = len(found)
    period, rest = divmod(size, count)
    start, length = found[0]
    if rest or start + length > period or any(other != (start + i * period, length) for i, other in enumerate(found)):
        return None
    return Grid((count, period), (None, (start, length)))


class Slice:
    """The cuts of all dimensions of a tensor of shape `full`, ready to apply.

    `shape` is that of what is kept.

    >>> Slice((6, 4), (Grid((3, 2), (None, (0, 1))), Grid((4,), ((1, 2),))))(torch.arange(24).view(6, 4))
    tensor([[ 1,  2],
            [ 9, 10],
            [17, 18]])
    >>> Slice((6, 4), (Index([0, 1, 4]), None)).shape
    (3, 4)
    """

    __slots__ = ("_cropped", "cuts", "indices", "pads", "ranges", "shape", "view")

    def __init__(self, full: Sequence[int], cuts: Sequence[Cut | None]) -> None:
        view: list[int] = []
        shape: list[int] = []
        keep: list[Range | None] = []
        for size, cut in zip(full, cuts, strict=True):
            grid = cut if isinstance(cut, Grid) else Grid((size,), (None,))
            view += grid.shape
            keep += grid.keep
            kept = 1
            for part, some in zip(grid.shape, grid.keep, strict=True):
                kept *= some[1] if some else part
            shape.append(kept)
        self.indices = tuple((dim, cut) for dim, cut in enumerate(cuts) if isinstance(cut, Index))
        self.ranges = tuple((dim, *some) for dim, some in enumerate(keep) if some)
        self.cuts = tuple(cuts)
        self.view = tuple(view) if len(view) > len(shape) else None
        self._cropped = tuple(shape)  # before indices choose from it
        for dim, index in self.indices:
            shape[dim] = len(index.positions)
        self.shape = tuple(shape)
        # a crop is padding by negative amounts, listed from the last dimension to the first
        self.pads = [n for size, some in zip(view[::-1], keep[::-1], strict=True) for n in _padding(size, some)]

    @property
    def copies(self) -> bool:
        """Whether what it keeps of a buffer is a copy; else it is a view."""
        return bool(self.indices) or self.view is not None

    def put(self, full: Tensor, part: Tensor) -> None:
        """Write a tensor of the shape of what is kept to its places in `full`.

        >>> full = torch.zeros(6, dtype=torch.int64)
        >>> Slice((6,), (Grid((3, 2), (None, (0, 1))),)).put(full, torch.tensor([1, 2, 3]))
        >>> full
        tensor([1, 0, 2, 0, 3, 0])
        """
        places = []
        for dim, (size, cut) in enumerate(zip(full.shape, self.cuts, strict=True)):
            kept = torch.arange(size, device=full.device)
            if cut is not None:
                kept = Slice((size,), (cut,))(kept)
            places.append(kept.view(-1, *[1] * (full.dim() - dim - 1)))
        full[tuple(places)] = part.to(full.dtype)

    def __call__(self, tensor: Tensor) -> Tensor:
        if self.ranges:
            tensor = self._crop(tensor)
        for dim, index in self.indices:
            tensor = index.select(tensor, dim)
        return tensor

    def _crop(self, tensor: Tensor) -> Tensor:
        parts = tensor.view(self.view) if self.view else tensor
        if (self.view or len(self.ranges) > 1) and tensor.requires_grad and torch.is_grad_enabled():
            # one operation: a narrow per dimension would write a gradient per dimension, and a grid is copied anyway
            parts = torch.constant_pad_nd(parts, self.pads)
        else:
            for dim, start, length in self.ranges:
                parts = parts.narrow(dim, start, length)
        if not self.view:
            return parts
        parts = parts.reshape(self._cropped)
        # batch norm's backward on CPUs reads vectors as if nothing lay between their entries
        return parts.contiguous() if parts.dim() == 1 else parts


def _padding(size: int, kept: Range | None) -> tuple[int, int]:
    return (-kept[0], kept[0] + kept[1] - size) if kept else (0, 0)


class Ruler:
    """A layout that measures configurations: a sum of products of axis sizes, multiplied out once.

    >>> Ruler(Concat((Product((Axis(0, 3), Axis(1, 4))), Axis(1, 4), Axis(2, 5)))).size({1: 2})
    13
    """

    __slots__ = ("_terms", "full", "ids", "layout")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.full = layout.size
        self.ids = frozenset(axis.id for axis in axes_of(layout))
        self._terms = _terms(layout)

    def size(self, sizes: Mapping[int, int]) -> int:
        """Active size of the layout."""
        total = 0
        get = sizes.get
        for term in self._terms:
            size = 1
            for axis, full in term:
                size *= get(axis, full)
            total += size
        return total


def _terms(layout: Layout) -> list[tuple[tuple[int, int], ...]]:
    if isinstance(layout, Axis):
        return [((layout.id, layout.size),)]
    parts = [_terms(part) for part in layout.parts]
    if isinstance(layout, Concat):
        return [term for part in parts for term in part]
    return [tuple(factor for term in chosen for factor in term) for chosen in product(*parts)]
