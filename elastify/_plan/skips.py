"""What leaving out a stretch of a recorded run would mean.

A stretch (the calls of a block, or of one round of a loop) can go if everything that it hands on can be replaced by
something that was there before, of the very same layouts. What replaces what is read from the record in one of two
ways. The stretch is a *residual branch* if additions (and what normally surrounds them) lead from a tensor
that it was given to the one that it hands on. It is a *repetition* if it does, operation by operation, what the
stretch before it does, and feeds on that one's results. A second loop over the results of the first goes along, round
by round (branches that are weighted once all of them are known). Layouts are only compared, never unified, to find
depth; axes that do not move (see `moving`) are as good as numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import accumulate, chain

from elastify._analysis import Analysis, Term, operation
from elastify._ir import Call, Graph, Layout, Skip, Value, axes_of, settled

_LONGEST_SECOND = 24  # calls of a second loop, per round


class Links:
    """Who makes and who uses every value of a graph, by numbers of calls."""

    def __init__(self, graph: Graph) -> None:
        self.made: dict[int, int] = {}
        self.first: dict[int, int] = {}  # of every value, the first call that uses it
        self.last: dict[int, int] = {}  # and the last
        self.uses: dict[int, list[int]] = {}  # and all of them
        self.ins = [call.inputs() for call in graph.calls]
        self.outs = [call.outputs() for call in graph.calls]
        for number, (given, results) in enumerate(zip(self.ins, self.outs, strict=True)):
            for value in results:
                self.made.setdefault(value.id, number)
            for value in given:
                self.first.setdefault(value.id, number)
                self.last[value.id] = number
                self.uses.setdefault(value.id, []).append(number)
        summing = (operation(call.op).sums for call in graph.calls)
        self.sums = [0, *accumulate(summing)]  # how many there are before each call
        self.owned: dict[int, list[str]] = {}
        for name, value in graph.tensors.items():
            self.owned.setdefault(value.id, []).append(name)
        self.returned = {value.id for value in graph.outputs}
        self.fed = {value.id for value in graph.inputs}  # what depends on the input, not on weights alone
        for given, results in zip(self.ins, self.outs, strict=True):
            if any(value.id in self.fed for value in given):
                self.fed.update(value.id for value in results)


class Branches:
    """The stretches of one graph of an analysis; `moving` are the ids of the axes that may get smaller (None: all).

    `parted` tells whether some stretch stays only because units of axes that may get smaller would be mixed up.
    """

    def __init__(
        self, analysis: Analysis, index: int, moving: Collection[int] | None = None, links: Links | None = None
    ) -> None:
        self.analysis, self.index, self.moving = analysis, index, moving
        self.settled: dict[int, Layout] = {}
        self.parted = False
        self.graph: Graph = analysis.graphs[index]
        self.links = links or Links(self.graph)

    def handed_on(self, start: int, stop: int) -> tuple[list[Value], bool]:
        """Values made in the stretch and used after it, and whether others are part of the model's result."""
        used, returned = [], False
        for results in self.links.outs[start:stop]:
            for value in results:
                if start <= self.links.made[value.id]:
                    if self.links.last.get(value.id, -1) >= stop:
                        used.append(value)
                    else:
                        returned |= value.id in self.links.returned
        return used, returned

    def without(
        self,
        path: str,
        start: int,
        stop: int,
        before: tuple[int, int] | None = None,
        *,
        twice: bool = False,
        shared: bool = False,
    ) -> Skip | None:
        """The stretch of the block at `path` left out, if that is possible, `twice` with its part of a second loop.

        `before` is the stretch before it where there is one: then all that takes over must have been made in that.
        Other stretches may need the block's weights if they are `shared`.
        """
        if not (before or self.links.sums[start] < self.links.sums[stop]):
            return None  # neither a repetition nor a branch
        if not shared and self.needed_outside(path, start, stop):
            return None
        since = before[0] if before else -1
        twins = self._twins(start, stop, before) if before else {}

        def source(value: Value, gone: Collection[int] = range(start, stop)) -> Value | None:
            found = chain([twins[value.id]] if value.id in twins else [], self._sources(gone, value))
            return next((v for v in found if self.links.made.get(v.id, -1) >= since and self._alike(v, value)), None)

        return self._skip(start, stop, source, twice)

    def _twins(self, start: int, stop: int, before: tuple[int, int]) -> dict[int, Value]:
        """For every result of a stretch that repeats the one before it, and feeds on that, the one there."""
        inside, other = self.graph.calls[start:stop], self.graph.calls[slice(*before)]
        if len(inside) != len(other) or not all(_same_call(a, b) for a, b in zip(inside, other, strict=True)):
            return {}
        twins = {
            a.id: b
            for one, two in zip(inside, other, strict=True)
            for a, b in zip(one.outputs(), two.outputs(), strict=False)
        }
        given = {value.id for values in self.links.ins[start:stop] for value in values}
        return twins if any(b.id in given for b in twins.values()) else {}

    def needed_outside(self, path: str, start: int, stop: int) -> bool:
        """Whether calls outside the stretch use weights of the block."""
        owned = {value.id for given in self.links.ins[start:stop] for value in given} & self.links.owned.keys()
        elsewhere = [ident for ident in owned if self.links.first[ident] < start or self.links.last[ident] >= stop]
        return any(all(name.startswith(f"{path}.") for name in self.links.owned[ident]) for ident in elsewhere)

    def _skip(self, start: int, stop: int, source: Callable[..., Value | None], twice: bool) -> Skip | None:
        owned = {value.id for given in self.links.ins[start:stop] for value in given} & self.links.owned.keys()
        if not owned:
            return None  # no weights: nothing would be saved
        used, returned = self.handed_on(start, stop)
        if not used and returned:
            return self._last(start, stop, source)
        instead = [(value.id, found.id) for value in used if (found := source(value)) is not None]
        if len(instead) < len(used):
            left = [value for value in used if value.id not in dict(instead)]
            return self._twice(start, stop, instead, left, source) if twice and instead else None
        return Skip(start, stop, tuple(instead)) if instead else None

    def _twice(
        self,
        start: int,
        stop: int,
        instead: list[tuple[int, int]],
        left: list[Value],
        source: Callable[..., Value | None],
    ) -> Skip | None:
        """The stretch with what a second loop does to those of its results that nothing replaces, up to a sum of them
        with those of other rounds (parallel branches, weighted by what is known of all)."""
        gone, begun = set(range(start, stop)), len(instead)
        while left:
            value = left.pop()
            for number in self.links.uses.get(value.id, ()):
                if number in gone:
                    continue
                gone.add(number)
                if len(gone) > stop - start + _LONGEST_SECOND or self.graph.calls[number].inplace:
                    return None
                for made in self.links.outs[number]:
                    found = source(made, gone)
                    if found is not None:
                        instead.append((made.id, found.id))
                    else:
                        left.append(made)
                        if made.id in self.links.returned:
                            return None
        later = sorted(gone.difference(range(start, stop)))
        if len(instead) == begun or later[0] < stop or later[-1] - later[0] + 1 != len(later):
            return None
        return Skip(start, stop, tuple(instead), (later[0], later[-1] + 1))

    def _last(self, start: int, stop: int, source: Callable[[Value], Value | None]) -> Skip | None:
        """A stretch whose result is the model's: all results that can be replaced are."""
        own = [value for results in self.links.outs[start:stop] for value in results if value.id in self.links.returned]
        pairs = [(value.id, found.id) for value in own if (found := source(value)) is not None]
        return Skip(start, stop, tuple(pairs)) if pairs else None

    def _sources(self, gone: Collection[int], target: Value) -> Iterator[Value]:
        """Values from outside that lead to `target` through at least one addition, the nearest first."""
        seen: set[tuple[int, bool]] = set()
        waiting = [(target, False)]
        while waiting:
            value, added = waiting.pop(0)
            if (value.id, added) in seen:
                continue
            seen.add((value.id, added))
            number = self.links.made.get(value.id, -1)
            if number not in gone:
                if added and value.id not in self.links.owned:
                    yield value
                continue
            call = self.graph.calls[number]
            given = self.links.ins[number]
            op = operation(call.op)
            if op.elementwise or op.joins:
                large = [v for v in given if _count(v) * 2 >= _count(value) or op.joins]
                joined = op.sums and sum(v.id in self.links.fed for v in given) > 1
                waiting += [(v, added or joined) for v in large]
            elif op.follows:
                waiting += [(v, added) for v in given[:1]]

    def _alike(self, a: Value, b: Value) -> bool:
        if a.shape != b.shape:
            return False
        apart = self.apart(a, b)
        self.parted |= bool(apart)
        return apart == set()

    def apart(self, a: Value, b: Value) -> set[int] | None:
        """Ids of the axes for which two values of one shape are not of one layout; None where layouts are unknown."""
        dims, found = self.analysis.dims[self.index], set[int]()
        if a.id not in dims or b.id not in dims:
            return None
        for x, y in zip(dims[a.id], dims[b.id], strict=True):
            one, other = self._settled(x), self._settled(y)
            if one != other:
                found.update(axis.id for layout in (one, other) for axis in axes_of(layout) if axis.id >= 0)
        return found

    def _settled(self, term: Term) -> Layout:
        terms = self.analysis.terms
        term = terms.find(term)
        if term.id not in self.settled:
            self.settled[term.id] = settled(terms.resolve(term), self._moves)
        return self.settled[term.id]

    def _moves(self, ident: int) -> bool:
        leaf = self.analysis.terms.by_id(ident)
        return leaf.size > 1 and leaf.frozen is None and (self.moving is None or ident in self.moving)


def _same_call(a: Call, b: Call) -> bool:
    return a.op == b.op and [v.shape for v in a.inputs()] == [v.shape for v in b.inputs()]


def _count(value: Value) -> int:
    count = 1
    for size in value.shape:
        count *= size
    return count
