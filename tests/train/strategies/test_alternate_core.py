"""Cores: layers in two factors, whose rank is elastic, and steps on a core and on the whole in turn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastify import ElastifyError, activate, elastify, extract, space
from elastify.train import AlternateCore, factorize, fit, soft_cross_entropy
from tests.small_nets import Net, X


class Pointwise(nn.Module):
    """1x1 convolutions with stride and padding, one of them grouped, beside one of 3x3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3)
        self.mix = nn.Conv2d(12, 10, 1, stride=2, padding=1)
        self.grouped = nn.Conv2d(10, 10, 1, groups=2)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.grouped(self.mix(self.stem(x).relu()).relu()).relu().mean((2, 3)))


class TestFactorize:
    def test_the_function_stays_and_the_rank_is_elastic(self) -> None:
        torch.manual_seed(0)
        net = Net().double()
        x = X.double()
        before = net(x)
        assert factorize(net, pattern="blocks.*") is net
        torch.testing.assert_close(net(x), before, rtol=1e-10, atol=1e-10)
        assert type(net.stem) is nn.Linear
        model = elastify(net, x)
        ranks = {axis.name: axis for axis in space(model).axes if axis.role == "rank"}
        assert sorted(ranks) == sorted(f"blocks.{i}.{part}.rank" for i in range(4) for part in ("up", "down"))
        assert all(axis.size == 16 for axis in ranks.values())
        assert "width" in [axis.name for axis in space(model).axes]

    def test_a_lower_rank_is_the_nearest_of_that_rank(self) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 3)).double()
        weight = net[0].weight.detach().clone()
        model = elastify(factorize(net, pattern="0"), torch.randn(2, 10, dtype=torch.float64))
        with activate(model, {"0.rank": 4}):
            found = model[0].up.weight @ model[0].down.weight
        u, s, v = torch.linalg.svd(weight)
        torch.testing.assert_close(found, u[:, :4] * s[:4] @ v[:4])
        small = extract(model, {"0.rank": 4})
        assert (small[0].down.out_features, small[0].up.in_features) == (4, 4)
        assert tuple(factorize(nn.Sequential(nn.Linear(10, 12)), 0.3)[0].down.weight.shape) == (3, 10)
        assert tuple(factorize(nn.Sequential(nn.Linear(10, 12)), 5)[0].down.weight.shape) == (5, 10)

    def test_convolutions_of_one_pixel(self) -> None:
        torch.manual_seed(0)
        net, x = Pointwise(), torch.randn(2, 3, 7, 7)
        before = net(x)
        factorize(net)
        torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)
        assert [type(m) for m in (net.stem, net.mix, net.grouped, net.head)] == [
            nn.Conv2d, nn.Sequential, nn.Conv2d, nn.Sequential,
        ]  # fmt: skip
        model = elastify(net, x)
        assert {"mix.rank", "head.rank"} <= {axis.name for axis in space(model).axes}
        assert extract(model, {"*.rank": 0.5})(x).shape == (2, 4)

    def test_what_other_code_reads_stays(self) -> None:
        net = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 9), nn.MultiheadAttention(6, 2))
        net[1].weight = net[0].weight
        with pytest.raises(ElastifyError, match="there is nothing to factorize"):
            factorize(net)
        assert type(net[2].out_proj) is not nn.Sequential

    def test_an_elastic_model_is_too_late(self) -> None:
        with pytest.raises(ElastifyError, match="the model is already elastic") as caught:
            factorize(elastify(Net(), X))
        assert "elastify(factorize(model), inputs)" in str(caught.value)

    @pytest.mark.parametrize("rank", [0, 0.0, -0.5, 7, 1.5])
    def test_impossible_ranks(self, rank: float) -> None:
        with pytest.raises(ElastifyError, match=f"rank {rank} is not possible"):
            factorize(nn.Sequential(nn.Linear(6, 8)), rank)


class TestAlternateCore:
    def test_a_low_rank_core_in_turn_with_the_whole(self) -> None:
        torch.manual_seed(0)
        model = elastify(factorize(Net(), pattern="blocks.*"), X)
        strategy = AlternateCore(model, {"*.rank": 4}, core_steps=2)
        labels = torch.tensor([0, 1])
        kinds = []
        for _ in range(6):
            model.zero_grad()
            losses = strategy.step(lambda: model(X), lambda y: F.cross_entropy(y, labels))
            kinds.append("full" if losses.min is None else "core")
            beyond = model.blocks[0].up.up.weight.grad[:, 4:]
            assert bool(beyond.any()) == (kinds[-1] == "full")
        assert kinds == ["core", "core", "full"] * 2

    def test_refusals(self) -> None:
        model = elastify(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), X)
        with pytest.raises(ElastifyError, match="the core is the full network"):
            AlternateCore(model, 1.0)
        with pytest.raises(ElastifyError, match="must be at least 1"):
            AlternateCore(model, full_steps=0)
        with pytest.raises(ElastifyError, match="AlternateCore learns from labels only"):
            AlternateCore(model).step(lambda: model(X), lambda y: y.sum(), distill=soft_cross_entropy)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_all_batches_of_a_step_train_the_same(accumulate: int) -> None:
    torch.manual_seed(0)
    model = elastify(Net(), X, verify=False)
    data = [(X, torch.arange(len(X)) % 3)] * 12
    run = fit(
        model, data, F.cross_entropy, strategy=AlternateCore(model), steps=4, accumulate=accumulate, progress=False
    )
    assert ["core" if losses.max is None else "full" for losses in run.losses] == ["core", "full"] * 2
    assert all((losses.max is None) != (losses.min is None) for losses in run.losses)


def test_the_turn_goes_on_after_fit() -> None:
    torch.manual_seed(0)
    model = elastify(Net(), X, verify=False)
    data, strategy = [(X, torch.arange(len(X)) % 3)] * 4, AlternateCore(model, core_steps=3)
    seen = []
    for _ in range(4):
        run = fit(model, data, F.cross_entropy, strategy=strategy, steps=1, accumulate=2, progress=False)
        seen += ["core" if losses.max is None else "full" for losses in run.losses]
    assert seen == ["core", "core", "core", "full"]
    own = [strategy.step(lambda: model(X), lambda y: y.square().mean()).max is None for _ in range(4)]
    assert own == [True, True, True, False]
