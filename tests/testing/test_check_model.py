"""`check_model` finds what is wrong, and nothing where all is well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from elastify import extract, testing
from elastify.testing import check_model


class Block(nn.Module):
    """Attention over rows: the bias of the keys has no gradient but rounding, the spare weight none at all."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        return x + scores.softmax(-1) @ self.value(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.spare = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x) + self.spare(x) if self.training else self.last(x)


def test_gradients_are_compared_where_some_vanish() -> None:
    report = check_model(Net(), torch.randn(2, 5, 4), configurations=4, gradients=4)
    report.assert_passed()
    assert report.stages == 1
    assert 0 <= report.worst_gradient < 1e-4


def test_another_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An extracted model with the right outputs and a weight that does not learn."""

    def stiff(model: nn.Module, config: object) -> nn.Module:
        small = extract(model, config)  # type: ignore[arg-type]
        small.get_parameter("last.weight").requires_grad_(False)
        return small

    monkeypatch.setattr(testing, "extract", stiff)
    report = check_model(Net(), torch.randn(2, 5, 4), configurations=1)
    assert [text.partition(" by ")[0] for text in report.failures] == ["gradients differ"] * 2  # in both modes


class Fills(nn.Module):
    """A buffer that has another shape after the first run, and that no `state_dict` has."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.register_buffer("places", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.places) != x.shape[1]:
            self.places = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)
        return self.last(torch.relu(self.first(x))) * self.places[:, None]


def test_buffers_may_get_another_shape() -> None:
    check_model(Fills(), torch.randn(2, 5, 4), configurations=2).assert_passed()
