"""When a run ends, how far it is, and what the learning rate does meanwhile.

Progress is the largest share used of any limit: steps, epochs, minutes, MACs. The built-in cosine is a function of this
share, so it ends at zero whatever ends the run, also where only minutes are given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from elastify._errors import ElastifyError, real_number, whole_number

WARM_UP = 0.05


@dataclass(frozen=True, slots=True)
class Limits:
    """Ends of a run, at least one; `batches` per epoch where known, `accumulate` of them per step."""

    epochs: int | None = None
    steps: int | None = None
    minutes: float | None = None
    macs: float | None = None
    batches: int | None = None
    accumulate: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "accumulate", whole_number("accumulate", self.accumulate, 1))
        known = {name: getattr(self, name) for name in ("epochs", "steps", "minutes", "macs")}
        given = {name: value for name, value in known.items() if value is not None}
        if not given:
            raise ElastifyError("fit needs a limit", fix="epochs=, steps=, minutes= or macs=")
        for name, value in given.items():
            number = real_number(name, value, lambda number: number > 0, "a number above 0")
            if name in ("epochs", "steps"):
                number = whole_number(name, int(number) if number.is_integer() else value, 1)
            object.__setattr__(self, name, number)
        if self.batches == 0:
            raise ElastifyError("the data have no batches", fix="a smaller batch size, or drop_last=False")

    def progress(self, step: int, epoch: int, batch: int, seconds: float, macs: float = 0.0) -> float:
        """Share of the run that is done; 1 or more at its end."""
        shares = [0.0]
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.minutes is not None:
            shares.append(seconds / (60 * self.minutes))
        if self.macs is not None:
            shares.append(macs / self.macs)
        if self.epochs is not None:
            shares.append((epoch + batch / (self.batches or math.inf)) / self.epochs)
        return max(shares)

    def total(self) -> tuple[int | None, str]:
        """Length of a progress bar and its unit: steps where their number is known, else seconds."""
        counts = [self.steps] if self.steps is not None else []
        if self.epochs is not None and self.batches is not None:
            counts.append(self.epochs * -(-self.batches // self.accumulate))
        if self.minutes is not None and not counts:
            return round(60 * self.minutes), "s"
        return min(counts, default=None), "step"


class Constant:
    """The optimizer's own learning rates, and what a run asks of any other schedule."""

    def step(self, progress: float, loss: float) -> None:
        """After each optimizer step."""

    def state_dict(self) -> dict[str, Any]:
        """Numbers to go on from."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them."""


class Cosine(Constant):
    """Linear warm-up, then a cosine to zero, over the share of the run that is done.

    >>> [round(Cosine.factor(share), 3) for share in (0.0, 0.025, 0.05, 0.525, 1.0)]
    [0.01, 0.5, 1.0, 0.5, 0.0]
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", float(group["lr"]))
        self.step(0.0, 0.0)

    @staticmethod
    def factor(progress: float) -> float:
        """Share of the initial learning rate."""
        if progress < WARM_UP:
            return max(0.01, progress / WARM_UP)
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP)))

    def step(self, progress: float, loss: float) -> None:
        """Set the learning rates."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(progress)


class Torch(Constant):
    """A scheduler of torch."""

    def __init__(self, scheduler: LRScheduler) -> None:
        self._scheduler = scheduler

    def step(self, progress: float, loss: float) -> None:
        """Step it; a plateau scheduler looks at the loss of the full network."""
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(loss)
        else:
            self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Its state, without functions."""
        return self._scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set its state."""
        self._scheduler.load_state_dict(state)


def make_schedule(given: object, optimizer: Optimizer, limits: Limits) -> Constant:
    """The schedule for what the user gave."""
    if given is None:
        return Constant()
    if given == "cosine":
        if limits.batches is None and all(x is None for x in (limits.steps, limits.minutes, limits.macs)):
            raise ElastifyError(
                "a cosine schedule needs the length of the run",
                why="the data have no length",
                fix="steps=, minutes= or macs=",
            )
        return Cosine(optimizer)
    made = given if isinstance(given, LRScheduler) else given(optimizer) if callable(given) else given
    if not isinstance(made, LRScheduler):
        raise ElastifyError(
            f"scheduler returns a {type(made).__name__}",
            fix='"cosine", or scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1000)',
        )
    return Torch(made)
