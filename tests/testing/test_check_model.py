"""`check_model` finds what is wrong, and nothing where all is well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from elastify import extract, testing
from elastify._ir import axes_of
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


def test_buffers_may_be_filled_by_an_earlier_run() -> None:
    net = Fills()
    net(torch.randn(2, 5, 4))
    check_model(net, torch.randn(2, 5, 4), configurations=2).assert_passed()


class Lazy(Fills):
    """The same with nothing there before the first run."""

    def forward(self, x: Tensor) -> Tensor:
        if self.places is None or len(self.places) != x.shape[1]:
            self.places = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)
        return self.last(torch.relu(self.first(x))) * self.places[:, None]


def test_buffers_may_be_emptied() -> None:
    net = Lazy()
    net(torch.randn(2, 5, 4))
    check_model(net, torch.randn(2, 5, 4), configurations=2).assert_passed()


class Rows(nn.Module):
    """Rows of a table for as many places as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 12), nn.Linear(12, 3)
        self.table = nn.Parameter(torch.randn(20, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x) + self.table[: x.shape[1]]))


def test_inputs_of_other_sizes_are_tried_too() -> None:
    report = check_model(Rows(), torch.randn(2, 8, 4), configurations=2)
    report.assert_passed()
    assert report.other_sizes == ("2x12x4", "3x8x4")


def test_sizes_that_the_model_refuses_are_left_out() -> None:
    larger = check_model(Rows(), torch.randn(2, 20, 4), configurations=2)
    larger.assert_passed()
    assert larger.other_sizes == ("2x10x4", "3x20x4")
    fixed = check_model(nn.Sequential(nn.Flatten(), nn.Linear(20, 9), nn.Linear(9, 3)), torch.randn(2, 5, 4))
    fixed.assert_passed()
    assert fixed.other_sizes == ("3x5x4",)


def test_a_row_that_only_a_longer_input_reads_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions taken for channels: all is well at the length of the example."""
    monkeypatch.setattr("elastify._analysis.facts.Facts.cut", lambda *_: None)
    monkeypatch.setattr("elastify._proofs.units._axes_in", lambda g, dim, layout: {a.id for a in axes_of(layout)})
    report = check_model(Rows(), torch.randn(2, 8, 4), configurations=2)
    assert [text.partition(":")[0] for text in report.failures] == [
        "not symmetric with inputs of 2x12x4",
        f"RuntimeError with inputs of 2x12x4 for {report.space and report.space.min!r}",
    ]


def test_what_is_not_as_extracted_at_another_length_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(Rows):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (self.times if x.shape[1] > 8 else 1)

    def other(model: nn.Module, config: object) -> nn.Module:
        small = extract(model, config)  # type: ignore[arg-type]
        small.times = 3  # type: ignore[assignment]
        return small

    model = Scaled()
    model.times = 2  # type: ignore[assignment]
    monkeypatch.setattr(testing, "extract", other)
    report = check_model(model, torch.randn(2, 8, 4), configurations=1)
    assert ["with inputs of 2x12x4" in text for text in report.failures] == [True]
