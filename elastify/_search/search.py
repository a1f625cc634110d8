"""Search: the best subnetwork within budgets.

`evaluate=None` needs no data: the largest nested configuration within the budgets, then grown, size by size, while
anything still fits. With a score, Optuna's NSGA-II proposes configurations for two objectives, score and cost.
Every proposal is first repaired: shrunk uniformly towards the smallest network until all budgets
hold; so no evaluation is spent on what could not be used. Each distinct configuration is evaluated once. A study
file makes the search resumable and shareable between processes. Only a search space, a cost and a score are
seen here, no model.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from elastify._errors import ElastifyError
from elastify._search.budget import Budget, CostFn, Trial, failed, largest_nested
from elastify._search.options import SearchOptions
from elastify._search.workers import Workers
from elastify._space import METRICS, Cost, SearchSpace, SubnetConfig, human


class Point(NamedTuple):
    """A configuration with its cost and score."""

    config: SubnetConfig
    cost: Cost
    score: float


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found: `pareto` holds the points that no other beats in both score and cost, cheapest first.

    `score` is None where nothing was evaluated; `model` is the extracted subnetwork, set by `elastify.search`.
    """

    config: SubnetConfig
    cost: Cost
    score: float | None = None
    pareto: tuple[Point, ...] = ()
    history: tuple[Trial, ...] = ()
    model: Any = None

    def __str__(self) -> str:
        score = "" if self.score is None else f"score {self.score:.6g}, "
        lines = [f"{score}{self.cost!r}", f"  {self.config!r}"]
        if self.history:
            new = sum(trial.state == "new" for trial in self.history)
            lines.append(f"  {len(self.history)} trials, {new} evaluated, {len(self.pareto)} on the Pareto front")
        return "\n".join(lines)


def run_search(
    space: SearchSpace,
    cost_fn: CostFn,
    budgets: Mapping[str, int],
    score: Callable[[SubnetConfig], Any] | Workers | None = None,
    options: SearchOptions | None = None,
) -> Result:
    """The best configuration of a space within budgets (a limit per metric: macs, params, bytes, activations).

    `score` gives the score of a configuration, or is the workers that do; None asks for the largest nested one. Ctrl-C
    returns what was found so far. Raises ElastifyError where nothing can fit.
    """
    options = options or SearchOptions()
    unknown = set(budgets) - set(METRICS)
    if unknown:
        raise ElastifyError(f"no budget is called {', '.join(sorted(unknown))}", fix=f"one of {', '.join(METRICS)}")
    if not budgets and score is None:
        raise ElastifyError(
            "nothing to search for", why="there is neither a budget nor evaluate", fix="budget_macs=..."
        )
    budget, workers = Budget(dict(budgets), cost_fn), Workers(score) if callable(score) else score
    _check_reachable(space, budget)
    if budgets and budget.fits(space.rows.full[None])[0]:
        return _full_model(space, budget, workers)
    if workers is None:
        row = largest_nested(space, budget)
        return Result(space.decode(row), cost_fn(row[None])[0])

    def work() -> Sequence[Trial]:
        from elastify._search.study import Study

        study = Study(space, budget, workers, options)
        study.run()
        return study.trials()

    return summarise(workers.lead(work), options, budget)


def summarise(trials: Sequence[Trial], options: SearchOptions, budget: Budget) -> Result:
    """The best of the trials and their Pareto front."""
    distinct = {trial.config: trial for trial in trials if math.isfinite(trial.score)}
    if not distinct:
        raise ElastifyError("no configuration could be evaluated", why=f"all {len(trials)} trials failed")
    sign = 1 if options.direction == "maximize" else -1
    ranked = sorted(distinct.values(), key=lambda t: (budget.load(t.cost), -sign * t.score))
    front: list[Trial] = []
    for trial in ranked:
        if not front or options.better(trial.score, front[-1].score):
            front.append(trial)
    best = front[-1]
    pareto = tuple(Point(trial.config, trial.cost, trial.score) for trial in front)
    return Result(best.config, best.cost, best.score, pareto, tuple(trials))


def _check_reachable(space: SearchSpace, budget: Budget) -> None:
    cost = budget.cost(space.rows.least[None])[0]
    for metric, limit in budget.limits.items():
        least = getattr(cost, metric)
        if least > limit:
            raise ElastifyError(
                f"no subnetwork fits a budget of {human(limit)} {metric}",
                why=f"the smallest reachable cost is {human(least)} ({least}) {metric}",
                fix="raise the budget, or lower min_ratio in elastify(...)",
            )


def _full_model(space: SearchSpace, budget: Budget, workers: Workers | None) -> Result:
    cost = budget.cost(space.rows.full[None])[0]
    limits = ", ".join(f"{human(limit)} {metric}" for metric, limit in budget.limits.items())
    warnings.warn(f"the full model is within the budget of {limits}: it is returned as it is", stacklevel=4)
    result = Result(space.max, cost)
    if workers is None:
        return result
    (outcome,) = workers.outcomes([space.max])
    if outcome.error:
        raise failed(space.max, outcome.error) from workers.last_error
    score, trial = outcome.score, Trial(0, space.max, cost, outcome.score)
    return replace(result, score=score, pareto=(Point(space.max, cost, score),), history=(trial,))
