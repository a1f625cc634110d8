"""Progressive shrinking: what each phase draws, who teaches, what a resumed run goes on with."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastify import ElastifyError, elastify, space
from elastify.train import Losses, ProgressiveShrinking, fit
from tests.small_nets import Net

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
Y = (X @ torch.randn(6, 3, generator=torch.Generator().manual_seed(2))).argmax(1)
DATA = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 64, 8)]


@pytest.fixture(scope="module")
def elastic() -> nn.Module:
    torch.manual_seed(0)
    return elastify(Net(), X)


@pytest.fixture
def model(elastic: nn.Module) -> nn.Module:
    return copy.deepcopy(elastic)


def loss(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, Y)


def test_phases_open_depth_and_then_width(model: nn.Module) -> None:
    strategy = ProgressiveShrinking(model, depth_phases=3, width_phases=2)
    least, full = space(model).min, space(model).max
    found = []
    for number in range(5):
        strategy.advance(number / 5)
        drawn = [strategy.sample() for _ in range(200)]
        depths = {len(config.depths["blocks"]) for config in drawn}
        widths = {config.sizes["width"] for config in drawn}
        found.append((strategy.phase, min(depths), min(widths)))
        assert max(depths) == 4
        assert max(widths) == full.sizes["width"]
    assert found == [
        ((1 / 3, 0.0), 3, 16),
        ((2 / 3, 0.0), 2, 16),
        ((1.0, 0.0), 1, 16),
        ((1.0, 0.5), 1, 10),
        ((1.0, 1.0), 1, least.sizes["width"]),
    ]
    strategy.advance(1.0)
    assert strategy.phase == (1.0, 1.0)


def test_the_copy_teaches_what_the_network_was(model: nn.Module) -> None:
    strategy = ProgressiveShrinking(model, draws=1, kd_ratio=1.0)
    strategy.prepare()
    taught = model(X).detach()
    seen: list[Tensor] = []

    def distance(outputs: Tensor, teacher: Tensor) -> Tensor:
        seen.append(teacher)
        return (outputs - teacher).square().mean()

    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        strategy.step(lambda: model(X), loss, distill=distance)
        optimizer.step()
    strategy.prepare()  # once is enough
    assert len(seen) == 3
    for teacher in seen:
        assert torch.equal(teacher, taught)
    assert not torch.allclose(model(X), taught, atol=1e-2)


def test_in_place_begins_with_the_full_network_alone(model: nn.Module) -> None:
    strategy = ProgressiveShrinking(model, full_phases=1, depth_phases=1, width_phases=0, teacher="inplace")
    losses = fit(model, DATA, F.cross_entropy, strategy=strategy, epochs=2, progress=False).losses
    assert all(x.max is not None and not x.random for x in losses[:8])
    assert all(x.max is not None and len(x.random) == 2 for x in losses[8:])


def test_a_loss_without_logits_is_taken_as_it_is(model: nn.Module) -> None:
    strategy = ProgressiveShrinking(model, draws=1, depth_phases=1, width_phases=0, full_phases=0, sort=False)
    strategy.prepare()
    twin = copy.deepcopy(strategy.state_dict())
    losses = strategy.step(lambda: model(X), lambda y: y.square().mean())
    strategy.load_state_dict(twin)
    config = strategy.sample()
    from elastify import extract

    assert losses.random[0] == pytest.approx(extract(model, config)(X).square().mean().item(), rel=1e-5)


def test_prepare_sorts_at_no_change_of_function(model: nn.Module) -> None:
    before, first = model(X), model.stem.weight.detach().clone()
    ProgressiveShrinking(model).prepare()
    torch.testing.assert_close(model(X), before)
    assert not torch.equal(model.stem.weight, first)


def test_resumes_to_the_same_losses_with_the_same_teacher(model: nn.Module, tmp_path: Path) -> None:
    def run(net: nn.Module, stop: int, **kwargs: object) -> list[Losses]:
        return list(
            fit(
                net,
                DATA,
                F.cross_entropy,
                strategy=ProgressiveShrinking(net, draws=1),
                steps=16,
                on_step=lambda step, losses: step == stop,
                progress=False,
                **kwargs,
            ).losses
        )

    whole = run(copy.deepcopy(model), 16)
    half = copy.deepcopy(model)
    assert len(run(half, 7, checkpoint=tmp_path)) == 7
    assert run(copy.deepcopy(model), 16, checkpoint=tmp_path) == whole


def test_refusals(model: nn.Module) -> None:
    with pytest.raises(ElastifyError, match="no teacher 'me'"):
        ProgressiveShrinking(model, teacher="me")
    with pytest.raises(ElastifyError, match="an untrained network cannot teach"):
        ProgressiveShrinking(model, full_phases=1)
    with pytest.raises(ElastifyError, match="kd_ratio and phases"):
        ProgressiveShrinking(model, depth_phases=0, width_phases=0)
    with pytest.raises(ElastifyError, match="there is no teacher yet"):
        ProgressiveShrinking(model).step(lambda: model(X), loss)


def test_phases_that_open_nothing_are_left_out() -> None:
    narrow = elastify(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), X, verify=False)
    strategy = ProgressiveShrinking(narrow)
    strategy.advance(0.0)
    assert strategy.phase == (1.0, 0.5)
    with pytest.raises(ElastifyError, match="there must be a phase"):
        ProgressiveShrinking(narrow, width_phases=0)
