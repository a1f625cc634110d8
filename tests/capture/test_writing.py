"""Models that write: what they do only when they go on with a cache is captured, and proven, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import activate, elastify, extract, space
from elastify._adapters import LIBRARIES, Library, Run
from elastify._capture.examples import Example
from elastify._capture.session import capture

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


class Writer(nn.Module):
    """Adds what was remembered; `width` is read only where there is nothing yet."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.needed = 1

    def forward(self, x: Tensor, state: Any = None, keep: bool = False) -> dict[str, Tensor]:
        hidden = self.first(x)
        for block in self.blocks:
            hidden = hidden + torch.tanh(block(hidden))
        if keep and state is None:
            state = torch.zeros(x.shape[0], self.width)
        if state is not None:
            hidden = hidden + state
        out = {"logits": self.last(hidden)}
        return {**out, "state": hidden} if keep else out


class Demanding(Writer):
    """Its cache wants more than one block."""

    def forward(self, x: Tensor, state: Any = None, keep: bool = False) -> dict[str, Tensor]:
        if keep and len(self.blocks) < 3:
            raise ValueError("a cache needs three blocks")
        return super().forward(x, state, keep)


class Kinds:
    """A config with a kind for each block."""

    def __init__(self, *kinds: str) -> None:
        self.layer_types = list(kinds)


class Hybrid(Writer):
    """Its cache is as long as that of the first block of one kind."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Kinds("scan", "attend", "attend")

    def forward(self, x: Tensor, state: Any = None, keep: bool = False) -> dict[str, Tensor]:
        if keep and "attend" not in self.config.layer_types:
            raise ValueError("only attention knows how long a cache is")
        return super().forward(x, state, keep)


def twice(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return model(*args, keep=True), model(*args, state=model(*args, keep=True)["state"], keep=True)


class Writers(Library):
    auxiliary_outputs = frozenset({"state"})

    def run_with_caches(self, model: nn.Module) -> Run | None:
        return twice


@pytest.fixture(autouse=True)
def _writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIBRARIES, "tests", Writers())


def test_a_run_of_several_calls_is_one_record() -> None:
    graph = capture(Writer(), Example((X,)), run=twice)
    assert [len(graph.roots), len(list(graph.results({"state"})))] == [3, 3]
    assert sum(call.op == "linear" for call in graph.calls) == 3 * 5


def test_sizes_that_only_a_cache_needs_follow() -> None:
    model = elastify(Writer(), X)
    (stage,) = space(model).stages
    small = extract(model, {"width": 4})
    assert (small.width, stage.container) == (4, "blocks")
    with activate(model, {"width": 4}), torch.no_grad():
        assert torch.equal(model(X, keep=True)["logits"], small(X, keep=True)["logits"])


def test_blocks_that_a_cache_needs_stay() -> None:
    found = space(elastify(Demanding(), X))
    assert not found.stages
    (rigid,) = found.plan.rigid
    text = "the smaller network does not run: ValueError: a cache needs three blocks; the inputs were (float32[2, 6])"
    assert rigid.reason.startswith(f"{text} (Demanding, ")
    assert "test_writing.py:" in rigid.reason
    assert [axis.size for axis in found.axes] == [16]


def test_blocks_are_proven_as_they_will_be_extracted() -> None:
    """An active subnet still shows all kinds, an extracted one only those of its blocks."""
    model = elastify(Hybrid(), X)
    (stage,) = space(model).stages
    assert stage.choices == (2, 3)
    assert stage.prefix.startswith("not the first 1: the smaller network does not run: ValueError: only attention")
    small: Any = extract(model, space(model).min)
    assert small.config.layer_types == ["scan", "attend"]
    assert small(X, keep=True)["logits"].shape == (2, 3)
