"""`finetune`: from budgets to plain models that were trained together."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastify import ElastifyError, cost, elastify, search, space
from elastify.train import finetune, fit

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(96, 6, generator=GENERATOR)
Y = (X @ torch.randn(6, 4, generator=GENERATOR)).argmax(1)
DATA = list(zip(X.split(16), Y.split(16), strict=True))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    model = elastify(net, X[:4])
    fit(model, DATA, F.cross_entropy, epochs=20, optimizer=lambda p: torch.optim.Adam(p, 1e-2), progress=False)
    return model


@pytest.fixture
def model(trained: nn.Module) -> nn.Module:
    return copy.deepcopy(trained)


def quiet(model: nn.Module, **options: object):
    return finetune(model, DATA, F.cross_entropy, **{"epochs": 15, "progress": False, "weights": "macs", **options})


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    return float((model.eval()(X).argmax(1) == Y).float().mean())


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_list_of_budgets_gives_plain_models_better_than_slices(model: nn.Module) -> None:
    sliced = [accuracy(result.model) for result in search(model, ["60%", "30%"])]
    full = accuracy(model)
    results = quiet(model, budget_macs=["60%", "30%"])
    assert [type(result.model) for result in results] == [nn.Sequential] * 2
    macs = cost(model, space(model).max).macs
    assert results[0].cost.macs <= 0.6 * macs
    assert results[1].cost.macs <= 0.3 * macs
    for result, before in zip(results, sliced, strict=True):
        assert accuracy(result.model) > before
    assert accuracy(model) > full - 0.05
    assert results[0].score is None


def test_the_best_within_a_budget(model: nn.Module) -> None:
    seen: list[str] = []

    def prefers_small(candidate: nn.Module) -> float:
        assert not candidate.training
        seen.append(candidate.extra_repr())
        return -candidate[0].weight.shape[0]

    options = {"budget_macs": ["100%", "60%", "30%"], "evaluate": prefers_small}
    large, middle, small = quiet(model, **options)
    assert len(seen) == 3  # each named size once
    assert large.config == middle.config == small.config
    assert len(large.history) == 3
    assert small.score == -small.model[0].out_features
    large, middle, small = quiet(model, **options, direction="minimize")
    assert large.config == space(model).max
    assert large.cost.macs > middle.cost.macs > small.cost.macs
    assert [len(result.pareto) for result in (large, middle, small)] == [3, 2, 1]


def test_lists_go_pairwise_and_one_value_gives_one_result(model: nn.Module) -> None:
    pair = quiet(model, budget_macs=["60%", "50%"], budget_params="40%", epochs=1)
    params = cost(model, space(model).max).params
    assert all(result.cost.params <= 0.4 * params for result in pair)
    assert quiet(model, budget_params="40%", epochs=1).cost.params <= 0.4 * params


def test_running_statistics_are_those_of_each_size(model: nn.Module) -> None:
    (result,) = quiet(model, budget_macs=["50%"], few=6)
    hidden = X @ result.model[0].weight.T + result.model[0].bias
    torch.testing.assert_close(result.model[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-4)
    full = X @ model[0].weight.T + model[0].bias
    torch.testing.assert_close(model[1].running_mean, full.mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "there is no budget"),
        ({"budget_macs": "1%"}, "no subnetwork fits a budget"),
        ({"budget_macs": ["50%", "40%"], "budget_params": ["50%"]}, "go pairwise"),
        ({"budget_macs": []}, "go pairwise"),
        ({"budget_macs": "50%", "weights": "odd"}, "there are no weights 'odd'"),
        ({"budget_macs": "50%", "weights": [1.0]}, "not shares of 2 subnets"),
        ({"budget_macs": "50%", "teacher": "mine"}, "there is no teacher 'mine'"),
        ({"budget_macs": "50%", "mix": 2}, "mix=2 is not a number from 0 to 1"),
        ({"budget_macs": "50%", "epochs": None}, "fit needs a limit"),
        ({"budget_macs": "50%", "direction": "up"}, "direction must be"),
        ({"budget_macs": "50%", "sort": "luck"}, "unknown importance 'luck'"),
    ],
)
def test_what_is_refused_changes_nothing(model: nn.Module, options: dict[str, object], said: str) -> None:
    before = state(model)
    with pytest.raises(ElastifyError, match=said):
        quiet(model, **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_score_that_is_none_is_told_and_the_training_stays(model: nn.Module) -> None:
    before = state(model)
    with pytest.raises(ElastifyError, match="it returned None, which is not a number"):
        quiet(model, budget_macs="50%", epochs=1, evaluate=lambda candidate: None)
    assert not torch.equal(model[0].weight, before["0.weight"])


def test_the_plan_is_printed(model: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    quiet(model, budget_macs=["60%", "30%"], epochs=1, progress=True)
    printed = capsys.readouterr().out
    assert "one update trains one of 3 sizes, until epochs=1" in printed
    assert "100.0%" in printed
    assert "33.3%" in printed  # equal MACs


def test_goes_on_from_a_checkpoint(model: nn.Module, tmp_path) -> None:
    twin = copy.deepcopy(model)
    options = {"budget_macs": "50%", "checkpoint": tmp_path, "steps": 20, "epochs": None}
    whole = quiet(twin, budget_macs="50%", steps=20, epochs=None)
    quiet(copy.deepcopy(model), **options, on_step=lambda step, _: step == 7)
    again = quiet(model, **options)
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict())
