"""What is done with an elastic model: `space`, `cost`, `activate`, `extract`, `search`.

Everything that is known of the model besides its weights is its `State`; configurations have names here and
numbers below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from elastify._capture import uncollected
from elastify._deploy import materialise
from elastify._rewrite import elastic_state, set_active
from elastify._search import Result, run_search
from elastify._space import Cost, SearchSpace, SubnetConfig, ids_of, parse_budget, state


def space(model: nn.Module) -> SearchSpace:
    """The search space of an elastic model; printing it shows axes, stages and what is frozen and why."""
    return state(model).space


def cost(model: nn.Module, config: Any = None) -> Cost:
    """Exact cost per sample of a configuration (None: the active one is not asked, the full network is meant).

    A `SubnetConfig`, a mapping of globs or a ratio gives numbers; a list of those, or an array from
    `space(model).encode`, gives arrays. MACs are multiply-accumulates; activations count elements.
    """
    known = state(model)
    if isinstance(config, np.ndarray):
        return known.costs(config)
    if isinstance(config, (list, tuple)):
        return known.costs(known.space.encode([known.space.config(item) for item in config]))
    return known.costs.of(None if config is None else known.space.config(config))


class activate:  # noqa: N801 - reads as a function: activate(model, config), or with activate(model, config): ...
    """Make one subnet the active one: at once, and until the end of the `with` block if there is one.

    `config` is a SubnetConfig, a mapping of globs to ratios or sizes, or one ratio; None is the full network.

    >>> import torch
    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> with activate(model, 0.5):
    ...     model[0].weight.shape
    torch.Size([32, 4])
    >>> model[0].weight.shape
    torch.Size([64, 4])
    """

    def __init__(self, model: nn.Module, config: Any = None) -> None:
        known = state(model)
        self._model, self._before = model, elastic_state(model).choice
        self.config = known.space.max if config is None else known.space.config(config)
        set_active(model, ids_of(known.space, self.config))

    def __enter__(self) -> SubnetConfig:
        return self.config

    def __exit__(self, *error: Any) -> None:
        set_active(self._model, self._before)


def extract(model: nn.Module, config: Any = None) -> nn.Module:
    """A plain model of the original class with the weights of one subnet, on memory of its own.

    `config` as for `activate`; None takes the subnet that is active now.
    """
    known = state(model)
    chosen = active_config(model) if config is None else known.space.config(config)
    with uncollected():
        return materialise(model, ids_of(known.space, chosen))


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
    known = state(model)
    full = known.costs.of()
    asked = {"macs": budget_macs, "params": budget_params, "bytes": budget_bytes}
    budgets = {name: parse_budget(value, getattr(full, name)) for name, value in asked.items() if value is not None}

    def score(config: SubnetConfig) -> float:
        with activate(model, config):
            return float(evaluate(model))  # type: ignore[misc] - only called where it is not None

    result = run_search(
        known.space,
        known.costs,
        budgets,
        score if evaluate else None,
        direction=direction,
        n_trials=n_trials,
        population=population,
        seed=seed,
        study=study,
        timeout=timeout,
        progress=progress,
    )
    return replace(result, model=extract(model, result.config))


def active_config(model: nn.Module) -> SubnetConfig:
    """The configuration that is active now."""
    where, choice = state(model).space, elastic_state(model).choice
    sizes = {axis.name: choice.sizes.get(axis.id, axis.size) for axis in where.axes}
    depths = {stage.name: choice.blocks.get(stage.name, range(len(stage.blocks))) for stage in where.stages}
    return SubnetConfig.of(sizes, depths, space=where.fingerprint)
