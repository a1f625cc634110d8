"""One Optuna study: proposals, evaluations, and their record.

A trial's parameters are choice numbers of the free axes and stages (the proposal, before repair); its user
attributes hold the repaired configuration, its score and cost. So a study file has all that is needed to continue:
the number of trials done, every score known, and NSGA-II's population. The sampler is seeded anew from the seed and
the trial's number: what a trial proposes depends on the trials before it, never on when the process was started.
The first proposals are the largest configurations by width, by depth and by both.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from elastify._errors import ElastifyError
from elastify._search.budget import Budget, Trial, failed, shrink, starting_rows
from elastify._search.options import SearchOptions
from elastify._search.storage import open_storage, optuna, readable
from elastify._search.workers import Outcome, Workers
from elastify._space import Cost, SearchSpace, SubnetConfig

_FAILURES_IN_A_ROW = 3
_RECORD, _WEIGHTS = "elastify", "weights"
_logger = logging.getLogger("elastify")


class _Asked(NamedTuple):
    """A trial that has begun: a configuration that is within the budget, and its cost."""

    trial: optuna.Trial
    config: SubnetConfig
    cost: Cost


class Study:
    """A search that is being made or continued."""

    def __init__(
        self,
        space: SearchSpace,
        budget: Budget,
        workers: Workers,
        options: SearchOptions,
    ) -> None:
        self.space, self.budget, self.workers, self.options = space, budget, workers, options
        self._trials: dict[int, Trial] = {}
        choices = space.rows.choices
        whole = space.rows.whole
        self.free = [column for column, sizes in enumerate(choices) if len(sizes) > 1 and not whole[column]]
        with readable(options.study), _quiet():
            self.study = self._open()
            for row in starting_rows(space, budget):
                self.study.enqueue_trial(self._parameters(row), skip_if_exists=True)

    def trials(self) -> list[Trial]:
        """Everything done so far, by this process or others, in the order of the proposals."""
        with readable(self.options.study):
            for trial in self.study.get_trials(deepcopy=False):
                if trial.number not in self._trials and _RECORD in trial.user_attrs and trial.state.is_finished():
                    read = _read(trial.number, trial.user_attrs[_RECORD])
                    self._trials[trial.number] = replace(read, config=self.space.current(read.config))
        return [self._trials[number] for number in sorted(self._trials)]

    def run(self) -> None:
        """Make trials until the study has as many as asked for, the time is over, or Ctrl-C."""
        from tqdm import tqdm

        n_trials, timeout = self.options.n_trials, self.options.timeout
        shown = {"desc": "search", "unit": "trial", "disable": not self.options.progress}
        started, failures = time.monotonic(), Counter[int]()
        done = self.trials()
        able = set(range(self.workers.ranks.size)) if any(math.isfinite(t.score) for t in done) else set[int]()
        bar = tqdm(total=n_trials, initial=min(len(done), n_trials), **shown)
        try:
            while len(done) < n_trials and (not done or timeout is None or time.monotonic() - started < timeout):
                if self.workers.is_interrupted:
                    raise KeyboardInterrupt
                for trial, outcome in self._round(done):
                    failures[outcome.rank] = failures[outcome.rank] + 1 if outcome.error else 0
                    able |= set() if outcome.error else {outcome.rank}
                    if failures[outcome.rank] >= _FAILURES_IN_A_ROW or outcome.rank not in able:
                        raise failed(trial.config, outcome.error) from self.workers.last_error
                    for callback in self.options.callbacks:
                        callback(trial)
                done = self.trials()
                bar.update(len(done) - bar.n)
                scores = [t.score for t in done if math.isfinite(t.score)]
                if scores:
                    better = max if self.options.direction == "maximize" else min
                    bar.set_postfix(best=f"{better(scores):.5g}", evaluated=len({t.config for t in done}))
        except KeyboardInterrupt:
            if not any(math.isfinite(t.score) for t in self.trials()):
                raise
            _logger.warning("search interrupted after %d trials: the best so far is returned", len(self.trials()))
        finally:
            bar.close()

    def _round(self, done: Sequence[Trial]) -> list[tuple[Trial, Outcome]]:
        """Propose configurations until every worker has one that is new, have them evaluated, and record them."""
        known = {trial.config: trial.score for trial in done if math.isfinite(trial.score)}
        new: dict[SubnetConfig, int] = {}
        asked: list[_Asked] = []
        made: list[tuple[Trial, Outcome]] = []
        try:
            while len(new) < self.workers.ranks.size and len(done) + len(asked) + len(made) < self.options.n_trials:
                one = self._ask()
                if one.config in known:
                    made.append(self._tell(one, Outcome(known[one.config]), "repeated"))
                    if not new:
                        return made
                else:
                    asked.append(one)
                    new.setdefault(one.config, one.trial.number)
            outcomes = dict(zip(new, self.workers.ask([*new]), strict=True))
        except BaseException:
            for one in asked:
                self.study.tell(one.trial, state=optuna.trial.TrialState.FAIL)
            raise
        for one in asked:
            state = "new" if new[one.config] == one.trial.number else "repeated"
            made.append(self._tell(one, outcomes[one.config], state))
        return made

    def _ask(self) -> _Asked:
        """The next proposal, repaired."""
        with readable(self.options.study):
            trial = self.study.ask()
        try:
            with readable(self.options.study):
                return _Asked(trial, *self._propose(trial))
        except BaseException:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            raise

    def _tell(self, asked: _Asked, outcome: Outcome, state: str) -> tuple[Trial, Outcome]:
        """Record what came of a proposal."""
        trial, config, cost = asked
        state = "failed" if outcome.error else state
        made = Trial(trial.number, config, cost, outcome.score, outcome.seconds, state)
        if outcome.error:
            _logger.warning("trial %d failed: %s", trial.number, outcome.error)
        with readable(self.options.study):
            trial.set_user_attr(_RECORD, _record(made, outcome.error))
            if outcome.error:
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                self.study.tell(trial, [outcome.score, self.budget.load(cost)])
        return made, outcome

    def _propose(self, trial: optuna.Trial) -> tuple[SubnetConfig, Cost]:
        space, row = self.space, self.space.rows.full.astype(float)
        for column in self.free:
            choices = space.rows.choices[column]
            row[column] = choices[trial.suggest_int(self.columns[column], 0, len(choices) - 1)]
        legal = space.rows.fit(row[None])[0]
        fitting = space.rows.normalise(shrink(space, self.budget, legal)[None])
        return space.decode(fitting[0]), self.budget.cost(fitting)[0]

    def _parameters(self, row: np.ndarray) -> dict[str, int]:
        choices = self.space.rows.choices
        return {self.columns[c]: int(np.searchsorted(choices[c], row[c])) for c in self.free}

    def _open(self) -> optuna.Study:
        options, direction, storage = self.options, self.options.direction, self.options.study
        limits = ",".join(f"{metric}<={limit}" for metric, limit in sorted(self.budget.limits.items()))
        mark, opened = self.space.fingerprint, open_storage(storage)
        known = optuna.get_all_study_names(opened) if opened is not None else []
        for other in known:
            if other.startswith("elastify "):
                mark = other.split()[1]  # that of an earlier version, too: its study goes on with its names
            if mark not in self.space.spellings:
                raise ElastifyError(
                    "this study file belongs to another model", where=str(storage), fix="use another path"
                )
        name = self._name(f"elastify {mark} {direction} {limits or 'unlimited'}", known)
        self.columns = self.space.spellings[mark]
        study = optuna.create_study(
            storage=opened,
            sampler=_Seeded(options.population, options.seed),
            study_name=name,
            directions=[optuna.study.StudyDirection[direction.upper()], optuna.study.StudyDirection.MINIMIZE],
            load_if_exists=True,
        )
        before, now = study.user_attrs.get(_WEIGHTS, options.weights), options.weights
        if before != now:
            warnings.warn(
                f"the weights have changed since this study was made: its scores are old ({storage})", stacklevel=6
            )
        if now and study.user_attrs.get(_WEIGHTS) != now:
            study.set_user_attr(_WEIGHTS, now)
        return study

    def _name(self, search: str, known: Sequence[str]) -> str:
        """What a study of this search is called; one with other options is another study."""
        options, choices = self.options, [list(map(int, sizes)) for sizes in self.space.rows.choices]
        choices = [sizes[-1:] if whole else sizes for sizes, whole in zip(choices, self.space.rows.whole, strict=True)]
        text = json.dumps([choices, options.population, options.seed])
        name = f"{search} {hashlib.sha256(text.encode()).hexdigest()[:8]}"
        if name in known:
            return name
        if search in known:  # of a version that did not note them
            warnings.warn("the options of this study are not known: it goes on with the present ones", stacklevel=7)
            return search
        if any(other.startswith(f"{search} ") for other in known):
            why = "other choices of sizes, population or seed"
            warnings.warn(f"the study in {options.study} has {why}: it stays, and a new one begins", stacklevel=7)
        return name


@contextmanager
def _quiet() -> Iterator[None]:
    """That a new study was created, or that a first trial is known, is no news here."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


