"""Other threads go on with models of their own while one is made elastic, and other processes get elastic models."""

from __future__ import annotations

import copy
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from elastify import ElastifyError, activate, cost, elastify, extract, space

X = torch.randn(4, 5)


class Moody(nn.Module):
    """Reads its mode, which a capture listens for."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * (0.5 if self.training else 1.0)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def infers() -> Callable[[], Any]:
    other = net()

    def step() -> None:
        with torch.no_grad():
            other(torch.randn(4, 5))

    return step


def moods() -> Callable[[], Any]:
    other = nn.Sequential(nn.Linear(5, 16), Moody(), nn.Dropout(0.1), nn.Linear(16, 3)).train()
    return lambda: other.train(not other.training)(torch.randn(4, 5))


def trains() -> Callable[[], Any]:
    other = net().train()
    optimizer = torch.optim.SGD(other.parameters(), 0.01)

    def step() -> None:
        other(torch.randn(4, 5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def activates() -> Callable[[], Any]:
    other = elastify(net(), X)
    draws = iter(range(10**9))

    def step() -> None:
        with activate(other, space(other).sample(next(draws))):
            other(torch.randn(4, 5))

    return step


def extracts() -> Callable[[], Any]:
    other = elastify(net(), X)
    return lambda: extract(other, 0.5)(torch.randn(4, 5))


def makes() -> Callable[[], Any]:
    return lambda: elastify(net(), X)


@contextmanager
def meanwhile(step: Callable[[], Any]) -> Iterator[list[BaseException]]:
    """A thread that takes the step again and again; what it raised."""
    stop, raised = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            while not stop.is_set():
                step()
        except BaseException as error:  # noqa: BLE001 - told by the test
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield raised
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("work", [infers, moods, trains, activates, extracts, makes])
def test_other_threads_are_not_seen(work: Callable[[], Callable[[], Any]]) -> None:
    step = work()
    with meanwhile(step) as raised:
        for make in (net, lambda: nn.Sequential(net(), nn.ReLU(), nn.Linear(3, 16), Moody(), nn.Linear(16, 2))) * 3:
            model: Any = elastify(make(), X)
            assert len(space(model).axes) == (2 if isinstance(model[0], nn.Linear) else 5)
            small = extract(model, 0.5)
            with torch.no_grad(), activate(model, 0.5):
                torch.testing.assert_close(small(X), model(X))
            assert cost(model, 0.5).params == sum(p.numel() for p in small.parameters())
    assert not raised, raised


def test_many_threads_at_once() -> None:
    def made(_: int) -> tuple[int, int]:
        model = elastify(net(), X)
        return len(space(model).axes), cost(model, 0.5).macs

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(made, range(12))) == {made(0)}


def test_copies_serve_threads_of_their_own() -> None:
    model = elastify(net(), X)
    want = [extract(model, ratio)(X) for ratio in (0.25, 0.5, 0.75, 1.0)]

    def served(ratio: float) -> Tensor:
        twin = copy.deepcopy(model)
        with torch.no_grad(), activate(twin, ratio):
            return twin(X)

    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(pool.map(served, (0.25, 0.5, 0.75, 1.0)), want, strict=True):
            torch.testing.assert_close(got, expected)


# -- processes --------------------------------------------------------------------------------------------------


class Blocks(nn.Module):
    """Depth, heads read from attributes, and a norm with statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.heads = nn.Linear(5, 16), nn.BatchNorm1d(16), 4
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)) for _ in range(3))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = x.view(x.shape[0], self.heads, -1).softmax(-1).flatten(1)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def answer(model: nn.Module, x: Tensor) -> tuple[list[list[float]], int, list[list[float]]]:
    """What a worker finds: outputs of the active subnet, parameters of the extracted one, outputs of the full one."""
    torch.set_num_threads(1)
    with torch.no_grad():
        active = model(x)
        small = sum(p.numel() for p in extract(model).parameters())
        activate(model, None)
        return active.tolist(), small, model(x).tolist()


@pytest.mark.parametrize("config", [None, 0.5, "least"])
def test_spawned_workers_get_the_active_subnet(config: Any) -> None:
    model = elastify(Blocks().eval(), X)
    with activate(model, space(model).min if config == "least" else config):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(answer, (model, X))
        want = answer(copy.deepcopy(model), X)
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(want[0]))
    torch.testing.assert_close(torch.tensor(found[2]), torch.tensor(want[2]))
    assert found[1] == want[1]


class Labelled(Dataset[Tensor]):
    """Samples with what a model says of them, asked in the worker."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.model, self.x = model, x

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            return self.model(self.x[index : index + 1])[0]


@pytest.mark.parametrize("context", ["spawn", "fork"])
def test_workers_of_a_loader_run_the_active_subnet(context: str) -> None:
    model = elastify(Blocks().eval(), X)
    with activate(model, 0.5):
        loader = DataLoader(Labelled(model, X), batch_size=4, num_workers=1, multiprocessing_context=context)
        (found,) = list(loader)
        with torch.no_grad():
            torch.testing.assert_close(found, model(X))


def test_a_pickled_model_notices_changes() -> None:
    model: Any = copy.deepcopy(elastify(Blocks().eval(), X))
    model.head = nn.Linear(16, 3)
    with multiprocessing.get_context("spawn").Pool(1) as pool, pytest.raises(ElastifyError, match="head is another"):
        pool.apply(answer, (model, X))
