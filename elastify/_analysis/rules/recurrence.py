"""Rules of recurrent layers and cells, and of the packed sequences that go through them.

The rows of a weight are the gates times the hidden units; all layers and directions share one hidden axis. The kernels
take all weights of a layer in one list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elastify._analysis.facts import Facts
from elastify._analysis.rules.ops import Dims, Layouts, Mixed, every, rule
from elastify._analysis.terms import Term
from elastify._ir import Value, values


def _gates(f: Facts, rows: Term, hidden: Term) -> None:
    f.same(rows, f.product(f.fixed(rows.size // hidden.size, "the gates"), hidden))


def _recurrent_macs(dims: Dims, out: Any, *args: Any) -> Layouts:
    """Every matrix of every layer and direction once per time step: gates x (in + hidden), and the projection."""
    weights = args[3] if isinstance(args[3], (tuple, list)) else args[2]
    return [dims(args[0])[:-1] + dims(weight) for weight in weights if len(weight.shape) == 2]


def _recurrent_mixes(*args: Any) -> Mixed:
    """All but the samples of a batch that is not packed."""
    data, states = args[0], values(args[1])
    samples: set[tuple[int, int]] = set()
    if len(data.shape) == 3 and not isinstance(args[3], (tuple, list)):
        samples = {(data.id, 0 if args[8] else 1), *((state.id, 1) for state in states)}
    return [(x, dim) for x, dim in every(*values(args)) if (x.id, dim) not in samples]


@rule("lstm gru rnn_tanh rnn_relu", macs=_recurrent_macs, mixes=_recurrent_mixes)
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
    if projected:  # a kernel that finds both sizes equal takes it that nothing is projected
        f.holds("gt", f.size(states[1], -1), f.size(states[0], -1))
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


def _cell_macs(dims: Dims, out: Any, input: Value, state: Any, *weights: Value) -> Layouts:
    return [dims(input)[:-1] + dims(weight) for weight in weights[:2]]


def _cell_mixes(input: Value, state: Any, *weights: Any) -> Mixed:
    return [*every(input, *values(state), start=-1), *every(*values(weights))]


@rule("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell", macs=_cell_macs, mixes=_cell_mixes)
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
