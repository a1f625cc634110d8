"""Which rows of blocks become stages, and why others stay whole.

Width comes before depth. Where a shorter row would pass on units in another order, or other units, than what follows
takes (a channel shuffle in each block, blocks with widths of their own), the axes stay and the row is whole: an axis
makes every block of the row cheaper, and by more than its share. Axes that stay anyway, because the user
froze them or nothing smaller is legal, stand in nobody's way; `rigid_blocks` names those to freeze for the depth.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import nn

from elastify._analysis import Analysis
from elastify._capture import resolve
from elastify._ir import RigidBlocks, Stage
from elastify._plan.alongside import alongside
from elastify._plan.blocks import BlockRow
from elastify._plan.depth import find_rows, skip_finders
from elastify._plan.described import Described, joined
from elastify._plan.naming import name_runs
from elastify._plan.options import Options
from elastify._plan.skips import SkipFinder

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_NAMED = 4  # axes in the reason of a row


def children(model: nn.Module, *, contained: bool) -> dict[str, list[str]]:
    """Paths of the containers of a model that hold any, or of its other modules, and of their children in order."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, _CONTAINERS) is contained:
            parts = [joined(path, name) for name, _ in module.named_children()]
            if parts:
                found[path] = parts
    return found


class Stages:
    """The rows of blocks of one model. `moving` are always the ids of the axes that may get smaller (None: all that
    nothing in the model froze).

    What the proofs find is told by `give_up` and `limit`, and remembered for the next plan.
    """

    def __init__(self, described: Described, analysis: Analysis, options: Options) -> None:
        self.described, self.analysis, self.options = described, analysis, options
        self.model = described.model
        self._reasons: dict[tuple[str, ...], str] = {}  # why rows stay whole, by their blocks
        self._limits: dict[tuple[str, ...], tuple[frozenset[int], str]] = {}
        self._beside: dict[tuple[str, ...], RigidBlocks] = {}  # what stays though it lies beside blocks that may go
        self._rows: dict[frozenset[int] | None, list[BlockRow]] = {}

    def give_up(self, blocks: tuple[str, ...], reason: str) -> None:
        """Verification found that a row is needed: it is cut at its gaps, or stays whole."""
        self._reasons[blocks] = reason

    def may_be_limited(self, blocks: tuple[str, ...]) -> bool:
        """Whether it is worth a try to keep the first blocks of a row only: not again, and not where it can be cut."""
        if blocks in self._limits:
            return False
        return not any(row.gaps for rows in self._rows.values() for row in rows if row.blocks == blocks)

    def limit(self, blocks: tuple[str, ...], counts: Collection[int], reason: str) -> None:
        """Only these numbers of first blocks are offered; the row stays whole where there are none."""
        self._limits[blocks] = frozenset(counts), reason
        if not counts:
            self.give_up(blocks, reason)

    def keep_beside(self, blocks: tuple[str, ...], paths: tuple[str, ...], reason: str) -> None:
        """What only rounds of the blocks of a row use stays all the same, because forward asks for it."""
        self._beside[blocks] = RigidBlocks("", paths, f"they stay without the blocks that use them: {reason}")

    def alongside(self, moving: frozenset[int]) -> dict[str, tuple[str, ...]]:
        """What goes with the blocks of the stages, with these blocks."""
        rows = [row for row in self._shortened(moving) if row.blocks not in self._beside] if self.options.depth else []
        return alongside(self.model, self.analysis.graphs, self._strict, rows)

    def stages(self, moving: frozenset[int]) -> tuple[Stage, ...]:
        """The stages of a plan."""
        if not self.options.depth:
            return ()
        stages, names = [], self._names(moving)
        for row in self._shortened(moving):
            name, full = names[row.blocks], len(row.blocks)
            choices, reason = self.options.alone(name, full, "depth"), ""
            if row.blocks in self._limits:
                counts, reason = self._limits[row.blocks]
                choices = tuple(n for n in choices if n in counts or n == full)
            stages.append(Stage(name, row.container, row.blocks, choices, row.bypassed, row.skips, reason))
        return tuple(stages)

    def rigid_blocks(self, moving: frozenset[int], names: Mapping[int, str]) -> tuple[RigidBlocks, ...]:
        """Rows that stay whole, with the reasons; `names` are those of the axes."""
        if not self.options.depth:
            return ()
        given_up = [
            RigidBlocks(row.container, row.blocks, self._reasons[row.blocks])
            for row in self._candidates(moving)
            if row.blocks in self._reasons and not row.gaps  # of one with gaps the pieces are listed
        ]
        refused = [RigidBlocks(row.container, row.blocks, row.refusal) for row in self._find(moving) if row.refusal]
        beside = [self._beside[row.blocks] for row in self._shortened(moving) if row.blocks in self._beside]
        return (*given_up, *self._held_by_width(moving, names), *refused, *beside)

    def _shortened(self, moving: frozenset[int]) -> list[BlockRow]:
        """The rows that can be shortened."""
        names, rows = self._names(moving), []
        for row in self._candidates(moving):
            pattern = self.options.frozen_by(names.get(row.blocks, ""), row.container, *row.blocks)
            if pattern is not None:
                self._reasons[row.blocks] = f"frozen by the pattern {pattern!r}"
            elif row.blocks not in self._reasons:
                rows.append(row)
        return rows

    def _held_by_width(self, moving: frozenset[int], names: Mapping[int, str]) -> list[RigidBlocks]:
        """Rows that would be stages if no axis moved."""
        taken = {block for row in self._find(moving) for block in row.blocks[1:]}
        rows = [row for row in self._find(frozenset()) if not row.refusal and taken.isdisjoint(row.blocks[1:])]
        if not rows:
            return []
        finders = {one.index: SkipFinder(self.analysis, one.index, moving, one.flow) for one in self._strict}
        rigid = []
        for row in rows:
            axes = _axes_apart(finders, row)
            labels = sorted(names[ident] for ident in axes if ident in names)
            more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
            shown = ", ".join(labels[:_NAMED]) + more
            text = f"width comes first: shorter, it would mix up units of {shown}; freeze them for depth instead"
            rigid.append(RigidBlocks(row.container, row.blocks, text))
        return rigid

    def _candidates(self, moving: frozenset[int] | None) -> list[BlockRow]:
        """All rows without a refusal; those that turned out to be rigid are followed by their pieces."""
        rows = []
        for row in self._find(moving):
            if not row.refusal:
                rows.append(row)
                if row.blocks in self._reasons and row.gaps:
                    rows += row.pieces()
        return rows

    def names(self, moving: frozenset[int] | None) -> list[str]:
        """The names of all rows."""
        return list(self._names(moving).values())

    def _names(self, moving: frozenset[int] | None) -> dict[tuple[str, ...], str]:
        shown = [row for row in self._candidates(moving) if row.blocks not in self._reasons or not row.gaps]
        return name_runs([(row.container, row.blocks) for row in shown])

    def _find(self, moving: frozenset[int] | None) -> list[BlockRow]:
        """All rows, looked for once for each set of moving axes that makes a difference."""
        if None not in self._rows:
            self._rows[None] = self._search(self._strict)
        if not any(finder.width_prevented for finder in self._strict):
            return self._rows[None]
        if moving not in self._rows:
            finders = [SkipFinder(self.analysis, one.index, moving, one.flow) for one in self._strict]
            self._rows[moving] = self._search(finders)
        return self._rows[moving]

    def _search(self, finders: Sequence[SkipFinder]) -> list[BlockRow]:
        containers, others = self._children
        return find_rows(self.analysis, containers, self._kind, others, finders)

    @cached_property
    def _strict(self) -> list[SkipFinder]:
        """Finders for which all axes move."""
        return skip_finders(self.analysis)

    @cached_property
    def _children(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Blocks that are removed from their containers, and those that are bypassed, by what holds them.

        Where numbers of the model name some blocks of a container (`feature_info`), all are bypassed: the others keep
        their names.
        """
        containers: dict[str, Sequence[str]] = {}
        others: dict[str, Sequence[str]] = {**children(self.model, contained=False)}
        for path, parts in children(self.model, contained=True).items():
            named = self.described.named_modules.intersection(parts)
            (others if 0 < len(named) < len(parts) else containers)[path] = parts
        return containers, others

    def _kind(self, path: str) -> Any:
        """What must be equal of blocks in a row: the class, and of containers the classes of what they hold."""
        module = resolve(self.model, path)
        names = [name for name, _ in module.named_children()] if isinstance(module, _CONTAINERS) else []
        parts = tuple(self._kind(joined(path, name)) for name in names)
        return (type(module), parts) if parts else type(module)


def _axes_apart(finders: Mapping[int, SkipFinder], row: BlockRow) -> set[int]:
    """Ids of the axes in which values and their stand-ins in a row differ, in any record."""
    axes = set[int]()
    for index, skip in (pair for skips in row.skips.values() for pair in skips.items()):
        values = finders[index].graph.values
        for value, stand_in in skip.instead:
            axes |= finders[index].axes_apart(values[value], values[stand_in]) or set()
    return axes
