"""Compiled models: one graph per subnet, whatever the number of steps, and the gradients of the model itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter

from elastify import elastify, space
from elastify.train import AllExits, AlternateCore, FullPlusRandom, ProgressiveShrinking, Sandwich, Sorted, Strategy
from tests.small_nets import Net

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(8) % 3

# each with the number of different subnets that it runs
CASES: dict[str, tuple[Callable[[nn.Module], Strategy], int]] = {
    "Sandwich": (lambda model: Sandwich(model, n_random=0), 2),
    "Sandwich with few choices": (lambda model: Sandwich(model, n_random=1), 4),
    "FullPlusRandom": (FullPlusRandom, 4),
    "Sorted": (lambda model: Sorted(model, 4, draws=3), 4),
    "ProgressiveShrinking": (ProgressiveShrinking, 5),
    "AllExits": (AllExits, 3),
    "AlternateCore": (lambda model: AlternateCore(model, {"blocks": 1}), 2),
}


@pytest.fixture(scope="module")
def elastic() -> nn.Module:
    torch.manual_seed(0)
    return elastify(Net(), X, choices={"blocks": [1, 4], "*width": [8, 16]}, freeze=["*.hidden"])


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", CASES)
def test_compiles_once_per_subnet(elastic: nn.Module, name: str) -> None:
    make, subnets = CASES[name]
    model, plain = copy.deepcopy(elastic), copy.deepcopy(elastic)
    assert space(model).size == 4
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    strategy, expected = make(model), make(plain)
    strategy.prepare()
    expected.prepare()
    for number in range(12):
        losses = strategy.step(lambda: compiled(X), lambda outputs: F.cross_entropy(outputs, Y))
        assert losses.total == pytest.approx(
            expected.step(lambda: plain(X), lambda outputs: F.cross_entropy(outputs, Y)).total, rel=1e-5
        )
        if number == 5:
            early = counter.frame_count
    assert early <= counter.frame_count <= subnets + 1
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
