"""Who evaluates configurations: this process, or every rank another one.

On several ranks the first one has the study. It tells the others which configurations are next, each evaluates one of
them, and all hear of all scores; at the end it tells them what the study holds, or what went wrong. Where there are
fewer configurations than ranks, some are evaluated twice: nobody has anything better to do, and the first score counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from elastify._errors import ElastifyError
from elastify._search.budget import Trial, read_score
from elastify._search.ranks import Ranks, alone, catch_interrupt
from elastify._space import SubnetConfig

_HERE = Ranks(torch.device("cpu"))


class Outcome(NamedTuple):
    """What came of an evaluation on a rank: the score is NaN where there is an `error`."""

    score: float
    error: str = ""
    seconds: float = 0.0
    rank: int = 0
    is_interrupted: bool = False


@dataclass(eq=False)
class Workers:
    """Evaluate with `score_fn`, here or on the ranks; a configuration that has a score is not evaluated again.

    `evaluated` are the configurations whose scores this rank has found.
    """

    score_fn: Callable[[SubnetConfig], Any]
    ranks: Ranks = _HERE
    evaluated: dict[SubnetConfig, float] = field(default_factory=dict)
    last_error: BaseException | None = None  # of this rank
    is_interrupted: bool = False  # by Ctrl-C on any rank
    _known: dict[SubnetConfig, Outcome] = field(default_factory=dict)

    def outcomes(self, configs: Sequence[SubnetConfig]) -> list[Outcome]:
        """Of at most as many configurations as there are ranks, all of which call this with the same ones."""
        new = [config for config in dict.fromkeys(configs) if config not in self._known]
        found = self._known.copy()
        if new:
            mine = new[self.ranks.rank % len(new)]
            every = self.ranks.collect(self._evaluate(mine))
            self.is_interrupted = any(outcome.is_interrupted for outcome in every)
            found.update(zip(new, every, strict=False))
            self._known.update({c: found[c] for c in new if not found[c].error})
            if mine in self._known and self._known[mine].rank == self.ranks.rank:
                self.evaluated[mine] = self._known[mine].score
        return [found[config] for config in configs]

    def lead(self, work: Callable[[], Sequence[Trial]]) -> Sequence[Trial]:
        """What `work` returns, on all ranks: the first one does it, the others evaluate what it asks for."""
        if self.ranks.size == 1:
            return work()
        with catch_interrupt(self._note_interrupt):  # none leaves while the others wait for it
            return self._follow() if self.ranks.rank > 0 else self._lead(work)

    def _note_interrupt(self) -> None:
        self.is_interrupted = True

    def _lead(self, work: Callable[[], Sequence[Trial]]) -> Sequence[Trial]:
        try:
            trials = work()
        except BaseException as error:
            told = error if isinstance(error, ElastifyError) else ElastifyError(f"{type(error).__name__}: {error}")
            with suppress(ElastifyError):  # of a rank that has gone
                self.ranks.share({"what": told.what, "where": told.where, "why": told.why, "fix": told.fix})
            raise
        self.ranks.share(tuple(trials))
        return trials

    def ask(self, configs: Sequence[SubnetConfig]) -> list[Outcome]:
        """Within `work`: the outcomes of at most as many configurations as there are ranks."""
        if self.ranks.size > 1:
            self.ranks.share([*configs])
        return self.outcomes(configs)

    def _follow(self) -> Sequence[Trial]:
        while not isinstance(told := self.ranks.share(), tuple):
            if isinstance(told, dict):
                raise ElastifyError(**told)
            self.outcomes(told)
        return told

    def _evaluate(self, config: SubnetConfig) -> Outcome:
        begun, rank = time.monotonic(), self.ranks.rank
        try:
            with alone(self.ranks) if self.ranks.size > 1 else nullcontext():
                found = self.score_fn(config)
        except Exception as error:  # noqa: BLE001 - it is the caller's code: whatever it raises is reported
            self.last_error, score, wrong = error, math.nan, f"{type(error).__name__}: {error}"
        else:
            self.last_error = None
            score, wrong = read_score(found)
        text = f"{wrong} (on rank {rank})" if wrong and self.ranks.size > 1 else wrong
        return Outcome(score, text, time.monotonic() - begun, rank, self.is_interrupted)
