"""Training as ever: one pass, one loss. What `fit` uses for models without a strategy, elastic or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from elastify.train._strategies import Backward, Distill, Forward, Loss, Losses, floats, scalar


@dataclass(frozen=True, eq=False)
class Plain:
    """A strategy for any model: the gradient of `loss(forward())`."""

    model: nn.Module

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
        return Losses(floats([value.detach()])[0])

    def same_step(self, again: bool) -> None:
        """Nothing is counted."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to remember."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to set."""
