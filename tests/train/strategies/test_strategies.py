"""Strategies: the gradients they leave, how they leave the model, what they repeat."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastify import ElastifyError, activate, elastify, space
from elastify.train import FullPlusRandom, Losses, Sandwich, soft_cross_entropy

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(16) % 4


@pytest.fixture(scope="module")
def elastic() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 4)).double()
    return elastify(net, torch.randn(2, 6, dtype=torch.float64))


@pytest.fixture
def model(elastic: nn.Module) -> nn.Module:
    return copy.deepcopy(elastic)


def cross_entropy(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, LABELS)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def sampled(strategy: Sandwich | FullPlusRandom, count: int) -> list:
    """What the strategy is going to draw."""
    generator = np.random.default_rng()
    generator.bit_generator.state = strategy.state_dict()["generator"]
    return [space(strategy.model).sample(generator) for _ in range(count)]


def naive_sandwich(model: nn.Module, configs: list, distance) -> tuple[dict[str, Tensor], list[float]]:
    """The sum of all losses, with all graphs at once."""
    full = model(X.double())
    losses = [cross_entropy(full)]
    for config in configs:
        with activate(model, config):
            losses.append(distance(model(X.double()), full.detach()))
    torch.stack(losses).sum().backward()
    found = gradients(model)
    model.zero_grad()
    return found, [loss.item() for loss in losses]


class TestSandwich:
    @pytest.mark.parametrize("given", [None, lambda a, b: (a - b).square().mean()])
    def test_gradients_are_those_of_the_naive_sum(self, model: nn.Module, given) -> None:
        strategy = Sandwich(model, n_random=2, cycle=False)
        expected, values = naive_sandwich(
            model, [space(model).min, *sampled(strategy, 2)], given or (lambda a, b: soft_cross_entropy(a, b))
        )
        losses = strategy.step(lambda: model(X.double()), cross_entropy, distill=given)
        found = gradients(model)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-14)
        assert [losses.max, losses.min, *losses.random] == pytest.approx(values, rel=1e-12)
        assert losses.total == pytest.approx(sum(values))

    def test_without_distillation_everyone_learns_from_labels(self, model: nn.Module) -> None:
        strategy = Sandwich(model, n_random=1, teacher=None, cycle=False)
        expected, _ = naive_sandwich(
            model, [space(model).min, *sampled(strategy, 1)], lambda outputs, teacher: cross_entropy(outputs)
        )
        strategy.step(lambda: model(X.double()), cross_entropy)
        torch.testing.assert_close(gradients(model), expected, rtol=1e-12, atol=1e-14)

    def test_regression_keeps_its_targets_beside_the_teacher(self, model: nn.Module) -> None:
        def square(outputs: Tensor) -> Tensor:
            return (outputs - 1).square().mean()

        full = model(X.double()).detach()
        with activate(model, space(model).min):
            outputs = model(X.double()).detach()
        for mix in (0.0, 0.75, 1.0):
            losses = Sandwich(model, n_random=0, mix=mix, cycle=False).step(lambda: model(X.double()), square)
            expected = square(outputs) + (1 - mix) * (outputs - full).abs().mean()
            assert losses.min == pytest.approx(expected.item(), rel=1e-12)
        assert losses.random == ()

    def test_a_loss_inside_forward_is_taken_as_it_is(self, model: nn.Module) -> None:
        def inside() -> dict[str, Tensor]:
            return {"loss": model(X.double()).square().mean()}

        losses = Sandwich(model, n_random=0, cycle=False).step(inside, lambda outputs: outputs["loss"])
        with activate(model, space(model).min):
            assert losses.min == pytest.approx(inside()["loss"].item(), rel=1e-12)

    def test_min_is_the_smallest_and_backward_runs_inside(self, model: nn.Module) -> None:
        widths: list[int] = []

        def backward(value: Tensor) -> None:
            widths.append(model[0].weight.shape[0])
            value.backward()

        Sandwich(model, n_random=0, cycle=False).step(lambda: model(X.double()), cross_entropy, backward=backward)
        assert widths == [16, 4]

    @pytest.mark.parametrize("at", [0, 1, 2])
    def test_an_error_leaves_the_full_network(self, model: nn.Module, at: int) -> None:
        calls = iter(range(9))

        def forward() -> Tensor:
            if next(calls) == at:
                raise ValueError("batch is broken")
            return model(X.double())

        with pytest.raises(ValueError, match="batch is broken"):
            Sandwich(model, cycle=False).step(forward, cross_entropy)
        assert model[0].weight is model[0]._parameters["weight"]
        assert model(X.double()).shape == (16, 4)

    def test_refusals(self, model: nn.Module) -> None:
        with pytest.raises(ElastifyError, match="n_random must be 0 or more, not -1"):
            Sandwich(model, n_random=-1)
        with pytest.raises(ElastifyError, match="this Linear is not elastic"):
            Sandwich(nn.Linear(2, 2))
        with pytest.raises(ElastifyError, match="one differentiable number") as caught:
            Sandwich(model).step(lambda: model(X.double()), lambda outputs: outputs)
        assert "its shape is (16, 4)" in str(caught.value)
        with pytest.raises(ElastifyError, match="one differentiable number") as caught:
            Sandwich(model).step(lambda: model(X.double()), lambda outputs: outputs.detach().sum())
        assert "no gradient flows through it" in str(caught.value)


class TestFullPlusRandom:
    def test_gradients_are_those_of_the_naive_sum(self, model: nn.Module) -> None:
        strategy = FullPlusRandom(model, cycle=False, seed=3)
        (config,) = sampled(strategy, 1)
        expected, values = naive_sandwich(model, [config], lambda outputs, teacher: cross_entropy(outputs))
        losses = strategy.step(lambda: model(X.double()), cross_entropy)
        torch.testing.assert_close(gradients(model), expected, rtol=1e-12, atol=1e-14)
        assert losses == Losses(pytest.approx(values[0]), None, (pytest.approx(values[1]),))

    def test_refuses_distillation(self, model: nn.Module) -> None:
        with pytest.raises(ElastifyError, match="learns from labels only"):
            FullPlusRandom(model).step(lambda: model(X.double()), cross_entropy, distill=soft_cross_entropy)

    def test_draws_from_a_list(self, model: nn.Module) -> None:
        strategy = FullPlusRandom(model, [0.5, {"*": 0.75}])
        assert {strategy.sample() for _ in range(20)} == {space(model).config(0.5), space(model).config(0.75)}
        with pytest.raises(ElastifyError, match="no subnet to draw"):
            FullPlusRandom(model, [])
        with pytest.raises(ElastifyError, match="absent"):
            FullPlusRandom(model, [{"absent": 2}])


class TestSampling:
    def test_seeded_and_resumable(self, model: nn.Module) -> None:
        first, second = Sandwich(model, seed=7), Sandwich(model, seed=7)
        drawn = [first.sample() for _ in range(5)]
        assert drawn == [second.sample() for _ in range(5)]
        assert drawn != [other.sample() for other in [Sandwich(model, seed=8)] for _ in range(5)]
        state = first.state_dict()
        after = [first.sample() for _ in range(5)]
        second.load_state_dict(state)
        assert [second.sample() for _ in range(5)] == after
        first.load_state_dict(state)  # the state is a copy, not a view of the generator
        assert [first.sample() for _ in range(5)] == after

    def test_prepare_adds_nothing(self, model: nn.Module) -> None:
        before = list(model.state_dict())
        Sandwich(model).prepare()
        assert list(model.state_dict()) == before


def test_batch_norm_buffers_are_updated_by_the_full_network_only() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    plain = copy.deepcopy(net).train()
    model = elastify(net, torch.randn(4, 6)).train()
    Sandwich(model).step(lambda: model(X), cross_entropy)
    plain(X)
    for name, buffer in plain.named_buffers():
        assert torch.equal(dict(model.named_buffers())[name], buffer), name
