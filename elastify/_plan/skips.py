"""What leaving out a span of a recorded run would mean.

A span (the calls of a block, or of one round of a loop) can be left out if everything that it passes on has a stand-in:
a value that was there before, with exactly the same layouts. Take three residual blocks, of which the last is to go:

    number  call                    module
    4       %5 = layer_norm(%4)     blocks.1
    5       %6 = linear(%5)         blocks.1
    6       %7 = add(%4, %6)        blocks.1
    7       %8 = layer_norm(%7)     blocks.2      <- the span is 7 to 9
    8       %9 = linear(%8)         blocks.2
    9       %10 = add(%7, %9)       blocks.2
    10      %11 = linear(%10)       head

Only %10 is used after the span. Going back from it, the addition (call 9) leads to %7, which was made before the span.
If %7 and %10 have the same layouts, the head can be given %7 instead: `Skip(7, 10, instead=((10, 7),))`. Stand-ins are
found in two ways:

- The span is a *residual branch*: additions, and what normally stands around them (norms, activations, reshapes), lead
  from a tensor that it was given to the one that it passes on, as above. An addition that involves weights alone (a
  bias) is none.
- The span is a *repetition*: it does the same as the span before it, operation by operation, and is given one of its
  results. Then each result of the span before stands in for its twin here: in `x = relu(conv(x))`, over and over.

Some networks run all blocks in one loop and weight their results in a second one (`y = y + w[i] * results[i]`). What
the second loop does with the results of the span is then left out too, up to the sum that adds them to the others.

Layouts are only compared, never unified, to gain depth: a skip that needs two axes to be one does not exist. Axes that
do not move (the user froze them) count as plain numbers, see `moving`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from elastify._analysis import Analysis, Term, operation
from elastify._ir import Layout, RecordedCall, Skip, Value, axes_of, settled
from elastify._plan.flow import Flow, Span

_LONGEST_SECOND = 24  # calls of a second loop, per round


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A span that may be left out. `twins` are the stand-ins that it has as a repetition, by the ids of its values;
    any stand-in must be made by call number `earliest` or a later one."""

    span: Span
    twins: Mapping[int, Value]
    earliest: int

    @property
    def calls(self) -> range:
        """Numbers of the calls of the span."""
        return range(*self.span)


