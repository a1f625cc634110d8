"""Who makes and who uses every value of a record, looked up by number.

A record lists calls in the order in which they ran. To tell what leaving some of them out would mean, one has to ask
the other way round: which call made this value, which calls use it, does it depend on the model's input or on weights
alone. `Flow` answers that. It is read from a graph once; nothing in it depends on axes.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from elastify._analysis import operation
from elastify._ir import Graph, ModuleCall


class Span(NamedTuple):
    """Consecutive calls of a record: those of one module, or of one round of a loop."""

    start: int
    stop: int


class Flow:
    """Makers and users of the values of a graph. Values are known by their ids, calls by their numbers.

    `made` has the call that first made a value (weights and inputs have none), `uses` the calls that use it, in order.
    `weights` has the names of each parameter and buffer, `returned` what the model returns, `from_input` what depends
    on the model's input. `modules` has the calls of every module, by its path.
    """

    def __init__(self, graph: Graph) -> None:
        self.given = [call.inputs() for call in graph.calls]
        self.results = [call.outputs() for call in graph.calls]
        self.made: dict[int, int] = {}
        self.uses: dict[int, list[int]] = {}
        self.from_input = {value.id for value in graph.inputs}
        for number, (given, results) in enumerate(zip(self.given, self.results, strict=True)):
            for value in given:
                self.uses.setdefault(value.id, []).append(number)
            for value in results:
                self.made.setdefault(value.id, number)
            if any(value.id in self.from_input for value in given):
                self.from_input.update(value.id for value in results)
        self.returned = {value.id for value in graph.outputs}
        self.weights: dict[int, list[str]] = {}
        for name, value in graph.tensors.items():
            self.weights.setdefault(value.id, []).append(name)
        self.modules = calls_by_module(graph)
        self._sums_before = [0, *accumulate(operation(call.op).sums for call in graph.calls)]

    def has_sum(self, span: Span) -> bool:
        """Whether something is added in a span."""
        return self._sums_before[span.start] < self._sums_before[span.stop]

    def given_in(self, span: Span) -> set[int]:
        """Ids of all values that calls of a span are given."""
        return {value.id for given in self.given[span.start : span.stop] for value in given}

    def weights_in(self, span: Span) -> set[int]:
        """Ids of the weights that calls of a span are given."""
        return self.given_in(span) & self.weights.keys()


def calls_by_module(graph: Graph) -> dict[str, list[ModuleCall]]:
    """The calls of every module, by its path."""
    found: dict[str, list[ModuleCall]] = {}
    for call in graph.modules:
        found.setdefault(call.path, []).append(call)
    return found
