"""A core of the network and the whole, in turn.

A step on the core touches its weights only, and costs what the core costs. The core is any subnet: a width, a depth,
or low-rank factors (`factorize`), as for a Transformer in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from elastify._errors import ElastifyError
from elastify._verbs import space
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses, floats
from elastify.train._strategies.strategy import Strategy


@dataclass(frozen=True, eq=False)
class AlternateCore(Strategy):
    """Steps on a core and on the full network in turn (Mohtashami et al., partially masked training, arXiv 2106.08895).

    >>> import torch
    >>> from torch import nn
    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)), torch.randn(2, 4))
    >>> strategy, x = AlternateCore(model, {"hidden": 4}), torch.randn(8, 4)
    >>> steps = [strategy.step(lambda: model(x), lambda outputs: outputs.square().mean()) for _ in range(4)]
    >>> ["core" if losses.max is None else "full" for losses in steps]
    ['core', 'full', 'core', 'full']

    `core` is a configuration as for `activate`. `core_steps` on it are followed by `full_steps` on the full network;
    how many is a choice of ours, and so is that both learn from the labels at one learning rate. The loss of the core
    is the `min` of the losses. With momentum or weight decay see `active_only`.
    """

    core: Any = 0.5
    core_steps: int = 1
    full_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.core_steps < 1 or self.full_steps < 1:
            raise ElastifyError(
                "core_steps and full_steps must be at least 1", where="AlternateCore", fix="core_steps=1"
            )
        if space(self.model).config(self.core) == space(self.model).max:
            raise ElastifyError("the core is the full network", where="AlternateCore", fix="a smaller core")

    def step(
        self, forward: Forward, loss: Loss, *, distill: Distill | None = None, backward: Backward = Tensor.backward
    ) -> Losses:
        """Add the gradients of the core or the full network; arguments as for `Sandwich.step`, but no `distill`."""
        self._labels_only(distill)
        on_core = self._number() % (self.core_steps + self.full_steps) < self.core_steps
        config = space(self.model).config(self.core) if on_core else None
        (value,) = floats([self._pass(config, forward, loss, backward)])
        self._count()
        return Losses(min=value) if on_core else Losses(value)
