"""One training run: step after step between two limits, and its state on disk.

All that a run changes stands in one object: the weights, what the optimizer, scheduler, scaler and strategy remember,
how far it has come, the losses so far, and the random generators. A checkpoint is exactly that, taken between two
steps; a resumed run sets it, passes over the batches that the epoch has already used, and goes on to the same losses.
On several ranks the first one keeps time and writes; what it cannot know of the others, their random generators, they
seed anew at each checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from elastify._errors import ElastifyError
from elastify._rewrite import all_statistics, is_elastic, restore_statistics
from elastify.train._batches import (
    ForwardFn,
    epoch_batches,
    random_state,
    run_batch,
    seed_generators,
    set_random_state,
    to_device,
)
from elastify.train._loop.checkpoint import damaged, describe_tensors, pack, write_checkpoint
from elastify.train._loop.plain import Plain
from elastify.train._loop.progress import Bar, catch_interrupt
from elastify.train._loop.ranks import Ranks, one_reduction
from elastify.train._loop.schedule import Limits, Schedule
from elastify.train._strategies import Distill, Losses, Strategy, check_arguments

_SECONDS_BETWEEN_CHECKPOINTS = 300.0
_LOST_IN_FP16 = 20  # a scaler skips a step that overflows; so many in a row are something else
_END = object()


@dataclass(eq=False)
class Run:
    """One training run: what is fixed, and below it what changes."""

    model: nn.Module
    strategy: Strategy | Plain
    optimizer: Optimizer
    schedule: Schedule
    limits: Limits
    loss: Callable[[Any, Any], Tensor]
    distill: Distill | None
    forward_fn: ForwardFn | None
    clip: float | None
    accumulate: int
    device: torch.device
    dtype: torch.dtype | None
    folder: Path | None
    every: int | None
    keep: int
    seed: int
    ranks: Ranks
    hooks: tuple[Callable[[int, Losses], Any], ...]

    losses: list[Losses] = field(default_factory=list)
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    _stop: bool = False
    _lost: int = 0  # steps in a row whose loss was not finite
    _noticed: bool = False
    _random: Mapping[str, Any] | None = None
    _saved: tuple[int, float] = (-1, 0.0)
    _written: list[int] = field(default_factory=list)  # steps of this run's checkpoints that are on disk

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    # -- training ----------------------------------------------------------------------------------------

    def train(self, data: Iterable[Any], progress: bool) -> None:
        """Epoch after epoch until a limit, an interrupt or a hook ends it."""
        self._saved = (len(self.losses), time.monotonic())
        if self.folder is not None:
            pack(self._small_state(), {})  # what cannot be stored shall be known now, not at the first checkpoint
        self.ranks.same("numbers of steps behind them", len(self.losses), "a checkpoint folder that all of them see")
        self.ranks.broadcast(iter([*self.model.parameters(), *self._buffers()]))
        bar = Bar(*self.limits.total(), len(self.losses), self.seconds, shown=progress and self.ranks.rank == 0)
        with catch_interrupt(self._notice), bar:
            while not self._finished():
                self._epoch(epoch_batches(data, self.seed, self.epoch, self.batch, self.ranks.rank), bar)
            if self.folder and self._saved[0] != len(self.losses):
                self.save()
        self.ranks.broadcast(self._buffers())
        self.ranks.sum([])  # none goes on before the first one has written the last checkpoint

    def _notice(self) -> None:
        self._noticed = True
        self.interrupted = self.ranks.size == 1  # otherwise when all have been told

    def _epoch(self, batches: Iterator[Any], bar: Bar) -> None:
        if self._random is not None:  # only now: drawing the order of the epoch has used the generators
            set_random_state(self._random)
            self._random = None
        begun = time.monotonic() - self.seconds
        while group := self._next_group(batches):
            losses = self._step(group)
            self.batch += len(group)
            self.losses.append(losses)
            (self.seconds,) = self.ranks.sum([(time.monotonic() - begun) * (self.ranks.rank == 0)])
            self.schedule.step(self._progress(), losses.largest)
            bar.show(losses)
            bar.move(len(self.losses), self.seconds)
            for hook in self.hooks:
                self._stop = bool(hook(len(self.losses), losses)) or self._stop
            due = self._agree()
            if self._finished():
                return
            if due:
                self.save()
        if self.batch == 0 and not self.interrupted:
            raise ElastifyError(
                "the data gave no batch",
                where=f"epoch {self.epoch + 1}",
                why="they are empty, or a generator that can be read only once",
                fix="pass a DataLoader or a list of batches",
            )
        if not self.interrupted:
            self.epoch, self.batch = self.epoch + 1, 0

    def _agree(self) -> bool:
        """Any rank ends the run; the first one says whether a checkpoint is due."""
        due, stop, noticed = self.ranks.sum([self.ranks.rank == 0 and self._due(), self._stop, self._noticed])
        self._stop, self.interrupted = stop > 0, noticed > 0
        return due > 0

    def _next_group(self, batches: Iterator[Any]) -> list[Any]:
        """The batches of one step: fewer at the end of an epoch, none after it, which is when a rank has none."""
        group: list[Any] = []
        while len(group) < self.accumulate and (batch := self._next(batches)) is not _END:
            group.append(batch)
        without, noticed = self.ranks.sum([not group, self._noticed])
        self.interrupted = noticed > 0
        return [] if without else group

    def _next(self, batches: Iterator[Any]) -> Any:
        """The next batch or `_END`, which it also is when Ctrl-C has ended the worker processes of a loader."""
        try:
            return next(batches, _END)
        except RuntimeError:
            if self._noticed:
                return _END
            raise

    def _step(self, group: list[Any]) -> Losses:
        self.optimizer.zero_grad(set_to_none=True)
        self.strategy.advance(self._progress())
        with one_reduction(self.model, self.strategy):
            losses = self._mean(
                Losses.average([self._gradients(batch, number > 0) for number, batch in enumerate(group)])
            )
        self.strategy.same_step(False)
        if len(group) > 1:
            for parameter in self._parameters():
                if parameter.grad is not None:
                    parameter.grad /= len(group)
        self._lost = 0 if math.isfinite(losses.total) else self._lost + 1
        if self._lost > (_LOST_IN_FP16 if self.scaler.is_enabled() else 0):
            raise ElastifyError(
                f"the loss is not finite in step {len(self.losses) + 1}",
                why=str(losses),
                fix="a smaller learning rate, clip=1.0, or resume from the last checkpoint with either",
            )
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return losses

    def _mean(self, losses: Losses) -> Losses:
        """The losses, averaged over the ranks."""
        if self.ranks.size == 1:
            return losses
        sums = self.ranks.sum([losses.max or 0.0, losses.min or 0.0, *losses.random])
        full, least, *others = (value / self.ranks.size for value in sums)
        return Losses(
            None if losses.max is None else full, None if losses.min is None else least, tuple(others), losses.weight
        )

    def _gradients(self, batch: Any, again: bool) -> Losses:
        """Add the gradients of one batch, which is the first one of its step or comes `again`."""
        self.strategy.same_step(again)
        batch = to_device(batch, self.device)
        targets: list[Any] = [None]

        def forward() -> Any:
            with self._autocast():
                outputs, targets[0] = run_batch(self.model, batch, self.forward_fn)
                return outputs

        def loss(outputs: Any) -> Tensor:
            with self._autocast():
                return self.loss(outputs, targets[0])

        return self.strategy.step(
            forward, loss, distill=self.distill, backward=lambda value: self.scaler.scale(value).backward()
        )

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    @property
    def _is_elastic(self) -> bool:
        return is_elastic(self.strategy.model)

    def _buffers(self) -> Iterator[Tensor]:
        """The buffers of the model, and the statistics that are stored for its subnets."""
        yield from self.model.buffers()
        for _, _, stored in all_statistics(self.strategy.model) if self._is_elastic else []:
            yield from stored.values()

    def _progress(self) -> float:
        return self.limits.progress(len(self.losses), self.epoch, self.batch, self.seconds)

    def _finished(self) -> bool:
        return self._stop or self.interrupted or self._progress() >= 1

    def _due(self) -> bool:
        step, moment = self._saved
        if self.folder is None:
            return False
        if self.every is not None:
            return len(self.losses) - step >= self.every
        return time.monotonic() - moment > _SECONDS_BETWEEN_CHECKPOINTS

    # -- checkpoints -------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint."""
        assert self.folder is not None
        self._saved = (len(self.losses), time.monotonic())
        self.ranks.broadcast(self._buffers())
        if self.ranks.rank > 0:
            self._seed_anew()
            return
        self._written = [*self._written[max(0, len(self._written) - self.keep) :], len(self.losses)]
        rows = [[*(math.nan if y is None else y for y in (x.max, x.min)), x.weight, *x.random] for x in self.losses]
        state = {
            **self._small_state(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": torch.tensor([value for row in rows for value in row], dtype=torch.float64),
            "widths": torch.tensor([len(row) for row in rows]),
            "epoch": self.epoch,
            "batch": self.batch,
            "seconds": self.seconds,
            "random": random_state(),
            "written": self._written,
            "statistics": all_statistics(self.strategy.model) if self._is_elastic else [],
        }
        write_checkpoint(self.folder, len(self.losses), state, self._written[:-1])

    def _seed_anew(self) -> None:
        """The generators of a rank that writes no checkpoint, at this one."""
        seed_generators(self.seed, len(self.losses), self.ranks.rank, 1)

    def _small_state(self) -> dict[str, Any]:
        parts = {"schedule": self.schedule, "scaler": self.scaler, "strategy": self.strategy}
        arguments = self.strategy.arguments if isinstance(self.strategy, Strategy) else {}
        state = {name: part.state_dict() for name, part in parts.items()}
        return state | {"kinds": self._kinds(), "arguments": arguments}

    def _kinds(self) -> dict[str, str]:
        parts = {"strategy": self.strategy, "optimizer": self.optimizer, "scheduler": self.schedule}
        kinds = {name: type(part).__name__ for name, part in parts.items()}
        return kinds | {"amp": str(self.dtype)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, or say why that cannot be."""
        assert self.folder is not None
        try:
            self._check(state)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.scaler.load_state_dict(state["scaler"])
            self.strategy.load_state_dict(state["strategy"])
            if self._is_elastic:
                restore_statistics(self.strategy.model, state.get("statistics", []))
            rows = state["losses"].split(state["widths"].tolist())
            self.losses = [_losses_of(row.tolist()) for row in rows]
            self.epoch, self.batch, self.seconds = state["epoch"], state["batch"], state["seconds"]
            self._random = state["random"]
            self._written = state.get("written", [len(self.losses)])
            if self.ranks.rank > 0:
                self._seed_anew()
                self._random = random_state()
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise damaged(self.folder, f"{type(error).__name__}: {error}") from error

    def _check(self, state: Mapping[str, Any]) -> None:
        mine, stored = describe_tensors(self.model.state_dict()), describe_tensors(state["model"])
        different = [name for name in {**mine, **stored} if mine.get(name) != stored.get(name)]
        fix = "the same arguments as before, resume=False to begin anew, or another folder"
        if different:
            name = different[0]
            raise ElastifyError(
                "the checkpoint is of another model",
                where=str(self.folder),
                why=f"{name} has shape {mine.get(name)} here, {stored.get(name)} there ({len(different)} differ)",
                fix=fix,
            )
        for name, kind in self._kinds().items():
            if state["kinds"][name] != kind:
                raise ElastifyError(
                    f"the checkpoint is of a run with another {name}",
                    where=str(self.folder),
                    why=f"{state['kinds'][name]} there, {kind} here",
                    fix=fix,
                )
        if isinstance(self.strategy, Strategy):
            check_arguments(self.strategy, state.get("arguments", {}), str(self.folder))


def _losses_of(row: list[float]) -> Losses:
    full, least = (None if math.isnan(value) else value for value in row[:2])
    return Losses(full, least, tuple(row[3:]), row[2])
