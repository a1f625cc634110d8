"""Rules of operations that multiply and add: linear, convolution, matmul, einsum, attention, recurrence.

Most are written in the axis notation of `ops`, from which their multiplications follow too. The others say with `macs`
how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from elastify._analysis.facts import Facts, flat_sizes
from elastify._analysis.rules.ops import Contraction, Dims, Layouts, Mixed, Rule, every, labelled, rule
from elastify._analysis.terms import Term
from elastify._ir import Value, values

Notation = Callable[..., Contraction]


def contraction(text: str, **facts: Any) -> Callable[[Notation], Rule]:
    """Enter operations that are a product, which a function of their arguments writes in axis notation."""

    def register(notation: Notation) -> Rule:
        @rule(text, notation=notation, **facts)
        def state(f: Facts, out: Value, *args: Any, **kwargs: Any) -> None:
            product = notation(*args, **kwargs)
            contract(f, product.spec, product.operands, out)
            if product.added is not None:
                f.broadcast([f.dims(out), f.dims(product.added)])

        return state

    return register


def contract(f: Facts, spec: str, operands: Sequence[Value | None], out: Value) -> None:
    """State `spec` ("... i, o i, o -> ... o"); an operand that is None is skipped."""
    inputs, result = labelled(Contraction(spec, operands))
    bound: dict[Any, Term] = {}
    for labels, value in inputs:
        for dim, (label, term) in enumerate(zip(labels, f.dims(value), strict=True)):
            if label not in result:
                f.sums(value, dim)
            seen = bound.setdefault(label, term)
            if seen.size == 1 != term.size:
                bound[label] = term
            elif term.size != 1:
                f.same(seen, term)
    f.give(out, [bound[label] for label in result])


@contraction("linear", linear=True)
def linear(input: Value, weight: Value, bias: Value | None = None) -> Contraction:
    if len(weight.shape) == 1:
        return Contraction("... i, i -> ...", (input, weight), bias)
    return Contraction("... i, o i, o -> ... o", (input, weight, bias))


@contraction("bilinear")
def bilinear(input1: Value, input2: Value, weight: Value, bias: Value | None = None) -> Contraction:
    return Contraction("... i, ... j, o i j, o -> ... o", (input1, input2, weight, bias))


@contraction("bmm", matrices=True)
def bmm(input: Value, mat2: Value, **_: Any) -> Contraction:
    return Contraction("b n k, b k m -> b n m", (input, mat2))


@contraction("mm")
def mm(input: Value, mat2: Value, **_: Any) -> Contraction:
    return Contraction("n k, k m -> n m", (input, mat2))


@contraction("mv")
def mv(input: Value, vec: Value) -> Contraction:
    return Contraction("n k, k -> n", (input, vec))


@contraction("dot")
def dot(input: Value, tensor: Value) -> Contraction:
    return Contraction("k, k -> ", (input, tensor))


@contraction("vdot")
def vdot(input: Value, other: Value) -> Contraction:
    return Contraction("k, k -> ", (input, other))


@contraction("outer ger")
def outer(input: Value, vec2: Value) -> Contraction:
    return Contraction("n, m -> n m", (input, vec2))


@contraction("addmm", scales=True)
def addmm(input: Value, mat1: Value, mat2: Value, **_: Any) -> Contraction:
    return Contraction("n k, k m -> n m", (mat1, mat2), input)


@contraction("baddbmm", scales=True, matrices=True)
def baddbmm(input: Value, batch1: Value, batch2: Value, **_: Any) -> Contraction:
    return Contraction("b n k, b k m -> b n m", (batch1, batch2), input)


@contraction("addbmm", scales=True)
def addbmm(input: Value, batch1: Value, batch2: Value, **_: Any) -> Contraction:
    return Contraction("b n k, b k m -> n m", (batch1, batch2), input)


@contraction("addmv", scales=True)
def addmv(input: Value, mat: Value, vec: Value, **_: Any) -> Contraction:
    return Contraction("n k, k -> n", (mat, vec), input)


@contraction("addr")
def addr(input: Value, vec1: Value, vec2: Value, **_: Any) -> Contraction:
    return Contraction("n, m -> n m", (vec1, vec2), input)


@contraction("inner")
def inner(input: Value, other: Value) -> Contraction:
    if not input.shape or not other.shape:
        return Contraction("... , ... -> ...", (input, other))
    left, right = ([f"{name}{i}" for i in range(len(v.shape) - 1)] for name, v in (("a", input), ("b", other)))
    return Contraction(f"{' '.join(left)} k, {' '.join(right)} k -> {' '.join(left + right)}", (input, other))


@contraction("matmul linalg_matmul", matrices=True)
def matmul(input: Value, other: Value) -> Contraction:
    left = "k" if len(input.shape) == 1 else "... n k"
    right = "k" if len(other.shape) == 1 else "... k m"
    result = " ".join(w for w in ("...", "n", "m") if w in f"{left} {right}".split())
    return Contraction(f"{left}, {right} -> {result}", (input, other))


@contraction("tensordot")
def tensordot(a: Value, b: Value, dims: Any = 2, *rest: Any, **_: Any) -> Contraction:
    if isinstance(dims, int):
        pairs = ([*range(-dims, 0)], [*range(dims)])
    else:
        pairs = (dims, rest[0]) if rest else tuple(dims)
    left, right = ([f"{name}{i}" for i in range(len(v.shape))] for name, v in (("a", a), ("b", b)))
    for i, j in zip(*(flat_sizes([p]) for p in pairs), strict=True):
        left[int(i)] = right[int(j)] = f"k{int(i) % len(left)}"
    result = [letter for letter in left + right if not letter.startswith("k")]
    return Contraction(f"{' '.join(left)}, {' '.join(right)} -> {' '.join(result)}", (a, b))


def _einsum(equation: str, *operands: Any) -> Contraction:
    if not isinstance(equation, str):
        raise TypeError("lists of labels; write the equation as a string")
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = inputs.replace(",", "").replace(".", "")
        result = ("..." if "..." in inputs else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    spec = ", ".join(map(_spaced, inputs.split(","))) + " -> " + _spaced(result)
    return Contraction(spec, tuple(values(operands)), free_ones=True)


def _spaced(words: str) -> str:
    return " ".join(words.replace("...", ".")).replace(".", "...")


@rule("einsum", notation=_einsum)
def einsum(f: Facts, out: Value, equation: str, *operands: Any) -> None:
    product = _einsum(equation, *operands)
    for labels, value in labelled(product)[0]:
        if len(set(labels)) != len(labels):
            for term in f.dims(value):
                f.freeze(term, "a diagonal is taken")
    contract(f, product.spec, product.operands, out)


def _grouped(mat_a: Value, mat_b: Value, *_: Any, **__: Any) -> Contraction:
    return Contraction("t k, e k n -> t n", (mat_a, mat_b))


_IN_16_BYTES = {"float32": 4, "bfloat16": 8, "float16": 8}


@rule("_grouped_mm", notation=_grouped)
def grouped_mm(f: Facts, out: Value, mat_a: Value, mat_b: Value, *_: Any, **__: Any) -> None:
    """Rows of `a`, sorted by group, times the matrix of their group; the kernel wants rows of whole 16 bytes."""
    contract(f, _grouped(mat_a, mat_b).spec, (mat_a, mat_b), out)
    for value, dim in ((mat_a, -1), (mat_b, -1), (mat_b, -2)):
        f.multiple(value, dim, _IN_16_BYTES.get(value.dtype, 1))
    for term in (f.dims(mat_a)[0], f.dims(mat_b)[0]):
        f.freeze(term, "rows lie in groups")


def _conv_macs(dims: Dims, out: Value, input: Value, weight: Value, *_: Any, **__: Any) -> Layouts:
    return [dims(out) + dims(weight)[1:]]


def _conv_transpose_macs(dims: Dims, out: Value, input: Value, weight: Value, *_: Any, **__: Any) -> Layouts:
    return [dims(input) + dims(weight)[1:]]


def _conv_mixes(input: Value, weight: Value, *_: Any, **__: Any) -> Mixed:
    return [*every(input, start=1 - len(weight.shape)), *every(weight)]


@rule("conv1d conv2d conv3d", linear=True, convolves=True, macs=_conv_macs, mixes=_conv_mixes)
def conv(f: Facts, out: Value, input: Value, weight: Value, bias: Value | None = None, *args: Any, **kw: Any) -> None:
    """x [b, groups * i, space], weight [groups * o, i, taps] -> [b, groups * o, space]."""
    number = kw.get("groups", args[3] if len(args) > 3 else 1)
    space = len(weight.shape) - 2
    groups, per = f.leaf(int(number)), f.dims(weight)[1]
    f.require(number, groups)
    f.sums(weight, 1)
    f.same(f.dims(input)[-space - 1], f.product(groups, per))
    rows = f.dims(weight)[0]
    if int(number) != 1:
        f.same(rows, f.product(groups, f.leaf(rows.size // int(number))))
    _conv_out(f, out, input, weight, bias, rows, _pointwise(weight, args, kw))


@rule(
    "conv_transpose1d conv_transpose2d conv_transpose3d",
    linear=True,
    convolves=True,
    macs=_conv_transpose_macs,
    mixes=_conv_mixes,
)
def conv_transpose(
    f: Facts, out: Value, input: Value, weight: Value, bias: Value | None = None, *args: Any, **kw: Any
) -> None:
    """x [b, groups * i, space], weight [groups * i, o, taps] -> [b, groups * o, space]."""
    number = kw.get("groups", args[3] if len(args) > 3 else 1)
    space = len(weight.shape) - 2
    groups, columns = f.leaf(int(number)), f.dims(weight)[0]
    f.require(number, groups)
    f.same(f.dims(input)[-space - 1], columns)
    if int(number) == 1:
        f.sums(weight, 0)
    else:
        f.same(columns, f.product(groups, f.leaf(columns.size // int(number))))
    _conv_out(f, out, input, weight, bias, f.product(groups, f.dims(weight)[1]), _pointwise(weight, args, kw))


def _convolution_macs(dims: Dims, out: Value, *args: Any) -> Layouts:
    return (_conv_transpose_macs if args[6] else _conv_macs)(dims, out, *args)


@rule("convolution", linear=True, convolves=True, macs=_convolution_macs, mixes=_conv_mixes)
def convolution(f: Facts, out: Value, input: Value, weight: Value, bias: Value | None, *args: Any) -> None:
    """Both kinds, told apart by a flag."""
    stride, padding, _, transposed, _, groups = args
    (conv_transpose if transposed else conv)(f, out, input, weight, bias, stride, padding, groups=groups)


def _pointwise(weight: Value, args: Sequence[Any], kwargs: dict[str, Any]) -> list[bool]:
    """Along which dimensions of space a convolution has one tap, moves by one and pads nothing: places do not mix."""
    space = len(weight.shape) - 2

    def each(name: str, at: int, default: int) -> list[Any]:
        given = kwargs.get(name, args[at] if len(args) > at else default)
        numbers = [given] if isinstance(given, (str, int)) else list(given)
        return numbers * space if len(numbers) == 1 else numbers

    moves, pads = each("stride", 0, 1), each("padding", 1, 0)
    return [
        taps == 1 and int(move) == 1 and (isinstance(pad, str) or int(pad) == 0)
        for taps, move, pad in zip(weight.shape[2:], moves, pads, strict=True)
    ]


def _conv_out(
    f: Facts, out: Value, input: Value, weight: Value, bias: Value | None, channels: Term, pointwise: Sequence[bool]
) -> None:
    along = "a convolution runs along it"
    lead, places = f.dims(input)[: -len(pointwise) - 1], f.dims(input)[-len(pointwise) :]
    for taps, place, free in zip(f.dims(weight)[2:], places, pointwise, strict=True):
        for term in () if free else (taps, place):
            f.freeze(term, along)
    if bias is not None:
        f.same(f.dims(bias)[0], channels)
    after = zip(places, out.shape[-len(pointwise) :], pointwise, strict=True)
    f.give(out, [*lead, channels, *(place if free else f.fixed(n, along) for place, n, free in after)])


def _looked_up(weight: Value, *_: Any, **__: Any) -> Mixed:
    return every(weight)


@rule("embedding", looks_up=True, mixes=_looked_up)
def embedding(f: Facts, out: Value, weight: Value, input: Value, *_: Any, **__: Any) -> None:
    f.freeze(f.dims(weight)[0], "looked up by index")
    f.give(out, [*f.dims(input), f.dims(weight)[1]])


@rule("embedding_bag", looks_up=True)
def embedding_bag(f: Facts, out: Any, weight: Value, indices: Value, *args: Any, **kwargs: Any) -> None:
    """The first result is what was asked for; the others are counts that the kernel keeps."""
    f.freeze(f.dims(weight)[0], "looked up by index")
    for value in values((indices, args, kwargs)):
        for term in f.dims(value):
            f.freeze(term, "cut into bags")
    result, *others = values(out)
    f.give(result, [f.fixed(result.shape[0]), f.dims(weight)[1]])
    for other in others:
        for term in f.dims(other):
            f.freeze(term, "counts of bags")


def _attention(query: Value, key: Value, value: Value, *_: Any, **__: Any) -> Contraction:
    return Contraction("... q d, ... k d, ... k v -> ... q v", (query, key, value))


def _attention_mixes(query: Value, key: Value, value: Value, mask: Value | None = None, *_: Any, **kw: Any) -> Mixed:
    masks = [m for m in (mask, kw.get("attn_mask")) if m is not None]
    return [(query, -1), *every(key, value, start=-2), *every(*masks, start=-1)]


@rule("scaled_dot_product_attention", scales=True, mode=float, notation=_attention, mixes=_attention_mixes)
def attention(
    f: Facts,
    out: Value,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kw: Any,
) -> None:
    q, k, v = f.dims(query), f.dims(key), f.dims(value)
    f.same(q[-1], k[-1])
    f.same(k[-2], v[-2])
    lead = [list(q[:-2]), list(k[:-2]), list(v[:-2])]
    if kw.get("enable_gqa") and q[-3].size != k[-3].size:
        f.same(k[-3], v[-3])
        f.same(q[-3], f.product(k[-3], f.leaf(q[-3].size // k[-3].size)))
        lead[1][-1] = lead[2][-1] = q[-3]
    shared = f.broadcast(lead)
    if is_causal:
        for term in (q[-2], k[-2]):
            f.freeze(term, "a causal mask depends on the order of places")
    if attn_mask is not None:
        f.broadcast([[*shared, q[-2], k[-2]], f.dims(attn_mask)])
    f.give(out, [*shared, q[-2], v[-1]])
