"""Multiply-accumulates of one operation, as products of layouts.

They follow from the axis notation of a product: operands are contracted two at a time from left to right, and each step
costs the product of the sizes of its letters (`"... i, o i, o -> ... o"`: all of `... i o`; the bias adds no letter to
sum over, so it is free). Operations without a notation say it in the table of operations; all others cost nothing. The
numbers are those of the dense kernels: what `torch.utils.flop_counter` counts (halved), with attention as two
matrix products and recurrent layers as their cells.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

from elastify._analysis.rules import Contraction, Dims, labelled, operation, without_out
from elastify._errors import ElastifyError
from elastify._ir import Graph, Layout, RecordedCall, Value, mentions


@dataclass(frozen=True, slots=True)
class MacTerm:
    """The product of the sizes of `layouts`; 0 where `contracted` is given and all of those have size 1."""

    layouts: tuple[Layout, ...]
    contracted: tuple[Layout, ...] = ()

    def shows(self, axes: Container[int]) -> bool:
        """Whether one of some axes is in it."""
        return any(mentions(part, axes) for part in (*self.layouts, *self.contracted))


def made_of(graph: Graph, inputs: Iterable[Value]) -> set[int]:
    """Ids of the values that were computed from some inputs; of those with a batch, they hold something of every
    sample."""
    found = {value.id for value in inputs}
    for call in graph.calls:
        if not found.isdisjoint(value.id for value in call.inputs()):
            found.update(value.id for value in call.outputs())
    return found


def products(call: RecordedCall, dims: Dims) -> list[MacTerm]:
    """The terms whose sum is the number of MACs of a call; empty for an op that does not count."""
    name, kwargs = without_out(call)
    op = operation(name)
    try:
        if op.notation is not None:
            return _contracted(op.notation(*call.args, **kwargs), dims)
        return [MacTerm(layouts) for layouts in op.macs(dims, call.out, *call.args, **kwargs)] if op.macs else []
    except (IndexError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ElastifyError(
            f"cannot count {call.op}", where=f"{call.where} {call.source}".strip(), why=f"unexpected arguments: {error}"
        ) from error


def _contracted(product: Contraction, dims: Dims) -> list[MacTerm]:
    """Letters of one operand only are summed before; a step without a letter to sum over is element-wise and free."""
    operands, result = labelled(product)
    layouts: dict[Any, Layout] = {}
    for labels, value in operands:
        for label, layout in zip(labels, dims(value), strict=True):
            if label not in layouts or layouts[label].size == 1:  # a 1 broadcasts
                layouts[label] = layout
    terms, left = [], set(operands[0][0])
    for position, (labels, _) in enumerate(operands[1:], start=1):
        right = set(labels)
        needed = set(result).union(*(later for later, _ in operands[position + 1 :]))
        summed = (left & right) - needed
        kept = (left | right) & needed
        if summed:
            count = tuple(layout for label, layout in layouts.items() if label in summed | kept)
            over = tuple(layout for label, layout in layouts.items() if label in summed)
            terms.append(MacTerm(count, over if product.free_ones else ()))
        left = kept
    return terms
