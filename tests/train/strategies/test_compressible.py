"""Compressible subspaces: levels, gradients, what is stored and what is extracted."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elastify import ElastifyError, activate, elastify, save, space
from elastify.train import Compressible, GumbelMask, replace_norms
from elastify.train._strategies.levels import largest, quantised, squared_cosine
from tests.train.prepared import LABELS, X, check_added_parameters, cross_entropy, elastic_net, extras, plain_net


@pytest.mark.parametrize("compress", ["width", "sparsity", "bits"])
@pytest.mark.parametrize("params", ["norms", "all"])
def test_added_parameters(compress: str, params: str, tmp_path: Path) -> None:
    check_added_parameters(lambda model: Compressible(model, compress, params=params), tmp_path)


@pytest.mark.parametrize("compress", ["width", "sparsity", "bits"])
@pytest.mark.parametrize("line", [True, False])
def test_every_level_is_what_is_extracted(compress: str, line: bool) -> None:
    model = elastic_net()
    full = model(X)
    strategy = Compressible(model, compress, line)
    strategy.prepare()
    assert compress == "bits" or torch.equal(model(X), full)
    assert bool(extras(model)) is line
    seen = set()
    for alpha in (0.0, 0.3, 1.0):
        strategy.at(alpha)
        small = strategy.extract(alpha)
        torch.testing.assert_close(small(X), model(X))
        assert not extras(small)
        shape, weight = small[3].weight.shape, small[3].weight
        seen.add((shape, int(weight.count_nonzero()), len(weight.unique())))
    assert len(seen) == 3


def test_widths_sparsity_and_bits_are_those_of_the_paper() -> None:
    model = elastic_net()
    strategy = Compressible(model, "width")
    assert [list(strategy.config(a).sizes.values()) for a in (0.0, 0.5, 1.0)] == [[4, 8], [10, 20], [16, 32]]
    strategy = Compressible(elastic_net(), "sparsity", dense=("0.*",))
    small = strategy.at(0.1) and strategy.extract(0.1)
    assert [int(small[i].weight.count_nonzero()) for i in (0, 3, 8)] == [432, 461, 13]
    strategy = Compressible(elastic_net(), "bits", dense=())
    assert [len(strategy.extract(sixths / 6)[0].weight.unique()) for sixths in (1, 2)] == [8, 16]


def test_a_heads_or_groups_product_shrinks_once() -> None:
    net = plain_net()
    net[4] = nn.GroupNorm(8, 32)
    model = elastify(net, X[:2])
    strategy = Compressible(model, "width")
    strategy.at(0.0)
    assert model[3].weight.shape[0] == 8


@pytest.mark.parametrize(("line", "compress"), [(True, "width"), (True, "bits"), (True, "sparsity"), (False, "bits")])
def test_gradients_are_those_of_the_naive_sum(line: bool, compress: str) -> None:
    model = elastic_net().double()
    strategy = Compressible(model, compress, line, beta=0.5, seed=3)
    strategy.prepare()
    generator = np.random.default_rng()
    generator.bit_generator.state = strategy.state_dict()["generator"]
    twin = Compressible(model, compress, line, beta=0.5)
    twin.load_state_dict(strategy.state_dict())
    losses = []
    for alpha in twin._draw():
        twin.at(alpha)
        losses.append(cross_entropy(model(X.double())))
    if line:
        named = dict(model.named_parameters())
        ends = [(p, named[name.removesuffix("_elastic")]) for name, p in named.items() if name.endswith("_elastic")]
        losses.append(0.5 * squared_cosine(ends))
    torch.stack(losses).sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    twin.at(1.0)
    found = strategy.step(lambda: model(X.double()), cross_entropy)
    assert found.total == pytest.approx(sum(loss.item() for loss in losses[: len(losses) - line]))
    for name, gradient in expected.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient)
    assert model[0]._parameters["weight"].shape == model[0].weight.shape


def test_sparsity_grows_during_the_warm_up() -> None:
    model = elastic_net()
    strategy = Compressible(model, "sparsity", warmup=4, ends=0.0, dense=())
    strategy.prepare()
    shares = []

    def forward() -> torch.Tensor:
        shares.append(float(model[3].weight.count_nonzero()) / model[3].weight.numel())
        return model(X)

    for _ in range(5):
        strategy.step(forward, cross_entropy)
    assert shares[0] == 1.0
    assert min(shares) < 1.0
    point = Compressible(elastic_net(), "sparsity", False, warmup=2)
    assert point._draw() == [1.0]
    point._memory["steps"] = 2
    assert point._draw()[0] < 1.0
    resumed = Compressible(elastic_net(), "sparsity", False, warmup=2)
    resumed.load_state_dict(point.state_dict())
    assert resumed._draw()[0] < 1.0


def test_training_makes_levels_better() -> None:
    model = elastic_net()
    strategy = Compressible(model, "sparsity", dense=())
    strategy.prepare()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def losses() -> list[float]:
        values = []
        for alpha in (0.4, 0.7, 1.0):
            strategy.at(alpha)
            values.append(cross_entropy(model(X)).item())
        strategy.at(1.0)
        return values

    before = losses()
    for _ in range(80):
        optimizer.zero_grad()
        strategy.step(lambda: model(X), cross_entropy)
        optimizer.step()
    assert all(after < start - 0.02 for after, start in zip(losses(), before, strict=True))


def test_straight_through_and_masked_gradients() -> None:
    weight = torch.tensor([3.0, -4.0, 1.0, 2.0], requires_grad=True)
    (weight * largest(weight.detach(), torch.tensor(0.5))).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [1, 1, 0, 0]
    weight.grad = None
    (quantised(weight, torch.tensor(7.0)) * 2).sum().backward()
    assert weight.grad.tolist() == [2, 2, 2, 2]


def test_batch_norms_are_replaced_wherever_they_stand() -> None:
    shared = nn.BatchNorm2d(16)
    net = nn.Sequential(nn.Conv2d(3, 16, 1), shared, nn.Sequential(shared, nn.ReLU()))
    net[1].weight.data.uniform_()
    scale = net[1].weight
    assert replace_norms(net, "instance") == 1
    assert net[1] is net[2][0]
    assert net[1].weight is scale
    assert net[1].num_groups == 16
    with pytest.raises(ElastifyError, match="unknown kind of norm 'layer'"):
        replace_norms(net, "layer")
    with pytest.raises(ElastifyError, match="already elastic"):
        replace_norms(elastic_net())


def test_refusals() -> None:
    model = elastic_net()
    with pytest.raises(ElastifyError, match="no such choice: 'depth'"):
        Compressible(model, "depth")
    with pytest.raises(ElastifyError, match="ends from 0 to 1"):
        Compressible(model, ends=2)
    for beta in (-1.0, float("nan")):
        with pytest.raises(ElastifyError, match="beta, n_random and warmup must be at least 0"):
            Compressible(model, beta=beta)
    with pytest.raises(ElastifyError, match="has not been prepared"):
        Compressible(model).step(lambda: model(X), cross_entropy)
    with pytest.raises(ElastifyError, match=r"alpha=1\.5 is not in"):
        Compressible(model).at(1.5)
    with pytest.raises(ElastifyError, match="learns from labels only"):
        Compressible(model).step(lambda: model(X), cross_entropy, distill=lambda a, b: a.sum())
    mlp = elastify(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(2, 6))
    with pytest.raises(ElastifyError, match="nothing to make a line of"):
        Compressible(mlp).prepare()
    assert len(LABELS) == len(X)


@pytest.mark.parametrize("line", [True, False])
@pytest.mark.parametrize("compress", ["sparsity", "bits"])
def test_two_weights_are_the_first_and_the_last(line: bool, compress: str) -> None:
    model = elastify(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(2, 6))
    before = list(model.state_dict())
    with pytest.raises(ElastifyError, match="there is nothing to compress") as caught:
        Compressible(model, compress, line).prepare()
    assert "dense=()" in str(caught.value)
    assert list(model.state_dict()) == before
    small = Compressible(model, compress, line, dense=()).extract(1 / 6)
    weight = small[0].weight.detach()
    assert int(weight.count_nonzero()) == 16 or len((weight * 1e5).round().unique()) <= 8


def test_a_string_is_one_glob() -> None:
    strategy = Compressible(elastic_net(), "sparsity", dense="0.*")
    small = strategy.extract(0.1)
    assert [int(small[i].weight.count_nonzero()) for i in (0, 3, 8)] == [432, 461, 13]
    with pytest.raises(ElastifyError, match=r"'hed\.\*' matches no name") as caught:
        Compressible(elastic_net(), "sparsity", dense=("hed.*",)).prepare()
    assert "8.weight" in str(caught.value)


def test_one_kind_per_model() -> None:
    model = elastic_net()
    first = Compressible(model, "sparsity")
    first.prepare()
    names = extras(model)
    other = Compressible(model, "bits")
    with pytest.raises(ElastifyError, match="another strategy has prepared this model") as caught:
        other.extract(0.2)
    assert "a Compressible with compress='sparsity'" in str(caught.value)
    with pytest.raises(ElastifyError, match="another strategy has prepared this model"):
        other.step(lambda: model(X), cross_entropy)
    with pytest.raises(ElastifyError, match="another strategy"):
        GumbelMask(model, weights="kaiming").prepare()
    assert extras(model) == names
    Compressible(model, "sparsity", beta=0.0, warmup=3, seed=5).step(lambda: model(X), cross_entropy)
    assert int(first.extract(0.2)[3].weight.count_nonzero()) == round(0.2 * model[3].weight.numel())


def test_an_error_leaves_the_full_network() -> None:
    model = elastic_net()
    strategy = Compressible(model, "width")
    strategy.prepare()
    expected = model(X)
    with pytest.raises(ZeroDivisionError):
        strategy.step(lambda: 1 / 0, cross_entropy)
    assert torch.equal(model(X), expected)
    with activate(model, 0.5):
        assert model[0].weight.shape[0] == space(model).config(0.5).sizes["0.channels"]


def test_activations_are_rounded_as_the_weights_are() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(12, 6)
    model = elastify(net, x)
    strategy = Compressible(model, "bits", activations=True, warmup=2)
    strategy.prepare()
    seen: list[Tensor] = []

    def values(tensor: Tensor) -> int:
        return (tensor.detach() * 1e5).round().unique().numel()

    model[2].register_forward_hook(lambda module, args, output: seen.append(args[0]))
    small = strategy.extract(1 / 6)
    y = strategy.model(x)
    assert values(seen[-1]) <= 2**3
    weight = model[2].weight.detach()
    assert values(weight) <= 2**3
    steps = torch.tensor(7.0)
    inner = quantised(model[0](x).relu(), steps)
    expected = model[4]((inner @ weight.T + model[2].bias).relu())
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(small(x), y)
    strategy.at(1.0)
    assert not torch.equal(model(x), y)
    torch.testing.assert_close(small(x), y)

    seen.clear()
    for _ in range(3):
        strategy.step(lambda: model(x), lambda outputs: outputs.square().mean())
    assert len(seen) == 3
    grids = [torch.allclose(quantised(x, torch.tensor(255.0)), x, rtol=0, atol=1e-6) for x in map(Tensor.detach, seen)]
    assert grids == [False, False, True], "from the end of the warm-up on"
    assert all(p.grad is not None for p in model[0].parameters())  # straight through what comes after
    twin = copy.deepcopy(model)
    Compressible(twin, "bits", activations=True).at(1 / 6)
    torch.testing.assert_close(twin(x), Compressible(model, "bits", activations=True).extract(1 / 6)(x))


def test_models_that_round_activations_are_not_saved(tmp_path: Path) -> None:
    small = Compressible(elastic_net(), "bits", activations=True).extract(1 / 6)
    with pytest.raises(ElastifyError, match="rounds the inputs of its layers"):
        save(small, tmp_path / "small")
    assert not (tmp_path / "small").exists()
    save(Compressible(elastic_net(), "bits").extract(1 / 6), tmp_path / "small")


def test_activations_need_bits() -> None:
    with pytest.raises(ElastifyError, match="only bits can compress activations"):
        Compressible(elastic_net(), "sparsity", activations=True)
