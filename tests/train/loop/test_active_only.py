"""Optimizers leave alone what no pass of the step used: rows, columns, whole parameters, values and state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from elastify import ElastifyError, activate, elastify, extract
from elastify.train import AlternateCore, Sorted, active_only, fit
from tests.small_nets import Net

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(1)).double()
Y = torch.arange(24) % 3

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "sgd": lambda p: SGD(p, 0.05, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.1, foreach=True),
    "adam": lambda p: Adam(p, 0.01, weight_decay=0.1, amsgrad=True),
    "adamw": lambda p: AdamW(p, 0.01, weight_decay=0.5),
    "rmsprop": lambda p: RMSprop(p, 0.01, momentum=0.9, centered=True, weight_decay=0.1),
}


@pytest.fixture(scope="module")
def elastic() -> nn.Module:
    torch.manual_seed(0)
    return elastify(Net().double(), X)


@pytest.fixture
def model(elastic: nn.Module) -> nn.Module:
    return copy.deepcopy(elastic)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def loss(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(X), Y)


CORE = {"*": 0.5, "blocks": 2}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_a_core_is_training_its_extracted_network(model: nn.Module, kind: str) -> None:
    small = extract(model, CORE)
    alone = OPTIMIZERS[kind](list(small.parameters()))
    optimizer = active_only(OPTIMIZERS[kind](list(model.parameters())))
    before = values(model)
    for _ in range(4):
        optimizer.zero_grad()
        alone.zero_grad()
        with activate(model, CORE):
            loss(model).backward()
        loss(small).backward()
        optimizer.step()
        alone.step()
    torch.testing.assert_close(values(extract(model, CORE)), values(small), rtol=1e-9, atol=1e-12)
    after = values(model)
    with activate(model, CORE), torch.no_grad():  # whatever lies outside the core is what it was, to the last bit
        for p in (p for module in model.modules() for p in (getattr(module, n) for n in module._parameters)):
            p.zero_()
    inside = {name: p == 0 for name, p in model.named_parameters()}
    for name, mask in inside.items():
        assert torch.equal(after[name][~mask], before[name][~mask]), name
        moved = not torch.equal(after[name][mask], before[name][mask])
        assert moved == (not name.startswith(("blocks.2", "blocks.3"))), name
        for key, state in optimizer.state[model.get_parameter(name)].items():
            if state.shape == mask.shape:
                assert not state[~mask].any(), (name, key)


def test_momentum_waits_while_other_parts_train(model: nn.Module) -> None:
    optimizer = active_only(SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.1))
    strategy = AlternateCore(model, CORE, core_steps=2)
    states = []
    for _ in range(6):
        optimizer.zero_grad()
        strategy.step(lambda: model(X), lambda outputs: F.cross_entropy(outputs, Y))
        optimizer.step()
        buffers = {n: optimizer.state[p].get("momentum_buffer") for n, p in model.named_parameters()}
        states.append((values(model), {n: b if b is None else b.clone() for n, b in buffers.items()}))
    for number, (first, second) in enumerate(pairwise(states), 2):
        for name in ("blocks.0.up.weight", "blocks.3.up.weight"):
            rows = slice(10, None) if "0" in name else slice(None)
            for a, b in zip(first, second, strict=True):
                same = a[name] is b[name] is None or (a[name] is not None and torch.equal(a[name][rows], b[name][rows]))
                assert same == (number % 3 != 0), (number, name)


def test_the_union_of_all_passes_is_active(model: nn.Module) -> None:
    optimizer = active_only(AdamW(model.parameters(), 0.01, weight_decay=0.5))
    before = model.blocks[0].up.weight.detach().clone()
    for config in ({"width": 4}, {"blocks.0.hidden": 5}):
        with activate(model, config):
            loss(model).backward()
    optimizer.step()
    moved = model.blocks[0].up.weight != before
    expected = torch.zeros(20, 16, dtype=torch.bool)
    expected[:, :4] = expected[:5] = True
    assert torch.equal(moved, expected)


def test_the_full_network_is_trained_as_ever(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    optimizers = active_only(AdamW(model.parameters(), 0.01)), AdamW(other.parameters(), 0.01)
    for net, optimizer in zip((model, other), optimizers, strict=True):
        loss(net).backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_zeros_instead_of_no_gradients(model: nn.Module) -> None:
    optimizer = active_only(SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.1))
    loss(model).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    before = values(model)
    with activate(model, {"blocks": 1}):
        loss(model).backward()
    optimizer.step()
    moved = {name for name, value in values(model).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if not name.startswith(("blocks.1", "blocks.2", "blocks.3"))}
    assert model.blocks[3].up.weight.grad is not None


def test_a_step_that_a_scaler_skips_leaves_nothing_behind(model: nn.Module) -> None:
    model.float()
    optimizer = active_only(SGD(model.parameters(), 0.05, weight_decay=0.1))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor, config in ((float("inf"), None), (1.0, {"blocks.0.hidden": 5})):
        optimizer.zero_grad()
        before = values(model)
        with activate(model, config):
            scaler.scale(F.cross_entropy(model(X.float()), Y) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    moved = (model.blocks[0].up.weight != before["blocks.0.up.weight"]).any(1)
    assert moved.tolist() == [True] * 5 + [False] * 15


def test_in_fit_with_parameters_of_another_module(model: nn.Module) -> None:
    model.float()
    extra = nn.Parameter(torch.ones(3))
    history = fit(
        model,
        [(X.float(), Y)] * 4,
        lambda outputs, y: F.cross_entropy(outputs * extra, y),
        strategy=Sorted(model, [{"blocks": 1, "width": 4}], draws=1),
        optimizer=lambda p: active_only(AdamW([*p, extra], 0.01, weight_decay=0.5)),
        epochs=1,
        progress=False,
    )
    assert history.steps == 4
    assert not torch.equal(extra, torch.ones(3))


def test_refusal() -> None:
    plain = nn.Linear(6, 3)
    with pytest.raises(ElastifyError, match="active_only does not know Rprop"):
        active_only(torch.optim.Rprop(plain.parameters()))


def test_a_closure_with_a_backward_is_refused(model: nn.Module) -> None:
    """It comes when the optimizer has begun: nothing would be protected. One that makes none (Lightning's) is fine."""
    optimizer = active_only(SGD(model.parameters(), 0.1))
    before = copy.deepcopy(model.state_dict())

    def closure() -> Tensor:
        optimizer.zero_grad()
        with activate(model, 0.5):
            value = F.cross_entropy(model(X), Y)
            value.backward()
        return value

    with pytest.raises(ElastifyError, match="cannot watch a backward within"):
        optimizer.step(closure)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    closure()
    optimizer.step(lambda: 0.0)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed
    rows = (model.stem.weight != before["stem.weight"]).any(1)
    assert rows.any()
    assert not rows.all()
