"""Rules of indexing: select, slice, gather, scatter, and Python's square brackets.

A slice cuts a dimension into what lies before it, inside it and after it, a concat of three; its bounds are
integers like any other, so a bound that came from an attribute follows and a literal one freezes the piece it
measures. Picking units by position freezes the dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elastify._analysis.facts import Facts
from elastify._analysis.rules.ops import Mixed, along, apart, every, rule
from elastify._analysis.terms import Term
from elastify._ir import Int, Value, values

_PICKED = "units are picked by an index tensor"


def cut(f: Facts, term: Term, start: Any, stop: Any, step: Any) -> Term:
    """The piece `[start:stop:step]` of a dimension."""
    n = term.size
    if step not in (None, 1):
        return _stride(f, term, start, stop, int(step))
    first, last, _ = slice(_plain(start), _plain(stop)).indices(n)
    last = max(first, last)
    if (first, last) == (0, n) and not any(isinstance(bound, Int) for bound in (start, stop)):
        return term
    f.cut(term, start, stop)
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


def indexed(f: Facts, input: Value, index: Any, result_shape: Sequence[int] = ()) -> list[Term]:
    """Dimensions of `input[index]`; how many a mask chooses is read from `result_shape`, counted from the back."""
    rest = list(f.dims(input))
    result: list[Term] = []
    advanced: list[Sequence[Term]] = []
    place, adjacent, last, masks = None, True, False, 0
    for item in _expand_index(index, len(rest)):
        is_advanced = isinstance(item, (Value, list))
        if item is None:
            result.append(f.leaf(1))
        elif isinstance(item, slice):
            result.append(cut(f, rest.pop(0), item.start, item.stop, item.step))
        elif isinstance(item, bool):
            raise TypeError("a boolean index")
        elif is_advanced:
            mask = item if isinstance(item, Value) and item.dtype == "bool" else None
            reason = "units are picked by a list or mask" if mask or isinstance(item, list) else _PICKED
            covered = [rest.pop(0) for _ in range(_covers(item))]
            for term in covered:
                f.freeze(term, reason)
            if mask:
                f.all_same(f.dims(mask), covered)
                masks += 1
            else:
                advanced.append([f.fixed(n) for n in _listed(item)] if isinstance(item, list) else f.dims(item))
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
    if masks:
        if masks + len(advanced) > 1:
            raise TypeError("a mask beside another index")
        behind = len(result) - at
        advanced.append([f.count(result_shape[-1 - behind] if len(result_shape) > behind else 1)])
    return result[:at] + f.broadcast(advanced) + result[at:]


def _listed(item: Any) -> tuple[int, ...]:
    """The shape of a nested list of positions."""
    if not isinstance(item, list):
        if isinstance(item, bool) or not isinstance(item, int):
            raise TypeError("an index list of other things than positions")
        return ()
    return (len(item), *(_listed(item[0]) if item else ()))


def _picked(input: Value, index: Any, *_: Any) -> Mixed:
    """The dimensions that lists and tensors of positions go over."""
    at, found = 0, list[tuple[Value, int]]()
    for item in _expand_index(index, len(input.shape)):
        over = 0 if item is None else _covers(item)
        found += [(input, dim) for dim in range(at, at + over) if isinstance(item, (Value, list))]
        at += over
    return found


@rule("getitem", view="part", mixes=_picked)
def getitem(f: Facts, out: Value, input: Value, index: Any) -> None:
    f.give(out, indexed(f, input, index, out.shape))


def _written(input: Value, index: Any, *_: Any) -> Mixed:
    return [*_picked(input, index), *every(*values(index))]


@rule("setitem", mixes=_written)
def setitem(f: Facts, out: Value, input: Value, index: Any, value: Any) -> None:
    target = indexed(f, input, index, value.shape if isinstance(value, Value) else ())
    if isinstance(value, Value):
        f.broadcast([target, f.dims(value)])
    f.give(out, f.dims(input))


@rule("select", view="part")
def select(f: Facts, out: Value, input: Value, dim: int, index: Any) -> None:
    dims = list(f.dims(input))
    f.freeze(dims.pop(int(dim)), "a unit is picked by its position")
    f.give(out, dims)


@rule("slice", view="part")
def slice_(f: Facts, out: Value, input: Value, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> None:
    dims = list(f.dims(input))
    dims[dim] = cut(f, dims[dim], start, end, step)
    f.give(out, dims)


@rule("narrow", view="part")
def narrow(f: Facts, out: Value, input: Value, dim: int, start: Any, length: Any) -> None:
    dims = list(f.dims(input))
    term = dims[dim]
    if isinstance(start, Value):
        raise TypeError("narrow at a computed place")
    f.cut(term, start, length)
    before, inside = f.leaf(int(start)), f.leaf(int(length))
    f.same(term, f.concat([before, inside, f.leaf(term.size - int(start) - int(length))]))
    f.require(start, before)
    f.require(length, inside)
    dims[dim] = inside
    f.give(out, dims)


@rule("index_select", mixes=along(1))
def index_select(f: Facts, out: Value, input: Value, dim: int, index: Value) -> None:
    dims = list(f.dims(input))
    f.freeze(dims[dim], _PICKED)
    dims[dim] = f.dims(index)[0] if index.shape else f.leaf(1)
    f.give(out, dims)


def _gathered(input: Value, dim: int, index: Value, **_: Any) -> Mixed:
    return [(input, dim), (index, dim)]


@rule("gather", mixes=_gathered)
def gather(f: Facts, out: Value, input: Value, dim: int, index: Value, **_: Any) -> None:
    _pointwise(f, f.dims(input), dim, f.dims(index))
    f.give(out, f.dims(index))


@rule("take")
def take(f: Facts, out: Value, input: Value, index: Value) -> None:
    for term in f.dims(input):
        f.freeze(term, _PICKED)
    f.give(out, f.dims(index))


@rule("take_along_dim")
def take_along(f: Facts, out: Value, input: Value, indices: Value, dim: int, **_: Any) -> None:
    gather(f, out, input, dim, indices)


def _pointwise(f: Facts, dims: Sequence[Term], dim: int, *others: Sequence[Term]) -> None:
    """Tensors that an index along `dim` joins element by element: equal in all other dimensions, or only in part."""
    f.freeze(dims[dim], _PICKED)
    for other in others:
        for i, (a, b) in enumerate(zip(dims, other, strict=True)):
            if i == dim % len(dims):
                continue
            if a.size == b.size:
                f.same(a, b)
            else:
                f.freeze(a, "only a part is indexed")
                f.freeze(b, "only a part is indexed")


@rule("scatter scatter_add scatter_reduce")
def scatter(f: Facts, out: Value, input: Value, dim: int, index: Value, *args: Any, **kwargs: Any) -> None:
    """x[i][index[i][j]] = source[i][j] along dim 1 of two."""
    sources = [f.dims(value) for value in values((args, kwargs)) if value.shape]
    _pointwise(f, f.dims(input), dim, f.dims(index), *sources)
    for source in sources:
        f.same(source[dim], f.dims(index)[dim]) if source[dim].size == f.dims(index)[dim].size else f.freeze(
            source[dim], "only a part is scattered"
        )
    f.give(out, f.dims(input))


@rule("index_add index_copy index_fill index_reduce")
def index_add(f: Facts, out: Value, input: Value, dim: int, index: Value, *args: Any, **kwargs: Any) -> None:
    """Whole slices go to the places that the index names."""
    dims = f.dims(input)
    f.freeze(dims[dim], _PICKED)
    for source in values((args, kwargs)):
        for i, term in enumerate(f.dims(source)):
            f.same(term, f.dims(index)[0] if i == dim % len(dims) else dims[i])
    f.give(out, dims)


@rule("index_put")
def index_put(f: Facts, out: Value, input: Value, indices: Any, value: Any, *_: Any, **__: Any) -> None:
    setitem(f, out, input, tuple(slice(None) if i is None else i for i in indices), value)


@rule("select_scatter")
def select_scatter(f: Facts, out: Value, input: Value, src: Value, dim: int, index: Any) -> None:
    dims = list(f.dims(input))
    f.freeze(dims.pop(int(dim)), "a unit is picked by its position")
    f.all_same(dims, f.dims(src))
    f.give(out, f.dims(input))


@rule("slice_scatter")
def slice_scatter(
    f: Facts, out: Value, input: Value, src: Value, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1
) -> None:
    dims = list(f.dims(input))
    dims[dim] = cut(f, dims[dim], start, end, step)
    f.all_same(dims, f.dims(src))
    f.give(out, f.dims(input))


_RANKING = {"topk": 1, "kthvalue": 1}  # numbers before the dimension


@rule("topk sort argsort kthvalue mode median nanmedian msort")
def ranked(f: Facts, out: Any, input: Value, *args: Any, **kwargs: Any) -> None:
    """Ranking along a dimension returns positions: that dimension is fixed."""
    dims, op = list(f.dims(input)), f.why.op
    numbers = [a for a in args if isinstance(a, int) and not isinstance(a, bool)][
        _RANKING.get(op, 0) - ("k" in kwargs) :
    ]
    if op in ("median", "nanmedian") and not numbers and "dim" not in kwargs:
        return f.give(out, [])  # of all elements, without positions
    dim = 0 if op == "msort" else int(kwargs.get("dim", numbers[0] if numbers else -1)) % len(dims)
    f.freeze(dims[dim], "the operation ranks units and returns positions")
    for value in values(out):
        kept = [t for i, t in enumerate(dims) if i != dim or len(value.shape) == len(dims)]
        f.give(value, [t if t.size == n else f.fixed(n) for t, n in zip(kept, value.shape, strict=True)])


@rule("isin")
def isin(f: Facts, out: Value, elements: Any, test_elements: Any = None, **_: Any) -> None:
    f.give(out, f.dims(elements) if isinstance(elements, Value) else [])


@rule("bucketize")
def bucketize(f: Facts, out: Value, input: Value, boundaries: Value, **_: Any) -> None:
    f.freeze(f.dims(boundaries)[0], "boundaries lie in order")
    f.give(out, f.dims(input))


@rule("multinomial")
def multinomial(f: Facts, out: Value, input: Value, *_: Any, **__: Any) -> None:
    *lead, units = f.dims(input)
    f.freeze(units, "positions are drawn")
    f.give(out, [*lead, f.fixed(out.shape[-1])])


_PLACES = "the result depends on the position of each unit"


@rule("bincount histc histogram searchsorted as_strided")
def by_position(f: Facts, out: Any, *args: Any, **kwargs: Any) -> None:
    """What these read and make depends on where each unit is."""
    for value in values((out, args, kwargs)):
        for term in f.dims(value):
            f.freeze(term, _PLACES)


@rule("masked_select nonzero argwhere _unique2 unique_consecutive nms")
def chosen(f: Facts, out: Any, *args: Any, **kwargs: Any) -> None:
    """So does what these choose, of which the data decide how much there is."""
    for value in values(out):
        f.give(value, [f.count(n) if i == 0 else f.fixed(n) for i, n in enumerate(value.shape)])
    by_position(f, out, *args, **kwargs)


@rule("item tolist", reads=True)
def read_out(f: Facts, out: Any, input: Value) -> None:
    """Numbers that Python code goes on with; what they size is of as many entries as the data say."""
    for term in f.dims(input):
        f.freeze(term, "its units are read one by one")
    for value in values(out):
        f.give(value, [f.count(value.shape[0])])


@rule("where", elementwise=True)
def where(f: Facts, out: Any, condition: Value, *choices: Any, **kwargs: Any) -> None:
    """With two choices element by element; alone, the places where the condition holds."""
    if choices or kwargs:
        return f.give(out, f.broadcast([f.dims(value) for value in values((condition, choices, kwargs))]))
    chosen(f, out, condition)


@rule("masked_scatter")
def masked_scatter(f: Facts, out: Value, input: Value, mask: Value, source: Value) -> None:
    """Entries of the source, in order, go where the mask is true: whole rows where it is the same along the rows."""
    rest = list(f.dims(input))
    along, given = len(mask.shape) - 1, f.dims(source)
    rows = mask.shape[-1:] == (1,) or (mask.id, along) in f.spread
    if rows and source.shape and source.shape[-1] == input.shape[-1]:
        f.same(rest.pop(), given[-1])
        given = given[:-1]
    for term in (*rest, *given, *f.dims(mask)[:-1], *(() if rows else f.dims(mask)[-1:])):
        f.freeze(term, "places are chosen by a mask")
    f.broadcast([f.dims(input), f.dims(mask)])
    f.give(out, f.dims(input))


@rule("one_hot", mixes=apart)
def one_hot(f: Facts, out: Value, input: Value, *_: Any, **__: Any) -> None:
    f.give(out, [*f.dims(input), f.fixed(out.shape[-1], "one entry per class")])
