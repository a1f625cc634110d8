"""The best subnet within a budget.

The search below sees configurations and two functions, what one costs and what one scores; the model is activated
for each score, and the winner extracted, here.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from elastify._errors import ElastifyError
from elastify._files import memory
from elastify._rewrite import store_statistics, stored_statistics
from elastify._search import Ranks, SearchOptions, Workers, is_sharded, run_search
from elastify._space import SubnetConfig, parse_budget, state
from elastify._verbs.activation import activate
from elastify._verbs.extraction import extract
from elastify._verbs.spaces import costs_of

Budgets = float | str | Sequence[float | str] | None


def search(
    model: nn.Module,
    budget_macs: Budgets = None,
    budget_params: Budgets = None,
    budget_bytes: Budgets = None,
    *,
    evaluate: Callable[[nn.Module], float] | None = None,
    direction: str = "maximize",
    n_trials: int = 200,
    population: int = 32,
    seed: int = 0,
    study: Any = None,
    timeout: float | None = None,
    progress: bool = True,
) -> Any:
    """The best subnet within a budget, extracted.

    The result has `.model`, `.config`, `.cost`, `.score`, `.pareto` and `.history`.

    Budgets are per sample, as numbers, with a suffix ("350M", "1.2G") or as a share of the full network ("50%");
    several must all hold. A list of budgets gives a list of results: two lists go pairwise, and one value holds for
    all; no configuration is evaluated twice. `evaluate(model)`
    is called with each candidate active and returns a score; None returns the largest nested subnet. The algorithm
    is NSGA-II from Optuna (`pip install elastify[search]`), over score and the first budget given; every candidate
    is repaired into the budget before it is evaluated. `study` names a file with which a search can be resumed;
    it warns where the weights, or options such as the sizes to choose from, have changed since.

    With `evaluate` on several ranks (torchrun, after `init_process_group`) it is one search: every rank calls it, each
    evaluates another candidate, on all of the data that a score is of, and all get the same result. The first rank has
    the study. An error on one rank is an error on all.

    Raises ElastifyError for an impossible budget, naming the smallest cost that can be reached.

    >>> import torch
    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> search(model, budget_macs=250).model[0]
    Linear(in_features=4, out_features=32, bias=True)
    """
    known, costs = state(model), costs_of(model)
    each, is_list = pairwise(macs=budget_macs, params=budget_params, bytes=budget_bytes)
    if is_list and study is not None:
        raise ElastifyError("a study holds one search", where="search", fix="one budget, or study=None")

    if not (evaluate is None or callable(evaluate)):
        raise ElastifyError(f"evaluate is a {type(evaluate).__name__}", fix="evaluate=lambda model: accuracy(model)")

    workers, full = None if evaluate is None else _workers(model, evaluate), costs.of()
    joint = workers if workers is not None and workers.ranks.size > 1 else None
    weights = _checksum(model) if joint or study is not None else ""
    options = SearchOptions(direction, n_trials, population, seed, study, timeout, progress, weights)
    limits = [{name: parse_budget(value, getattr(full, name)) for name, value in asked.items()} for asked in each]
    if joint:
        joint.ranks.same("weights", int(weights, 16), "torch.distributed.broadcast them, or load the same file")
        asked = [known.space.fingerprint, limits, direction, n_trials, population, seed]
        joint.ranks.same("searches", zlib.crc32(repr(asked).encode()), "the same arguments on every rank")
    found = [run_search(known.space, costs, limit, workers, options) for limit in limits]
    if joint:
        _share_statistics(model, joint)
    results = [replace(result, model=extract(model, result.config)) for result in found]
    return results if is_list else results[0]


def _workers(model: nn.Module, evaluate: Callable[[nn.Module], float]) -> Workers:
    """This process, or all ranks; those that hold a part of the model each evaluate the same subnet together."""

    def score(config: SubnetConfig) -> float:
        with activate(model, config):
            return evaluate(model)

    first = next(model.parameters(), None)
    if first is None or any(map(is_sharded, model.parameters())):
        return Workers(score)
    return Workers(score, Ranks.of(first.device))


def _share_statistics(model: nn.Module, workers: Workers) -> None:
    """Let all ranks have the running statistics that `evaluate` has measured on one of them."""
    by_id = state(model).space.by_id
    device = workers.ranks.device
    mine = {config: stored_statistics(model, by_id(config)) for config in workers.evaluated}
    sent = {config: {name: t.cpu() for name, t in found.items()} for config, found in mine.items() if found}
    for each in workers.ranks.collect(sent):
        for config, found in each.items():
            store_statistics(model, {name: t.to(device) for name, t in found.items()}, by_id(config))


def pairwise(**budgets: Budgets) -> tuple[list[dict[str, Any]], bool]:
    """The budgets of each search by name, and whether a list was given.

    >>> pairwise(macs=["1G", "2G"], params="5M", bytes=None)
    ([{'macs': '1G', 'params': '5M'}, {'macs': '2G', 'params': '5M'}], True)
    """
    given = {name: value for name, value in budgets.items() if value is not None}
    lists = {name: value for name, value in given.items() if isinstance(value, (list, tuple))}
    lengths = {len(value) for value in lists.values()}
    if len(lengths) > 1 or 0 in lengths:
        raise ElastifyError(
            "lists of budgets go pairwise",
            why=", ".join(f"{len(value)} in {name}" for name, value in lists.items()),
            fix="as many values in each list, at least one; a single value holds for all",
        )
    number = lengths.pop() if lengths else 1
    each = [{**given, **{name: values[k] for name, values in lists.items()}} for k in range(number)]
    return each, bool(lists)


def _checksum(model: nn.Module) -> str:
    """A number that is another one after more training."""
    value = 0
    for parameter in model.parameters():
        if not parameter.is_meta:
            value = zlib.crc32(memory(getattr(parameter, "_local_tensor", parameter)), value)
    return f"{value:08x}"
