"""`check_model` sees what a subnet writes in training: faults put into the library are found, each by its name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from elastify._plan import planner
from elastify._rewrite.buffers import Buffers
from elastify._rewrite.state import ElasticState
from elastify.testing import check_model

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Averaging(nn.Module):
    """A moving average of units in heads, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.n, self.b = nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Linear(12, 2)
        self.register_buffer("ema", torch.rand(12))

    def forward(self, x: Tensor) -> Tensor:
        y = self.n(self.a(x)).view(len(x), 4, -1).softmax(1).flatten(1)
        if self.training:
            self.ema.mul_(0.9).add_(y.detach().mean(0), alpha=0.1)
        return self.b(y - self.ema)


class NeedsLabels(Averaging):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        if self.training and labels is None:
            raise ValueError("labels are needed to learn")
        return super().forward(x)


def failures(net: type[nn.Module] = Averaging) -> list[str]:
    return check_model(net(), X, configurations=3, gradients=3, costs=0).failures


@pytest.mark.filterwarnings("ignore:training mode was not captured")
@pytest.mark.parametrize("net", [Averaging, NeedsLabels])
def test_nothing_is_wrong(net: type[nn.Module]) -> None:
    assert failures(net) == []


def _lose(self: Buffers, written: frozenset[str]) -> None:
    self.parts.clear()


def _write_all(self: Buffers, written: frozenset[str]) -> None:
    for part in self.parts.values():
        part.stored.add_(1)
    self.parts.clear()


def _no_statistics(model: nn.Module, graphs: object) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(), frozenset({"ema"})


def _all_shared(self: ElasticState, active: object, module: nn.Module, name: str, full: Tensor) -> Tensor:
    return self.slice(active, name)(full) if name in self.tables.tensors else full  # type: ignore[arg-type]


FAULTS: dict[str, tuple[object, str, Callable[..., object], str]] = {
    "writes are lost": (Buffers, "put_back", _lose, "ema is written otherwise"),
    "others are written": (Buffers, "put_back", _write_all, "ema is changed where the subnet has no units"),
    "not listed": (planner, "written_buffers", _no_statistics, "n.running_mean is written otherwise"),
    "shared statistics": (ElasticState, "_statistic", _all_shared, "n.running_mean is written otherwise"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_found(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    where, name, fault, text = FAULTS[kind]
    monkeypatch.setattr(where, name, fault)
    assert any(line.startswith(f"buffer {text}") and line.endswith("in training mode") for line in failures())
