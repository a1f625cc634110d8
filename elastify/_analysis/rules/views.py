"""Rules of operations that rearrange dimensions: reshape, permute, join, split, repeat.

`reshape` is one idea: walk both shapes from the left, cut them into the smallest groups of equal element
count, and unify the products of each group. Everything that merges or splits dimensions is said through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elastify._analysis.facts import Facts, flat_sizes
from elastify._analysis.rules.ops import apart, operation, rule
from elastify._analysis.terms import Term
from elastify._ir import Int, Value, values


def groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """Smallest groups of positions of equal element count, or None where the shapes do not factor."""
    result: list[tuple[list[int], list[int]]] = []
    left = [i for i, n in enumerate(old) if n != 1]
    right = [i for i, n in enumerate(new) if n != 1]
    i = j = 0
    while i < len(left) and j < len(right):
        a, b = [left[i]], [right[j]]
        i, j = i + 1, j + 1
        p, q = old[a[0]], new[b[0]]
        while p != q:
            if p < q and i < len(left):
                p *= old[left[i]]
                a.append(left[i])
                i += 1
            elif q < p and j < len(right):
                q *= new[right[j]]
                b.append(right[j])
                j += 1
            else:
                return None
        result.append((a, b))
    return result if i == len(left) and j == len(right) else None


def regroup(f: Facts, dims: Sequence[Term], shape: Sequence[int]) -> list[Term]:
    """Dimensions after a reshape to `shape`."""
    result = [f.leaf(n) for n in shape]
    found = groups([t.size for t in dims], shape) if 0 not in shape else None
    if found is None:
        for term in (*dims, *result):
            f.freeze(term, "a reshape mixes dimensions")
        return result
    for old, new in found:
        whole = f.product(*(dims[i] for i in old))
        if len(new) == 1:
            result[new[0]] = whole
        else:
            f.same(f.product(*(result[i] for i in new)), whole)
    return result


@rule("view reshape _unsafe_view", view="all")
def reshape(f: Facts, out: Value, input: Value, *shape: Any, **kwargs: Any) -> None:
    sizes = flat_sizes(shape or (kwargs.get("shape", kwargs.get("size")),))
    if not all(isinstance(n, int) for n in sizes):  # view(dtype) changes the element size
        raise TypeError("view to another dtype")
    dims = regroup(f, f.dims(input), out.shape)
    f.give(out, dims)
    for number, term in zip(sizes, dims, strict=True):
        if number != -1:
            f.require(number, term)


@rule("view_as reshape_as", view="all")
def reshape_as(f: Facts, out: Value, input: Value, other: Value) -> None:
    f.give(out, regroup(f, f.dims(input), out.shape))
    f.all_same(f.dims(out), f.dims(other))


@rule("flatten ravel", view="all")
def flatten(f: Facts, out: Value, input: Value, start_dim: int = 0, end_dim: int = -1) -> None:
    dims = f.dims(input)
    if not dims:
        return f.give(out, [f.leaf(1)])
    start, end = start_dim % len(dims), end_dim % len(dims)
    f.give(out, [*dims[:start], f.product(*dims[start : end + 1]), *dims[end + 1 :]])


@rule("unflatten", view="all")
def unflatten(f: Facts, out: Value, input: Value, dim: int, sizes: Sequence[Any]) -> None:
    dims, dim = f.dims(input), dim % len(input.shape)
    parts = [f.leaf(n) for n in out.shape[dim : dim + len(sizes)]]
    f.same(f.product(*parts), dims[dim])
    f.give(out, [*dims[:dim], *parts, *dims[dim + 1 :]])
    for number, term in zip(sizes, parts, strict=True):
        if number != -1:
            f.require(number, term)


@rule("permute", view="all")
def permute(f: Facts, out: Value, input: Value, *order: Any, dims: Any = None) -> None:
    chosen = flat_sizes(order) if order else list(dims)
    terms = f.dims(input)
    f.give(out, [terms[int(i)] for i in chosen])


@rule("transpose", view="all")
def transpose(f: Facts, out: Value, input: Value, dim0: int, dim1: int) -> None:
    dims = list(f.dims(input))
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    f.give(out, dims)


@rule("T t", view="all")
@rule("H")  # of complex numbers the conjugates
def reverse_dims(f: Facts, out: Value, input: Value) -> None:
    f.give(out, f.dims(input)[::-1])


@rule("mT", view="all")
@rule("mH adjoint")
def matrix_transpose(f: Facts, out: Value, input: Value) -> None:
    transpose(f, out, input, -2, -1)


@rule("movedim", view="all")
def movedim(f: Facts, out: Value, input: Value, source: Any, destination: Any) -> None:
    n = len(input.shape)
    moved = [int(i) % n for i in flat_sizes([source])]
    order: list[int | None] = [None] * n
    for i, j in zip(moved, flat_sizes([destination]), strict=True):
        order[int(j) % n] = i
    rest = iter(i for i in range(n) if i not in moved)
    f.give(out, [f.dims(input)[next(rest) if i is None else i] for i in order])


@rule("squeeze", view="all")
def squeeze(f: Facts, out: Value, input: Value, *dim: Any, **kwargs: Any) -> None:
    dims = f.dims(input)
    named = flat_sizes(dim) if dim else flat_sizes([kwargs["dim"]]) if "dim" in kwargs else range(len(dims))
    gone = {int(i) % len(dims) for i in named if dims[int(i)].size == 1}
    f.give(out, [term for i, term in enumerate(dims) if i not in gone])


@rule("unsqueeze", view="all")
def unsqueeze(f: Facts, out: Value, input: Value, dim: int) -> None:
    dims = list(f.dims(input))
    dims.insert(int(dim) % (len(dims) + 1), f.leaf(1))
    f.give(out, dims)


@rule("expand broadcast_to", view="repeated")
def expand(f: Facts, out: Value, input: Value, *sizes: Any, **kwargs: Any) -> None:
    numbers = flat_sizes(sizes or (kwargs["size"],))
    old = f.dims(input)
    old = [f.leaf(1) for _ in range(len(numbers) - len(old))] + list(old)
    dims = [term if term.size == n else f.leaf(n) for term, n in zip(old, out.shape, strict=True)]
    f.give(out, dims)
    _spread(f, out, old)
    for number, term in zip(numbers, dims, strict=True):
        if number != -1:
            f.require(number, term)


def _spread(f: Facts, out: Value, old: Sequence[Term]) -> None:
    """Note where one entry is repeated."""
    at = len(out.shape) - len(old)
    f.spread |= {(out.id, i) for i, n in enumerate(out.shape) if n > 1 and (i < at or old[i - at].size == 1)}


@rule("expand_as", view="repeated")
def expand_as(f: Facts, out: Value, input: Value, other: Value) -> None:
    f.give(out, f.broadcast([f.dims(input), f.dims(other)]))
    _spread(f, out, f.dims(input))


@rule("repeat tile", mixes=apart)
def repeat(f: Facts, out: Value, input: Value, *sizes: Any, **kwargs: Any) -> None:
    numbers = flat_sizes(sizes or (kwargs.get("repeats", kwargs.get("dims")),))
    dims = list(f.dims(input))
    dims = [f.leaf(1) for _ in range(len(numbers) - len(dims))] + dims
    numbers = [1] * (len(dims) - len(numbers)) + numbers
    result = []
    for number, term in zip(numbers, dims, strict=True):
        times = f.leaf(int(number))
        f.require(number, times)
        result.append(f.product(times, term))
    f.give(out, result)


@rule("repeat_interleave", mixes=apart)
def repeat_interleave(f: Facts, out: Value, input: Value, repeats: Any, dim: int | None = None, **_: Any) -> None:
    dims = list(f.dims(input))
    times = f.leaf(int(repeats))
    f.require(repeats, times)
    if dim is None:
        return f.give(out, [f.product(*dims, times)])
    dims[dim] = f.product(dims[dim], times)
    f.give(out, dims)


@rule("cat", joins=True)
def cat(f: Facts, out: Value, tensors: Sequence[Value], dim: int = 0, **kwargs: Any) -> None:
    dim = int(kwargs.get("axis", dim))
    lists = [f.dims(v) for v in tensors if v.shape != (0,)]
    _join(f, out, lists, dim % len(lists[0]))


def _join(f: Facts, out: Value, lists: Sequence[Sequence[Term]], dim: int) -> None:
    first = list(lists[0])
    for other in lists[1:]:
        for i, (a, b) in enumerate(zip(first, other, strict=True)):
            if i != dim:
                f.same(a, b)
    first[dim] = f.concat([dims[dim] for dims in lists])
    f.give(out, first)


@rule("hstack vstack row_stack dstack column_stack", mixes=apart)
def stack_along(f: Facts, out: Value, tensors: Sequence[Value], **_: Any) -> None:
    """cat along the first, second or third dimension, after new ones where a tensor has too few."""
    op = f.why.op
    lists = [list(f.dims(v)) for v in tensors]
    for dims in lists:
        if op == "column_stack" and len(dims) < 2:
            dims += [f.leaf(1)] * (2 - len(dims))
        elif op in ("vstack", "row_stack", "dstack"):
            dims[:0] = [f.leaf(1)] * (2 - len(dims))
        dims += [f.leaf(1)] * (3 - len(dims)) if op == "dstack" else []
    along = {"vstack": 0, "row_stack": 0, "dstack": 2}.get(op, min(1, len(lists[0]) - 1))
    _join(f, out, lists, along)


@rule("atleast_1d atleast_2d atleast_3d", mixes=apart)
def atleast(f: Facts, out: Value, *tensors: Any) -> None:
    """New dimensions in front, except that the third comes last."""
    for value, result in zip(values(tensors), values(out), strict=True):
        dims = list(f.dims(value))
        dims += [f.leaf(1)] if f.why.op == "atleast_3d" and 0 < len(dims) < 3 else []
        f.give(result, [*[f.leaf(1)] * (len(result.shape) - len(dims)), *dims])


@rule("stack", mixes=apart)
def stack(f: Facts, out: Value, tensors: Sequence[Value], dim: int = 0, **_: Any) -> None:
    dims = list(f.dims(tensors[0]))
    for other in tensors[1:]:
        f.all_same(dims, f.dims(other))
    dims.insert(int(dim) % (len(dims) + 1), f.fixed(len(tensors), "one entry per stacked tensor"))
    f.give(out, dims)


@rule("unbind", view="part")
def unbind(f: Facts, out: Sequence[Value], input: Value, dim: int = 0) -> None:
    dims = list(f.dims(input))
    f.freeze(dims.pop(int(dim)), "every entry is taken by its position")
    for value in values(out):
        f.give(value, dims)


def _give_parts(f: Facts, out: Any, input: Value, dim: int, parts: Sequence[Term]) -> None:
    dims = list(f.dims(input))
    f.same(dims[dim], f.concat(parts))
    for value, part in zip(values(out), parts, strict=True):
        dims[dim] = part
        f.give(value, dims)


@rule("chunk", view="part")
def chunk(f: Facts, out: Sequence[Value], input: Value, chunks: Any, dim: int = 0) -> None:
    """Equal parts stay equal: they become one layout (see decisions/0002)."""
    sizes = [value.shape[dim] for value in values(out)]
    if not isinstance(chunks, int) or len(set(sizes)) > 1:
        f.freeze(f.dims(input)[dim], "a chunk into unequal parts")
        return _give_parts(f, out, input, dim, [f.fixed(n) for n in sizes])
    f.require(chunks, f.fixed(len(sizes), "the number of chunks"))
    part = f.leaf(sizes[0])
    _give_parts(f, out, input, dim, [part] * len(sizes))


@rule("tensor_split", view="part")
def tensor_split(f: Facts, out: Sequence[Value], input: Value, places: Any = None, dim: int = 0, **given: Any) -> None:
    """Into a number of parts, or cut at places that count from the front."""
    places = next(iter(given.values())) if places is None else places
    if not isinstance(places, (tuple, list)):
        return chunk(f, out, input, places, dim)
    f.cut(f.dims(input)[dim], *places)
    parts = [f.leaf(value.shape[dim]) for value in values(out)]
    for i, place in enumerate(places, 1):
        f.require(place, f.concat(parts[:i]))
    _give_parts(f, out, input, dim, parts)


@rule("hsplit vsplit dsplit", view="part")
def split_along(f: Facts, out: Sequence[Value], input: Value, parts: Any) -> None:
    dim = {"vsplit": 0, "dsplit": 2}.get(f.why.op, min(1, len(input.shape) - 1))
    tensor_split(f, out, input, parts, dim)


@rule("split", view="part")
def split(f: Facts, out: Sequence[Value], input: Value, split_size: Any = None, dim: int = 0, **kwargs: Any) -> None:
    split_size = next(iter(kwargs.values())) if split_size is None else split_size
    sizes = [value.shape[dim] for value in values(out)]
    f.cut(f.dims(input)[dim], split_size)
    if isinstance(split_size, (tuple, list)):
        parts = [f.leaf(n) for n in sizes]
        for number, part in zip(split_size, parts, strict=True):
            f.require(number, part)
    elif len(set(sizes)) > 1:
        f.freeze(f.dims(input)[dim], "a split into unequal parts")
        parts = [f.fixed(n) for n in sizes]
    else:
        parts = [f.leaf(sizes[0])] * len(sizes)
        f.require(split_size, parts[0])
    _give_parts(f, out, input, dim, parts)


@rule("pad", mixes=apart)
def pad(f: Facts, out: Value, input: Value, pad: Sequence[Any], mode: str = "constant", *_: Any, **__: Any) -> None:
    dims = list(f.dims(input))
    for i in range(len(pad) // 2):
        before, after, dim = pad[2 * i], pad[2 * i + 1], -1 - i
        if before == 0 and after == 0:
            continue
        if mode == "constant" and before >= 0 and after >= 0:
            ends = [f.leaf(int(before)), f.leaf(int(after))]
            for number, end in zip((before, after), ends, strict=True):
                if isinstance(number, Int):
                    f.require(number, end)
                else:
                    f.freeze(end, "padding")
            dims[dim] = f.concat([ends[0], dims[dim], ends[1]])
        else:
            f.freeze(dims[dim], "padded from its own entries or cropped")
            dims[dim] = f.fixed(out.shape[dim])
    f.give(out, dims)


@rule("pixel_shuffle", mixes=apart)
def pixel_shuffle(f: Facts, out: Value, input: Value, upscale_factor: int) -> None:
    dims, r = f.dims(input), int(upscale_factor)
    channels, down, across = f.leaf(out.shape[-3]), f.fixed(r), f.fixed(r)
    f.same(dims[-3], f.product(channels, down, across))
    f.give(out, [*dims[:-3], channels, f.product(dims[-2], down), f.product(dims[-1], across)])


@rule("pixel_unshuffle", mixes=apart)
def pixel_unshuffle(f: Facts, out: Value, input: Value, downscale_factor: int) -> None:
    dims, r = f.dims(input), int(downscale_factor)
    rows, columns, down, across = f.leaf(out.shape[-2]), f.leaf(out.shape[-1]), f.fixed(r), f.fixed(r)
    f.same(dims[-2], f.product(rows, down))
    f.same(dims[-1], f.product(columns, across))
    f.give(out, [*dims[:-3], f.product(dims[-3], down, across), rows, columns])


@rule("channel_shuffle native_channel_shuffle", mixes=apart)
def channel_shuffle(f: Facts, out: Value, input: Value, groups: Any) -> None:
    dims = list(f.dims(input))
    outer, inner = f.leaf(int(groups)), f.leaf(dims[1].size // int(groups))
    f.require(groups, outer)
    f.same(dims[1], f.product(outer, inner))
    dims[1] = f.product(inner, outer)
    f.give(out, dims)


@rule("view_as_real", mixes=apart)
def view_as_real(f: Facts, out: Value, input: Value) -> None:
    f.give(out, [*f.dims(input), f.fixed(2, "real and imaginary part")])


@rule("view_as_complex", mixes=apart)
def view_as_complex(f: Facts, out: Value, input: Value) -> None:
    """Pairs of neighbours; where rows were cut out of longer ones, those must be of an even number."""
    source: Any = input
    while (call := f.makers.get(source.id)) is not None and (view := operation(call.op).view) in ("all", "part"):
        source = call.args[0]
        if view == "part" and source.shape:
            f.multiple(source, -1, 2)
    *dims, parts = f.dims(input)
    f.freeze(parts, "real and imaginary part")
    f.give(out, dims)
