"""Compiled models: one graph per subnet, whatever the number of steps, and the gradients of the model itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend

from elastify import elastify, space
from elastify.train import (
    AllExits,
    AlternateCore,
    Compressible,
    EdgePopup,
    FullPlusRandom,
    GumbelMask,
    ProgressiveShrinking,
    Sandwich,
    Sorted,
    Strategy,
    Supermask,
)
from elastify.train._strategies.gates import gates_of
from tests.small_nets import Net

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(8) % 3

# each with the number of different subnets that it runs
CASES: dict[str, tuple[Callable[[nn.Module], Strategy], int]] = {
    "Sandwich": (lambda model: Sandwich(model, n_random=0, cycle=False), 2),
    "Sandwich with few choices": (lambda model: Sandwich(model, n_random=1, cycle=False), 4),
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


# levels, masks and gates are values, not code: each with the number of graphs that it needs
TRANSFORMS: dict[str, tuple[Callable[[nn.Module], Strategy], int]] = {
    "width": (lambda model: Compressible(model, params="all", n_random=0), 2),
    "sparsity": (lambda model: Compressible(model, "sparsity"), 3),  # two ends, and all between
    "sparsity of a point": (lambda model: Compressible(model, "sparsity", line=False), 2),
    "bits": (lambda model: Compressible(model, "bits"), 1),
    "weights": (GumbelMask, 1),
    "units": (lambda model: GumbelMask(model, "unit"), 1),
    "blocks": (lambda model: GumbelMask(model, "block"), 1),
    "Supermask": (Supermask, 1),
    "EdgePopup": (EdgePopup, 1),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_compile_once_and_not_per_level(name: str) -> None:
    make, graphs = TRANSFORMS[name]
    torch.manual_seed(0)
    model = elastify(Net(), X, verify=False)
    plain = copy.deepcopy(model)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter)
    strategy, expected = make(model), make(plain)
    counts = []
    for each in (strategy, expected):
        each.prepare()
    for _ in range(12):
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):  # not back to eager in silence
            found = strategy.step(lambda: compiled(X), lambda outputs: F.cross_entropy(outputs, Y))
        other = expected.step(lambda: plain(X), lambda outputs: F.cross_entropy(outputs, Y))
        assert found.total == pytest.approx(other.total, rel=1e-5)
        counts.append(counter.frame_count)
    proofs = len({id(gate) for gate in gates_of(model)}) if name in ("units", "blocks") else 0  # in the first step
    assert counts[-1] <= graphs + proofs + 1
    for one, same in zip(model.parameters(), plain.parameters(), strict=True):
        assert (one.grad is None) == (same.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, same.grad, rtol=1e-4, atol=1e-5)
