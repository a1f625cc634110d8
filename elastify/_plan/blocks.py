"""What is known of the modules of a model as blocks: when they ran, of what kind they are, and how one alone would go.

`Blocks` answers the questions that `loops` and `depth` ask while they put blocks in rows. Where a model has several
records (training mode, a filled cache, more examples), a block can only go if it can go in each of those in which it
runs; so spans and skips come by the numbers of the records. An example may leave a block out altogether, in all of its
records. `BlockRow` is what comes out: blocks that may become a stage, or the reason why they stay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any

from elastify._ir import Skip, Value, enclosing
from elastify._plan.flow import Span
from elastify._plan.skips import SkipFinder

Spans = Mapping[int, Span]  # of one module, by the number of the record
Skips = Mapping[int, Skip]  # of one block, by the number of the record


@dataclass(frozen=True, slots=True)
class BlockRow:
    """Consecutive blocks of a container; the first always stays, and those that are `bypassed` keep their places.

    `gaps` are the indices of blocks before which something runs that does not go with them. `skips` says of all blocks
    but the first what leaving them out means. With a `refusal` (why they stay all the same) the row is for
    the report only.
    """

    container: str
    blocks: tuple[str, ...]
    bypassed: bool = False
    gaps: tuple[int, ...] = ()
    skips: Mapping[str, Skips] = field(default_factory=dict, compare=False)
    refusal: str = ""

    def pieces(self) -> list[BlockRow]:
        """The row cut where it has gaps."""
        pieces = []
        for start, stop in pairwise((0, *self.gaps, len(self.blocks))):
            if stop - start > 1:
                pieces.append(BlockRow(self.container, self.blocks[start:stop], self.bypassed, (), self.skips))
        return pieces


@dataclass(slots=True)
class GrowingRow:
    """Blocks that follow each other, while they are put together; `after_gap` are those before which there is a gap."""

    blocks: list[str] = field(default_factory=list)
    skips: dict[str, Skips] = field(default_factory=dict)
    after_gap: set[str] = field(default_factory=set)

    def add(self, path: str, skips: Skips, *, gap: bool = False) -> None:
        """One more block that can go."""
        self.blocks.append(path)
        self.skips[path] = skips
        if gap:
            self.after_gap.add(path)


def finished(
    rows: Sequence[GrowingRow], container: str, kind: Callable[[str], Any], *, bypassed: bool
) -> list[BlockRow]:
    """The rows that have two blocks at least; one of another kind than the next cannot be the one that stays."""
    found = []
    for row in rows:
        blocks = tuple(row.blocks)
        if len(blocks) > 1 and kind(blocks[0]) != kind(blocks[1]):
            blocks = blocks[1:]
        if len(blocks) > 1:
            gaps = tuple(index for index, path in enumerate(blocks) if index and path in row.after_gap)
            found.append(BlockRow(container, blocks, bypassed, gaps, row.skips))
    return found


class Blocks:
    """The modules of a model in its records, of which `finders` has one each.

    `containers` maps each container's path to the paths of its children in order; `kind` gives what must be equal of
    blocks of one row (the class). The order in which blocks ran is that of the `first` finder, and those are looked at
    that ran there and not in one of the records `before`.
    """

    def __init__(
        self,
        finders: Sequence[SkipFinder],
        containers: Mapping[str, Sequence[str]],
        kind: Callable[[str], Any],
        first: SkipFinder,
        before: Collection[int] = (),
    ) -> None:
        self.finders, self.containers, self.kind, self.first = finders, containers, kind, first
        self._before = frozenset(before)
        self._alone: dict[str, Skips | None] = {}

    def spans(self, path: str) -> Spans | None:
        """Where a module ran, if it ran once in each record of every example that runs it; a container that is not
        called runs with its parts."""
        spans: dict[int, Span] = {}
        for finder in self.finders:
            calls = finder.flow.modules.get(path, [])
            if not calls and path in self.containers:
                parts = [finder.flow.modules.get(part, []) for part in self.containers[path]]
                if any(parts) and any(len(part) != 1 for part in parts):
                    return None
                calls = sorted((part[0] for part in parts if part), key=lambda call: call.start)
            elif len(calls) > 1:
                return None
            if calls:
                spans[finder.index] = Span(calls[0].start, calls[-1].stop)
        examples = {finder.graph.example for finder in self.finders if finder.index in spans}
        missing = any(finder.graph.example in examples and finder.index not in spans for finder in self.finders)
        return spans if self.first.index in spans and not missing and self._before.isdisjoint(spans) else None

    def weights(self, paths: Sequence[str]) -> int:
        """How many numbers the weights in modules have."""
        tensors = {
            id(v): v for name, v in self.first.graph.tensors.items() if not set(paths).isdisjoint(enclosing(name))
        }
        return sum(prod(value.shape) for value in tensors.values())

    def parallel(self, paths: Sequence[str]) -> bool:
        """Whether blocks all run once, on the same tensor."""
        given: set[int] = set()
        for path in paths:
            calls = self.first.flow.modules.get(path, [])
            if len(calls) != 1:
                return False
            given.update(value.id for value in calls[0].args[:1] if isinstance(value, Value))
        return len(given) == 1

    def is_row(self, path: str) -> bool:
        """Whether a container is itself a row of blocks, that can go one by one."""
        parts = self.containers.get(path, ())
        if len(parts) < 2 or len({self.kind(part) for part in parts}) > 1 or path not in self.first.flow.modules:
            return False
        return all(self.alone(part) is not None for part in parts)

    def alone(self, path: str) -> Skips | None:
        """How a block goes without anything around it, if it is a residual branch."""
        if path not in self._alone:
            self._alone[path] = self._residual(path)
        return self._alone[path]

    def _residual(self, path: str) -> Skips | None:
        skips: dict[int, Skip] = {}
        spans = self.spans(path) or {}
        for finder in self.finders:
            skip = finder.skip(path, spans[finder.index]) if finder.index in spans else None
            if skip is not None:
                skips[finder.index] = skip
        return skips if skips and len(skips) == len(spans) else None

    def bypass(self, path: str) -> Skips | None:
        """How a residual branch with one tensor in and one out goes, so that in its place its input is returned."""
        skips = self.alone(path)
        for finder in self.finders:
            skip = (skips or {}).get(finder.index)
            if skip is None:
                continue
            calls = finder.flow.modules.get(path, [])
            if not calls or calls[0].kwargs or len(calls[0].args) != 1:
                return None
            given, made = calls[0].args[0], calls[0].out
            if not (isinstance(given, Value) and isinstance(made, Value)) or skip.instead != ((made.id, given.id),):
                return None
        return skips