class SkipFinder:
    """Finds what leaving out spans of one graph of an analysis would mean.

    `moving` are the ids of the axes that may get smaller (None: all that nothing froze). `width_prevented` is True once
    some stand-in was refused only because its layout has other axes that move.
    """

    def __init__(
        self, analysis: Analysis, index: int, moving: Collection[int] | None = None, flow: Flow | None = None
    ) -> None:
        self.analysis, self.index, self.moving = analysis, index, moving
        self.graph = analysis.graphs[index]
        self.flow = flow or Flow(self.graph)
        self.width_prevented = False
        self._settled: dict[int, Layout] = {}

    def skip(
        self,
        path: str,
        span: Span,
        before: Span | None = None,
        *,
        second_loop: bool = False,
        shared: bool = False,
    ) -> Skip | None:
        """What leaving out the span of the block at `path` means; None where that is not possible.

        `before` is the span before it, where there is one: stand-ins must be made in that or later. `second_loop` says
        that what a second loop does with its results may go too, `shared` that other spans may use its weights.
        """
        if before is None and not self.flow.has_sum(span):
            return None  # neither a repetition nor a branch
        if not self.flow.weights_in(span):
            return None  # nothing would be saved
        if not shared and self.weights_used_elsewhere(path, span):
            return None
        if before is None:
            candidate = _Candidate(span, {}, -1)
        else:
            candidate = _Candidate(span, self._twins(span, before), before.start)
        used, others_returned = self._passed_on(span)
        if not used and others_returned:
            return self._skip_of_the_last(candidate)
        instead, left = self._replace(candidate, used)
        if not instead:
            return None
        if not left:
            return Skip(span.start, span.stop, tuple(instead))
        return self._skip_in_two_loops(candidate, instead, left) if second_loop else None

    def weights_used_elsewhere(self, path: str, span: Span) -> bool:
        """Whether calls outside the span use weights that the block at `path` alone holds."""
        for ident in self.flow.weights_in(span):
            uses = self.flow.uses[ident]
            outside = uses[0] < span.start or uses[-1] >= span.stop
            if outside and all(name.startswith(f"{path}.") for name in self.flow.weights[ident]):
                return True
        return False

    def _passed_on(self, span: Span) -> tuple[list[Value], bool]:
        """Values that are made in the span and used after it, and whether the model returns others that are made."""
        used: list[Value] = []
        others_returned = False
        for results in self.flow.results[span.start : span.stop]:
            for value in results:
                if self.flow.made[value.id] < span.start:
                    continue  # an operation returned what it was given
                if self.flow.uses.get(value.id, [-1])[-1] >= span.stop:
                    used.append(value)
                elif value.id in self.flow.returned:
                    others_returned = True
        return used, others_returned

    def _replace(self, candidate: _Candidate, values: list[Value]) -> tuple[list[tuple[int, int]], list[Value]]:
        """(value, stand-in) by id for those values that have a stand-in, and the others."""
        instead: list[tuple[int, int]] = []
        left: list[Value] = []
        for value in values:
            stand_in = self._stand_in(candidate, value, candidate.calls)
            if stand_in is None:
                left.append(value)
            else:
                instead.append((value.id, stand_in.id))
        return instead, left

    def _skip_of_the_last(self, candidate: _Candidate) -> Skip | None:
        """Of a span whose results only the model returns, those that have a stand-in are replaced."""
        span, returned = candidate.span, []
        for results in self.flow.results[span.start : span.stop]:
            returned += [value for value in results if value.id in self.flow.returned]
        instead, _ = self._replace(candidate, returned)
        return Skip(span.start, span.stop, tuple(instead)) if instead else None

    def _skip_in_two_loops(
        self, candidate: _Candidate, instead: list[tuple[int, int]], left: list[Value]
    ) -> Skip | None:
        """A skip with the round of a second loop that uses the values which have no stand-in (`left`).

        Every call that uses one of these goes too, and what uses its results in turn, until all results have stand-ins:
        the sum of the rounds before stands in for the sum with this one. These calls must be one round, that is
        consecutive, behind the span, and not many.
        """
        span, calls = candidate.span, set(candidate.calls)
        pairs, waiting = list(instead), list(left)
        while waiting:
            for number in self.flow.uses.get(waiting.pop().id, ()):
                if number in calls:
                    continue
                calls.add(number)
                if len(calls) > len(candidate.calls) + _LONGEST_SECOND or self.graph.calls[number].inplace:
                    return None
                for result in self.flow.results[number]:
                    stand_in = self._stand_in(candidate, result, calls)
                    if stand_in is not None:
                        pairs.append((result.id, stand_in.id))
                    elif result.id in self.flow.returned:
                        return None
                    else:
                        waiting.append(result)
        second = sorted(calls.difference(candidate.calls))
        consecutive = second[-1] - second[0] + 1 == len(second)
        if len(pairs) == len(instead) or second[0] < span.stop or not consecutive:
            return None
        return Skip(span.start, span.stop, tuple(pairs), (second[0], second[-1] + 1))

    # -- stand-ins ---------------------------------------------------------------------------------------------

    def _stand_in(self, candidate: _Candidate, value: Value, left_out: Collection[int]) -> Value | None:
        """What takes the place of a value when the calls `left_out` are not made: its twin, or else the nearest."""
        if value.id in candidate.twins and self._may_replace(candidate, candidate.twins[value.id], value):
            return candidate.twins[value.id]
        for found in self._before_additions(left_out, value):
            if self._may_replace(candidate, found, value):
                return found
        return None

    def _may_replace(self, candidate: _Candidate, stand_in: Value, value: Value) -> bool:
        return self.flow.made.get(stand_in.id, -1) >= candidate.earliest and self._same_layouts(stand_in, value)

    def _twins(self, span: Span, before: Span) -> dict[int, Value]:
        """By each result of a span that repeats the one before it and is given one of its results, the result there."""
        here, there = self.graph.calls[span.start : span.stop], self.graph.calls[before.start : before.stop]
        if len(here) != len(there) or not all(map(_same_call, here, there)):
            return {}
        twins: dict[int, Value] = {}
        for call, other in zip(here, there, strict=True):
            for result, its_twin in zip(call.outputs(), other.outputs(), strict=False):
                twins[result.id] = its_twin
        given = self.flow.given_in(span)
        return twins if any(twin.id in given for twin in twins.values()) else {}

    def _before_additions(self, left_out: Collection[int], target: Value) -> Iterator[Value]:
        """Values not made by the calls `left_out` that lead to `target` through at least one addition, nearest first.

        A search backwards, breadth first; it visits a value once with and once without an addition on the way.
        """
        seen: set[tuple[int, bool]] = set()
        waiting = deque([(target, False)])
        while waiting:
            value, added = waiting.popleft()
            if (value.id, added) in seen:
                continue
            seen.add((value.id, added))
            number = self.flow.made.get(value.id, -1)
            if number in left_out:
                previous, is_sum = self._leads_back(number, value)
                waiting.extend((one, added or is_sum) for one in previous)
            elif added and value.id not in self.flow.weights:
                yield value

    def _leads_back(self, number: int, result: Value) -> tuple[list[Value], bool]:
        """Which inputs of a call may be the main path to its result, and whether the call is an addition on it: one of
        at least two tensors that depend on the model's input."""
        op, given = operation(self.graph.calls[number].op), self.flow.given[number]
        if op.elementwise or op.joins:
            large = [one for one in given if op.joins or prod(one.shape) * 2 >= prod(result.shape)]
            return large, op.sums and sum(one.id in self.flow.from_input for one in given) > 1
        return (given[:1] if op.follows else []), False

    # -- layouts -----------------------------------------------------------------------------------------------

    def _same_layouts(self, a: Value, b: Value) -> bool:
        if a.shape != b.shape:
            return False
        apart = self.axes_apart(a, b)
        self.width_prevented |= bool(apart)
        return apart == set()

    def axes_apart(self, a: Value, b: Value) -> set[int] | None:
        """Ids of the axes in which the layouts of two values of one shape differ; None where layouts are unknown."""
        dims, apart = self.analysis.dims[self.index], set[int]()
        if a.id not in dims or b.id not in dims:
            return None
        for x, y in zip(dims[a.id], dims[b.id], strict=True):
            one, other = self._layout(x), self._layout(y)
            if one != other:
                apart.update(axis.id for layout in (one, other) for axis in axes_of(layout) if axis.id >= 0)
        return apart

    def _layout(self, term: Term) -> Layout:
        """The layout of a dimension, with axes that do not move as numbers."""
        terms = self.analysis.terms
        term = terms.find(term)
        if term.id not in self._settled:
            self._settled[term.id] = settled(terms.resolve(term), self._moves)
        return self._settled[term.id]

    def _moves(self, ident: int) -> bool:
        leaf = self.analysis.terms.by_id(ident)
        return leaf.size > 1 and leaf.frozen is None and (self.moving is None or ident in self.moving)


def _same_call(a: RecordedCall, b: RecordedCall) -> bool:
    return a.op == b.op and [value.shape for value in a.inputs()] == [value.shape for value in b.inputs()]
