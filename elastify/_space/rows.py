"""Legal configurations as rows of integers: a size per axis, then the number of kept blocks per stage.

A request is a row of targets. Sizes are first snapped down to their choices and relations checked for all rows at once;
only components of related axes that fail go to the exact solver of `relations`.
Relations without a table are met by trying. Sizes that only skipped blocks use are set to a canonical value
(the full size where legal), so that equal subnetworks are equal rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from elastify._ir import Plan, Presence, Shares
from elastify._space.relations import Relations, Step

_ABOVE = 1e4
_KEPT = 1e3  # what stays whole leaves its target last
_NEVER = np.iinfo(np.int64).max
_TRIES = 512

Kept = Sequence[frozenset[int]]


class Rows:
    """The rows of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.n_axes = len(plan.axes)
        self.full = np.array([axis.size for axis in plan.axes] + [s.choices[-1] for s in plan.stages], np.int64)

    @cached_property
    def relations(self) -> Relations:
        """The relations between sizes, compiled on first use."""
        return Relations(self.plan)

    @cached_property
    def choices(self) -> list[np.ndarray]:
        """Legal values per column."""
        return [*self.relations.domains, *(np.array(stage.choices, np.int64) for stage in self.plan.stages)]

    @cached_property
    def shares(self) -> Shares:
        """What a share of a dimension asks of the axes, by their ids."""
        layouts = (layout for layouts in self.plan.tensors.values() for layout in layouts)
        return Shares(layouts, {axis.id: axis.role for axis in self.plan.axes})

    @cached_property
    def ladder(self) -> np.ndarray:
        """The choices as an array `[columns, longest]`, filled up with a number above all."""
        rungs = np.full((len(self.choices), max(map(len, self.choices), default=1)), _NEVER)
        for column, choices in enumerate(self.choices):
            rungs[column, : len(choices)] = choices
        return rungs

    @cached_property
    def least(self) -> np.ndarray:
        """The smallest row: every size as small as the relations allow, but for what stays whole."""
        smallest = np.array([choices[0] for choices in self.choices])
        return self.fit(np.where(self.whole, self.full, smallest)[None].astype(float))[0]

    @cached_property
    def whole(self) -> np.ndarray:
        """The columns of axes that keep their full size where nobody names them."""
        return np.array([*(axis.whole for axis in self.plan.axes), *(False for _ in self.plan.stages)], bool)

    @cached_property
    def owning_blocks(self) -> dict[int, list[tuple[tuple[int, int], ...]]]:
        """Per column the blocks (stage, index) around each of its members, for axes that blocks own alone."""
        presence = Presence(self.plan)
        others: dict[str, list[str]] = {}
        for alias, name in self.plan.aliases.items():
            others.setdefault(name, []).append(alias)
        found: dict[int, list[tuple[tuple[int, int], ...]]] = {}
        for column, axis in enumerate(self.plan.axes):
            tensors = {name for member, _ in axis.members for name in (member, *others.get(member, ()))}
            around = {tuple(sorted(way)) for name in tensors for way in presence.ways(name)}
            if tensors and () not in around:
                found[column] = sorted(around)
        return found

    @cached_property
    def inner_stages(self) -> dict[int, tuple[tuple[int, int], ...]]:
        """Stages that lie inside blocks of others, with these blocks (stage, index) but for the first of each."""
        presence = Presence(self.plan)
        ways = enumerate(presence.ways(stage.blocks[0]) for stage in self.plan.stages)
        around = {number: tuple(sorted(frozenset.intersection(*own))) for number, own in ways}
        return {number: found for number, found in around.items() if found}

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A random legal row, before normalisation."""
        relations = self.relations
        row = self.ladder[np.arange(len(self.choices)), rng.integers(self._lengths)]
        row[self.whole] = self.full[self.whole]
        for component in relations.components:
            drawn = relations.read_back(self._trails[component.columns], lambda line: _any_finite(line, rng))
            for column, size in drawn.items():
                row[column] = size
        if not relations.legal(row[None, : self.n_axes])[0]:
            drawn = self._tries(row, rng, self.full)
            row[: self.n_axes] = drawn[0, : self.n_axes] if len(drawn) else self.full[: self.n_axes]
        return row

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.array([len(choices) for choices in self.choices], np.int64)

    def drawn(self, column: int) -> np.ndarray:
        """Which legal sizes of an axis are used where nobody names it."""
        domain = self.relations.domains[column]
        return domain == self.full[column] if self.whole[column] else np.ones(len(domain), bool)

    def _tries(self, row: np.ndarray, rng: np.random.Generator, upper: np.ndarray) -> np.ndarray:
        """Legal rows like this one, but for random sizes up to `upper` of the axes of relations without a table."""
        relations = self.relations
        rows = np.repeat(row[None], _TRIES, axis=0)
        for column in sorted({column for relation in relations.untabled for column in relation.scope}):
            below = relations.domains[column][relations.domains[column] <= upper[column]]
            if len(below) and not self.whole[column]:
                rows[:, column] = rng.choice(below, _TRIES)
        return rows[relations.legal(rows[:, : self.n_axes])]

    @cached_property
    def _trails(self) -> dict[tuple[int, ...], list[Step]]:
        """Each component's elimination without preferences, to draw from."""
        relations, trails = self.relations, {}
        for component in relations.components:
            even = {column: np.where(self.drawn(column), 0.0, np.inf) for column in component.columns}
            trail = relations.eliminate(component, even)
            assert trail is not None  # the full network is legal
            trails[component.columns] = trail
        return trails

    def nested(self, n: int, low: np.ndarray | None = None, high: np.ndarray | None = None) -> np.ndarray:
        """`n` legal rows between two legal ones (the smallest and the full by default), no size ever shrinking."""
        low = self.least if low is None else low
        high = self.full if high is None else high
        steps = np.linspace(0, 1, n)[:, None] if n > 1 else np.ones((1, 1))
        rows = self.fit(self._along(steps, low, high))
        rows[-1] = high
        for number in range(1, n - 1):
            if (rows[number] < rows[number - 1]).any():
                rows[number] = self.fit(rows[number][None], lower=rows[number - 1])[0]
        return rows

    def _along(self, steps: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Rows from one to the other in which axes grow evenly; of several in one dimension, the dimension does: the
        finer factors first, while the coarser ones are at their smallest."""
        rows = low + steps * (high - low)
        columns = {axis.id: column for column, axis in enumerate(self.plan.axes)}
        for ident, found in self.shares.coarser.items():
            for above in found:
                chain = [c for c in (columns[i] for i in (*above, ident)) if low[c] < high[c]]
                if len(chain) > 1 and chain[-1] == columns[ident]:
                    small, large = (np.prod(row[chain].astype(float)) for row in (low, high))
                    left = small + steps[:, 0] * (large - small)
                    for number, column in enumerate(chain):
                        rest = np.prod(high[chain[number + 1 :]].astype(float))
                        rows[:, column] = np.clip(left / rest, low[column], high[column])
                        left = np.minimum(left / low[column], rest)
        return rows

    def fit(self, targets: np.ndarray, lower: np.ndarray | None = None) -> np.ndarray:
        """The legal row nearest to each target row, not above it where possible and never below the row `lower`."""
        rows = self.fit_wishes(targets, lower=lower)
        assert rows is not None  # nothing is pinned and the full network is legal
        return rows

    def grow(self, row: np.ndarray) -> np.ndarray:
        """Legal rows with one size that is in use, or one depth, enlarged by one choice."""
        grown, unused = [], self._unused(row[None])[0]
        for column, choices in enumerate(self.choices):
            larger = choices[choices > row[column]]
            if len(larger) and not (column < self.n_axes and unused[column]):
                grown.append(np.where(np.arange(len(row)) == column, larger[0], row))
        rows = np.array(grown, np.int64).reshape(-1, len(row))
        return rows[self.relations.legal(rows[:, : self.n_axes])]

    def fit_wishes(
        self,
        targets: np.ndarray,
        *,
        weights: np.ndarray | None = None,
        pins: np.ndarray | None = None,
        lower: np.ndarray | None = None,
        solve: bool = False,
    ) -> np.ndarray | None:
        """As `fit`, with weights and pins (sizes that must be met exactly) per axis; None where pins contradict.
        `solve` goes to the solver at once, without a try of what is nearest axis by axis."""
        relations, n_axes = self.relations, self.n_axes
        weights = np.ones(n_axes) if weights is None else weights
        weights = np.where(self.whole[:n_axes], np.maximum(weights, _KEPT), weights)
        pins = np.zeros(n_axes, bool) if pins is None else pins
        at = (self.ladder <= targets[:, :, None] * (1 + 1e-12)).sum(axis=2) - 1
        rows = self.ladder[np.arange(len(self.choices)), np.maximum(at, 0)]
        if lower is not None:
            rows = np.maximum(rows, lower)
        sizes = rows[:, :n_axes].copy()
        for component in relations.components:
            columns = list(component.columns)
            good = relations.legal_part(sizes, component)
            for column in columns:
                good &= ~pins[column] | (sizes[:, column] == targets[:, column])
                good &= True if lower is None else sizes[:, column] >= lower[column]
            for number in range(len(sizes)) if solve else np.flatnonzero(~good):
                unary = {c: self._distance(c, targets[number, c], weights[c], pins[c], lower) for c in columns}
                solved = relations.solve(component, unary)
                if solved is None:
                    if lower is None:
                        return None
                    solved = {column: int(lower[column]) for column in columns}
                for column, size in solved.items():
                    sizes[number, column] = size
        rows[:, :n_axes] = sizes
        return self._meet_by_trying(rows, targets, lower, pins)

    @cached_property
    def _logs(self) -> list[np.ndarray]:
        return [np.log(domain) for domain in self.relations.domains]

    def _distance(self, column: int, target: float, weight: float, pin: bool, lower: np.ndarray | None) -> np.ndarray:
        """Cost of each choice: how far it is from the target, in logarithms; above it is worse than anything below."""
        domain = self.relations.domains[column]
        apart = np.log(max(target, 1e-9)) - self._logs[column]
        cost = weight * np.abs(apart)
        cost[apart < -1e-12] += weight * _ABOVE
        if pin:
            cost[domain != target] = np.inf
        if lower is not None:
            cost[domain < lower[column]] = np.inf
        return cost

    def _meet_by_trying(
        self, rows: np.ndarray, targets: np.ndarray, lower: np.ndarray | None, pins: np.ndarray
    ) -> np.ndarray | None:
        """Rows that break a relation without a table become the nearest of random ones below the target, or else the
        lower or the full row."""
        relations, n_axes = self.relations, self.n_axes
        if not relations.untabled:
            return rows
        for number in np.flatnonzero(~relations.legal(rows[:, :n_axes])):
            target = targets[number, :n_axes]
            tries = self._tries(rows[number], np.random.default_rng(0), targets[number])[:, :n_axes]
            tries = tries[((tries <= target) & (~pins | (tries == target))).all(axis=1)]
            if lower is not None:
                tries = tries[(tries >= lower[:n_axes]).all(axis=1)]
            if len(tries):
                rows[number, :n_axes] = tries[np.argmin(np.log(target / tries).sum(axis=1))]
            elif pins.any():
                return None
            else:
                rows[number, :n_axes] = (self.full if lower is None else lower)[:n_axes]
        return rows

    def in_choices(self, rows: np.ndarray) -> np.ndarray:
        """Which entries of rows `[n, columns]` are choices of their column."""
        return (self.ladder == rows[:, :, None]).any(axis=2)

    def normalise(self, rows: np.ndarray, kept: Kept | None = None) -> np.ndarray:
        """Rows with canonical sizes for what skipped blocks alone use. `kept` gives the blocks of each stage where
        they are not a prefix."""
        rows = rows.copy()
        if not self.owning_blocks:
            return rows
        unused = self._unused(rows, kept)
        if not self.relations.relations:
            rows[:, : self.n_axes] = np.where(unused, self.full[: self.n_axes], rows[:, : self.n_axes])
            return rows
        before = rows[:, : self.n_axes]
        after = np.where(unused, self.full[: self.n_axes], before)
        changed = unused.any(axis=1)
        good = self.relations.legal(after)
        rows[changed & good, : self.n_axes] = after[changed & good]
        for number in np.flatnonzero(changed & ~good):
            targets = np.where(unused[number], self.full[: self.n_axes], before[number])
            targets = np.concatenate([targets, rows[number, self.n_axes :]]).astype(float)
            solved = self.fit_wishes(targets[None], pins=~unused[number], solve=True)
            if solved is not None:
                rows[number] = solved[0]
        return rows

    def _unused(self, rows: np.ndarray, kept: Kept | None = None) -> np.ndarray:
        """Axes `[n, axes]` of which every member lies inside a skipped block."""
        unused = np.zeros((len(rows), self.n_axes), bool)
        for members, columns in self._columns_by_blocks.items():
            skipped = [np.logical_or.reduce([self._skipped(rows, s, b, kept) for s, b in around]) for around in members]
            unused[:, columns] = np.logical_and.reduce(skipped)[:, None]
        return unused

    @cached_property
    def _columns_by_blocks(self) -> dict[tuple[tuple[tuple[int, int], ...], ...], list[int]]:
        groups: dict[tuple[tuple[tuple[int, int], ...], ...], list[int]] = {}
        for column, members in self.owning_blocks.items():
            groups.setdefault(tuple(members), []).append(column)
        return groups

    def _skipped(self, rows: np.ndarray, stage: int, block: int, kept: Kept | None) -> np.ndarray:
        if kept is not None:
            return np.full(len(rows), block not in kept[stage])
        return rows[:, self.n_axes + stage] <= block


def _any_finite(line: np.ndarray, rng: np.random.Generator) -> int:
    return int(rng.choice(np.flatnonzero(np.isfinite(line))))
