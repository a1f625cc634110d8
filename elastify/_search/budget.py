"""What fits: budgets, the rows within them, and one trial of a search.

Rows are configurations as numbers (`rows`). A row above a budget shrinks uniformly towards one that fits; one that
fits grows, size by size, while anything still does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real

import numpy as np
from torch import Tensor

from elastify._errors import ElastifyError
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


def read_score(found: object) -> tuple[float, str]:
    """What an evaluation returned as a number, and what is wrong with it ("" if nothing is).

    >>> read_score(1), read_score(None)
    ((1.0, ''), (nan, 'it returned None, which is not a number'))
    """
    try:
        found = found.detach() if isinstance(found, Tensor) else found
        score = math.nan if isinstance(found, str) else float(found)  # type: ignore[arg-type] - told below
    except (TypeError, ValueError, RuntimeError):
        score = math.nan
    if math.isfinite(score):
        return score, ""
    shape = getattr(found, "shape", ())
    text = f"a {type(found).__name__} of shape {list(shape)}" if len(shape) else repr(found)
    kind = "" if isinstance(found, Real) or (hasattr(found, "shape") and not len(shape)) else ", which is not a number"
    return math.nan, f"it returned {text}{kind}"


def failed(config: SubnetConfig, why: str) -> ElastifyError:
    """The error for a score that is none."""
    fix = "evaluate(model) must return a finite number for any configuration; -1e9 for one that must not win"
    return ElastifyError("evaluate failed", where=repr(config), why=why, fix=fix)


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
