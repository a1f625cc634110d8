"""Sorted: which subnets it trains, how evenly, and how one is chosen without a search."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from elastify import ElastifyError, cost, elastify, space
from elastify.train import Sorted, soft_cross_entropy
from tests.small_nets import Net, X


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return elastify(Net(), X)


def test_a_grid_of_subnets_is_nested_both_ways(model: nn.Module) -> None:
    configs = Sorted(model, (5, 4)).configs
    assert len(configs) == len(set(configs)) == 20
    depths = [len(config.depths["blocks"]) for config in configs]
    assert depths == [n for n in (1, 2, 3, 4) for _ in range(5)]
    assert configs[0] == space(model).min
    assert configs[-1] == space(model).max
    widths = [config.sizes["width"] for config in configs]
    assert widths == [4, 7, 10, 13, 16] * 4
    macs = cost(model, list(configs)).macs.reshape(4, 5)
    assert (macs[1:] > macs[:-1]).all()
    assert (macs[:, 1:] > macs[:, :-1]).all()


def test_what_cannot_be_told_apart_is_there_once(model: nn.Module) -> None:
    many = Sorted(model, (50, 40)).configs
    assert len(many) == len(set(many)) == 4 * 25
    assert len(Sorted(model, 4).configs) == 4
    assert Sorted(model, [0.5, {"blocks": 2}, 0.5]).configs == (
        space(model).config(0.5),
        space(model).config({"blocks": 2}),
    )


def test_draws_evenly(model: nn.Module) -> None:
    strategy = Sorted(model, (2, 2), draws=50)
    seen: Counter[str] = Counter()

    def forward() -> torch.Tensor:
        seen[model.extra_repr()] += 1
        return model(X)

    for _ in range(8):
        strategy.step(forward, lambda outputs: outputs.square().mean())
    assert len(seen) == 4
    assert all(60 < count < 140 for count in seen.values()), seen


def test_selection_is_the_largest_that_fits(model: nn.Module) -> None:
    strategy = Sorted(model, (5, 4))
    budget = cost(model, strategy.configs[12]).macs
    chosen = cost(model, strategy.select(budget_macs=budget)).macs
    all_macs = cost(model, list(strategy.configs)).macs
    assert chosen == max(macs for macs in all_macs if macs <= budget)
    assert strategy.select() == space(model).max
    params = 0.3 * cost(model).params
    assert cost(model, strategy.select("90%", params)).params <= params
    with pytest.raises(ElastifyError, match="none of the 20 subnets fits"):
        strategy.select(budget_macs=1)


def test_refusals(model: nn.Module) -> None:
    with pytest.raises(ElastifyError, match="at least one draw"):
        Sorted(model, draws=0)
    with pytest.raises(ElastifyError, match="a grid of 0 widths"):
        Sorted(model, (0, 3))
    with pytest.raises(ElastifyError, match="Sorted learns from labels only"):
        Sorted(model).step(lambda: model(X), lambda y: y.sum(), distill=soft_cross_entropy)
