"""How a search is made, as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from elastify._errors import ElastifyError, real_number, whole_number
from elastify._search.budget import Trial


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What `elastify.search` takes besides budgets and a score.

    `study` is the path of a study file (`.db`, `.sqlite` or an Optuna URL: a database; else an Optuna journal): the
    same search continues there until it has `n_trials`. `timeout` is in seconds; one trial is always made. `weights`
    is a checksum of those that are evaluated: a study of others warns. Each of `callbacks` is told of every trial.
    """

    direction: str = "maximize"
    n_trials: int = 200
    population: int = 32
    seed: int = 0
    study: Any = None
    timeout: float | None = None
    progress: bool = True
    weights: str = ""
    callbacks: tuple[Callable[[Trial], None], ...] = ()

    def __post_init__(self) -> None:
        if self.direction not in ("maximize", "minimize"):
            raise ElastifyError(f"direction must be 'maximize' or 'minimize', not {self.direction!r}")
        for name, least in (("n_trials", 1), ("population", 2), ("seed", None)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        if self.timeout is not None:
            seconds = real_number("timeout", self.timeout, lambda number: number >= 0, "a number of seconds, or None")
            object.__setattr__(self, "timeout", seconds)

    def better(self, score: float, other: float) -> bool:
        """Whether a score beats another one."""
        return score > other if self.direction == "maximize" else score < other
