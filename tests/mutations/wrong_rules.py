"""Rules that say something false: what the mutants put in the place of the library's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from elastify._analysis.facts import Facts
from elastify._analysis.rules import contractions, elementwise, indexing, norms, recurrence, views
from elastify._analysis.terms import Term
from elastify._ir.graph import values


def spelled(spec: str, take: int = 3) -> Callable[..., None]:
    """A contraction in other letters, of the first `take` arguments."""
    return lambda f, out, *args, **_: contractions.contract(f, spec, args[:take], out)


def as_elementwise(f: Facts, out: Any, input: Any, *_: Any, **__: Any) -> None:
    elementwise.same_shape(f, out, input)


def nothing(*_: Any, **__: Any) -> None:
    """The rule is missing and nobody notices."""


def batch_norm_without(index: int) -> Callable[..., None]:
    def rule(f: Facts, out: Any, input: Any, *args: Any, **kwargs: Any) -> None:
        vectors = [v for v in values((args, kwargs)) if len(v.shape) == 1]
        norms._vectors(f, f.dims(input)[1], *vectors[:index], *vectors[index + 1 :])
        f.give(out, f.dims(input))

    return rule


def layer_norm_plain(f: Facts, out: Any, input: Any, shape: Any, *_: Any, **__: Any) -> None:
    f.give(out, f.dims(input))
    f.require(shape[0], f.dims(input)[-1])


def group_norm_reversed(f: Facts, out: Any, input: Any, groups: Any, weight: Any, bias: Any, *_: Any) -> None:
    outer = f.leaf(int(groups))
    f.require(groups, outer)
    channels = f.product(f.leaf(f.dims(input)[1].size // int(groups)), outer)
    norms._vectors(f, channels, weight, bias)
    f.give(out, f.dims(input))


def first_operand(f: Facts, out: Any, input: Any, *_: Any, **__: Any) -> None:
    f.give(out, f.dims(input) if len(input.shape) == len(out.shape) else f.dims(out))


def linear_swapped(f: Facts, out: Any, input: Any, weight: Any, bias: Any = None) -> None:
    square = weight.shape[0] == weight.shape[1]
    spec = "... i, i o, o -> ... o" if square else "... i, o i, o -> ... o"
    contractions.contract(f, spec, (input, weight, bias), out)


def conv_without_bias(f: Facts, out: Any, input: Any, weight: Any, bias: Any, *args: Any, **kwargs: Any) -> None:
    contractions.conv(f, out, input, weight, None, *args, **kwargs)


def stack_first(f: Facts, out: Any, tensors: Any, dim: int = 0) -> None:
    views.stack(f, out, [tensors[0]] * len(tensors), dim)


def unbind_loose(f: Facts, out: Any, input: Any, dim: int = 0) -> None:
    """Each result has dimensions of its own."""
    f.freeze(f.dims(input)[dim], "taken apart")


def glu_interleaved(f: Facts, out: Any, input: Any, dim: int = -1) -> None:
    *lead, whole = f.dims(input)
    half = f.leaf(out.shape[-1])
    f.same(whole, f.product(half, f.fixed(2)))
    f.give(out, [*lead, half])


def glu_elementwise(f: Facts, out: Any, input: Any, dim: int = -1) -> None:
    f.give(out, [*f.dims(input)[:-1], f.leaf(out.shape[-1])])


def split_swapped(f: Facts, out: Any, input: Any, sizes: Any, dim: int = 0) -> None:
    parts = [f.leaf(int(n)) for n in sizes]
    for number, part in zip(sizes, parts, strict=True):
        f.require(number, part)
    dims = list(f.dims(input))
    f.same(dims[dim], f.concat(parts))
    for value, part in zip(out, parts[::-1], strict=True):
        f.give(value, [*dims[:-1], part])


def cat_shifted(f: Facts, out: Any, tensors: Any, dim: int = 0) -> None:
    views.cat(f, out, [*tensors[1:], tensors[0]], dim)


def cat_forgotten(f: Facts, out: Any, tensors: Any, dim: int = 0) -> None:
    dims = list(f.dims(tensors[0]))
    dims[dim] = f.leaf(out.shape[dim])
    f.give(out, dims)


def regroup_swapped(f: Facts, dims: Any, shape: Any) -> list[Term]:
    """Heads and head_dim exchanged wherever a reshape makes two equal factors side by side."""
    result = _regroup(f, dims, shape)
    if len(shape) == 5:
        result[3], result[4] = result[4], result[3]
    return result


_regroup = views.regroup


def flatten_reversed(f: Facts, out: Any, input: Any, start_dim: int = 0, end_dim: int = -1) -> None:
    first, *dims = f.dims(input)
    f.give(out, [first, f.product(*dims[1:], dims[0])])


def conv_groups_reversed(f: Facts, out: Any, input: Any, weight: Any, bias: Any, *args: Any, **_: Any) -> None:
    groups, rows = f.leaf(int(args[3])), f.dims(weight)[0]
    f.require(args[3], groups)
    f.same(f.dims(input)[1], f.product(groups, f.dims(weight)[1]))
    if int(args[3]) != 1:
        f.same(rows, f.product(f.leaf(rows.size // int(args[3])), groups))
    contractions._conv_out(f, out, input, weight, bias, rows, [False] * (len(weight.shape) - 2))


def conv_swapped(f: Facts, out: Any, input: Any, weight: Any, bias: Any, *_: Any) -> None:
    rows, columns, *_ = f.dims(weight)
    if rows.size == columns.size:
        rows, columns = columns, rows
    f.same(f.dims(input)[1], columns)
    contractions._conv_out(f, out, input, weight, bias, rows, [False] * (len(weight.shape) - 2))


def conv_transpose_swapped(f: Facts, out: Any, input: Any, weight: Any, bias: Any, *_: Any) -> None:
    rows, columns, *_ = f.dims(weight)
    f.same(f.dims(input)[1], columns)
    contractions._conv_out(f, out, input, weight, bias, rows, [False] * (len(weight.shape) - 2))


def conv_with_free_space(f: Facts, out: Any, input: Any, weight: Any, bias: Any, *_: Any) -> None:
    f.same(f.dims(input)[1], f.dims(weight)[1])
    f.same(f.dims(bias)[0], f.dims(weight)[0])
    f.give(out, [f.dims(input)[0], f.dims(weight)[0], *(f.leaf(n) for n in out.shape[2:])])


def pixel_shuffle_reversed(f: Facts, out: Any, input: Any, factor: int) -> None:
    channels, dims = f.leaf(out.shape[1]), f.dims(input)
    f.same(dims[1], f.product(f.fixed(factor), f.fixed(factor), channels))
    f.give(out, [dims[0], channels, f.fixed(out.shape[2]), f.fixed(out.shape[3])])


def embedding_by_row(f: Facts, out: Any, weight: Any, input: Any, *_: Any, **__: Any) -> None:
    """The vocabulary taken for a channel: its rows are free, and tied to the width where the sizes allow."""
    rows, width = f.dims(weight)
    f.give(out, [*f.dims(input), rows if rows.size == width.size else width])


def embedding_free(f: Facts, out: Any, weight: Any, input: Any, *_: Any, **__: Any) -> None:
    f.give(out, [*f.dims(input), f.dims(weight)[1]])


def chunk_loose(f: Facts, out: Any, input: Any, chunks: Any, dim: int = 0) -> None:
    """The parts of a chunk are axes of their own."""
    views._give_parts(f, out, input, dim, [f.leaf(v.shape[dim]) for v in values(out)])


def stride_reversed(f: Facts, term: Term, start: Any, stop: Any, step: int) -> Term:
    piece = f.leaf(term.size // step)
    f.same(term, f.product(f.fixed(step), piece))
    return piece


def stack_in_front(f: Facts, out: Any, tensors: Any, dim: int = 0) -> None:
    """The new dimension changes places with the one before it (both of size 2 in the network)."""
    views.stack(f, out, tensors, dim)
    dims = f.dims(out)
    dims[-1], dims[-2] = dims[-2], dims[-1]


def repeat_outside(f: Facts, out: Any, input: Any, repeats: Any, dim: int) -> None:
    dims, times = list(f.dims(input)), f.leaf(int(repeats))
    f.require(repeats, times)
    dims[dim] = f.product(times, dims[dim])
    f.give(out, dims)


def matmul_loose(f: Facts, out: Any, input: Any, other: Any) -> None:
    contractions.contract(f, "... n k, ... l m -> ... n m", (input, other), out)


def matmul_crossed(f: Facts, out: Any, input: Any, other: Any) -> None:
    """`x @ y` of two square matrices taken for `x @ y.T`."""
    square = other.shape[-1] == other.shape[-2]
    contractions.contract(
        f, "... n k, ... m k -> ... n m" if square else "... n k, ... k m -> ... n m", (input, other), out
    )


def einsum_misread(f: Facts, out: Any, equation: str, *operands: Any) -> None:
    contractions.einsum(f, out, equation.replace("ij,jk", "ji,jk"), *operands)


def sdpa_parts(*, value: bool = True, key: bool = True, heads: bool = True) -> Callable[..., None]:
    def rule(f: Facts, out: Any, q: Any, k: Any, v: Any, **_: Any) -> None:
        a, b, c = f.dims(q), f.dims(k), f.dims(v)
        if key:
            f.same(a[-1], b[-1])
        if heads:
            f.same(a[1], b[1])
            f.same(b[1], c[1])
        f.give(out, [*a[:-1], c[-1] if value else f.leaf(c[-1].size)])

    return rule


def permute_loose(f: Facts, out: Any, input: Any, *order: Any, dims: Any = None) -> None:
    terms = f.dims(input)
    f.give(out, [f.leaf(terms[i].size) for i in (order if len(order) > 1 else order[0])])


def transpose_forgotten(f: Facts, out: Any, input: Any, dim0: int, dim1: int) -> None:
    if input.shape == out.shape:
        f.give(out, f.dims(input))
    else:
        views.transpose(f, out, input, dim0, dim1)


def gates_inside(f: Facts, rows: Term, hidden: Term) -> None:
    f.same(rows, f.product(hidden, f.fixed(rows.size // hidden.size)))


def recurrent_without(part: str) -> Callable[..., None]:
    """The weights of one direction, the recurrent columns, or the biases are forgotten."""

    def rule(f: Facts, out: Any, data: Any, state: Any, weights: Any, *args: Any) -> None:
        hidden = f.leaf(next(values(state)).shape[-1])
        features, both = f.dims(data)[-1], bool(args[4])
        per = 4
        for layer in range(int(args[1])):
            for direction in range(1 + both):
                at = (layer * (1 + both) + direction) * per
                wih, whh, *biases = (f.dims(w) for w in weights[at : at + per])
                f.same(wih[1], features)
                if part == "direction" and direction == 1:
                    continue
                recurrence._gates(f, wih[0], hidden)
                recurrence._gates(f, whh[0], hidden)
                if part != "columns":
                    f.same(whh[1], hidden)
                for bias in biases if part != "biases" else ():
                    recurrence._gates(f, bias[0], hidden)
            parts = [hidden] * (1 + both)
            features = f.product(hidden, f.fixed(2)) if part == "halves" and both else f.concat(parts)
        result, *finals = values(out)
        f.give(result, [*f.dims(data)[:-1], features])
        for final, s in zip(finals, values(state), strict=True):
            f.give(final, f.dims(s))

    return rule


def cut_silent(f: Facts, term: Term, start: Any, stop: Any, step: Any) -> Term:
    """A slice says nothing about what it cuts."""
    size = len(range(*slice(indexing._plain(start), indexing._plain(stop), step).indices(term.size)))
    return term if size == term.size else f.leaf(size)


def cut_backwards(f: Facts, term: Term, start: Any, stop: Any, step: Any) -> Term:
    """`x[:n]` and `x[n:]` exchanged where the halves are equal."""
    if start is None and stop is None:
        return term
    first, last = f.leaf(term.size // 2), f.leaf(term.size // 2)
    f.same(term, f.concat([first, last]))
    f.require(start if start is not None else stop, last)
    return first if start is not None else last


def setitem_forgets(f: Facts, out: Any, input: Any, index: Any, value: Any) -> None:
    f.give(out, f.dims(input))


def require_ignored(self: Facts, number: Any, term: Term) -> None:
    """Numbers in the source do not count."""


def unnoticed(facts: Facts, call: Any, reason: str) -> None:
    """An operation without a rule passes silently: its result has new dimensions that nothing holds."""
