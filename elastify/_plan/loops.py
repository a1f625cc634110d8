"""Rows of blocks in a container: what a loop over the container does around each block goes with the block.

Take a loop that normalises before each block and adds after it:

    for norm, block in zip(self.norms, self.blocks):
        x = x + block(norm(x))

In the record, the calls between one block and the next are `add` (still of this round) and `layer_norm` (already of the
next). If block 2 is removed from the container, its whole round is not run, so all of it is one span. The record does
not say where a round ends, so each possible `tail` is tried: how many of the calls between two blocks belong to the
round of the first. Here it is 1, and the round of block 2 begins one call after the end of block 1 and ends one call
after the end of block 2. All rounds of a loop are cut alike.

Where the weights that other modules use between the blocks tell that another cut suits the numbers of these better
(`blocks.2` with `norms.2`, not with `norms.1`), that one is taken, if as many blocks can go.

If nothing is found with a tail, the calls of the block alone are tried, and what runs before it is a *gap*: it stays
when the block goes. A row with gaps is cut there if it turns out that it cannot be shortened as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from elastify._plan.blocks import BlockRow, Blocks, GrowingRow, Skips, Spans, finished
from elastify._plan.flow import Span

_LONGEST_ROUND = 24  # calls of a loop outside its blocks
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class _Round:
    """How a block goes; `tail` is None where its own calls are all that goes with it."""

    skips: Skips
    tail: int | None


def rows_of_container(blocks: Blocks, path: str) -> list[BlockRow]:
    """The children of a container in rows: one that stays, and those after it that may be left out."""
    loop = _Loop(blocks, blocks.containers[path])
    rows = loop.rows(loop.next_round)
    if not all(loop.numbered(child, row.skips[child]) for row in rows for child in row.skips):
        others = loop.rows(loop.next_numbered_round)
        if max(len(row.skips) for row in others) >= max(len(row.skips) for row in rows):
            rows = others
    return finished(rows, path, blocks.kind, bypassed=False)


class _Loop:
    """The children of one container, with the spans of those that may be part of a row."""

    def __init__(self, blocks: Blocks, children: Sequence[str]) -> None:
        self.blocks, self.children = blocks, children
        self.spans: list[Spans | None] = []
        for child in children:
            self.spans.append(None if blocks.is_row(child) else blocks.spans(child))

    def rows(self, next_round: Callable[[int, int | None], _Round | None]) -> list[GrowingRow]:
        """The children that follow each other, as long as there is a next round (of a child, after one of a tail)."""
        rows, tail = [GrowingRow()], None
        for index, child in enumerate(self.children):
            ran = self.spans[index] is not None
            found = next_round(index, tail) if ran and rows[-1].blocks else None
            if found is not None:
                tail = found.tail
                rows[-1].add(child, found.skips, gap=tail is None and bool(self.between(index)))
            else:
                tail = None
                rows.append(GrowingRow([child] if ran else []))
        return rows

    def numbered(self, child: str, skips: Skips) -> bool:
        """Whether all weights that go with a child, but are not in it, have its number in their names."""
        flow, number = self.blocks.first.flow, set(_NUMBERS.findall(child.rpartition(".")[2]))
        skip = skips[self.blocks.first.index]
        names = (flow.weights[ident] for ident in flow.weights_in(Span(skip.start, skip.stop)))
        return all(any(n.startswith(f"{child}.") or number & set(_NUMBERS.findall(n)) for n in own) for own in names)

    def between(self, index: int) -> list[str]:
        """Operations between a child and the one before it."""
        here = self.spans[index] if index < len(self.spans) else None
        before, first = self.spans[index - 1], self.blocks.first
        if here is None or before is None:
            return []
        return [call.op for call in first.graph.calls[before[first.index].stop : here[first.index].start]]

    def next_numbered_round(self, index: int, tail: int | None) -> _Round | None:
        """The same, with weights that all have its number."""
        return self.next_round(index, tail, lambda skips: self.numbered(self.children[index], skips))

    def next_round(
        self, index: int, tail: int | None, suits: Callable[[Skips], bool] = lambda _: True
    ) -> _Round | None:
        """How child `index` goes, given the `tail` of the round before; parallel blocks may have a second loop."""
        tails = self._tails(index, tail)
        parallel = self.blocks.parallel([self.children[index - 1], self.children[index]])
        for second_loop in (False, True) if parallel else (False,):
            for choice in tails:
                skips = self._skips(index, choice, second_loop)
                if skips is not None and suits(skips):
                    return _Round(skips, choice)
        return None

    def _tails(self, index: int, known: int | None) -> Sequence[int | None]:
        """The tails that are worth a try: the known one, or all. Where the same runs before the next child, too, it
        belongs to a loop, and is no gap."""
        between = self.between(index)
        if not between:
            return [None]
        if known is not None:
            return [known]
        tails = range(min(len(between), _LONGEST_ROUND) + 1)
        return tails if self.between(index + 1) == between else [None, *tails]

    def _skips(self, index: int, tail: int | None, second_loop: bool) -> Skips | None:
        """What leaving out child `index` with its round means, in each record."""
        here, before = self.spans[index], self.spans[index - 1]
        after = (self.spans[index + 1] if index + 1 < len(self.spans) else None) or {}
        assert here is not None
        assert before is not None
        skips = {}
        for finder in (finder for finder in self.blocks.finders if finder.index in here):
            span, last, following = (spans.get(finder.index) for spans in (here, before, after))
            assert span is not None
            if tail is not None:
                if last is None:
                    return None  # where its round begins is not known
                start, stop = last.stop + tail, span.stop + tail
                if start > span.start or (following is not None and span.stop <= following.start < stop):
                    return None  # the round would begin inside the block, or end inside the next one
                span, last = Span(start, stop), Span(last.start + tail, start)
            skip = finder.skip(self.children[index], span, last, second_loop=second_loop)
            if skip is None:
                return None
            skips[finder.index] = skip
        return skips
