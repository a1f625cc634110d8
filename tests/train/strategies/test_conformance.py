"""What every strategy keeps: its gradients are those of the naive sum, and it goes with everything a loop does.

A new strategy is one `Case`: how it is made, and its step written down naively, all graphs at once.
"""

from __future__ import annotations

import copy
import gc
import inspect
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from elastify import SubnetConfig, activate, elastify, space
from elastify import train as elastify_train
from elastify.train import (
    AllExits,
    AlternateCore,
    Compressible,
    EdgePopup,
    FullPlusRandom,
    GumbelMask,
    Losses,
    ProgressiveShrinking,
    Sandwich,
    Sorted,
    Strategy,
    Supermask,
    active_only,
    soft_cross_entropy,
)
from elastify.train._loop.checkpoint import pack, unpack
from elastify.train._strategies.gates import gates_of
from elastify.train._strategies.masks import Masked
from tests.small_nets import Block

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 3


class Net(nn.Module):
    """Four residual blocks, checkpointed if asked."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(Block(16, 20) for _ in range(4))
        self.checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x)
        return self.head(self.norm(x))


def cross_entropy(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, LABELS)


class Naive:
    """Passes of a step that all stay alive until the end; `draw` gives what the strategy is going to draw."""

    def __init__(self, strategy: Strategy) -> None:
        self.model = strategy.model
        self.rng = np.random.default_rng()
        self.rng.bit_generator.state = strategy.state_dict()["generator"]

    def run(self, config: object = None) -> Tensor:
        with activate(self.model, config):
            return self.model(X.double())

    def draw(self) -> SubnetConfig:
        return space(self.model).sample(self.rng)


def sandwich(strategy: Sandwich, naive: Naive) -> Iterator[Tensor]:
    full = naive.run()
    yield cross_entropy(full)
    for config in (space(strategy.model).min, *(naive.draw() for _ in range(strategy.n_random))):
        yield soft_cross_entropy(naive.run(config), full.detach())


def sandwich_in_turn(strategy: Sandwich, naive: Naive) -> Iterator[Tensor]:
    turn, full = strategy.state_dict()["turn"] % 3, naive.run()
    if turn == 0:
        yield cross_entropy(full)
    else:
        config = space(strategy.model).min if turn == 1 else naive.draw()
        yield soft_cross_entropy(naive.run(config), full.detach())


def full_plus_random(strategy: FullPlusRandom, naive: Naive) -> Iterator[Tensor]:
    yield cross_entropy(naive.run())
    yield cross_entropy(naive.run(naive.draw()))


def full_or_random(strategy: FullPlusRandom, naive: Naive) -> Iterator[Tensor]:
    yield cross_entropy(naive.run(naive.draw() if strategy.state_dict()["turn"] % 2 else None))


def twin_of(strategy: Strategy) -> Strategy:
    """One that draws what the strategy is going to draw."""
    twin = copy.copy(strategy)
    for name in ("_memory", "_generator"):
        object.__setattr__(twin, name, copy.deepcopy(getattr(strategy, name)))
    return twin


def nested(strategy: Sorted, naive: Naive) -> Iterator[Tensor]:
    twin, full = twin_of(strategy), naive.run().detach()
    for _ in range(strategy.draws):
        config = twin.sample()
        outputs = naive.run(config)
        if strategy.teacher is None or (strategy.teacher == "full" and config == space(strategy.model).max):
            yield cross_entropy(outputs)
        else:
            yield 0.3 * cross_entropy(outputs) + 0.7 * 4 * soft_cross_entropy(outputs / 2, full / 2)


def compressible(strategy: Compressible, naive: Naive) -> Iterator[Tensor]:
    for alpha in (1.0, 0.0, *naive.rng.uniform(size=strategy.n_random)):
        strategy.at(alpha)
        yield cross_entropy(naive.run(strategy.config(alpha)))
    strategy.at(1.0)


def all_exits(strategy: AllExits, naive: Naive) -> Iterator[Tensor]:
    for blocks in (1, 2, 3, 4):
        yield cross_entropy(naive.run(space(strategy.model).config({"blocks": blocks}))) / 4


def shrinking(strategy: ProgressiveShrinking, naive: Naive) -> Iterator[Tensor]:
    twin = ProgressiveShrinking(strategy.model)
    twin.load_state_dict(strategy.state_dict())
    full = naive.run()
    if strategy.teacher == "inplace":
        yield cross_entropy(full)
    for _ in range(strategy.draws):
        outputs = naive.run(twin.sample())
        yield cross_entropy(outputs) + 0.7 * soft_cross_entropy(outputs, full.detach())


def shrinking_late(model: nn.Module, teacher: str) -> ProgressiveShrinking:
    strategy = ProgressiveShrinking(model, kd_ratio=0.7, teacher=teacher, seed=3)
    strategy.prepare()
    strategy.advance(0.6)
    return strategy


def taught(model: nn.Module, teacher: str | nn.Module) -> Sorted:
    return Sorted(model, (3, 2), teacher=teacher, mix=0.3, temperature=2.0, seed=3)


def alternate(strategy: AlternateCore, naive: Naive) -> Iterator[Tensor]:
    yield cross_entropy(naive.run(strategy.core if strategy.state_dict()["steps"] % 2 == 0 else None))


def masked(strategy: Masked, naive: Naive) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(int(naive.rng.integers(2**62)))
    for gate in gates_of(strategy.model):
        gate.draw(generator)
    yield cross_entropy(naive.run())
    for gate in gates_of(strategy.model):
        gate.noise = None


@dataclass(frozen=True)
class Case:
    make: Callable[[nn.Module], Strategy]
    naive: Callable[..., Iterator[Tensor]]


CASES = {
    "Sandwich": Case(lambda model: Sandwich(model, n_random=2, cycle=False, seed=3), sandwich),
    "Sandwich in turn": Case(lambda model: Sandwich(model, n_random=1, seed=3), sandwich_in_turn),
    "FullPlusRandom": Case(lambda model: FullPlusRandom(model, cycle=False, seed=3), full_plus_random),
    "FullPlusRandom in turn": Case(lambda model: FullPlusRandom(model, seed=3), full_or_random),
    "Compressible": Case(lambda model: Compressible(model, beta=0, seed=3), compressible),
    "GumbelMask": Case(lambda model: GumbelMask(model, select=("blocks.*",), freeze=False, seed=3), masked),
    "GumbelMask of units": Case(lambda model: GumbelMask(model, "unit", start=1.0, freeze=False, seed=3), masked),
    "Supermask": Case(lambda model: Supermask(model, select=("blocks.*",), freeze=False, seed=3), masked),
    "EdgePopup": Case(lambda model: EdgePopup(model, select=("blocks.*",), freeze=False, seed=3), masked),
    "Sorted": Case(lambda model: Sorted(model, (3, 2), draws=3, seed=3), nested),
    "Sorted, taught by the full network": Case(lambda model: taught(model, "full"), nested),
    "Sorted, taught by a copy": Case(lambda model: taught(model, "frozen"), nested),
    "Sorted, taught by the average": Case(lambda model: taught(model, "ema"), nested),
    "Sorted, taught by another": Case(lambda model: taught(model, copy.deepcopy(model)), nested),
    "ProgressiveShrinking": Case(lambda model: shrinking_late(model, "copy"), shrinking),
    "ProgressiveShrinking in place": Case(lambda model: shrinking_late(model, "inplace"), shrinking),
    "AlternateCore": Case(lambda model: AlternateCore(model, {"*": 0.5}), alternate),
    "AllExits": Case(AllExits, all_exits),
}


@pytest.fixture(scope="module")
def elastic() -> nn.Module:
    torch.manual_seed(0)
    return elastify(Net().double(), X[:2].double())


@pytest.fixture
def model(elastic: nn.Module) -> nn.Module:
    return copy.deepcopy(elastic)


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def step(strategy: Strategy, dtype: torch.dtype = torch.float64, **options: object) -> Losses:
    return strategy.step(lambda: strategy.model(X.to(dtype)), cross_entropy, **options)


def assert_full(model: nn.Module) -> None:
    assert len(model.blocks) == 4
    assert all(p is dict(model.named_parameters())[name] for name, p in model.named_parameters())
    assert model.head.weight is model.head._parameters["weight"]


class TestEveryStrategy:
    def test_gradients_and_losses_are_those_of_the_naive_sum(self, model: nn.Module, case: Case) -> None:
        strategy = case.make(model)
        strategy.prepare()
        for _ in range(3):  # a strategy may do different things in turn
            total = torch.stack(list(case.naive(strategy, Naive(strategy)))).sum()
            total.backward()
            expected = gradients(model)
            model.zero_grad()
            losses = step(strategy)
            torch.testing.assert_close(gradients(model), expected, rtol=1e-10, atol=1e-13)
            assert losses.total == pytest.approx(total.item(), rel=1e-12)
            model.zero_grad()

    def test_the_full_network_is_active_afterwards(self, model: nn.Module, case: Case) -> None:
        strategy = case.make(model)
        strategy.prepare()
        before = model(X.double())
        step(strategy)
        assert_full(model)
        assert torch.equal(model(X.double()), before)
        with pytest.raises(ZeroDivisionError):
            strategy.step(lambda: model(X.double()), lambda outputs: 1 / 0)
        assert_full(model)
        assert torch.equal(model(X.double()), before)

    def test_one_graph_at_a_time(self, model: nn.Module, case: Case) -> None:
        class Kept:
            """What a graph keeps for its backward."""

            def __init__(self, tensor: Tensor) -> None:
                self.tensor = tensor

        strategy, alive, left = case.make(model), weakref.WeakSet[Kept](), list[int]()
        strategy.prepare()
        step(strategy)  # some look at the model in their first step

        def pack(tensor: Tensor) -> Kept:
            alive.add(kept := Kept(tensor))
            return kept

        def forward() -> Tensor:
            gc.collect()
            left.append(len(alive))
            return model(X.double())

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            value = model(X.double()).sum()
            whole = len(alive)
            value.backward()
            strategy.step(forward, cross_entropy)
        gc.collect()
        assert not alive
        shared = whole if isinstance(strategy, AllExits) else 0  # its exits begin on the blocks that one forward ran
        assert max(left) <= shared, (left, whole)

    def test_accumulates(self, model: nn.Module, case: Case) -> None:
        strategy, again = case.make(model), case.make(model)
        strategy.prepare()
        again.load_state_dict(strategy.state_dict())
        step(strategy)
        step(strategy)
        both = gradients(model)
        total: dict[str, Tensor] = {}
        for _ in range(2):
            model.zero_grad()
            step(again)
            for name, gradient in gradients(model).items():
                total[name] = total.get(name, 0) + gradient
        torch.testing.assert_close(both, total, rtol=1e-10, atol=1e-13)

    def test_mixed_precision_with_a_scaled_backward(self, model: nn.Module, case: Case) -> None:
        model.float()
        strategy, scaled = case.make(model), case.make(model)
        strategy.prepare()
        scaled.load_state_dict(strategy.state_dict())
        with torch.autocast("cpu", torch.bfloat16):
            step(strategy, torch.float32)
            expected = gradients(model)
            model.zero_grad()
            step(scaled, torch.float32, backward=lambda value: (value * 256).backward())
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(gradient / 256, expected[name], rtol=1e-2, atol=1e-4)

    def test_half_precision_with_a_scaler_and_active_only(self, model: nn.Module, case: Case) -> None:
        model.float()
        strategy, precise = case.make(model), case.make(model)
        strategy.prepare()
        precise.load_state_dict(strategy.state_dict())
        step(precise, torch.float32)
        expected = torch.cat([gradient.flatten() for gradient in gradients(model).values()])
        optimizer = active_only(torch.optim.AdamW(model.parameters(), 1e-3))
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for number in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                losses = step(strategy, torch.float32, backward=lambda value: scaler.scale(value).backward())
            scaler.unscale_(optimizer)
            if number == 0:
                found = torch.cat([gradient.flatten() for gradient in gradients(model).values()])
                assert found.shape == expected.shape
                assert (found - expected).norm() < 0.1 * expected.norm()  # a ReLU may fall on its other side
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            scaler.step(optimizer)
            scaler.update()
            moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
            assert moved == set(gradients(model))
            assert losses.total < 20
        assert scaler.get_scale() == 256.0

    def test_gradient_checkpointing(self, model: nn.Module, case: Case) -> None:
        strategy, again = case.make(model), case.make(model)
        strategy.prepare()
        again.load_state_dict(strategy.state_dict())
        step(strategy)
        expected = gradients(model)
        model.zero_grad()
        model.checkpointing = True
        step(again)
        torch.testing.assert_close(gradients(model), expected, rtol=1e-10, atol=1e-13)

    def test_clipping_and_moving_average(self, model: nn.Module, case: Case) -> None:
        strategy = case.make(model)
        strategy.prepare()
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        expected = {name: p.detach().clone() for name, p in model.named_parameters()}
        for number in range(2):
            optimizer.zero_grad()
            step(strategy)
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            assert norm > 1e-3
            optimizer.step()
            averaged.update_parameters(model)
            for name, p in model.named_parameters():
                expected[name] = p.detach().clone() if number == 0 else 0.5 * (expected[name] + p.detach())
        torch.testing.assert_close(dict(averaged.module.named_parameters()), expected)
        config = space(model).min
        with activate(averaged.module, config), activate(model, config):
            assert averaged.module(X.double()).shape == model(X.double()).shape

    def test_seeded_and_resumable(self, model: nn.Module, case: Case) -> None:
        def losses(strategy: Strategy, count: int) -> list[Losses]:
            return [step(strategy) for _ in range(count)]

        first, second, resumed = (case.make(model) for _ in range(3))
        first.prepare()
        for other in (second, resumed):
            other.load_state_dict(first.state_dict())
        assert losses(first, 3) == losses(second, 3)
        tensors: dict[str, Tensor] = {}
        stored = pack(first.state_dict(), tensors)  # as a checkpoint holds it
        resumed.load_state_dict(unpack(stored, tensors))
        assert losses(first, 3) == losses(resumed, 3)


def test_every_strategy_is_tested_here_and_short() -> None:
    made = {type(case.make(elastify(Net().double(), X[:2].double(), verify=False))) for case in CASES.values()}
    public = {getattr(elastify_train, name) for name in elastify_train.__all__ if name != "ElasticTrainer"}
    assert made == {kind for kind in public if isinstance(kind, type) and issubclass(kind, Strategy)} - {Strategy}
    for kind in made:
        assert len(Path(inspect.getsourcefile(kind)).read_text().splitlines()) < 120, kind
