"""Blocks that can be left out, found in the record of a run.

Candidates are the children of every module, in the order in which they ran. Those of a Sequential, ModuleList or
ModuleDict leave their container, and with them goes what a loop over it does around them; a block in a plain attribute
steps aside and hands on its only input. What leaving one out means is read from the record (`Branches`). A run is a
row of such blocks, each fed by the one before, after one that stays: the first of its kind in the row, or
the block before it of the same kind that changes the size. Residual branches that stand alone (inside larger
modules that cannot go) make up a run with their like in the other modules. Inside a block only parallel ones are
looked for, which all see the same tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

from elastify._analysis import Analysis
from elastify._ir import ModuleCall, Skip, Value, enclosing
from elastify._plan.skips import Branches

_ATTRIBUTES = "attributes called with several tensors stay; a ModuleList could leave them out"
_LONGEST_ROUND = 24  # calls of a loop outside its blocks


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive blocks of a container; the first always stays, and those that step `aside` keep their places.

    `gaps` are the blocks before which something runs that does not go with them. `skips` says of all blocks but the
    first what goes, by graph. With a `refusal`, why they cannot go all the same, it is a run for the report only.
    """

    def pieces(self) -> list[Run]:
        """The run cut where it has gaps."""
        ends = pairwise((0, *self.gaps, len(self.blocks)))
        return [Run(self.container, self.blocks[a:b], self.aside, (), self.skips) for a, b in ends if b - a > 1]

    container: str
    blocks: tuple[str, ...]
    aside: bool = False
    gaps: tuple[int, ...] = ()
    skips: Mapping[str, tuple[Skip, ...]] = field(default_factory=dict, compare=False)
    refusal: str = ""


def find_runs(
    analysis: Analysis,
    containers: Mapping[str, Sequence[str]],
    kind: Callable[[str], Any],
    others: Mapping[str, Sequence[str]] | None = None,
    branches: Sequence[Branches] | None = None,
) -> list[Run]:
    """Runs of skippable blocks.

    `containers` maps each container's path to the paths of its children in order, `others` does so for other modules;
    `kind` gives what must be equal of a block and the one that stays before it (its class). `branches` are those of the
    graphs in which a block runs once (None: in which all axes may get smaller that nothing froze).
    """
    finder = _Finder(branches or all_branches(analysis), containers, kind)
    for path in sorted({**containers, **(others or {})}, key=lambda path: (path.count(".") + bool(path), path)):
        inside = finder.inside(path)
        if inside and path not in containers:
            continue
        rows = finder.rows(containers[path]) if path in containers else finder.loose_rows((others or {})[path])
        for row, skips in finder.trimmed(rows):
            if not inside or finder.parallel(row):
                gaps = tuple(i for i in range(1, len(row)) if row[i] in finder.after_gap)
                finder.add(Run(path, tuple(row), path not in containers, gaps, skips))
    finder.add_lone({**containers, **(others or {})})
    finder.add_refused(others or {})
    return finder.runs


def all_branches(analysis: Analysis) -> list[Branches]:
    """Branches of the graphs in which a block runs once."""
    return [Branches(analysis, index) for index, graph in enumerate(analysis.graphs) if len(graph.roots) < 2]


Spans = list[tuple[int, int]]  # of one module, its first and last call in each graph
Row = tuple[list[str], dict[str, tuple[Skip, ...]]]  # blocks, and what goes with each but the first


