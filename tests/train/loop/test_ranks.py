"""Two processes that talk through gloo: what one process gives on the joint batch, and errors instead of waiting."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from elastify import ElastifyError, elastify, space
from elastify._search.ranks import others
from elastify.train import (
    AllExits,
    AlternateCore,
    Compressible,
    FullPlusRandom,
    GumbelMask,
    ProgressiveShrinking,
    Sandwich,
    Sorted,
    Strategy,
    fit,
    one_reduction,
)
from elastify.train._loop.plain import Plain
from elastify.train._loop.ranks import fingerprint
from tests.on_ranks import on_two
from tests.small_nets import Net

GENERATOR = torch.Generator().manual_seed(0)
DATA = [(torch.randn(8, 6, generator=GENERATOR), torch.arange(8) % 3) for _ in range(6)]
HALVES = [[(x[rank::2], y[rank::2]) for x, y in DATA] for rank in (0, 1)]
Made = Callable[[nn.Module], Strategy]


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = Net()
    return elastify(model, DATA[0][0][:2], verify=False)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1, momentum=0.9)


def train(model: nn.Module, strategy: Strategy, data: Any, **options: Any) -> list[float]:
    options = {"epochs": 2, "optimizer": sgd, "progress": False, **options}
    return [step.total for step in fit(model, data, F.cross_entropy, strategy=strategy, **options).losses]


MADE: dict[str, Made] = {
    "Sandwich": lambda model: Sandwich(model, n_random=1),
    "Sorted": lambda model: Sorted(model, (2, 3), draws=1),
    "AllExits": AllExits,
    "Compressible": lambda model: Compressible(model, "sparsity"),
    "GumbelMask": GumbelMask,
    "ProgressiveShrinking": lambda model: ProgressiveShrinking(model, sort=False),  # its teacher is a copy
    "AlternateCore": AlternateCore,
}


def fitted(rank: int, folder: Path) -> Any:
    found = {}
    for name, make in MADE.items():
        model = net(rank)  # the weights of the first rank count
        wrapped = DistributedDataParallel(model) if name == "Sorted" else model
        found[name] = train(wrapped, make(model), HALVES[rank])
        found[f"{name} weights"] = [float(p.detach().sum()) for p in model.parameters()]
    return found


def test_fit_gives_the_losses_of_the_joint_batch(tmp_path: Path) -> None:
    first, second = on_two(fitted, tmp_path / "ranks")
    assert first == second
    for name, make in MADE.items():
        model = net()
        assert first[name] == pytest.approx(train(model, make(model), DATA), abs=1e-5)
        assert first[f"{name} weights"] == pytest.approx(
            [float(p.detach().sum()) for p in model.parameters()], abs=1e-4
        )


def test_ranks_compare_what_they_are_about_to_train() -> None:
    def differ(first: Strategy, second: Strategy) -> bool:
        return fingerprint(first) != fingerprint(second)

    model, other = net(), elastify(Net(), DATA[0][0][:2], verify=False, min_ratio=0.75)
    half, more = (space(model).config(share) for share in (0.5, 0.75))
    assert differ(AlternateCore(model, {"*": 0.5}), AlternateCore(model, {"*": 0.75}))
    assert differ(FullPlusRandom(model, [half]), FullPlusRandom(model, [more]))
    assert differ(Sorted(model, [half]), Sorted(model, [more]))
    assert differ(Sandwich(model), Sandwich(other))
    assert differ(Sandwich(model), Sandwich(model, seed=1))
    assert not differ(Sorted(model, [half, {"width": 12}]), Sorted(net(1), [half, {"width": 12}]))
    assert fingerprint(Plain(model)) == fingerprint(Plain(nn.Linear(2, 2)))  # no strategy: nothing to draw


def steps(model: nn.Module, called: nn.Module, strategy: Strategy, data: Any, mean: Any = lambda x: x) -> list[float]:
    """A loop of one's own."""
    optimizer, losses = sgd(model.parameters()), []
    for x, y in data:
        optimizer.zero_grad()
        with one_reduction(called, strategy):
            found = strategy.step(lambda x=x: called(x), lambda z, y=y: F.cross_entropy(z, y))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(mean(found.total))
    return losses


