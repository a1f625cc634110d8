"""Whether a record proves that the entries of some axes have nothing to do with one another.

Entry `i` of an axis is on its own if whatever is computed from it lies at entry `i` of the axis again, up to the
outputs. So one walk over the calls follows what is made of the inputs. In each tensor the axes must stand once, and the
operation must not mix along that dimension: it may add up channels or rank words, while samples pass side by side.
What an operation mixes stands in its entry (`rules.ops`). Two matrix products, for example, with `x [samples, tokens,
channels]`: in `x @ w` only channels meet, and samples and tokens stay apart; `x @ x.mT` has the tokens twice.

A yes is a proof, for any weights and numbers. A no says that this record does not tell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from elastify._analysis.analyse import Analysis
from elastify._analysis.rules import operation
from elastify._analysis.terms import Term
from elastify._ir import RecordedCall, Value


def kept_apart(
    analysis: Analysis, axes: Collection[int], inputs: Iterable[Value], outputs: Iterable[Value], index: int = 0
) -> bool:
    """Whether in record `index` no entry of `axes` (ids) in `inputs` reaches another one in `outputs`, and some output
    has them."""
    graph, walk = analysis.graphs[index], _Walk(analysis, axes, index)
    if graph.real:  # numbers of tensors have decided what ran
        return False
    if not all(walk.enters(value) for value in inputs):
        return False
    if not all(walk.passes(call) for call in graph.calls):
        return False
    return any(value.id in walk.met for value in outputs)


class _Walk:
    """The values that were made of the inputs so far (`met`): each has the axes in one dimension."""

    def __init__(self, analysis: Analysis, axes: Collection[int], index: int) -> None:
        self.analysis, self.axes, self.dims = analysis, axes, analysis.dims[index]
        self.met: dict[int, int] = {}
        self.times: dict[int, int] = {}

    def enters(self, value: Value) -> bool:
        """Whether an input has the axes once (then it is met) or not at all."""
        found = self.places(value)
        if len(found) == 1:
            self.met[value.id] = found[0]
        return len(found) < 2

    def passes(self, call: RecordedCall) -> bool:
        """Whether a call leaves the entries apart."""
        given = [value for value in call.inputs() if value.id in self.met]
        if not given:
            return True
        if call.op in self.analysis.facts.unknown or (call.inplace and call.inputs()[0].id not in self.met):
            return False  # in place, other views of a tensor that has known nothing of them would change
        try:
            mixed = operation(call.op).meets(*call.args, **call.kwargs)
        except (AttributeError, TypeError, ValueError, LookupError):
            return False
        if mixed is None or any(self.met.get(x.id) == dim % len(x.shape) for x, dim in mixed):
            return False
        return all(self.enters(value) and value.id in self.met for value in call.outputs())

    def places(self, value: Value) -> list[int]:
        """The dimensions in which one of the axes stands, as often as it does."""
        dims = self.dims.get(value.id, ())
        return [dim for dim, term in enumerate(dims) for _ in range(self.count(term))]

    def count(self, term: Term) -> int:
        """How often the axes stand in a dimension."""
        terms = self.analysis.terms
        root = terms.find(term)
        if root.id not in self.times:
            self.times[root.id] = sum(leaf.id in self.axes for leaf in terms.leaves(root))
        return self.times[root.id]
