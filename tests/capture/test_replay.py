"""In training mode only what asks for the mode is run again, and the record is that of a whole run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastify import activate, elastify
from elastify._capture.examples import Example
from elastify._capture.session import capture, capture_all
from elastify._ir.graph import Graph

X = torch.zeros(2, 3, 8, 8)


class Body(nn.Module):
    """Counts its runs."""

    runs = 0

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.more = nn.Sequential(*(nn.Conv2d(8, 8, 1) for _ in range(6)))
        self.scale = 1.0
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        Body.runs += 1
        x = self.more(self.layers(x)) * self.scale
        self.seen.append(x)
        return x


class Model(nn.Module):
    def __init__(self, run: Callable[[Model, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.act, self.run = Body(), nn.ReLU(inplace=True), run
        self.head, self.other = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def told(graph: Graph) -> list[Any]:
    """What a record says of dimensions, whatever the numbers of its values are."""
    names: dict[int, int] = {}

    def of(values: list[Any]) -> list[Any]:
        return [(value.name or names.setdefault(value.id, len(names)), value.shape) for value in values]

    shaped = [any(value.shape for value in call.outputs()) for call in graph.calls]  # batch norms count their runs
    kept = [call for call, keep in zip(graph.calls, shaped, strict=True) if keep]
    calls = [(call.op, call.where, call.inplace, of(call.inputs()), of(call.outputs())) for call in kept]
    modules = [(m.path, sum(shaped[: m.start]), sum(shaped[: m.stop])) for m in graph.modules]
    return [calls, modules, of(graph.outputs), list(graph.tensors)]


def dropout(s: Model, x: Tensor) -> Tensor:
    return s.head(F.dropout(s.body(x).mean((2, 3)), 0.2, s.training))


def more_heads(s: Model, x: Tensor) -> Any:
    x = s.act(s.body(x)).mean((2, 3))
    return (s.head(x), s.other(x)) if s.training else s.head(x)


def before(s: Model, x: Tensor) -> Any:
    x = s.body(x + 1 if s.training else x)
    return s.head(x.mean((2, 3)))


def scaled(s: Model, x: Tensor) -> Any:
    s.body.scale = 0.5 if s.training else 1.0
    x = s.body(x).mean((2, 3))
    s.body.scale = 1.0
    return s.head(x)


def collected(s: Model, x: Tensor) -> Any:
    s.body.seen.clear()
    y = s.head(s.body(x).mean((2, 3)))
    return (y, sum(part.mean() for part in s.body.seen)) if s.training else y


def flattened(s: Model, x: Tensor) -> Any:
    y = s.body(x)
    y.unsqueeze_(0)
    return s.head(y[0].mean((2, 3)) + s.training)


def changed(s: Model, x: Tensor) -> Any:
    x.add_(1)
    return s.head(s.body(x).mean((2, 3)) + s.training)


@pytest.mark.parametrize(
    ("run", "graphs", "runs"),
    [
        (dropout, 1, 1),
        (more_heads, 2, 1),
        (before, 2, 2),
        (scaled, 2, 2),
        (collected, 2, 2),
        (flattened, 2, 2),
        (changed, 2, 3),
    ],
    ids=lambda item: getattr(item, "__name__", item),
)
def test_a_model_that_asks_itself(run: Callable[[Model, Tensor], Any], graphs: int, runs: int) -> None:
    model = Model(run)
    Body.runs = 0
    found = capture_all(model, Example((X,)))
    assert (len(found), Body.runs) == (graphs, runs)
    assert [graph.training for graph in found] == [False, True][:graphs]
    assert told(found[0]) == told(capture(model, Example((X,))))
    for graph in found[1:]:
        assert told(graph) == told(capture(model, Example((X,)), training=True))
    assert "forward" not in vars(model.body)
    assert not any(module._forward_hooks for module in model.modules())


def test_what_only_training_uses_moves_with_the_rest() -> None:
    model = elastify(Model(more_heads), torch.randn(2, 3, 8, 8))
    with activate(model, 0.5):
        assert model.head.weight.shape == model.other.weight.shape == (4, 4)
        assert [tuple(out.shape) for out in model.train()(torch.randn(2, 3, 8, 8))] == [(2, 4), (2, 4)]