def mean_of(value: float) -> float:
    tensor = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(tensor)
    return float(tensor) / 2


def looped(rank: int, folder: Path, kind: str) -> Any:
    model = net()
    strategy = MADE[kind](model)
    strategy.prepare()
    return steps(model, DistributedDataParallel(model), strategy, HALVES[rank], mean_of)


def sharded(rank: int, folder: Path) -> Any:
    model = net()
    for block in model.blocks:
        fully_shard(block, mesh=dist.init_device_mesh("cpu", (2,)))
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (2,)))
    return steps(model, model, MADE["Sandwich"](model), HALVES[rank], mean_of)


@pytest.mark.parametrize("kind", ["Sandwich", "Compressible", "GumbelMask", "fsdp"])
def test_loops_of_ones_own(kind: str, tmp_path: Path) -> None:
    first, second = on_two(sharded if kind == "fsdp" else partial(looped, kind=kind), tmp_path / "ranks")
    model = net()
    strategy = MADE.get(kind, MADE["Sandwich"])(model)
    strategy.prepare()
    assert first == second
    assert first == pytest.approx(steps(model, model, strategy, DATA), abs=1e-5)


def differing(rank: int, folder: Path) -> Any:
    model = net()
    return train(model, FullPlusRandom(model, seed=rank), HALVES[rank])


def test_different_subnets_are_an_error_at_once(tmp_path: Path) -> None:
    for found in on_two(differing, tmp_path / "ranks", seconds=15):
        assert "the ranks have different states of the strategy" in found


def uneven(rank: int, folder: Path) -> Any:
    model = net()
    return len(train(model, FullPlusRandom(model), HALVES[rank][: 4 - rank], epochs=2))


def test_an_epoch_ends_with_the_first_rank_without_a_batch(tmp_path: Path) -> None:
    assert on_two(uneven, tmp_path / "ranks") == [6, 6]


class Noisy(nn.Module):
    """Draws from the global generator, as dropout does."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn(x.shape)


def interrupted(rank: int, folder: Path, dies: bool = True, name: str = "run") -> Any:
    torch.manual_seed(0)
    model = elastify(
        nn.Sequential(Noisy(), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), DATA[0][0][:2], verify=False
    )

    def hook(step: int, losses: Any) -> None:
        if dies and rank == 1 and step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    where = {"checkpoint": folder / name, "checkpoint_every": 5}
    return train(model, Sandwich(model), HALVES[rank], on_step=hook, **where)


def test_a_rank_that_dies_is_an_error_and_the_rest_is_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    begun = time.monotonic()
    first, second = on_two(interrupted, folder)
    assert second == -signal.SIGKILL
    assert "another rank has stopped" in first
    assert time.monotonic() - begun < 20
    resumed = on_two(partial(interrupted, dies=False), folder)
    whole = on_two(partial(interrupted, dies=False, name="whole"), tmp_path / "whole")
    assert len(whole[0]) == 12
    assert resumed == whole


def test_processes_that_do_not_know_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = net()
    with pytest.raises(ElastifyError, match="2 processes were started, but they do not know each other"):
        train(model, FullPlusRandom(model), DATA)


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2345"), True),
        (RuntimeError("Timed out waiting 20000ms for recv operation to complete"), True),
        (dist.DistBackendError("NCCL communicator was aborted on rank 1"), True),
        (RuntimeError("No backend type associated with device type mps"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
    ],
)
def test_only_silence_is_told_as_a_lost_rank(error: RuntimeError, gone: bool) -> None:
    with pytest.raises(ElastifyError if gone else type(error)) as caught, others():
        raise error
    assert ("another rank has stopped" in str(caught.value)) == gone
    assert caught.value is error or caught.value.__cause__ is error
