"""Multiply-accumulates of one operation, as products of layouts.

One small function per counted op, in a table: it reads the arguments as the caller passed them and returns terms; a
`MacTerm` is a whole number times the sizes of some layouts. An op without an entry costs nothing. The numbers are those
of the dense kernels: what `torch.utils.flop_counter` counts (halved), with attention as two matrix products and
recurrent layers as their cells.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from elastify._errors import ElastifyError
from elastify._ir import Call, Graph, Layout, Value, mentions

Labels = list[Any]


@dataclass(frozen=True, slots=True)
class MacTerm:
    """`count` times the sizes of `layouts`; 0 where `contracted` is given and all of those have size 1."""

    count: int
    layouts: tuple[Layout, ...]
    contracted: tuple[Layout, ...] = ()

    def shows(self, axes: Container[int]) -> bool:
        """Whether one of some axes is in it."""
        return any(mentions(part, axes) for part in (*self.layouts, *self.contracted))


@dataclass(frozen=True, slots=True)
class Dims:
    """Layouts of the dimensions of a value."""

    of: Callable[[Value], tuple[Layout, ...]]

    def __call__(self, value: Value, start: int | None = None, stop: int | None = None) -> tuple[Layout, ...]:
        return tuple(self.of(value)[start:stop])


def from_inputs(graph: Graph) -> set[int]:
    """Ids of the values that were computed from the inputs, and so hold something of every sample of the batch."""
    found = {value.id for value in graph.inputs}
    for call in graph.calls:
        if not found.isdisjoint(value.id for value in call.inputs()):
            found.update(value.id for value in call.outputs())
    return found


def products(call: Call, dims: Dims) -> list[MacTerm]:
    """The terms whose sum is the number of MACs of a call; empty for an op that does not count."""
    rule = RULES.get(call.op)
    if rule is None:
        return []
    try:
        return rule(call, dims)
    except (IndexError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ElastifyError(
            f"cannot count {call.op}", where=f"{call.where} {call.source}".strip(), why=f"unexpected arguments: {error}"
        ) from error


def _arg(call: Call, position: int, *names: str) -> Any:
    if position < len(call.args):
        return call.args[position]
    found = [call.kwargs[name] for name in names if name in call.kwargs]
    if not found:
        raise IndexError(f"no argument {names[0]!r}")
    return found[0]


def _out(call: Call, dims: Dims) -> tuple[Layout, ...]:
    return dims(call.outputs()[0])


def _linear(call: Call, dims: Dims) -> list[MacTerm]:
    return [MacTerm(1, _out(call, dims) + dims(_arg(call, 1, "weight"), -1))]


def _matmul_at(position: int) -> Callable[[Call, Dims], list[MacTerm]]:
    """Matrix products whose left operand is argument `position`."""

    def rule(call: Call, dims: Dims) -> list[MacTerm]:
        left = _arg(call, position, "self", "input", "mat1", "batch1", "mat", "tensor")
        return [MacTerm(1, _out(call, dims) + dims(left, -1))]

    return rule


def _addbmm(call: Call, dims: Dims) -> list[MacTerm]:
    """The batch is summed as well, so it does not show in the output."""
    return [MacTerm(1, dims(_arg(call, 1, "batch1")) + dims(_arg(call, 2, "batch2"), -1))]


def _tensordot(call: Call, dims: Dims) -> list[MacTerm]:
    left, chosen = _arg(call, 0, "a"), _arg(call, 2, "dims_self")
    return [MacTerm(1, _out(call, dims) + tuple(dims(left)[dim] for dim in chosen))]


def _conv(call: Call, dims: Dims) -> list[MacTerm]:
    return [MacTerm(1, _out(call, dims) + dims(_arg(call, 1, "weight"), 1))]


def _conv_transpose(call: Call, dims: Dims) -> list[MacTerm]:
    return [MacTerm(1, dims(_arg(call, 0, "input")) + dims(_arg(call, 1, "weight"), 1))]


def _convolution(call: Call, dims: Dims) -> list[MacTerm]:
    return (_conv_transpose if _arg(call, 6, "transposed") else _conv)(call, dims)


def _attention(call: Call, dims: Dims) -> list[MacTerm]:
    query, key, value = (_arg(call, i, name) for i, name in enumerate(("query", "key", "value")))
    scores = _out(call, dims)[:-1] + dims(key, -2, -1)
    return [MacTerm(1, scores + dims(query, -1)), MacTerm(1, scores + dims(value, -1))]


def _recurrent(call: Call, dims: Dims) -> list[MacTerm]:
    """Every matrix of every layer and direction once per time step: gates x (in + hidden), and the projection."""
    packed = isinstance(_arg(call, 3, "has_biases"), (tuple, list))
    weights = _arg(call, 3 if packed else 2, "params")
    steps = dims(_arg(call, 0, "input", "data"), 0, -1)
    return [MacTerm(1, steps + dims(weight)) for weight in weights if len(weight.shape) == 2]


def _cell(call: Call, dims: Dims) -> list[MacTerm]:
    rows = dims(_arg(call, 0, "input"), 0, -1)
    weights = (_arg(call, 2, "w_ih"), _arg(call, 3, "w_hh"))
    return [MacTerm(1, rows + dims(weight)) for weight in weights]


def _bilinear(call: Call, dims: Dims) -> list[MacTerm]:
    return [MacTerm(1, _out(call, dims) + dims(_arg(call, 2, "weight"), 1))]


def _einsum(call: Call, dims: Dims) -> list[MacTerm]:
    """Operands are contracted two at a time from left to right, as without a path optimiser.

    Labels of one operand only are summed before; a product without a label to contract is element-wise and free.
    """
    inputs, output, operands = _einsum_labels(call)
    layouts: dict[Any, Layout] = {}
    for labels, value in zip(inputs, operands, strict=True):
        for label, layout in zip(labels, dims(value), strict=True):
            if label not in layouts or layouts[label].size == 1:  # a 1 broadcasts
                layouts[label] = layout
    terms, left = [], set(inputs[0])
    for position, labels in enumerate(inputs[1:], start=1):
        right = set(labels)
        needed = set(output).union(*inputs[position + 1 :])
        summed = (left & right) - needed
        kept = (left | right) & needed
        if summed:
            count = tuple(layouts[label] for label in _ordered(layouts, summed | kept))
            terms.append(MacTerm(1, count, tuple(layouts[label] for label in _ordered(layouts, summed))))
        left = kept
    return terms


def _ordered(layouts: dict[Any, Layout], labels: set[Any]) -> list[Any]:
    return [label for label in layouts if label in labels]


def _einsum_labels(call: Call) -> tuple[list[Labels], Labels, Sequence[Value]]:
    """Labels of the operands and of the output; dimensions of an ellipsis get negative numbers from the right."""
    if not isinstance(call.args[0], str):
        raise ElastifyError(
            "cannot count einsum with lists of labels", where=f"{call.where} {call.source}".strip(),
            fix="write the equation as a string",
        )  # fmt: skip
    equation, operands = call.args[0].replace(" ", ""), call.args[1:]
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = tuple(operands[0])
    left, arrow, right = equation.partition("->")
    inputs = [_expand(text, len(value.shape)) for text, value in zip(left.split(","), operands, strict=True)]
    if arrow:
        longest = max((sum(isinstance(label, int) for label in labels) for labels in inputs), default=0)
        output = _expand(right, len(right.replace("...", "")) + (longest if "..." in right else 0))
    else:
        flat = [label for labels in inputs for label in labels]
        output = [label for label in dict.fromkeys(flat) if isinstance(label, int) or flat.count(label) == 1]
    return inputs, output, operands


def _expand(text: str, rank: int) -> Labels:
    before, dots, after = text.partition("...")
    extra = rank - len(before) - len(after)
    return [*before, *(range(-extra, 0) if dots else ()), *after]


RULES: dict[str, Callable[[Call, Dims], list[MacTerm]]] = {
    "linear": _linear,
    "matmul": _matmul_at(0),
    "mm": _matmul_at(0),
    "bmm": _matmul_at(0),
    "mv": _matmul_at(0),
    "dot": _matmul_at(0),
    "vdot": _matmul_at(0),
    "inner": _matmul_at(0),
    "addmm": _matmul_at(1),
    "baddbmm": _matmul_at(1),
    "addmv": _matmul_at(1),
    "addbmm": _addbmm,
    "tensordot": _tensordot,
    "einsum": _einsum,
    "conv1d": _conv,
    "conv2d": _conv,
    "conv3d": _conv,
    "conv_transpose1d": _conv_transpose,
    "conv_transpose2d": _conv_transpose,
    "conv_transpose3d": _conv_transpose,
    "convolution": _convolution,
    "scaled_dot_product_attention": _attention,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn_tanh": _recurrent,
    "rnn_relu": _recurrent,
    "lstm_cell": _cell,
    "gru_cell": _cell,
    "rnn_tanh_cell": _cell,
    "rnn_relu_cell": _cell,
    "bilinear": _bilinear,
}
