"""A search on two ranks: one study, each candidate evaluated once, the same result on both, and errors on both."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from elastify import ElastifyError, activate, elastify, extract, search, space
from elastify.train import recalibrate
from tests.on_ranks import on_two
from tests.small_nets import Net

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return elastify(Net(), X[:2], verify=False)


def score(model: nn.Module) -> Tensor:
    return model(X).square().mean().detach()


def searched(model: nn.Module, evaluate: Callable[[nn.Module], Any], **options: Any) -> Any:
    return search(model, evaluate=evaluate, **{"budget_macs": "60%", "n_trials": 12, "progress": False, **options})


def told(result: Any) -> list[Any]:
    history = [(t.number, t.config.to_json(), t.score, t.state) for t in result.history]
    weights = [float(p.detach().sum()) for p in result.model.parameters()]
    found = [result.config.to_json(), result.score, history, len(result.pareto), weights]
    return json.loads(json.dumps(found))


def dealt(rank: int, folder: Path, n_trials: int = 12, **options: Any) -> Any:
    seen: list[int] = []

    def evaluate(model: nn.Module) -> Tensor:
        seen.append(model.stem.weight.numel())
        return score(model)

    study = folder.parent / "study.log"
    result = searched(net(), evaluate, n_trials=n_trials, study=study, **options)
    return [told(result), len(seen)]


def test_candidates_are_dealt_and_the_result_is_one(tmp_path: Path) -> None:
    (first, evaluated), (second, also) = on_two(dealt, tmp_path / "ranks")
    assert first == second
    _, best, history, _, _ = first
    assert [number for number, *_ in history] == list(range(12))
    new = {config for _, config, _, state in history if state == "new"}
    assert abs(evaluated - also) <= 1
    assert len(new) <= evaluated + also <= len(new) + 2  # the last one may go to both
    model = net()
    for _, text, found, _ in history:
        with activate(model, type(space(model).max).from_json(text)):
            assert found == pytest.approx(float(score(model)), rel=1e-6)
    assert best == max(found for _, _, found, _ in history)
    (more, _), (same, _) = on_two(partial(dealt, n_trials=20), tmp_path / "ranks")
    assert more == same
    assert more[2][:12] == history  # it goes on in the same file
    alone = searched(net(), score, study=tmp_path / "study.log", n_trials=20)  # as one process can
    assert told(alone)[:4] == more[:4]


def several(rank: int, folder: Path) -> Any:
    seen: list[str] = []

    def evaluate(model: nn.Module) -> Tensor:
        seen.append(str(tuple(p.numel() for p in model.parameters())))
        return score(model)

    results = searched(net(), evaluate, budget_macs=["100%", "60%", "60%", "40%"], n_trials=6)
    with_limit = searched(net(), score, budget_macs="50%", timeout=0)
    return [[told(result) for result in [*results, with_limit]], len(seen)]


def test_lists_of_budgets_the_full_network_and_a_timeout(tmp_path: Path) -> None:
    (first, evaluated), (second, also) = on_two(several, tmp_path / "ranks")
    assert first == second
    assert first[1] == first[2]  # the same search again needs no evaluation
    assert evaluated + also <= 2 + 6 + 6 + 4
    assert 1 <= len(first[-1][2]) <= 2


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 32), nn.BatchNorm1d(32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)).relu())


def measured(rank: int, folder: Path) -> Any:
    torch.manual_seed(0)
    model = elastify(Normed(), X[:2])

    def evaluate(model: nn.Module) -> Tensor:
        recalibrate(model, [X, X + 1])
        return score(model)

    result = searched(model.eval(), evaluate, n_trials=8)
    again = [float(extract(model, t.config).eval()(X).square().mean()) for t in result.history]
    return [again, [t.score for t in result.history], result.model.eval()(X).sum().item()]


def test_statistics_that_an_evaluation_measures_are_there_on_all(tmp_path: Path) -> None:
    first, second = on_two(measured, tmp_path / "ranks")
    assert first == second
    assert first[0] == pytest.approx(first[1], rel=1e-5)


def failing(how: str, rank: int) -> Callable[[nn.Module], Any]:
    count = 0

    def evaluate(model: nn.Module) -> Any:
        nonlocal count
        count += 1
        if how == "sums":
            value = score(model)
            dist.all_reduce(value)
            return value
        if rank == 0 or (count < 3 and how != "raises"):
            return score(model)
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "Ctrl-C":
            signal.raise_signal(signal.SIGINT)
            return score(model)
        if how == "nan":
            return float("nan")
        raise ValueError("no luck")

    return evaluate


def refused(rank: int, folder: Path) -> Any:
    logging.getLogger("elastify").setLevel(logging.ERROR)
    (folder / "broken.log").write_text("x\ny\n")
    cases: dict[str, Callable[[], Any]] = {
        "the first raises": lambda: searched(net(), failing("raises", rank), n_trials=40),
        "a later one raises": lambda: searched(net(), failing("later", rank), n_trials=40),
        "nan": lambda: searched(net(), failing("nan", rank), n_trials=40),
        "the full network": lambda: searched(net(), failing("raises", 1), budget_macs="100%"),
        "sums": lambda: searched(net(), failing("sums", rank), n_trials=40),
        "a study": lambda: searched(net(), score, study=folder / "broken.log"),
        "weights": lambda: searched(net(rank), score),
        "arguments": lambda: searched(net(), score, n_trials=10 + rank),
        "Ctrl-C": lambda: searched(net(), failing("Ctrl-C", rank), n_trials=40),
        "without a score": lambda: search(net(), "50%"),
    }
    return {name: told_or_refused(work) for name, work in cases.items()}


def told_or_refused(work: Callable[[], Any]) -> Any:
    try:
        return told(work())
    except ElastifyError as error:
        return str(error)


def test_what_is_refused_on_one_is_an_error_on_all(tmp_path: Path) -> None:
    first, second = on_two(refused, tmp_path / "ranks")
    assert first == second
    for name, texts in {
        "the first raises": ("evaluate failed", "ValueError: no luck (on rank 1)"),
        "a later one raises": ("evaluate failed", "ValueError: no luck (on rank 1)"),
        "nan": ("evaluate failed", "it returned nan (on rank 1)"),
        "the full network": ("evaluate failed", "ValueError: no luck (on rank 0)"),
        "sums": ("the ranks have talked to each other while each looked at another subnet", "works in one process"),
        "a study": ("cannot use this study file", "broken.log"),
        "weights": ("the ranks have different weights",),
        "arguments": ("the ranks have different searches", "the same arguments on every rank"),
    }.items():
        for text in texts:
            assert text in first[name]
    assert 3 <= len(first["Ctrl-C"][2]) < 40
    assert first["without a score"] == told(search(net(), "50%"))


def dying(rank: int, folder: Path) -> Any:
    return told(searched(net(), failing("dies", rank), n_trials=40))


def test_a_rank_that_dies_is_an_error_on_the_other(tmp_path: Path) -> None:
    first, second = on_two(dying, tmp_path / "ranks")
    assert "another rank has stopped" in first
    assert second == -signal.SIGKILL
