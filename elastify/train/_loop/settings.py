"""What `fit` was asked for, in values that check themselves: the objective, the precision, checkpoints and logs.

Together with `Limits` and the schedule they are all that a `TrainingRun` is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from elastify._errors import ElastifyError, function, real_number, whole_number
from elastify.train._batches import ForwardFn
from elastify.train._loop.log import Log
from elastify.train._strategies import Distill, Losses

Hook = Callable[[int, Losses], object]
_AMP = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Objective:
    """How outputs are made of a batch, and what they are compared with."""

    loss: Callable[[Any, Any], Tensor]
    distill: Distill | None
    forward_fn: ForwardFn | None

    def __post_init__(self) -> None:
        function("loss", self.loss, "loss=torch.nn.functional.cross_entropy")
        for name in ("distill", "forward_fn"):
            if getattr(self, name) is not None:
                function(name, getattr(self, name), f"a function, or {name}=None")


@dataclass(frozen=True, slots=True)
class Precision:
    """The numbers that a pass computes with, and the bound of the gradient's norm."""

    amp: str | None
    clip: float | None

    def __post_init__(self) -> None:
        if self.amp not in _AMP:
            raise ElastifyError(f"unknown amp {self.amp!r}", fix='None, "bf16" or "fp16"')
        if self.clip is not None:
            limit = real_number("clip", self.clip, lambda number: number > 0, "a limit for a norm, which is above 0")
            object.__setattr__(self, "clip", limit)

    @property
    def dtype(self) -> torch.dtype | None:
        """That of autocast; None without it."""
        return _AMP[self.amp]


@dataclass(frozen=True, slots=True)
class Checkpointing:
    """Where checkpoints are written, every how many steps, and how many before the newest stay."""

    folder: Path | None
    every: int | None
    keep: int

    def __post_init__(self) -> None:
        if self.every is not None:
            object.__setattr__(self, "every", whole_number("checkpoint_every", self.every, 1))
        object.__setattr__(self, "keep", whole_number("checkpoint_keep", self.keep, 0))
        for name, value in (("checkpoint_every", self.every), ("checkpoint_keep", self.keep)):
            if value and self.folder is None:
                raise ElastifyError(f"{name}={value} needs checkpoint='folder/'")


@dataclass(frozen=True, slots=True)
class Logging:
    """Who is told of each step: a table on disk, TensorBoard, functions of the user, and the progress bar."""

    folder: str | Path | None
    tensorboard: bool
    on_step: Hook | Sequence[Hook]
    progress: bool

    def __post_init__(self) -> None:
        for hook in (
            [self.on_step] if callable(self.on_step) or not isinstance(self.on_step, Sequence) else self.on_step
        ):
            function("on_step", hook, "on_step=lambda step, losses: print(step, losses), or a list of such functions")
        if self.tensorboard and self.folder is None:
            raise ElastifyError("TensorBoard needs a folder", fix="log_dir='runs/first'")

    @contextmanager
    def hooks(self, optimizer: Optimizer, rank: int) -> Iterator[list[Hook]]:
        """What is called after each step; the first rank writes the table, which is closed at the end."""
        asked: list[Hook] = [self.on_step] if callable(self.on_step) else [*self.on_step]
        if self.folder is None or rank > 0:
            yield asked
            return
        log = Log(Path(self.folder), optimizer, self.tensorboard)
        try:
            yield [log, *asked]
        finally:
            log.close()
