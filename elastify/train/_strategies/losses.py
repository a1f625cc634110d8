"""What a step of a strategy is given, and the losses that it gives back.

`forward()` runs the model on the batch at hand and `loss(outputs)` compares with its labels. A step calls them once for
each subnet, hands each loss to `backward`, and returns the numbers as `Losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from elastify._errors import ElastifyError

Forward = Callable[[], Any]
Loss = Callable[[Any], Tensor]
Distill = Callable[[Any, Any], Tensor]
Backward = Callable[[Tensor], object]


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of one step: of the full network and of the smallest one (None: not trained), and of the random ones.

    >>> Losses(2.0, 2.5, (2.25, 2.5)).mean_random
    2.375

    Each counts with `weight` in the gradient: 1, but where a strategy takes the mean of its losses.
    """

    max: float | None = None
    min: float | None = None
    random: tuple[float, ...] = ()
    weight: float = 1.0

    @property
    def total(self) -> float:
        """The weighted sum, whose gradient the step leaves."""
        return self.weight * ((self.max or 0.0) + (self.min or 0.0) + sum(self.random))

    @property
    def largest(self) -> float:
        """The loss of the full network, or where it was not trained the mean of the others."""
        if self.max is not None:
            return self.max
        values = [*self.random] if self.min is None else [self.min, *self.random]
        return sum(values) / len(values)

    @staticmethod
    def average(many: Sequence[Losses]) -> Losses:
        """The mean over several batches of what each of them has.

        >>> Losses.average([Losses(2.0, random=(1.0,)), Losses(4.0, 3.0, (2.0,))])
        Losses(max=3.0, min=3.0, random=(1.5,), weight=1.0)
        """
        columns = zip_longest(*([x.max, x.min, *x.random] for x in many))
        means = [fmean(known) if (known := [v for v in column if v is not None]) else None for column in columns]
        return Losses(means[0], means[1], tuple(v for v in means[2:] if v is not None), many[0].weight)

    @property
    def mean_random(self) -> float | None:
        """Mean loss of the random subnets; None where there are none."""
        return sum(self.random) / len(self.random) if self.random else None


def scalar(value: object) -> Tensor:
    """A loss that can be differentiated, or an error that says what it is instead."""
    if isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad:
        return value
    why = f"it is a {type(value).__name__}"
    if isinstance(value, Tensor):
        why = f"its shape is {tuple(value.shape)}" if value.numel() != 1 else "no gradient flows through it"
    raise ElastifyError("a loss must be one differentiable number", why=why, fix="loss(outputs) -> scalar tensor")


def floats(values: list[Tensor]) -> list[float]:
    """Detached losses as numbers, with one wait for the device."""
    return torch.stack([value.reshape(()).double() for value in values]).tolist()
