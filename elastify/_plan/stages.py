"""Which rows of blocks become stages, and why others stay whole.

Width comes before depth. Where a shorter row would hand on units in another order, or other units, than what follows
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
from elastify._plan.depth import Run, all_branches, find_runs
from elastify._plan.naming import name_runs
from elastify._plan.numbers import Described
from elastify._plan.options import Options
from elastify._plan.skips import Branches


def children(model: nn.Module, *, contained: bool) -> dict[str, list[str]]:
    """Paths of the containers of a model that hold any, or of its other modules, and of their children in order."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) is contained:
            parts = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
            if parts:
                found[path] = parts
    return found


class Stages:
    """The rows of blocks of one model. `moving` are always the ids of the axes that may get smaller (None: all)."""

    def __init__(self, described: Described, analysis: Analysis, options: Options) -> None:
        self.described, self.analysis, self.options = described, analysis, options
        self.model = described.model
        self.rigid: dict[tuple[str, ...], str] = {}
        self.limits: dict[tuple[str, ...], tuple[frozenset[int], str]] = {}
        self._found: dict[frozenset[int] | None, list[Run]] = {}

    def give_up(self, blocks: tuple[str, ...], reason: str) -> None:
        """Verification found that a row is needed: it is cut at its gaps, or stays whole."""
        self.rigid[blocks] = reason

    def may_be_limited(self, blocks: tuple[str, ...]) -> bool:
        """Whether it is worth a try to keep the first blocks of a row only: not again, and not where it can be cut."""
        gaps = (run.gaps for runs in self._found.values() for run in runs if run.blocks == blocks)
        return blocks not in self.limits and not any(gaps)

    def limit(self, blocks: tuple[str, ...], counts: Collection[int], reason: str) -> None:
        """Only these numbers of first blocks are offered; the row stays whole where there are none."""
        self.limits[blocks] = frozenset(counts), reason
        if not counts:
            self.give_up(blocks, reason)

    def runs(self, moving: frozenset[int] | None) -> list[Run]:
        """The rows that can be shortened; names of axes depend on them, whether depth is asked for or not."""
        names, left = self._names(moving), []
        for run in self._candidates(moving):
            asked = self.options.frozen_by(names.get(run.blocks, ""), run.container, *run.blocks)
            if asked is not None:
                self.rigid[run.blocks] = f"frozen as asked by {asked!r}"
            elif run.blocks not in self.rigid:
                left.append(run)
        return left

    def stages(self, moving: frozenset[int]) -> tuple[Stage, ...]:
        """The stages of a plan."""
        stages, names = [], self._names(moving)
        for run in self.runs(moving) if self.options.depth else ():
            name = names[run.blocks]
            choices = self.options.sizes(name, len(run.blocks), "depth")
            counts, reason = self.limits.get(run.blocks, (frozenset(choices), ""))
            choices = tuple(n for n in choices if n in counts or n == len(run.blocks))
            skips = {path: skips[0] for path, skips in run.skips.items()}
            stages.append(Stage(name, run.container, run.blocks, choices, run.aside, skips, reason))
        return tuple(stages)

    def rigid_blocks(self, moving: frozenset[int], names: Mapping[int, str]) -> tuple[RigidBlocks, ...]:
        """Rows that stay whole, with the reasons; `names` are those of the axes."""
        if not self.options.depth:
            return ()
        refused = [
            RigidBlocks(run.container, run.blocks, self.rigid[run.blocks])
            for run in self._candidates(moving)
            if run.blocks in self.rigid and not run.gaps
        ]
        held = [RigidBlocks(run.container, run.blocks, run.refusal) for run in self._find(moving) if run.refusal]
        return (*refused, *self._in_conflict(moving, names), *held)

    def _in_conflict(self, moving: frozenset[int], names: Mapping[int, str]) -> list[RigidBlocks]:
        """Rows that would be stages if no axis moved."""
        taken = {block for run in self._find(moving) for block in run.blocks[1:]}
        rows = [run for run in self._find(frozenset()) if not run.refusal and taken.isdisjoint(run.blocks[1:])]
        if not rows:
            return []
        branches = Branches(self.analysis, 0, moving, self._strict[0].links)
        values = branches.graph.values
        found = []
        for run in rows:
            pairs = [pair for skips in run.skips.values() for pair in skips[0].instead]
            apart = set[int]().union(*(branches.apart(values[a], values[b]) or () for a, b in pairs))
            axes = sorted(names[ident] for ident in apart if ident in names)
            shown = ", ".join(axes[:4]) + (f" and {len(axes) - 4} more" if len(axes) > 4 else "")
            text = f"width comes first: shorter, it would mix up units of {shown}; freeze them for depth instead"
            found.append(RigidBlocks(run.container, run.blocks, text))
        return found

    def _candidates(self, moving: frozenset[int] | None) -> list[Run]:
        """All rows; those that turned out to be rigid are cut at their gaps."""
        found = [run for run in self._find(moving) if not run.refusal]
        cut = [[run, *(run.pieces() if run.blocks in self.rigid and run.gaps else ())] for run in found]
        return [run for runs in cut for run in runs]

    def names(self, moving: frozenset[int] | None) -> list[str]:
        """The names of all rows."""
        return list(self._names(moving).values())

    def _names(self, moving: frozenset[int] | None) -> dict[tuple[str, ...], str]:
        shown = [run for run in self._candidates(moving) if run.blocks not in self.rigid or not run.gaps]
        return name_runs([(run.container, run.blocks) for run in shown])

    def _find(self, moving: frozenset[int] | None) -> list[Run]:
        if None not in self._found:
            self._found[None] = self._search(self._strict)
        if not any(one.parted for one in self._strict):
            return self._found[None]  # what moves makes no difference
        if moving not in self._found:
            self._found[moving] = self._search(
                [Branches(self.analysis, one.index, moving, one.links) for one in self._strict]
            )
        return self._found[moving]

    def _search(self, branches: Sequence[Branches]) -> list[Run]:
        leaving, others = self._children
        return find_runs(self.analysis, leaving, self._kind, others, branches)

    @cached_property
    def _strict(self) -> list[Branches]:
        return all_branches(self.analysis)

    @cached_property
    def _children(self) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
        """Blocks that leave their containers, and those that step aside."""
        contained, others = (children(self.model, contained=flag) for flag in (True, False))
        named = self.described.named_modules
        numbered = {path for path, parts in contained.items() if 0 < len(named.intersection(parts)) < len(parts)}
        others |= {path: contained[path] for path in numbered}  # their blocks step aside: the others keep their names
        return {path: parts for path, parts in contained.items() if path not in numbered}, {**others}

    def _kind(self, path: str) -> Any:
        module = resolve(self.model, path)
        inside = isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
        parts = [f"{path}.{name}" if path else name for name, _ in module.named_children()] if inside else ()
        return (type(module), tuple(map(self._kind, parts))) if parts else type(module)
