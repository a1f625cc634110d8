"""Rules of indexing: select, slice, gather, scatter, and Python's square brackets.

A slice cuts a dimension into what lies before it, inside it and after it, a concat of three; its bounds are
integers like any other, so a bound that came from an attribute follows and a literal one freezes the piece it
measures. Picking units by position freezes the dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elastify._graph import Value, values
from elastify._ints import Int
from elastify._rules._facts import Facts, rule
from elastify._terms import Term


def cut(f: Facts, term: Term, start: Any, stop: Any, step: Any) -> Term:
    """The piece `[start:stop:step]` of a dimension."""
    n = term.size
    if step not in (None, 1):
        return _stride(f, term, start, stop, int(step))
    first, last, _ = slice(_plain(start), _plain(stop)).indices(n)
    last = max(first, last)
    if (first, last) == (0, n) and not any(isinstance(bound, Int) for bound in (start, stop)):
        return term
    before, inside, after = f.leaf(first), f.leaf(last - first), f.leaf(n - last)
    f.same(term, f.concat([before, inside, after]))
    _bound(f, start, before, f.concat([inside, after]), n)
    if stop is not None and not (not isinstance(stop, Int) and stop >= n):
        _bound(f, stop, f.concat([before, inside]), after, n)
    return inside


def _plain(bound: Any) -> int | None:
    return None if bound is None else int(bound)


def _bound(f: Facts, bound: Any, below: Term, above: Term, n: int) -> None:
    """A bound counts from the front (`below` has that size) or, negative, from the back."""
    if bound is None or (not isinstance(bound, Int) and bound == 0):
        return
    if isinstance(bound, Int):
        if 0 <= bound <= n:
            f.require(bound, below)
        else:
            f.freeze(f.concat([below, above]), "a negative bound is computed")
    elif bound > 0:
        f.freeze(below, f"the bound {bound} is written in the source")
    else:
        f.freeze(above, f"the bound {bound} is written in the source")


def _stride(f: Facts, term: Term, start: Any, stop: Any, step: int) -> Term:
    n = term.size
    count = len(range(*slice(_plain(start), _plain(stop), step).indices(n)))
    if step > 0 and n % step == 0 and count == n // step and (stop is None or stop >= n):
        piece = f.leaf(count)
        f.same(term, f.product(piece, f.fixed(step, "a strided slice")))
        return piece
    f.freeze(term, "a strided slice")
    return f.fixed(count)


def _expand_index(index: Any, rank: int) -> list[Any]:
    """An index as a list without an ellipsis, covering every dimension."""
    items = list(index) if isinstance(index, tuple) else [index]
    used = sum(_covers(item) for item in items if item is not Ellipsis)
    fill = [slice(None)] * (rank - used)
    for i, item in enumerate(items):
        if item is Ellipsis:
            return [*items[:i], *fill, *items[i + 1 :]]
    return items + fill


def _covers(item: Any) -> int:
    if item is None or isinstance(item, bool):
        return 0
    return len(item.shape) if isinstance(item, Value) and item.dtype == "bool" else 1


def indexed(f: Facts, input: Value, index: Any) -> list[Term]:
    """Dimensions of `input[index]`."""
    rest = list(f.dims(input))
    result: list[Term] = []
    advanced: list[Sequence[Term]] = []
    place, adjacent, last = None, True, False
    for item in _expand_index(index, len(rest)):
        if isinstance(item, list):
            raise TypeError("an index list")
        is_advanced = isinstance(item, Value)
        if item is None:
            result.append(f.leaf(1))
        elif isinstance(item, slice):
            result.append(cut(f, rest.pop(0), item.start, item.stop, item.step))
        elif isinstance(item, bool):
            raise TypeError("a boolean index")
        elif isinstance(item, Value):
            for term in (rest.pop(0) for _ in range(_covers(item))):
                f.freeze(term, "units are picked by an index tensor")
            picked = [f.fixed(-1)] if item.dtype == "bool" else f.dims(item)
            advanced.append(picked)
            if place is None:
                place = len(result)
            elif not last:
                adjacent = False
        else:
            term = rest.pop(0)
            if term.size != 1:
                f.freeze(term, "a unit is picked by its position")
        last = is_advanced or (last and not isinstance(item, slice) and item is not None)
    if place is None:
        return result
    at = place if adjacent else 0
    return result[:at] + f.broadcast(advanced) + result[at:]


@rule("getitem")
def getitem(f: Facts, out: Value, input: Value, index: Any) -> None:
    items = index if isinstance(index, tuple) else (index,)
    if any(isinstance(item, list) or (isinstance(item, Value) and item.dtype == "bool") for item in items):
        return pick_positions(f, out, input)
    f.give(out, indexed(f, input, index))


def pick_positions(f: Facts, out: Value, input: Value) -> None:
    """Positions listed in the source or chosen by a mask: nothing may move."""
    for term in f.dims(input):
        f.freeze(term, "units are picked by a list or mask")
    f.give(out, [f.fixed(n) for n in out.shape])


@rule("setitem")
def setitem(f: Facts, out: Value, input: Value, index: Any, value: Any) -> None:
    items = index if isinstance(index, tuple) else (index,)
    if any(isinstance(item, list) or (isinstance(item, Value) and item.dtype == "bool") for item in items):
        for term in f.dims(input):
            f.freeze(term, "units are written by a list or mask")
        for term in f.dims(value) if isinstance(value, Value) else ():
            f.freeze(term, "written into picked positions")
    else:
        target = indexed(f, input, index)
        if isinstance(value, Value):
            f.broadcast([target, f.dims(value)])
    f.give(out, f.dims(input))


@rule("select")
def select(f: Facts, out: Value, input: Value, dim: int, index: Any) -> None:
    dims = list(f.dims(input))
    f.freeze(dims.pop(int(dim)), "a unit is picked by its position")
    f.give(out, dims)


@rule("slice")
def slice_(f: Facts, out: Value, input: Value, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> None:
    dims = list(f.dims(input))
    dims[dim] = cut(f, dims[dim], start, end, step)
    f.give(out, dims)


@rule("narrow")
def narrow(f: Facts, out: Value, input: Value, dim: int, start: Any, length: Any) -> None:
    dims = list(f.dims(input))
    term = dims[dim]
    if isinstance(start, Value):
        raise TypeError("narrow at a computed place")
    before, inside = f.leaf(int(start)), f.leaf(int(length))
    f.same(term, f.concat([before, inside, f.leaf(term.size - int(start) - int(length))]))
    f.require(start, before)
    f.require(length, inside)
    dims[dim] = inside
    f.give(out, dims)


@rule("index_select")
def index_select(f: Facts, out: Value, input: Value, dim: int, index: Value) -> None:
    dims = list(f.dims(input))
    f.freeze(dims[dim], "units are picked by an index tensor")
    dims[dim] = f.dims(index)[0] if index.shape else f.leaf(1)
    f.give(out, dims)


@rule("gather take_along_dim")
def gather(f: Facts, out: Value, input: Value, dim: int, index: Value, **_: Any) -> None:
    dims, where = f.dims(input), f.dims(index)
    f.freeze(dims[dim], "units are picked by an index tensor")
    for i, (a, b) in enumerate(zip(dims, where, strict=True)):
        if i != dim % len(dims):
            if a.size == b.size:
                f.same(a, b)
            else:
                f.freeze(a, "only a part is gathered")
                f.freeze(b, "only a part is gathered")
    f.give(out, where)


@rule("scatter scatter_add scatter_reduce index_add index_copy index_fill index_put masked_scatter")
def scatter(f: Facts, out: Value, input: Value, *args: Any, **kwargs: Any) -> None:
    for value in (input, *values(args), *values(kwargs)):
        for term in f.dims(value):
            f.freeze(term, "units are written by an index tensor")
    f.give(out, f.dims(input))


@rule("topk sort argsort kthvalue mode median")
def ranked(f: Facts, out: Any, input: Value, *args: Any, **kwargs: Any) -> None:
    """Ranking along a dimension returns positions: that dimension is fixed."""
    dims = list(f.dims(input))
    dim = kwargs.get("dim", next((a for a in args[-1:] if isinstance(a, int) and not isinstance(a, bool)), -1))
    named = {v.shape for v in values(out)}
    axis = int(dim) if any(len(s) == len(dims) for s in named) else -1
    for term in dims:
        if all(len(s) == len(dims) for s in named) and term is not dims[axis]:
            continue
        f.freeze(term, "the operation ranks units and returns positions")
    for value in values(out):
        if len(value.shape) == len(dims):
            f.give(
                value,
                [
                    t if t.size == n and i != axis % len(dims) else f.fixed(n)
                    for i, (t, n) in enumerate(zip(dims, value.shape, strict=True))
                ],
            )
        else:
            f.give(value, [f.fixed(n) for n in value.shape])


@rule("one_hot")
def one_hot(f: Facts, out: Value, input: Value, *_: Any, **__: Any) -> None:
    f.give(out, [*f.dims(input), f.fixed(out.shape[-1], "one entry per class")])
