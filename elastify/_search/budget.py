"""What fits: budgets, the rows within them, and one trial of a search.

Rows are configurations as numbers (`rows`). A row above a budget shrinks uniformly towards one that fits; one that
fits grows, size by size, while anything still does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from elastify._space import Cost, SearchSpace, SubnetConfig

_HALVINGS = 7
_GROWTHS = 2000

CostFn = Callable[[np.ndarray], Cost]


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper limits per metric; all must hold. Costs of rows are measured against them."""

    limits: Mapping[str, int]
    cost: CostFn = field(repr=False)

    def fits(self, rows: np.ndarray) -> np.ndarray:
        """Rows within every limit."""
        cost = self.cost(rows)
        return np.logical_and.reduce(
            [np.ones(len(rows), bool), *(getattr(cost, m) <= n for m, n in self.limits.items())]
        )

    def load(self, cost: Cost) -> float:
        """The cost as one number to minimise: the largest share of a limit (of MACs where there is none)."""
        if not self.limits:
            return float(cost.macs)
        if len(self.limits) == 1:
            return float(getattr(cost, next(iter(self.limits))))
        return max(getattr(cost, metric) / max(1, limit) for metric, limit in self.limits.items())


@dataclass(frozen=True, slots=True)
class Trial:
    """One step of a search: `state` is new, repeated (the score of an earlier trial) or failed (score is NaN)."""

    number: int
    config: SubnetConfig
    cost: Cost
    score: float
    seconds: float = 0.0
    state: str = "new"


def shrink(space: SearchSpace, budget: Budget, row: np.ndarray, low: np.ndarray | None = None) -> np.ndarray:
    """The row itself if it fits, else the largest that does of the rows between it and a smaller one that fits (the
    smallest of all by default)."""
    if budget.fits(row[None])[0]:
        return row
    best = low = space.rows.least if low is None else low
    inside, outside = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        between = space.rows.fit(low + middle * (row - low)[None])
        if budget.fits(between)[0]:
            inside, best = middle, between[0]
        else:
            outside = middle
    return best


def starting_rows(space: SearchSpace, budget: Budget) -> list[np.ndarray]:
    """What a search looks at first: the largest configurations with all, with only widths, with only depths reduced."""
    n_axes, least, full = len(space.axes), space.rows.least, space.rows.full
    lows = [least, np.concatenate([least[:n_axes], full[n_axes:]]), np.concatenate([full[:n_axes], least[n_axes:]])]
    rows = [grow(space, budget, shrink(space, budget, full, low)) for low in lows if budget.fits(low[None])[0]]
    return list({tuple(row.tolist()): row for row in rows}.values())


def largest_nested(space: SearchSpace, budget: Budget) -> np.ndarray:
    """The largest row on the way from the smallest to the full one, then grown while something fits."""
    return space.rows.normalise(grow(space, budget, shrink(space, budget, space.rows.full))[None])[0]


def grow(space: SearchSpace, budget: Budget, row: np.ndarray) -> np.ndarray:
    """Enlarge one size at a time by one choice, always the one that is relatively the smallest and still fits."""
    for _ in range(_GROWTHS):
        rows = space.rows.grow(row)
        rows = rows[budget.fits(rows)] if len(rows) else rows
        if not len(rows):
            break
        changed = rows > row
        share = np.where(changed, row / space.rows.full, np.inf).min(axis=1)
        row = rows[np.argmin(share)]
    return row
