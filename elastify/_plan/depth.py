"""Rows of blocks that can be left out, found in the records of a model.

Every module is asked for rows among its children, from the outside in. How a block goes depends on what holds it:

- Blocks of a Sequential, ModuleList or ModuleDict are removed from it, with what a loop does around them (`loops`).
- A block in a plain attribute (`self.block1`) is *bypassed*: it stays in its place and returns its input. So it must
  be a residual branch with one tensor in and one out. Such blocks form a row if they run one right after the other.
- Residual branches that are left, each alone in a module that cannot go, form a row with their like: with
  `stages.0.down.mixer`, `stages.1.down.mixer`, `stages.2.down.mixer` each stage keeps its downsampling, and the row
  is that of the mixers.

A block of a row may go, so nothing inside it is offered a second time; only parallel branches, which all see the same
tensor, make a row inside a block. The first block of a row always stays: of its own kind, or it is not in the row.
Blocks that could go but for the way in which they are held or called make rows with a refusal, for the report.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from elastify._analysis import Analysis
from elastify._ir import enclosing
from elastify._plan.blocks import BlockRow, Blocks, GrowingRow, Skips, finished
from elastify._plan.flow import Span
from elastify._plan.loops import rows_of_container
from elastify._plan.skips import SkipFinder

_ATTRIBUTES = "attributes called with several tensors stay; a ModuleList could leave them out"


def skip_finders(analysis: Analysis) -> list[SkipFinder]:
    """Finders for the graphs in which a block runs once."""
    return [SkipFinder(analysis, index) for index, graph in enumerate(analysis.graphs) if len(graph.roots) < 2]


def find_rows(
    analysis: Analysis,
    containers: Mapping[str, Sequence[str]],
    kind: Callable[[str], Any],
    others: Mapping[str, Sequence[str]] | None = None,
    finders: Sequence[SkipFinder] | None = None,
) -> list[BlockRow]:
    """Rows of blocks that can be left out, and rows with a refusal.

    `containers` maps each container's path to the paths of its children in order, `others` does so for other modules;
    `kind` gives what must be equal of a block and the one that stays before it (its class). `finders` are those of the
    graphs to look at (None: of all, in which all axes may get smaller that nothing froze).
    """
    others, finders = others or {}, finders or skip_finders(analysis)
    found: list[BlockRow] = []
    refused: list[BlockRow] = []
    members: set[str] = set()
    before: list[int] = []
    for first in _one_of_each_example(finders):
        rows = _Rows(Blocks(finders, containers, kind, first, before), found, members)
        rows.search(containers, others)
        refused += [*rows.refused_attributes(others), *rows.refused_repetitions()]
        before.append(first.index)
    return [*found, *refused]


def _one_of_each_example(finders: Sequence[SkipFinder]) -> list[SkipFinder]:
    """The evaluation runs, those first in which more modules ran: rows are found in the longest run of them."""
    firsts: dict[int, SkipFinder] = {}
    for finder in finders:
        firsts.setdefault(finder.graph.example, finder)
    return sorted(firsts.values(), key=lambda finder: -len(finder.flow.modules))


def _from_outside_in(path: str) -> tuple[int, str]:
    return path.count(".") + bool(path), path


class _Rows:
    """The rows found so far and the blocks in them, to which others are added."""

    def __init__(self, blocks: Blocks, found: list[BlockRow], members: set[str]) -> None:
        self.blocks, self.found, self.members = blocks, found, members

    def search(self, containers: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]]) -> None:
        """Add what can be left out."""
        for path in sorted({**containers, **others}, key=_from_outside_in):
            inside = self.cover(path)
            if path in containers:
                for row in rows_of_container(self.blocks, path):
                    if (not inside or self.blocks.parallel(row.blocks)) and self.leads(row):
                        self.add(row)
            elif not inside:
                for row in self.in_attributes(path, others[path], self.blocks.bypass):
                    self.add(row)
        for row in self.of_single_branches({**containers, **others}):
            self.add(row)

    def add(self, row: BlockRow) -> None:
        """Keep a row: what is inside its blocks is no row of its own."""
        self.found.append(row)
        self.members.update(row.blocks)

    def leads(self, row: BlockRow) -> bool:
        """Whether the blocks of a row do not just go with those of another, one in each round; of two such rows the one
        with more weights leads."""
        for other in self.found:
            if self._together(row, other):
                if self.blocks.weights(row.blocks) <= self.blocks.weights(other.blocks):
                    return False
                self.found.remove(other)
                self.members.difference_update(other.blocks)
                break
        return True

    def _together(self, row: BlockRow, other: BlockRow) -> bool:
        """Whether each block of a row that may go is in a round of the other, and no two are in the same."""
        index = self.blocks.first.index
        ran = [block for block in other.blocks[1:] if index in other.skips[block]]
        rounds = {block: set(other.skips[block][index].calls()) for block in ran}
        taken = []
        for path in row.blocks[1:]:
            span = (self.blocks.spans(path) or {}).get(index, Span(0, 1))
            taken.append(next((block for block, calls in rounds.items() if calls.issuperset(range(*span))), None))
        return None not in taken and len(set(taken)) == len(taken)

    def cover(self, path: str) -> bool:
        """Whether a module is a block of a row, or part of one."""
        return not self.members.isdisjoint(enclosing(path))

    def in_attributes(
        self, path: str, children: Sequence[str], skips_of: Callable[[str], Skips | None]
    ) -> list[BlockRow]:
        """Rows of children of a plain module that ran one right after the other; `skips_of` says how one goes."""
        ran: list[tuple[Span, str]] = []
        for child in children:
            spans = self.blocks.spans(child)
            if spans is not None:
                ran.append((spans[self.blocks.first.index], child))
        rows, end = [GrowingRow()], -1
        for span, child in sorted(ran):
            follows = bool(rows[-1].blocks) and span.start == end and not self.blocks.is_row(child)
            skips = skips_of(child) if follows else None
            if skips is not None:
                rows[-1].add(child, skips)
            else:
                rows.append(GrowingRow([child]))
            end = span.stop
        return finished(rows, path, self.blocks.kind, bypassed=True)

    def of_single_branches(self, children: Mapping[str, Sequence[str]]) -> list[BlockRow]:
        """Rows of residual branches that have the same place in different modules."""
        skips_of: dict[str, Skips] = {}
        alike: dict[tuple[str, Any], list[str]] = {}
        for call in self.blocks.first.graph.modules:
            path, parent = call.path, call.path.rpartition(".")[0]
            if not path or parent not in children or self.cover(path):
                continue
            if not skips_of.keys().isdisjoint(enclosing(path)) or self.blocks.is_row(path):
                continue  # it is part of such a branch, or a row of them
            skips = self.blocks.bypass(path)
            if skips is not None:
                skips_of[path] = skips
                alike.setdefault((re.sub(r"\d+", "*", path), self.blocks.kind(path)), []).append(path)
        rows = []
        for (pattern, _), paths in alike.items():
            if len(paths) > 1:
                container = pattern.partition("*")[0].rpartition(".")[0]
                skips = {path: skips_of[path] for path in paths[1:]}
                rows.append(BlockRow(container, tuple(paths), True, (), skips))
        return rows

    def refused_attributes(self, others: Mapping[str, Sequence[str]]) -> Iterator[BlockRow]:
        """Rows in plain attributes that could go, but cannot be bypassed: they take or return several tensors."""
        for path, children in others.items():
            if self.cover(path):
                continue
            for row in self.in_attributes(path, children, self.blocks.alone):
                if self.members.isdisjoint(row.blocks[1:]):
                    yield BlockRow(path, row.blocks, True, refusal=_ATTRIBUTES)

    def refused_repetitions(self) -> Iterator[BlockRow]:
        """Residual branches that run several times."""
        for path, calls in self.blocks.first.flow.modules.items():
            if len(calls) < 2 or self.cover(path):
                continue
            spans = (Span(call.start, call.stop) for call in calls)
            if all(self.blocks.first.skip(path, span, shared=True) is not None for span in spans):
                self.members.add(path)  # those inside it are no news
                text = f"it runs {len(calls)} times with the same weights: without it all of these would be gone"
                yield BlockRow(path.rpartition(".")[0], (path,), True, refusal=text)