class _Finder:
    def __init__(
        self, branches: Sequence[Branches], containers: Mapping[str, Sequence[str]], kind: Callable[[str], Any]
    ) -> None:
        self.containers, self.kind, self.branches = containers, kind, branches
        self.calls: list[dict[str, list[ModuleCall]]] = []
        for graph in (one.graph for one in branches):
            table: dict[str, list[ModuleCall]] = {}
            for call in graph.modules:
                table.setdefault(call.path, []).append(call)
            self.calls.append(table)
        self.runs: list[Run] = []
        self.blocks: set[str] = set()
        self.after_gap: set[str] = set()
        self.known: dict[str, tuple[Skip, ...] | None] = {}  # what `alone` has found

    def add(self, run: Run) -> None:
        self.runs.append(run)
        self.blocks.update(run.blocks)

    def inside(self, path: str) -> bool:
        """Whether a module is a block of a run, or part of one."""
        return not self.blocks.isdisjoint(enclosing(path))

    def parallel(self, row: Sequence[str]) -> bool:
        """Whether blocks all run on the same tensor: these may go inside a block that may go."""
        calls = [self.calls[0].get(path, []) for path in row]
        given = [call[0].args[:1] for call in calls if len(call) == 1]
        same = {value.id for args in given for value in args if isinstance(value, Value)}
        return len(given) == len(row) and len(same) == 1

    def spans(self, path: str) -> Spans | None:
        """Where a module ran, if it ran once in each graph; a container that is not called runs with its parts."""
        found = []
        for table in self.calls:
            calls = table.get(path, [])
            if not calls and path in self.containers:
                parts = [table.get(part, []) for part in self.containers[path]]
                if not parts or any(len(part) != 1 for part in parts):
                    return None
                calls = sorted((part[0] for part in parts), key=lambda call: call.start)
            elif len(calls) != 1:
                return None
            found.append((calls[0].start, calls[-1].stop))
        return found

    def trimmed(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Rows of at least two, of which the one that stays is like the next."""
        for row, skips in rows:
            alike = row[1:] if len(row) > 1 and self.kind(row[0]) != self.kind(row[1]) else row
            if len(alike) > 1:
                yield alike, skips

    # -- children of containers --------------------------------------------------------------------------------

    def rows(self, children: Sequence[str]) -> Iterator[Row]:
        """Children in rows: one that stays, and those after it that may be skipped."""
        row: list[str] = []
        skips: dict[str, tuple[Skip, ...]] = {}
        spans = [None if self.splits(path) else self.spans(path) for path in children]
        shift: int | None = None
        for index, path in enumerate(children):
            found, tried = None, self.shifts(spans, index, shift) if row and spans[index] is not None else ()
            loops = (False, True) if row and self.parallel([children[index - 1], path]) else (False,)
            for twice, choice in product(loops, tried):
                found = self.skippable(path, spans, index, choice, twice)
                if found is not None:
                    shift = choice
                    if choice is None and self.gap(spans, index):
                        self.after_gap.add(path)
                    break
            if found is not None:
                row.append(path)
                skips[path] = found
            else:
                yield row, skips
                row, skips, shift = ([path] if spans[index] is not None else []), {}, None
        yield row, skips

    def shifts(self, spans: Sequence[Spans | None], index: int, before: int | None) -> Iterable[int | None]:
        """How much later than the end of the child before the calls begin that go with child `index`.

        What a loop does between its blocks goes with them, and is the same between all of them; where in it one round
        ends and the next begins is not known. None: just the calls of the child itself.
        """
        gap = self.gap(spans, index)
        if not gap:
            return [None]
        if before is not None:
            return [before]
        alike = self.gap(spans, index + 1) == gap
        return (
            [*range(min(len(gap), _LONGEST_ROUND) + 1)] if alike else [None, *range(min(len(gap), _LONGEST_ROUND) + 1)]
        )

    def gap(self, spans: Sequence[Spans | None], index: int) -> list[str]:
        """Operations between a child and the one before it."""
        here, before = spans[index] if index < len(spans) else None, spans[index - 1]
        if here is None or before is None:
            return []
        return [call.op for call in self.branches[0].graph.calls[before[0][1] : here[0][0]]]

    def splits(self, path: str) -> bool:
        """Whether a child is itself a row of blocks: then those are what may go, one by one."""
        parts = self.containers.get(path, ())
        if len(parts) < 2 or len({self.kind(part) for part in parts}) > 1 or path not in self.calls[0]:
            return False
        return all(self.alone(part) is not None for part in parts)

    def skippable(
        self, path: str, spans: Sequence[Spans | None], index: int, shift: int | None, twice: bool
    ) -> tuple[Skip, ...] | None:
        """How child `index` goes, with what goes with it."""
        here, before = spans[index], spans[index - 1]
        after = spans[index + 1] if index + 1 < len(spans) else None
        assert here is not None
        assert before is not None
        found = []
        for number, branches in enumerate(self.branches):
            (was, start), (begin, stop) = before[number], here[number]
            if shift is None:
                skip = branches.without(path, begin, stop, (was, start), twice=twice)
            elif start + shift > begin or (after is not None and stop <= after[number][0] < stop + shift):
                return None
            else:
                moved = was + shift, start + shift
                skip = branches.without(path, start + shift, stop + shift, moved, twice=twice)
            if skip is None:
                return None
            found.append(skip)
        return tuple(found)

    # -- blocks that stand alone -------------------------------------------------------------------------------

    def alone(self, path: str) -> tuple[Skip, ...] | None:
        """How a block goes of which nothing around it goes, if it is a residual branch."""
        if path not in self.known:
            places = self.spans(path) or [None] * len(self.branches)
            found = [one.without(path, *place) for one, place in zip(self.branches, places, strict=True) if place]
            self.known[path] = tuple(skip for skip in found if skip) if found and all(found) else None
        return self.known[path]

    def steps_aside(self, path: str) -> tuple[Skip, ...] | None:
        """How a block with one tensor in and one out goes that stays in its place and hands on what it gets."""
        found = self.alone(path)
        for skip, table in zip(found or (), self.calls, strict=False):
            calls = table.get(path, [])
            if not calls or calls[0].kwargs or len(calls[0].args) != 1:
                return None
            given, made = calls[0].args[0], calls[0].out
            if not (isinstance(given, Value) and isinstance(made, Value)) or skip.instead != ((made.id, given.id),):
                return None
        return found

    def loose_rows(
        self, children: Sequence[str], goes: Callable[[str], tuple[Skip, ...] | None] | None = None
    ) -> Iterator[Row]:
        """Children of a plain module in the order in which they ran, in rows as above; `goes` says how one goes."""
        goes = goes or self.steps_aside
        ran = [(span[0], path) for path in children if (span := self.spans(path)) is not None]
        row: list[str] = []
        skips: dict[str, tuple[Skip, ...]] = {}
        end = -1
        for (start, stop), path in sorted(ran):
            found = goes(path) if row and start == end and not self.splits(path) else None
            if found is not None:
                row.append(path)
                skips[path] = found
            else:
                yield row, skips
                row, skips = [path], {}
            end = stop
        yield row, skips

    def add_lone(self, children: Mapping[str, Sequence[str]]) -> None:
        """Runs of residual branches that have the same place in different modules."""
        groups: dict[tuple[str, Any], list[str]] = {}
        blocks: dict[str, tuple[Skip, ...]] = {}
        for call in self.branches[0].graph.modules:
            path, parent = call.path, call.path.rpartition(".")[0]
            if not path or self.inside(path) or not blocks.keys().isdisjoint(enclosing(path)):
                continue
            if self.splits(path) or parent not in children:
                continue
            found = self.steps_aside(path)
            if found is not None:
                blocks[path] = found
                groups.setdefault((re.sub(r"\d+", "*", path), self.kind(path)), []).append(path)
        for (pattern, _), paths in groups.items():
            if len(paths) > 1:
                container = pattern.partition("*")[0].rpartition(".")[0]
                self.add(Run(container, tuple(paths), True, (), {path: blocks[path] for path in paths[1:]}))

    def add_refused(self, others: Mapping[str, Sequence[str]]) -> None:
        """Rows that look as if they could go but for the way in which they are held or called."""
        for path, children in others.items():
            if not self.inside(path):
                for row, _ in self.trimmed(self.loose_rows(children, self.alone)):
                    if self.blocks.isdisjoint(row[1:]):
                        self.runs.append(Run(path, tuple(row), True, refusal=_ATTRIBUTES))
        for path, calls in self.calls[0].items():
            if len(calls) > 1 and not self.inside(path):
                found = (self.branches[0].without(path, call.start, call.stop, shared=True) for call in calls)
                if all(skip is not None for skip in found):
                    self.blocks.add(path)  # those inside it are no news
                    text = f"it runs {len(calls)} times with the same weights: without it all of these would be gone"
                    self.runs.append(Run(path.rpartition(".")[0], (path,), True, refusal=text))
