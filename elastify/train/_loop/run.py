"""One training run: step after step between two limits, and checkpoints of it.

All that a run changes stands in two places: its `Learner` (weights, and what optimizer, schedule, scaler and strategy
remember), and the run itself: how far it has come, the losses so far, and the random generators. A checkpoint is
exactly that, taken between two steps; a resumed run sets it, passes over the batches that the epoch has already used,
and goes on to the same losses. On several ranks the first one keeps time and writes; what it cannot know of the others,
their random generators, they seed anew at each checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from elastify._errors import ElastifyError
from elastify._search import Ranks, catch_interrupt
from elastify.train._batches import (
    check_random_state,
    epoch_batches,
    random_state,
    run_batch,
    sample_count,
    seed_generators,
    set_random_state,
    to_device,
)
from elastify.train._loop.checkpoint import UNREADABLE, damaged, pack, write_checkpoint
from elastify.train._loop.learner import Learner
from elastify.train._loop.progress import Bar
from elastify.train._loop.ranks import one_reduction
from elastify.train._loop.schedule import Limits
from elastify.train._loop.settings import Checkpointing, Hook, Objective
from elastify.train._strategies import Losses

_SECONDS_BETWEEN_CHECKPOINTS = 300.0
OVERFLOWS_IN_FP16 = 20  # a scaler skips a step that overflows; so many in a row are something else
_END = object()


@dataclass(eq=False)
class TrainingRun:
    """One training by `fit`: what is fixed, and below it what changes."""

    learner: Learner
    objective: Objective
    limits: Limits
    clip: float | None
    checkpointing: Checkpointing
    ranks: Ranks
    hooks: Sequence[Hook]
    seed: int

    losses: list[Losses] = field(default_factory=list)
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    passes: int = 0
    macs: float = 0.0
    interrupted: bool = False
    _stop: bool = False  # a hook has asked for the end
    _ctrl_c: bool = False
    _spent: float = 0.0  # MACs of this rank in the last step, and its passes
    _passed: int = 0
    _not_finite: int = 0  # steps in a row whose loss was not finite
    _random: Mapping[str, Any] | None = None  # to be set when the order of the epoch has been drawn
    _saved: tuple[int, float] = (-1, 0.0)  # step and moment of the last checkpoint
    _written: list[int] = field(default_factory=list)  # steps of this run's checkpoints that are on disk

    def train(self, data: Iterable[Any], progress: bool) -> None:
        """Epoch after epoch until a limit, an interrupt or a hook ends it."""
        self._saved = (len(self.losses), time.monotonic())
        if self.checkpointing.folder is not None:
            pack(self.learner.small_state(), {})  # what cannot be stored is refused now, not at the first checkpoint
        self.ranks.same("numbers of finished steps", len(self.losses), "a checkpoint folder that all of them see")
        self.ranks.broadcast(iter([*self.learner.model.parameters(), *self.learner.buffers()]))
        bar = Bar(*self.limits.total(), len(self.losses), self.seconds, shown=progress and self.ranks.rank == 0)
        with catch_interrupt(self._note_interrupt), bar:
            while not self._is_finished():
                self._run_epoch(epoch_batches(data, self.seed, self.epoch, self.batch, self.ranks.rank), bar)
            if self.checkpointing.folder and self._saved[0] != len(self.losses):
                self._save()
        self.ranks.broadcast(self.learner.buffers())
        self.ranks.sum([])  # none goes on before the first one has written the last checkpoint

    def _note_interrupt(self) -> None:
        self._ctrl_c = True
        self.interrupted = self.ranks.size == 1  # otherwise when all have been told

    # -- epochs ------------------------------------------------------------------------------------------

    def _run_epoch(self, batches: Iterator[Any], bar: Bar) -> None:
        if self._random is not None:  # only now: drawing the order of the epoch has used the generators
            set_random_state(self._random)
            self._random = None
        begun = time.monotonic() - self.seconds
        while group := self._next_group(batches):
            losses = self._run_step(group)
            self.batch += len(group)
            self.losses.append(losses)
            mine = (time.monotonic() - begun) * (self.ranks.rank == 0)
            self.seconds, spent, passes = self.ranks.sum([mine, self._spent, self._passed])
            self.macs, self.passes = self.macs + spent, self.passes + round(passes)
            self._check_macs()
            self.learner.schedule.step(self._progress(), losses.largest)
            bar.show(losses)
            bar.move(len(self.losses), self.seconds)
            for hook in self.hooks:
                self._stop = bool(hook(len(self.losses), losses)) or self._stop
            is_due = self._agree()
            if self._is_finished():
                return
            if is_due:
                self._save()
        if self.batch == 0 and not self.interrupted:
            raise ElastifyError(
                "the data have no batches",
                where=f"epoch {self.epoch + 1}",
                why="they are empty, or can be read only once",
                fix="pass a DataLoader or a list of batches",
            )
        if not self.interrupted:
            self.epoch, self.batch = self.epoch + 1, 0

    def _agree(self) -> bool:
        """Any rank ends the run; the first one says whether a checkpoint is due."""
        is_due, stop, ctrl_c = self.ranks.sum([self.ranks.rank == 0 and self._is_due(), self._stop, self._ctrl_c])
        self._stop, self.interrupted = stop > 0, ctrl_c > 0
        return is_due > 0

    def _next_group(self, batches: Iterator[Any]) -> list[Any]:
        """The batches of one step: fewer at the end of an epoch, none after it, which is when a rank has none."""
        group: list[Any] = []
        while len(group) < self.limits.accumulate and (batch := self._next(batches)) is not _END:
            group.append(batch)
        without, ctrl_c = self.ranks.sum([not group, self._ctrl_c])
        self.interrupted = ctrl_c > 0
        return [] if without else group

    def _next(self, batches: Iterator[Any]) -> Any:
        """The next batch or `_END`, which it also is when Ctrl-C has ended the worker processes of a loader."""
        try:
            return next(batches, _END)
        except RuntimeError:
            if self._ctrl_c:
                return _END
            raise

    def _progress(self) -> float:
        return self.limits.progress(len(self.losses), self.epoch, self.batch, self.seconds, self.macs)

    def _check_macs(self) -> None:
        if self.limits.macs is not None and not self.macs:
            raise ElastifyError(
                f"macs= cannot limit a training with {type(self.learner.strategy).__name__}",
                why="the MACs of its passes are not known",
                fix="steps=, epochs= or minutes=",
            )

    def _is_finished(self) -> bool:
        return self._stop or self.interrupted or self._progress() >= 1

    # -- steps -------------------------------------------------------------------------------------------

    def _run_step(self, group: list[Any]) -> Losses:
        """One step of the optimizer, on the mean of the gradients of its batches."""
        learner = self.learner
        learner.optimizer.zero_grad(set_to_none=True)
        put_back = learner.buffers_as_they_are()
        learner.strategy.advance(self._progress())
        self._spent, self._passed = 0.0, 0
        with one_reduction(learner.model, learner.strategy):
            each = [self._add_gradients(batch, again=number > 0) for number, batch in enumerate(group)]
            losses = self._mean_over_ranks(Losses.average(each))
        learner.strategy.same_step(False)
        if len(group) > 1:
            for parameter in learner.parameters():
                if parameter.grad is not None:
                    parameter.grad /= len(group)
        self._not_finite = 0 if math.isfinite(losses.total) else self._not_finite + 1
        if self._not_finite:
            put_back()  # no weight moves in such a step, and no statistic
        if self._not_finite > (OVERFLOWS_IN_FP16 if learner.scaler.is_enabled() else 0):
            raise not_finite(len(self.losses) + 1, losses, "clip=1.0")
        learner.update(self.clip)
        return losses

    def _add_gradients(self, batch: Any, *, again: bool) -> Losses:
        """Add the gradients of one batch, which is the first one of its step or comes `again`."""
        learner, objective = self.learner, self.objective
        learner.strategy.same_step(again)
        batch = to_device(batch, learner.device)
        targets: list[Any] = [None]

        def forward() -> Any:
            with learner.autocast():
                outputs, targets[0] = run_batch(learner.model, batch, objective.forward_fn)
                return outputs

        def loss(outputs: Any) -> Tensor:
            with learner.autocast():
                return objective.loss(outputs, targets[0])

        def backward(value: Tensor) -> None:
            learner.scaler.scale(value).backward()

        passes, macs = learner.strategy.spent
        losses = learner.strategy.step(forward, loss, distill=objective.distill, backward=backward)
        now, spent = learner.strategy.spent
        self._passed, self._spent = self._passed + now - passes, self._spent + (spent - macs) * sample_count(batch)
        return losses

    def _mean_over_ranks(self, losses: Losses) -> Losses:
        if self.ranks.size == 1:
            return losses
        sums = self.ranks.sum([losses.max or 0.0, losses.min or 0.0, *losses.random])
        full, least, *others = (value / self.ranks.size for value in sums)
        return Losses(
            None if losses.max is None else full, None if losses.min is None else least, tuple(others), losses.weight
        )

    # -- checkpoints -------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        step, moment = self._saved
        if self.checkpointing.folder is None:
            return False
        if self.checkpointing.every is not None:
            return len(self.losses) - step >= self.checkpointing.every
        return time.monotonic() - moment > _SECONDS_BETWEEN_CHECKPOINTS

    def _save(self) -> None:
        folder, step = self.checkpointing.folder, len(self.losses)
        assert folder is not None
        self._saved = (step, time.monotonic())
        self.ranks.broadcast(self.learner.buffers())
        if self.ranks.rank > 0:
            self._seed_anew()
            return
        self._written = [*self._written[max(0, len(self._written) - self.checkpointing.keep) :], step]
        state = {
            **self.learner.state_dict(),
            **_losses_as_tensors(self.losses),
            "epoch": self.epoch,
            "batch": self.batch,
            "seconds": self.seconds,
            "passes": self.passes,
            "macs": self.macs,
            "random": random_state(),
            "written": self._written,
        }
        write_checkpoint(folder, step, state, self._written[:-1])

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, or say why that cannot be: nothing is different then."""
        folder = self.checkpointing.folder
        assert folder is not None
        if "kinds" in state and not {"passes", "macs"} & state.keys():
            raise ElastifyError(
                "the checkpoint was written by an earlier version of elastify",
                where=str(folder),
                why="it does not tell how many passes and MACs there were",
                fix="resume=False to start over, another folder, or the version that wrote it",
            )
        try:
            losses = _losses_of_tensors(state)
            epoch, batch, seconds = state["epoch"], state["batch"], float(state["seconds"])
            passes, macs, written = state["passes"], state["macs"], state.get("written", [len(losses)])
            whole = (epoch, batch, passes, *written)
            if not all(type(n) is int and n >= 0 for n in whole) or not (seconds >= 0 and macs >= 0):
                raise ValueError("its place in the data is not a number")
            check_random_state(state["random"])
            self.learner.load_state_dict(state, str(folder))
        except UNREADABLE as error:
            raise damaged(folder, f"{type(error).__name__}: {error}") from error
        except ElastifyError as error:  # of a part that does not know where its state comes from
            raise ElastifyError(error.what, where=error.where or str(folder), why=error.why, fix=error.fix) from error
        self.losses, self.epoch, self.batch, self.seconds, self._written = losses, epoch, batch, seconds, [*written]
        self.passes, self.macs, self._random = passes, macs, state["random"]
        if self.ranks.rank > 0:
            self._seed_anew()
            self._random = random_state()

    def _seed_anew(self) -> None:
        """The generators of a rank that writes no checkpoint, at this one."""
        seed_generators(self.seed, len(self.losses), self.ranks.rank, 1)


def not_finite(step: int, losses: Losses, clip: str) -> ElastifyError:
    """The error for a step, counted from 1, from which nothing can be learnt."""
    fix = f"a smaller learning rate, {clip}, or resume from the last checkpoint with either"
    return ElastifyError(f"the loss is not finite in step {step}", why=str(losses), fix=fix)


def _losses_as_tensors(losses: Sequence[Losses]) -> dict[str, Tensor]:
    """All numbers of all steps in one tensor, and how many there are of each step; NaN is a loss that there was not."""
    numbers = [[*(math.nan if y is None else y for y in (x.max, x.min)), x.weight, *x.random] for x in losses]
    flat = torch.tensor([value for each in numbers for value in each], dtype=torch.float64)
    return {"losses": flat, "widths": torch.tensor([len(each) for each in numbers])}


def _losses_of_tensors(state: Mapping[str, Any]) -> list[Losses]:
    losses = []
    for numbers in state["losses"].split(state["widths"].tolist()):
        full, least, weight, *others = numbers.tolist()
        known = (None if math.isnan(value) else value for value in (full, least))
        losses.append(Losses(*known, random=tuple(others), weight=weight))
    return losses
