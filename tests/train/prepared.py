"""What every strategy that adds parameters must leave intact."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from elastify import elastify, extract, load, save
from elastify.train import Strategy, fit

X = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(32) % 4


def plain_net() -> nn.Module:
    """A convolutional net without batch norms."""
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(16, 16), nn.ReLU()]
    second = [nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.GroupNorm(32, 32), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))


def elastic_net() -> nn.Module:
    return elastify(plain_net(), X[:2])


def cross_entropy(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, LABELS)


def extras(model: nn.Module) -> list[str]:
    return [name for name in model.state_dict() if name.endswith("_elastic")]


def check_added_parameters(make: Callable[[nn.Module], Strategy], tmp_path: Path) -> None:
    """deepcopy, state_dict, extract, save and resumed training with the parameters that a strategy adds."""
    model = elastic_net()
    before = list(model.state_dict())
    strategy = make(model)
    strategy.prepare()
    added = extras(model)
    assert added
    assert [name for name in model.state_dict() if name not in added] == before
    strategy.prepare()
    assert extras(model) == added

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        strategy.step(lambda: model(X), cross_entropy)
        optimizer.step()
    expected = model(X)

    twin = copy.deepcopy(model)
    assert torch.equal(twin(X), expected)
    other = elastic_net()
    make(other).prepare()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), expected)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(twin(X), expected), "a copy has parameters of its own"
    small = extract(twin)
    assert not extras(small)
    assert type(small) is nn.Sequential
    torch.testing.assert_close(small(X), expected)
    save(small, tmp_path / "saved")
    for like in (plain_net(), twin):
        torch.testing.assert_close(load(tmp_path / "saved", like=like)(X), expected)
    check_resume(make, tmp_path / "run")


def check_resume(make: Callable[[nn.Module], Strategy], folder: Path) -> None:
    data = DataLoader(TensorDataset(X, LABELS), 8, shuffle=True)

    def run(steps: int, **where: Any) -> tuple[nn.Module, list[float]]:
        torch.manual_seed(0)
        model = elastic_net()
        losses = fit(model, data, F.cross_entropy, strategy=make(model), steps=steps, progress=False, **where).losses
        return model, [loss.total for loss in losses]

    whole, expected = run(8)
    run(5, checkpoint=folder)
    resumed, losses = run(8, checkpoint=folder)
    assert losses == expected
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
