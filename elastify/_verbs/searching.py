"""The best subnet within a budget.

The search below sees configurations and two functions, what one costs and what one scores; the model is activated
for each score, and the winner extracted, here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from elastify._search import Result, SearchOptions, run_search
from elastify._space import SubnetConfig, parse_budget, state
from elastify._verbs.activation import activate
from elastify._verbs.extraction import extract
from elastify._verbs.spaces import costs_of


def search(
    model: nn.Module,
    budget_macs: float | str | None = None,
    budget_params: float | str | None = None,
    budget_bytes: float | str | None = None,
    *,
    evaluate: Callable[[nn.Module], float] | None = None,
    direction: str = "maximize",
    n_trials: int = 200,
    population: int = 32,
    seed: int = 0,
    study: Any = None,
    timeout: float | None = None,
    progress: bool = True,
) -> Result:
    """The best subnet within a budget, extracted.

    The result has `.model`, `.config`, `.cost`, `.score`, `.pareto` and `.history`.

    Budgets are per sample, as numbers or with a suffix ("350M", "1.2G"); several must all hold. `evaluate(model)`
    is called with each candidate active and returns a score; None returns the largest nested subnet. The algorithm
    is NSGA-II from Optuna (`pip install elastify[search]`), over score and the first budget given; every candidate
    is repaired into the budget before it is evaluated. `study` names a file with which a search can be resumed.

    Raises ElastifyError for an impossible budget, naming the smallest cost that can be reached.

    >>> import torch
    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> search(model, budget_macs=250).model[0]
    Linear(in_features=4, out_features=32, bias=True)
    """
    known, costs = state(model), costs_of(model)
    full = costs.of()
    asked = {"macs": budget_macs, "params": budget_params, "bytes": budget_bytes}
    budgets = {name: parse_budget(value, getattr(full, name)) for name, value in asked.items() if value is not None}

    def score(config: SubnetConfig) -> float:
        with activate(model, config):
            return float(evaluate(model))  # type: ignore[misc] - only called where it is not None

    options = SearchOptions(direction, n_trials, population, seed, study, timeout, progress)
    result = run_search(known.space, costs, budgets, score if evaluate else None, options)
    return replace(result, model=extract(model, result.config))
