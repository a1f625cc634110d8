"""All figures of one model: what a process of `tools/zoo.py` finds out, and the tables show."""

from __future__ import annotations

import gc
import json
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from zoo_entry import missing
from zoo_suites import SUITES

from elastify import _elastify, testing
from elastify._space.config import pattern

# Frozen dimensions that need no explanation: what a model takes and gives, and the taps of a convolution.
_OBVIOUS = ("the model's interface", "a convolution runs along it")


def check_into(suite: str, name: str, file: Path) -> None:
    """Write the figures of one model to a file: all that its process does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = check_one(suite, name)
    file.write_text(json.dumps(result, indent=1), encoding="utf-8")


def check_one(suite: str, name: str) -> dict[str, Any]:
    """All figures of one model, as plain data."""
    torch.set_num_threads(1)
    entry = next(entry for entry in SUITES[suite] if entry.name == name)
    found: dict[str, Any] = {"model": name, "passed": False}
    try:
        model, args, kwargs = entry.make()
        shapes = [list(t.shape[1:]) for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
        found |= {"inputs": shapes, "params": sum(p.numel() for p in model.parameters())}
        gc.freeze()  # looking through all that was imported would be charged to whoever is running when it is due
        with _timed() as seconds:
            check = testing.check_sizes if entry.light else testing.check_model
            report = check(model, args, example_kwargs=kwargs, **entry.options)
        more = entry.also(model, args, kwargs) if entry.also else []
    except Exception as error:  # noqa: BLE001 - a model that breaks the checker is a result, not the end of the run
        where = traceback.extract_tb(error.__traceback__)[-1]
        return {**found, "failures": [f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error}"]}
    failures = [*report.failures, *more]
    if report.space is not None:
        failures += missing(entry, [n for n, _ in model.named_parameters()], report.space)
    if report.smallest_macs > 0.2 and entry.elastic and not entry.why_large:
        failures.append(f"the smallest configuration has {report.smallest_macs:.1%} of the MACs")
    return {
        **found,
        "passed": not failures,
        "failures": failures,
        "axes": report.axes,
        "stages": report.stages,
        "kinds": [*entry.elastic, *(["depth"] if entry.stages else [])],
        "roles": dict(Counter(axis.role for axis in report.space.axes)) if report.space else {},
        "macs": report.full_macs,
        "smallest_macs": report.smallest_macs,
        "smallest_params": report.smallest_params,
        "why_large": entry.why_large,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "worst_error": report.worst_error,
        "worst_gradient": report.worst_gradient,
        "frozen": frozen(report.space) if report.space else [],
    }


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """CPU seconds of making it elastic, of the first capture in it, of the analysis, and of the whole check."""
    seconds: dict[str, float] = {}

    def watch(owner: Any, name: str) -> Callable[..., Any]:
        inner = getattr(owner, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            result = inner(*args, **kwargs)
            seconds.setdefault(name, time.process_time() - start)
            return result

        return run

    watched = [(testing, "build"), (_elastify, "capture_all"), (_elastify, "analyse")]
    start = time.process_time()
    with ExitStack() as stack:
        for owner, name in watched:
            stack.enter_context(mock.patch.object(owner, name, watch(owner, name)))
        yield seconds
    seconds["all"] = time.process_time() - start


def frozen(space: Any) -> list[dict[str, Any]]:
    """Reasons for frozen dimensions, but for the obvious ones, with how many there are and one of them."""
    groups: dict[str, list[Any]] = {}
    for dim in space.plan.frozen:
        if not dim.reason.startswith(_OBVIOUS):
            groups.setdefault(pattern(dim.reason), []).append(dim)
    shown = [
        {
            "reason": dims[0].reason,
            "dims": len(dims),
            "example": f"{dims[0].tensor}[{dims[0].dim}]",
            "size": dims[0].size,
        }
        for dims in groups.values()
    ]
    return sorted(shown, key=lambda row: -row["dims"])