class _Seeded(optuna.samplers.BaseSampler):
    """NSGA-II whose random numbers depend on the trial's number alone."""

    def __init__(self, population: int, seed: int) -> None:
        self._population, self._seed = population, seed
        self._number, self._sampler = -1, self._make(0)

    def _make(self, number: int) -> optuna.samplers.NSGAIISampler:
        seed = np.random.SeedSequence([abs(self._seed), number]).generate_state(1)[0]
        return optuna.samplers.NSGAIISampler(population_size=self._population, seed=int(seed))

    def _for(self, trial: optuna.trial.FrozenTrial) -> optuna.samplers.NSGAIISampler:
        if trial.number != self._number:
            self._number, self._sampler = trial.number, self._make(trial.number)
        return self._sampler

    def infer_relative_search_space(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> Any:
        return self._for(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: Any) -> Any:
        return self._for(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        return self._for(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, state: Any, values: Sequence[float] | None
    ) -> None:
        self._for(trial).after_trial(study, trial, state, values)


def _record(trial: Trial, error: str) -> dict[str, Any]:
    return {
        "config": trial.config.to_json(),
        "cost": [value for _, value in trial.cost.items()],
        "score": trial.score if math.isfinite(trial.score) else None,
        "seconds": round(trial.seconds, 3),
        "state": trial.state,
        "error": error,
    }


def _read(number: int, record: dict[str, Any]) -> Trial:
    """The trial of a record; ValueError for what is none."""
    score, cost, seconds, state = (record[name] for name in ("score", "cost", "seconds", "state"))
    numbers = [*cost, seconds, *([] if score is None else [score])]
    if not all(type(value) in (int, float) for value in numbers) or not isinstance(state, str):
        raise ValueError(f"trial {number} has no number where there should be one")
    try:
        config = SubnetConfig.from_json(record["config"])
    except ElastifyError as error:
        raise ValueError(f"trial {number}: {error.what} ({error.why})") from error
    return Trial(number, config, Cost(*cost), math.nan if score is None else score, seconds, state)
