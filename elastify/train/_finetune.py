"""The recommended recipe in one call: from a trained elastic model and budgets to plain models that fit them.

    named sizes   the largest subnet within each budget, and the full network
    sort          important units first; the function stays
    train         one update a batch, each of one named size, in exact shares of the draws
    recalibrate   running statistics of every named size, where there are any
    choose        for each budget the best of the named sizes within it, extracted

Only sizes that will be shipped are trained: sharing is what pays, and a size that nobody uses takes a share of it. All
steps are public functions, and each choice is an argument. `results.md` says what the recipe was measured against.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from elastify._errors import ElastifyError, function, whole_number
from elastify._search import Budget, Result, SearchOptions, Trial, failed, read_score, summarise
from elastify._space import SubnetConfig, human, parse_budget
from elastify._verbs import Budgets, activate, cost, costs_of, extract, pairwise, search, space
from elastify.train._batches import ForwardFn
from elastify.train._evaluate import evaluating
from elastify.train._loop import Limits, Objective, fit
from elastify.train._strategies import Sorted, shares
from elastify.train._surgery import recalibrate, sort_channels


def finetune(
    model: nn.Module,
    data: Iterable[Any],
    loss: Callable[[Any, Any], Tensor],
    *,
    budget_macs: Budgets = None,
    budget_params: Budgets = None,
    budget_bytes: Budgets = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    direction: str = "maximize",
    sort: str | None = "taylor",
    weights: str | Sequence[float] = "macs",
    teacher: str | nn.Module | None = None,
    mix: float = 0.5,
    few: int = 8,
    seed: int = 0,
    forward_fn: ForwardFn | None = None,
    progress: bool = True,
    **training: Any,
) -> Any:
    """Train the sizes that fit the budgets, all at once, and extract them: one `Result` as of `search`, or a list.

    A budget is as for `search`; a list of them gives a list of results, two lists go pairwise, and one value holds
    for all. `data` and `loss` are as for `fit`, and so is `training`: a limit (`steps=`, `epochs=`, `minutes=` or
    `macs=`) has to be among it; `scheduler="cosine"` and `clip=1.0` are the defaults here.

    The model should be trained already. `sort` is the importance that its units are sorted by (None: not at all),
    measured on the first `few` batches, which recalibrate running statistics, too. `weights`, `teacher` and `mix` are
    as for `Sorted`. `evaluate(model)` scores each named size, which is active, and the best in `direction` within a
    budget is the result; without it the largest is.

    Raises ElastifyError for impossible budgets and arguments before anything is changed.

    >>> import torch
    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> data = [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(5)]
    >>> results = finetune(
    ...     model, data, nn.functional.cross_entropy, budget_macs=["60%", "30%"], epochs=2, progress=False
    ... )
    >>> [result.model[0].out_features for result in results]
    [32, 16]
    """
    budgets, is_list = pairwise(macs=budget_macs, params=budget_params, bytes=budget_bytes)
    if not budgets[0]:
        raise ElastifyError("there is no budget", where="finetune", fix='budget_macs="50%", or a list of budgets')
    options, full = SearchOptions(direction), cost(model, space(model).max)
    epochs, steps, minutes, macs = (training.get(name) for name in ("epochs", "steps", "minutes", "macs"))
    Limits(epochs, steps, minutes, macs)  # or an error, before anything is changed
    if not isinstance(data, Iterable) or isinstance(data, (str, Tensor)):
        raise ElastifyError(f"data are a {type(data).__name__}", fix="a DataLoader, or a list of (inputs, targets)")
    unknown = training.keys() - inspect.signature(fit).parameters.keys()
    if unknown:
        raise TypeError(f"finetune() got an unexpected keyword argument {min(unknown)!r}")
    Objective(loss, None, forward_fn)
    if evaluate is not None:
        function("evaluate", evaluate, "evaluate=lambda model: accuracy(model)")
    few, seed = whole_number("few", few, 1), whole_number("seed", seed, 0)
    chosen = [search(model, **{f"budget_{name}": value for name, value in budget.items()}) for budget in budgets]
    limits = [{name: parse_budget(value, getattr(full, name)) for name, value in budget.items()} for budget in budgets]
    configs = tuple(dict.fromkeys([*(result.config for result in chosen), space(model).max]))
    strategy = Sorted(model, configs, weights=weights, teacher=teacher, mix=mix, seed=seed)
    strategy.warned_of_norms()  # their statistics are measured below
    if progress:
        print(plan_of(model, strategy, training))
    batches = list(itertools.islice(data, few))
    if sort is not None:
        sort_channels(model, sort, batches, loss, seed=seed)
    training = {"scheduler": "cosine", "clip": 1.0, **training}
    fit(model, data, loss, strategy=strategy, forward_fn=forward_fn, seed=seed, progress=progress, **training)
    for config in configs:
        recalibrate(model, batches, config, forward_fn, update_full=True)
    trials = [Trial(number, config, cost(model, config), math.nan) for number, config in enumerate(configs)]
    if evaluate is not None:
        trials = [replace(trial, score=_scored(model, trial.config, evaluate)) for trial in trials]
    results = [_best(model, trials, result, limit, options) for result, limit in zip(chosen, limits, strict=True)]
    return results if is_list else results[0]


def plan_of(model: nn.Module, strategy: Sorted, training: Mapping[str, Any]) -> str:
    """What a fine-tuning is going to do: its sizes, their MACs, and their shares of updates and MACs."""
    macs = np.array([float(value) for value in cost(model, list(strategy.configs)).macs])
    course = [shares(strategy.weights, macs.tolist(), done / 20) for done in range(21)]
    drawn = np.mean(course, 0)
    spent = drawn * macs / (drawn @ macs)
    until = ", ".join(f"{name}={training[name]}" for name in ("steps", "epochs", "minutes", "macs") if name in training)
    lines = [
        f"one update trains one of {len(macs)} sizes, until {until}",
        f"  a mean update costs {drawn @ macs / macs.max():.0%} of one of the full network",
        "  MACs      share of full  updates  of all MACs",
    ]
    rows = zip(macs, macs / macs.max(), drawn, spent, strict=True)
    return "\n".join([*lines, *(f"  {human(int(m)):<8}  {f:>13.1%}  {d:>7.1%}  {s:>11.1%}" for m, f, d, s in rows)])


def _scored(model: nn.Module, config: SubnetConfig, evaluate: Callable[[nn.Module], float]) -> float:
    with activate(model, config), evaluating(model):
        score, wrong = read_score(evaluate(model))
    if wrong:
        raise failed(config, wrong)
    return score


def _best(
    model: nn.Module, trials: Sequence[Trial], largest: Result, limits: Mapping[str, int], options: SearchOptions
) -> Result:
    """The best of the sizes within a budget, or where nothing was scored the largest one, extracted."""
    within = [trial for trial in trials if all(getattr(trial.cost, name) <= limits[name] for name in limits)]
    scored = any(math.isfinite(trial.score) for trial in within)
    result = summarise(within, options, Budget(limits, costs_of(model))) if scored else largest
    return replace(result, history=tuple(trials), model=extract(model, result.config))
