"""Rules of operations that multiply and add: linear, convolution, matmul, einsum, attention, recurrence.

The simple ones are written in an axis notation: one word per operand, a letter per dimension, `...` for any
number of dimensions. Equal letters are the same units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elastify._analysis.facts import Facts
from elastify._analysis.rules.ops import rule
from elastify._analysis.terms import Term
from elastify._ir import Value, values


def contract(f: Facts, spec: str, operands: Sequence[Value | None], out: Value) -> None:
    """State `spec` ("... i, o i, o -> ... o"); an operand that is None is skipped."""
    inputs, result = spec.split("->")
    bound: dict[str, Term] = {}
    lead: list[list[Term]] = []
    for words, value in zip(inputs.split(","), operands, strict=True):
        if value is None:
            continue
        letters, dims = words.split(), list(f.dims(value))
        if "..." in letters:
            at, count = letters.index("..."), len(dims) - len(letters) + 1
            letters.remove("...")
            lead.append(dims[at : at + count])
            del dims[at : at + count]
        if len(letters) != len(dims):
            raise ValueError(f"{words.strip()!r} does not fit a tensor of shape {list(value.shape)}")
        for letter in set(letters) - set(result.split()):
            f.sums(value, _place(words.split(), letter, len(value.shape)))
        for letter, term in zip(letters, dims, strict=True):
            seen = bound.setdefault(letter, term)
            if seen.size == 1 != term.size:
                bound[letter] = term
            elif term.size != 1:
                f.same(seen, term)
    shared = f.broadcast(lead)
    terms: list[Term] = []
    for letter in result.split():
        terms += shared if letter == "..." else [bound[letter]]
    f.give(out, terms)


def _place(words: list[str], letter: str, rank: int) -> int:
    """The dimension of a letter in `... i` or `o i`."""
    at = words.index(letter)
    return at + rank - len(words) if "..." in words[:at] else at


@rule("linear", linear=True)
def linear(f: Facts, out: Value, input: Value, weight: Value, bias: Value | None = None) -> None:
    contract(f, "... i, o i, o -> ... o", (input, weight, bias), out)


@rule("bilinear")
def bilinear(f: Facts, out: Value, x: Value, y: Value, weight: Value, bias: Value | None = None) -> None:
    contract(f, "... i, ... j, o i j, o -> ... o", (x, y, weight, bias), out)


@rule("bmm")
def bmm(f: Facts, out: Value, input: Value, mat2: Value, **_: Any) -> None:
    contract(f, "b n k, b k m -> b n m", (input, mat2), out)


@rule("mm")
def mm(f: Facts, out: Value, input: Value, mat2: Value, **_: Any) -> None:
    contract(f, "n k, k m -> n m", (input, mat2), out)


@rule("addbmm", scales=True)
def addbmm(f: Facts, out: Value, input: Value, batch1: Value, batch2: Value, **_: Any) -> None:
    contract(f, "b n k, b k m -> n m", (batch1, batch2), out)
    f.broadcast([f.dims(out), f.dims(input)])


@rule("addmv", scales=True)
def addmv(f: Facts, out: Value, input: Value, mat: Value, vec: Value, **_: Any) -> None:
    contract(f, "n k, k -> n", (mat, vec), out)
    f.broadcast([f.dims(out), f.dims(input)])


@rule("addr")
def addr(f: Facts, out: Value, input: Value, vec1: Value, vec2: Value, **_: Any) -> None:
    contract(f, "n, m -> n m", (vec1, vec2), out)
    f.broadcast([f.dims(out), f.dims(input)])


@rule("dot vdot")
def dot(f: Facts, out: Value, input: Value, other: Value) -> None:
    contract(f, "k, k -> ", (input, other), out)


@rule("inner")
def inner(f: Facts, out: Value, input: Value, other: Value) -> None:
    left, right = f.dims(input), f.dims(other)
    if left and right:
        f.same(left[-1], right[-1])
        f.give(out, [*left[:-1], *right[:-1]])
    else:
        f.give(out, [*left, *right])


_IN_16_BYTES = {"float32": 4, "bfloat16": 8, "float16": 8}


@rule("_grouped_mm")
def grouped_mm(f: Facts, out: Value, mat_a: Value, mat_b: Value, *_: Any, **__: Any) -> None:
    """Rows of `a`, sorted by group, times the matrix of their group; the kernel wants rows of whole 16 bytes."""
    contract(f, "t k, e k n -> t n", (mat_a, mat_b), out)
    for value, dim in ((mat_a, -1), (mat_b, -1), (mat_b, -2)):
        f.multiple(value, dim, _IN_16_BYTES.get(value.dtype, 1))
    for term in (f.dims(mat_a)[0], f.dims(mat_b)[0]):
        f.freeze(term, "rows lie in groups")


@rule("mv")
def mv(f: Facts, out: Value, input: Value, vec: Value) -> None:
    contract(f, "n k, k -> n", (input, vec), out)


@rule("outer ger")
def outer(f: Facts, out: Value, input: Value, vec2: Value) -> None:
    contract(f, "n, m -> n m", (input, vec2), out)


@rule("addmm", scales=True)
def addmm(f: Facts, out: Value, input: Value, mat1: Value, mat2: Value, **_: Any) -> None:
    contract(f, "n k, k m -> n m", (mat1, mat2), out)
    f.broadcast([f.dims(out), f.dims(input)])


@rule("baddbmm", scales=True)
def baddbmm(f: Facts, out: Value, input: Value, batch1: Value, batch2: Value, **_: Any) -> None:
    contract(f, "b n k, b k m -> b n m", (batch1, batch2), out)
    f.broadcast([f.dims(out), f.dims(input)])


@rule("matmul linalg_matmul")
def matmul(f: Facts, out: Value, input: Value, other: Value) -> None:
    left = "k" if len(input.shape) == 1 else "... n k"
    right = "k" if len(other.shape) == 1 else "... k m"
    result = " ".join(w for w in ("...", "n", "m") if w in f"{left} {right}".split())
    contract(f, f"{left}, {right} -> {result}", (input, other), out)


@rule("einsum")
def einsum(f: Facts, out: Value, equation: str, *operands: Any) -> None:
    tensors = list(values(operands))
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = inputs.replace(",", "").replace(".", "")
        result = ("..." if "..." in inputs else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    for words, value in zip(inputs.split(","), tensors, strict=True):
        plain = words.replace("...", "")
        if len(set(plain)) != len(plain):
            for term in f.dims(value):
                f.freeze(term, "a diagonal is taken")
    spec = ", ".join(_spaced(words) for words in inputs.split(",")) + " -> " + _spaced(result)
    contract(f, spec, tensors, out)


def _spaced(words: str) -> str:
    return " ".join(words.replace("...", ".")).replace(".", "...")


@rule("conv1d conv2d conv3d", linear=True)
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


@rule("conv_transpose1d conv_transpose2d conv_transpose3d", linear=True)
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


@rule("embedding")
def embedding(f: Facts, out: Value, weight: Value, input: Value, *_: Any, **__: Any) -> None:
    f.freeze(f.dims(weight)[0], "looked up by index")
    f.give(out, [*f.dims(input), f.dims(weight)[1]])


@rule("embedding_bag")
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


@rule("scaled_dot_product_attention", scales=True, mode=float)
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


def _gates(f: Facts, rows: Term, hidden: Term) -> None:
    f.same(rows, f.product(f.fixed(rows.size // hidden.size, "the gates"), hidden))


@rule("lstm gru rnn_tanh rnn_relu")
def recurrent(f: Facts, out: Sequence[Value], *args: Any) -> None:
    """All layers and directions share one hidden axis: `hidden_size` is one number (see decisions/0002)."""
    packed = isinstance(args[3], (tuple, list))  # the weights, after data, counts and states
    if packed:
        data, state, weights, has_biases, layers, _, _, bidirectional = (args[0], *args[2:9])
        batch_first = False
    else:
        data, state, weights, has_biases, layers, _, _, bidirectional, batch_first = args[:9]
    layers, directions = int(layers), 2 if bidirectional else 1
    states = list(values(state))
    cells = list(weights)
    per = len(cells) // (layers * directions)
    projected = per == (5 if has_biases else 3)
    hidden = f.leaf(states[-1].shape[-1])  # c_0 of an LSTM, h_0 otherwise
    seen = f.leaf(states[0].shape[-1]) if projected else hidden
    if projected:  # which is how the kernel tells
        f.above((states[-1], -1), (states[0], -1))
    features = f.dims(data)[-1]
    for layer in range(layers):
        for direction in range(directions):
            at = (layer * directions + direction) * per
            wih, whh, *others = (f.dims(w) for w in cells[at : at + per])
            _gates(f, wih[0], hidden)
            _gates(f, whh[0], hidden)
            f.same(wih[1], features)
            f.same(whh[1], seen)
            for weight in (*cells[at : at + 2], *(cells[at + per - 1 : at + per] if projected else ())):
                f.sums(weight, 1)
            if projected:
                f.same(others[-1][0], seen)
                f.same(others.pop()[1], hidden)
            for bias in others:
                _gates(f, bias[0], hidden)
        features = f.concat([seen] * directions)
    if projected:  # a kernel that finds both sizes equal takes it that nothing is projected
        f.larger(states[1], states[0])
    for s, term in zip(states, (seen, hidden), strict=False):
        f.same(f.dims(s)[-1], term)
    dims = f.dims(data)
    result, *finals = values(out)
    f.give(result, [*dims[:-1], features])
    f.freeze(dims[1 if batch_first and len(dims) == 3 else 0], "recurrence runs along it")
    if not packed and len(result.shape) == 3:
        for s in states:
            f.same(f.dims(s)[-2], dims[0 if batch_first else 1])
    for s in states:
        f.freeze(f.dims(s)[0], "one entry per layer and direction")
    for final, s in zip(finals, states, strict=True):
        f.give(final, f.dims(s))


@rule("_pack_padded_sequence")
def pack(f: Facts, out: Any, input: Value, lengths: Value, *_: Any, **__: Any) -> None:
    """x [time, batch, ...] (or batch first) -> the steps that exist, one after the other, and how many per step."""
    *places, features = f.dims(input)
    for term in (*places, *f.dims(lengths)):
        f.freeze(term, "sequences are packed")
    data, counts = values(out)
    f.give(data, [f.fixed(data.shape[0]), features])
    f.give(counts, [f.fixed(counts.shape[0])])


@rule("_pad_packed_sequence")
def unpack(f: Facts, out: Any, data: Value, batch_sizes: Value, *_: Any, **__: Any) -> None:
    rows, features = f.dims(data)
    for term in (rows, *f.dims(batch_sizes)):
        f.freeze(term, "sequences are packed")
    padded, lengths = values(out)
    f.give(padded, [*(f.fixed(n) for n in padded.shape[:-1]), features])
    f.give(lengths, [f.fixed(n) for n in lengths.shape])


@rule("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")
def recurrent_cell(
    f: Facts, out: Any, input: Value, state: Any, w_ih: Value, w_hh: Value, b_ih: Any = None, b_hh: Any = None
) -> None:
    states = list(values(state))
    hidden = f.dims(states[0])[-1]
    f.all_same(f.dims(states[0])[:-1], f.dims(input)[:-1])
    _gates(f, f.dims(w_ih)[0], hidden)
    _gates(f, f.dims(w_hh)[0], hidden)
    f.same(f.dims(w_ih)[1], f.dims(input)[-1])
    f.same(f.dims(w_hh)[1], hidden)
    for weight in (w_ih, w_hh):
        f.sums(weight, 1)
    for bias in values((b_ih, b_hh)):
        _gates(f, f.dims(bias)[0], hidden)
    for s in states[1:]:
        f.all_same(f.dims(s), f.dims(states[0]))
    for result in values(out):
        f.give(result, f.dims(states[0]))
