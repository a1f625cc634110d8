"""Plain pickle: extracted models and elastic ones go through it, whatever subnet is active."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import activate, elastify, extract, space

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0])


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 12), nn.Linear(12, 8, bias=False)
        self.third = nn.Linear(12, 8)
        self.third.weight = self.last.weight
        self.same = self.last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu()) + self.same(self.first(x).tanh()) + self.third(self.first(x))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(5, 12, 1), nn.BatchNorm1d(12), nn.Conv1d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)).relu())


class Rotary(nn.Module):
    """A table that is a cache in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 12), nn.Linear(12, 3)
        self.register_buffer("freq", torch.rand(12))
        self.register_buffer("table", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None or len(self.table) < x.shape[1]:
            self.table = torch.arange(x.shape[1])[:, None] * self.freq
        return self.b(self.a(x) * self.table[: x.shape[1]].cos())


NETS: dict[str, Callable[[], nn.Module]] = {
    "recurrent": Recurrent,
    "residual": Residual,
    "tied": Tied,
    "norm": Normed,
    "cache": Rotary,
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "parametrized": lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 12)), nn.Linear(12, 3)),
    "weight norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 12)), nn.Linear(12, 3)),
}


def again(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))  # noqa: S301 - no such file leaves the test


PARAMETRIZED = ("parametrized", "weight norm")


@pytest.mark.parametrize("name", sorted(NETS.keys() - {*PARAMETRIZED}))
def test_pickled(name: str) -> None:
    torch.manual_seed(0)
    model = elastify(NETS[name]().eval(), X)
    for config in (space(model).min, space(model).sample(1), space(model).max):
        small = extract(model, config)
        expected = small(X)
        assert torch.equal(again(small)(X), expected)
        other = again(model)
        with activate(other, config):
            torch.testing.assert_close(other(X), expected)
        with activate(model, config):
            other = again(model)  # while it is active
            torch.testing.assert_close(other(X), expected)
            torch.testing.assert_close(extract(other)(X), expected)
        activate(other, None)
        assert torch.equal(other(X), model(X))


@pytest.mark.parametrize("name", PARAMETRIZED)
def test_what_torch_does_not_pickle_says_so(name: str) -> None:
    model = elastify(NETS[name]().eval(), X)
    with pytest.raises(RuntimeError, match="parametrized modules is only supported through state_dict"):
        again(extract(model, 0.5))
