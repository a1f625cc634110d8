"""Parallel branches: the number of them is found, can be chosen and trained, and adds nothing to one branch."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from elastify import ElastifyError, activate, cost, elastify, extract, load, save, space
from elastify.nn import ParallelResidual, widen
from elastify.testing import check_model
from elastify.train import FullPlusRandom
from tests.small_nets import Block, Net

X = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))


def branch() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))


def layered(gate: str, layers: int = 2, width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    rows = [ParallelResidual([branch() for _ in range(width)], gate, channels=8) for _ in range(layers)]
    net = nn.Sequential(nn.Linear(5, 8), nn.Sequential(*rows), nn.Linear(8, 4))
    for layer in rows:
        if gate == "tac":
            nn.init.normal_(layer.weigh.weight)
    return net


@pytest.mark.parametrize("gate", ["tac", "mean", "scalar", "none"])
def test_the_number_of_branches_is_elastic_and_proven(gate: str) -> None:
    report = check_model(layered(gate), X)
    report.assert_passed()
    model = elastify(layered(gate), X)
    where = space(model)
    assert where.verified
    assert {stage.name: stage.choices for stage in where.stages} == {
        "1": (1, 2),
        "1.0.branches": (1, 2, 3),
        "1.1.branches": (1, 2, 3),
    }
    one = where.config({"*.branches": 1})
    small = extract(model, one)
    assert len(small[1][0].branches) == 1
    with activate(model, one):
        torch.testing.assert_close(small(X), model(X))


def test_what_a_layer_computes() -> None:
    layer = ParallelResidual([branch() for _ in range(3)], channels=8)
    nn.init.normal_(layer.weigh.weight)
    x = torch.randn(2, 8)
    ys = torch.stack([b(x) for b in layer.branches])
    zs = layer.transform(ys)
    mean = layer.average(zs.mean(0)).expand_as(zs)
    factors = 2 * torch.sigmoid(layer.weigh(torch.cat([zs, mean], -1)))
    torch.testing.assert_close(layer(x), x + (factors * ys).sum(0))
    for gate, scale in (("none", 1.0), ("mean", 1 / 3), ("scalar", 1.0)):
        plain = ParallelResidual(list(layer.branches), gate)
        torch.testing.assert_close(plain(x), x + scale * ys.sum(0))
        torch.testing.assert_close(ParallelResidual(list(layer.branches), gate, residual=False)(x), scale * ys.sum(0))


def test_cost_is_linear_in_the_branches() -> None:
    model = elastify(layered("none", 1, 4), X)
    (name,) = [stage.name for stage in space(model).stages]
    macs = [cost(model, {name: n}).macs for n in (1, 2, 3, 4)]
    assert len({b - a for a, b in pairwise(macs)}) == 1
    branch_macs = 2 * 8 * 12 * X.shape[1]
    assert macs[1] - macs[0] == branch_macs


def test_nothing_is_chosen_inside_layers_that_are_left_out() -> None:
    model = elastify(layered("tac"), X)
    where = space(model)
    depths = [
        where.config({"1": d, "1.0.branches": a, "1.1.branches": b}).depths
        for d, a, b in product((1, 2), (1, 2, 3), (1, 2, 3))
    ]
    different = {tuple(sorted(kept.items())) for kept in depths}
    assert len(different) == 3 + 9
    assert all(len(kept["1.1.branches"]) == 3 for kept in depths if len(kept["1"]) == 1)
    few = elastify(layered("none"), X, freeze=["*width", "*.hidden"])
    assert space(few).size == 3 + 9


def test_convolutions_and_other_dimensions() -> None:
    torch.manual_seed(0)
    rows = [nn.Sequential(nn.Conv2d(6, 9, 3, padding=1), nn.ReLU(), nn.Conv2d(9, 6, 1)) for _ in range(3)]
    net = nn.Sequential(nn.Conv2d(3, 6, 1), ParallelResidual(rows, channels=6, dim=1), nn.Conv2d(6, 2, 1))
    report = check_model(net, torch.randn(2, 3, 8, 8))
    report.assert_passed()
    assert any("branches" in stage.name for stage in space(elastify(net, torch.randn(2, 3, 8, 8))).stages)


class TestWiden:
    def test_one_branch_is_the_model_as_it_was(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        net, x = Net(), torch.randn(5, 6)
        net.eval()
        expected = net(x)
        assert widen(net, "blocks.*.down", 3, channels=16) == 4
        assert not net.blocks[0].down.training
        assert not torch.allclose(net(x), expected)
        model = elastify(net, x[:2])
        stages = [stage.name for stage in space(model).stages if "branches" in stage.name]
        assert stages == [f"blocks.{i}.down.branches" for i in range(4)]
        small = extract(model, {"*.branches": 1})
        torch.testing.assert_close(small(x), expected)
        save(small, tmp_path)
        torch.testing.assert_close(load(tmp_path, like=model)(x), expected)

    def test_whole_residual_branches_learn(self) -> None:
        class Outer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem, self.part, self.head = nn.Linear(6, 16), Block(16, 20), nn.Linear(16, 3)

            def forward(self, x: Tensor) -> Tensor:
                x = self.stem(x)
                return self.head(x + self.part(x))

        torch.manual_seed(0)
        net, x = Outer(), torch.randn(32, 6)
        widen(net, "part", 2, gate="scalar")
        model = elastify(net, x[:2])
        strategy = FullPlusRandom(model, cycle=False)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        losses = []
        for _ in range(40):
            optimizer.zero_grad()
            losses.append(strategy.step(lambda: model(x), lambda y: (y - x[:, :3]).square().mean()).total)
            optimizer.step()
        assert losses[-1] < 0.3 * losses[0]

    def test_refusals(self) -> None:
        with pytest.raises(ElastifyError, match="nothing to widen with 'layers'"):
            widen(Net(), "layers")
        with pytest.raises(ElastifyError, match="the width of x"):
            ParallelResidual([branch()])
        with pytest.raises(ElastifyError, match="unknown gate 'max'"):
            ParallelResidual([branch()], "max")
        with pytest.raises(ElastifyError, match="there are no branches"):
            ParallelResidual([], "none")
        with pytest.raises(ElastifyError, match="already elastic"):
            widen(elastify(Net(), torch.randn(2, 6)), "blocks.*")
