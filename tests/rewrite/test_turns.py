"""A block that a checkpoint computes again is the one that it was, or it is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError, checkpoint

from elastify import ElastifyError, activate, elastify, space

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Own(torch.autograd.Function):
    """A checkpoint as libraries write their own."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(x)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            out = ctx.run(x)
        out.backward(grad)
        return None, x.grad


class Net(nn.Module):
    """A block between two layers, run through some checkpoint."""

    def __init__(self, way: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.i, self.u, self.d, self.o = nn.Linear(4, 8), nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 2)

    def block(self, h: Tensor) -> Tensor:
        return self.d(self.u(h).relu())

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        return self.o(h + (self.way(self.block, h) if self.training else self.block(h)))


def _reentrant(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return checkpoint(run, x, use_reentrant=True)


def _nested(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return checkpoint(lambda y: checkpoint(run, y, use_reentrant=True), x, use_reentrant=True)


def _plain(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return run(x)


WAYS = [_reentrant, _nested, Own.apply]


def made(way: Callable[..., Tensor]) -> nn.Module:
    return elastify(Net(way), X).train()


def half_inside(model: nn.Module) -> dict[str, float]:
    """Half of the units inside the block: what goes in and out of it stays."""
    return {next(axis.name for axis in space(model).axes if ("u.weight", 0) in axis.members): 0.5}


def gradients(model: nn.Module, *losses: Tensor) -> list[Tensor]:
    model.zero_grad()
    for loss in losses:
        loss.backward()
    return [p.grad.clone() for p in model.parameters()]


def loss_of(model: nn.Module, config: Any) -> Tensor:
    with activate(model, config):
        return model(X).square().sum()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("config", [0.5, None])
def test_backward_in_time(way: Callable[..., Tensor], config: float | None) -> None:
    model, plain = made(way), made(_plain)
    loss_of(model, 0.75)  # others were active before
    loss_of(plain, 0.75)
    with activate(model, config):
        ours = gradients(model, model(X).square().sum())
    with activate(plain, config):
        theirs = gradients(plain, plain(X).square().sum())
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("before", "now"), [(half_inside, None), (0.5, None), (None, 0.5), (0.5, 0.75)])
def test_backward_as_another_subnet(way: Callable[..., Tensor], before: Any, now: Any) -> None:
    model = made(way)
    before = before(model) if callable(before) else before
    loss = loss_of(model, before)
    with activate(model, now), pytest.raises(ElastifyError, match="computed again while another subnet") as caught:
        loss.backward()
    assert "use_reentrant=False" in str(caught.value)
    with activate(model, before):
        loss_of(model, before).backward()  # what was refused has broken nothing


def test_several_losses_wait() -> None:
    model, plain = made(_reentrant), made(_plain)
    with activate(model, 0.5):
        first = model(X).square().sum()
        loss_of(model, None)
        second = model(X[:3]).square().sum()
        ours = gradients(model, second, first)
    with activate(plain, 0.5):
        theirs = gradients(plain, plain(X[:3]).square().sum(), plain(X).square().sum())
    assert all(map(torch.equal, ours, theirs))


def test_checkpoints_with_a_graph_notice_themselves() -> None:
    model = made(lambda run, x: checkpoint(run, x, use_reentrant=False))
    loss = loss_of(model, half_inside(model))
    with pytest.raises(CheckpointError):
        loss.backward()


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])  # noqa: S301
def test_copies_begin_with_their_own_subnet(twin: Callable[[nn.Module], nn.Module]) -> None:
    model = made(_reentrant)
    with activate(model, 0.5):
        other = twin(model)
    other(X).sum().backward()  # still the half
    loss = other(X).sum()
    activate(other, None)
    with pytest.raises(ElastifyError, match="computed again"):
        loss.backward()


def test_very_many_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elastify._rewrite.turns._MOST", 8)
    model = made(_reentrant)
    old = loss_of(model, 0.5)
    for _ in range(9):
        loss_of(model, 0.75)
    with activate(model, 0.5), pytest.raises(ElastifyError, match="computed again"):
        old.backward()  # too long ago to be known
    with activate(model, 0.75):
        model(X).sum().backward()
