"""How a search is made, as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from elastify._errors import ElastifyError
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
        if self.n_trials < 1 or self.population < 2:
            sizes = f"n_trials={self.n_trials} and population={self.population}"
            raise ElastifyError(f"{sizes} are too small for a search", fix="at least 1 and 2")

    def better(self, score: float, other: float) -> bool:
        """Whether a score beats another one."""
        return score > other if self.direction == "maximize" else score < other
