"""Training as ever: one pass, one loss. What `fit` uses for models without a strategy, elastic or not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from elastify._rewrite import is_elastic
from elastify._verbs import cost, space
from elastify.train._strategies import Backward, Distill, Forward, Loss, Losses, floats, scalar


@dataclass(eq=False)
class Plain:
    """A strategy for any model: the gradient of `loss(forward())`."""

    model: nn.Module
    passes: int = 0

    @property
    def spent(self) -> tuple[int, float]:
        """Passes so far, and their MACs per sample, which are known of elastic models only."""
        return self.passes, self.passes * self._macs

    @cached_property
    def _macs(self) -> float:
        return 3.0 * cost(self.model, space(self.model).max).macs if is_elastic(self.model) else 0.0

    @property
    def arguments(self) -> dict[str, str]:
        """Nothing but the model."""
        return {}

    def prepare(self) -> None:
        """Nothing to add."""

    def advance(self, progress: float) -> None:
        """It does the same throughout."""

    def step(
        self, forward: Forward, loss: Loss, *, distill: Distill | None = None, backward: Backward = Tensor.backward
    ) -> Losses:
        """Add the gradient of the loss; there is no subnet to distil into."""
        value = scalar(loss(forward()))
        backward(value)
        self.passes += 1
        return Losses(floats([value.detach()])[0])

    def same_step(self, again: bool) -> None:
        """Nothing is counted."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to set."""
