"""Losses of a run on disk, step by step: a table in CSV, and event files of TensorBoard if asked for.

A resumed run goes on in the same table: lines of steps that it makes again are dropped first.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from elastify._errors import ElastifyError
from elastify._files import make_folder
from elastify.train._strategies import Losses

NAME = "losses.csv"
_COLUMNS = ("step", "loss", "max", "min", "random", "lr")


class Log:
    """Called after each step, as `on_step` is."""

    def __init__(self, folder: Path, optimizer: Optimizer, tensorboard: bool) -> None:
        make_folder(folder, "log")
        self._path, self._optimizer, self._begun = folder / NAME, optimizer, False
        self._events = _events(folder) if tensorboard else None

    def __call__(self, step: int, losses: Losses) -> None:
        """Write one line."""
        if not self._begun:
            self._begin_table(step)
        rate = self._optimizer.param_groups[0]["lr"]
        values = (losses.total, losses.max, losses.min, losses.mean_random, float(rate))
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow((step, *values))
        for name, value in zip(_COLUMNS[1:], values, strict=True):
            if self._events is not None and value is not None:
                self._events.add_scalar("lr" if name == "lr" else f"loss/{name}", value, step)

    def _begin_table(self, step: int) -> None:
        before: list[list[str]] = []
        if self._path.exists():
            with self._path.open(newline="", encoding="utf-8") as file:
                before = [line for line in csv.reader(file) if line and line[0].isdigit() and int(line[0]) < step]
        with self._path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([_COLUMNS, *before])
        self._begun = True

    def close(self) -> None:
        """Nothing more will come."""
        if self._events is not None:
            self._events.close()


def _events(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ElastifyError(
            "TensorBoard is not installed",
            where="fit(tensorboard=True)",
            why=str(error),
            fix="pip install tensorboard, or tensorboard=False: losses.csv has the same numbers",
        ) from error
    return SummaryWriter(str(folder))
