"""Stitched anchors: every way through is a network of its own, chosen by one axis."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastify import ElastifyError, activate, cost, elastify, extract, load, save, search, space
from elastify.train import Sorted, fit, recalibrate, stitch
from elastify.train._surgery.stitch import least_squares
from tests.small_nets import Net

X = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def mlp(width: int, depth: int = 2) -> nn.Sequential:
    torch.manual_seed(width)
    blocks = [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)]
    return nn.Sequential(nn.Linear(4, width), *blocks, nn.Linear(width, 3))


def cnn(width: int) -> nn.Sequential:
    torch.manual_seed(width)
    first = [nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    second = [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 4)).eval()


def ways(model: nn.Module) -> range:
    return range(1, space(model).axes[0].size + 1)


@pytest.mark.parametrize(("anchors", "x"), [([mlp(8), mlp(16, 3)], X), ([cnn(4), cnn(8)], IMAGES)], ids=["mlp", "cnn"])
def test_every_way_is_what_is_extracted_and_costs_what_it_says(anchors: list, x: Tensor, tmp_path: Path) -> None:
    model = stitch(anchors, x).eval()
    assert len(ways(model)) > 4
    macs = [cost(model, {"stitch": way}).macs for way in ways(model)]
    assert macs == sorted(macs)
    for way in ways(model):
        small = extract(model, {"stitch": way})
        assert type(small) is nn.Sequential
        with activate(model, {"stitch": way}):
            expected = model(x)
        assert torch.equal(small(x), expected)
        counted = cost(model, {"stitch": way})
        assert counted.params == sum(p.numel() for p in small.parameters())
        assert counted.macs == cost(elastify(copy.deepcopy(small), x[:2])).macs
        save(small, tmp_path)
        assert torch.equal(load(tmp_path, like=model)(x), expected)


def test_anchors_are_ways_and_are_copies() -> None:
    small, large = mlp(8), mlp(16)
    model = stitch([small, large], X)
    outputs = []
    for way in ways(model):
        with activate(model, {"stitch": way}):
            outputs.append(model(X))
    assert torch.equal(outputs[0], small(X))
    assert torch.equal(outputs[-1], large(X))
    assert torch.equal(model(X), large(X))  # as long as nothing else is chosen
    with torch.no_grad():
        large[0].weight.add_(1)
    assert torch.equal(model(X), outputs[-1])
    twin = copy.deepcopy(model)
    activate(twin, {"stitch": 1})
    assert torch.equal(twin(X), outputs[0])
    assert torch.equal(model(X), outputs[-1])


def test_layers_are_the_least_squares_solution() -> None:
    given, wanted = IMAGES, torch.randn(20, 5, 8, 8)
    layer = least_squares(given, wanted)
    assert isinstance(layer, nn.Conv2d)
    rest = (layer(given) - wanted).movedim(1, -1).reshape(-1, 5)
    columns = torch.cat([given.movedim(1, -1).reshape(-1, 3), torch.ones(len(rest), 1)], 1)
    assert (columns.T @ rest).abs().max() < 1e-2  # what is left is orthogonal to all that a linear map can give
    exact = nn.Linear(4, 7)
    found = least_squares(X, exact(X).detach())
    torch.testing.assert_close(found.weight, exact.weight)
    torch.testing.assert_close(found.bias, exact.bias)


def test_three_anchors_and_more_places() -> None:
    three = stitch([mlp(6), mlp(8), mlp(12)], X)
    assert len(ways(three)) > len(ways(stitch([mlp(6), mlp(8)], X)))
    assert len(ways(stitch([mlp(6), mlp(12, 3)], X, nearest=2))) > len(ways(stitch([mlp(6), mlp(12, 3)], X)))
    assert cost(three).macs == max(cost(three, {"stitch": way}).macs for way in ways(three))


def test_search_finds_the_best_way_in_a_budget() -> None:
    model = stitch([mlp(8), mlp(16)], X)
    target = mlp(16)(X)

    def score(candidate: nn.Module) -> float:
        return -F.mse_loss(candidate(X), target).item()

    limit = 0.8 * cost(model).macs
    found = search(model, budget_macs=limit, evaluate=score, n_trials=100, progress=False)
    scores = {}
    for way in ways(model):
        with activate(model, {"stitch": way}):
            if cost(model, {"stitch": way}).macs <= limit:
                scores[way] = score(model)
    assert found.config.sizes["stitch"] == max(scores, key=scores.__getitem__)
    assert torch.equal(found.model(X), extract(model, found.config)(X))


def test_training_one_random_way_a_step() -> None:
    labels = (X.square() @ torch.randn(4, 3, generator=torch.Generator().manual_seed(5))).argmax(1)
    model = stitch([mlp(8), mlp(16)], X)

    def losses() -> list[float]:
        found = []
        for way in ways(model):
            with activate(model, {"stitch": way}), torch.no_grad():
                found.append(F.cross_entropy(model(X), labels).item())
        return found

    before = losses()
    strategy = Sorted(model, [{"stitch": way} for way in ways(model)], draws=1)
    fit(model, [(X, labels)] * 150, F.cross_entropy, strategy=strategy, epochs=1, progress=False)
    assert all(after < 0.9 * start for after, start in zip(losses(), before, strict=True))


def test_batch_norms_of_ways_are_recalibrated_apart() -> None:
    model = stitch([cnn(4), cnn(8)], IMAGES)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    with activate(model, {"stitch": 2}):
        model(IMAGES)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    model(IMAGES)
    changed = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, buffers[name])]
    assert changed
    assert recalibrate(model, [IMAGES], {"stitch": 2}) > 0
    with activate(model.eval(), {"stitch": 2}):
        expected = model(IMAGES)
    assert torch.equal(extract(model, {"stitch": 2})(IMAGES), expected)


def test_parts_of_any_model_and_refusals() -> None:
    def parts(model: Net) -> list[nn.Module]:
        return [model.stem, *model.blocks, model.head]

    x = torch.randn(50, 6)
    small, large = Net(8), Net(16)
    model = stitch([small, large], x, parts=parts)
    assert torch.equal(model(x), large(x))
    with pytest.raises(ElastifyError, match="this Net cannot be split into pieces") as caught:
        stitch([small, large], x)
    assert "parts=lambda model" in str(caught.value)
    with pytest.raises(ElastifyError, match="outputs of different shapes"):
        stitch([mlp(8), nn.Sequential(nn.Linear(4, 5))], X)
    for order in ((16, 8), (6, 16, 12), (8, 6, 16), (8, 8)):
        with pytest.raises(ElastifyError, match="the models do not become larger"):
            stitch([mlp(width) for width in order], X)
    with pytest.raises(ElastifyError, match="at least two models"):
        stitch([mlp(8)], X)
    with pytest.raises(ElastifyError, match="a piece returns a tuple"):
        stitch([nn.Sequential(nn.LSTM(4, 3)), mlp(8)], X)
