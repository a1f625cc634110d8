"""Sorted: which subnets it trains, how evenly, and how one is chosen without a search."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from elastify import ElastifyError, SubnetConfig, cost, elastify, space
from elastify._verbs import active_config
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
    half = space(model).config(0.5)
    assert Sorted(model, [0.5, {"blocks": 2}, 0.5]).configs == (half, space(model).config({"blocks": 2}), half)


def trained(model: nn.Module, strategy: Sorted, steps: int) -> Counter[SubnetConfig]:
    """How often each subnet was active in the passes of so many steps."""
    seen: Counter[SubnetConfig] = Counter()

    def forward() -> torch.Tensor:
        seen[active_config(model)] += 1
        return model(X)

    for number in range(steps):
        strategy.advance(number / steps)
        strategy.step(forward, lambda outputs: outputs.square().mean())
    return seen


@pytest.mark.parametrize("draws", [1, 3])
def test_even_shares_are_exact(model: nn.Module, draws: int) -> None:
    seen = trained(model, Sorted(model, (2, 2), draws=draws, weights="even"), 20)
    assert set(seen.values()) == {5 * draws}


def test_shares_give_equal_macs(model: nn.Module) -> None:
    strategy = Sorted(model, (2, 2))
    seen, costs = trained(model, strategy, 400), cost(model, list(strategy.configs)).macs
    share = 1 / costs / (1 / costs).sum()
    counts = np.array([seen[config] for config in strategy.configs])
    assert (abs(counts - 400 * share) <= 1).all()  # one draw
    assert strategy.spent == (400, pytest.approx(3 * (counts * costs).sum()))


def test_shares_become_even(model: nn.Module) -> None:
    strategy = Sorted(model, (2, 2), weights="macs->even")
    costs = cost(model, list(strategy.configs)).macs
    first, last = trained(model, strategy, 40), Counter[SubnetConfig]()
    strategy.advance(1.0)
    last.update(strategy.sample() for _ in range(44))
    assert first[strategy.configs[0]] > 1.5 * first[strategy.configs[-1]], costs
    assert max(last.values()) - min(last.values()) <= 2


def test_shares_of_ones_own(model: nn.Module) -> None:
    seen = trained(model, Sorted(model, [0.5, 1.0], weights=[3, 1]), 12)
    assert seen[space(model).config(0.5)] == 9


def test_dealing_goes_on_where_it_was_saved(model: nn.Module) -> None:
    first, second = Sorted(model, 4), Sorted(model, 4)
    for _ in range(6):
        first.sample()
    second.load_state_dict(first.state_dict())
    assert [first.sample() for _ in range(9)] == [second.sample() for _ in range(9)]


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
    with pytest.raises(ElastifyError, match="widths=0 is not a whole number of at least 1"):
        Sorted(model, (0, 3))
    with pytest.raises(ElastifyError, match="Sorted learns from labels only"):
        Sorted(model).step(lambda: model(X), lambda y: y.sum(), distill=soft_cross_entropy)
