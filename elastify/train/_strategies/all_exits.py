"""Every depth of a stage in one forward: what follows the stage is run from each exit.

The full network runs once. For every smaller number of blocks the rest of the model (final norm, head) then runs
from what the last of these blocks gave, with the subnet of that depth active; the blocks hand out what they
returned (see `_replay`). The gradients of all exits meet at the blocks, which are passed once backward as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from elastify._errors import ElastifyError
from elastify._ir import Stage
from elastify._verbs import activate, space
from elastify.train._batches import random_state, set_random_state
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses, floats, scalar
from elastify.train._strategies.replay import Habits, Trace, alike, cut_after, pick_exits, pick_stage
from elastify.train._strategies.strategy import Strategy
from elastify.train._teacher import evaluating


@dataclass(frozen=True, eq=False)
class AllExits(Strategy):
    """The mean loss over all exits of a stage in every step (Kavehzadeh et al., SoFT, arXiv 2309.08968).

    >>> from torch import nn
    >>> from elastify import elastify
    >>> class Block(nn.Linear):
    ...     def forward(self, x):
    ...         return x + super().forward(x).tanh()
    >>> net = nn.Sequential(nn.Sequential(*(Block(4, 4) for _ in range(3))), nn.Linear(4, 1))
    >>> model = elastify(net, torch.randn(2, 4), min_ratio=0.1)
    >>> x = torch.randn(8, 4)
    >>> losses = AllExits(model).step(lambda: model(x), lambda outputs: outputs.square().mean())
    >>> len(losses.random), abs(losses.total - (losses.max + losses.min + losses.random[0]) / 3) < 1e-6
    (1, True)

    `exits` are numbers of blocks after which the network may end (None: all that the space allows; the
    full network is always one), `stage` is the name of the stage (None: the longest). They share what follows it.
    A step costs about one forward and backward of the blocks, and one of what follows per exit. Sizes stay full. Raises
    ElastifyError, at the first step, if a subnet is no exit: what runs before its blocks may depend on their number.
    """

    exits: Sequence[int] | None = None
    stage: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        pick_exits(pick_stage(self.model, self.stage), self.exits, 0)

    def step(
        self, forward: Forward, loss: Loss, *, distill: Distill | None = None, backward: Backward = Tensor.backward
    ) -> Losses:
        """Add the gradient of the mean loss of all exits; arguments as for `Sandwich.step`, but no `distill`."""
        self._labels_only(distill)
        stage = pick_stage(self.model, self.stage)
        *exits, _ = every = pick_exits(stage, self.exits, len(stage.blocks))
        weight, values = 1 / len(every), []
        if "habits" not in self._once:
            self._once["habits"] = self._check(forward, loss, stage, exits)
        trace = Trace(self.model, stage.blocks, self._once["habits"])
        activate(self.model, None)
        with trace.recording():
            full = scalar(loss(forward()))
        if trace.cut:
            backward(full * weight)
        for blocks in exits:
            with self._exit(stage, blocks), trace.replaying(blocks):
                value = scalar(loss(forward()))
                backward(value * weight)
                values.append(value.detach())
        trace.backward() if trace.cut else backward(full * weight)
        trace.check_joined()
        first, *others = floats([full.detach(), *values])
        return Losses(first, others[0] if exits else None, tuple(others[1:]), weight)

    def _exit(self, stage: Stage, blocks: int) -> activate:
        return activate(self.model, cut_after(self.model, space(self.model).max, stage, blocks))

    def _check(self, forward: Forward, loss: Loss, stage: Stage, exits: Sequence[int]) -> Habits:
        """Every exit gives what its subnet gives, without chance; how the model does it."""

        def both() -> tuple[Any, Any]:  # what is compared: outputs, but where all is done by `loss`
            outputs = forward()
            value = loss(outputs)
            return (outputs if any(isinstance(x, Tensor) for x in tree_leaves(outputs)) else value), value

        outside = random_state()
        try:
            with evaluating(self.model):
                activate(self.model, None)
                with torch.enable_grad(), (trace := Trace(self.model, stage.blocks)).recording():
                    cut = trace.apart(scalar(both()[1]))
                for blocks in exits:
                    with self._exit(stage, blocks):
                        expected, _ = both()
                        with torch.enable_grad(), trace.replaying(blocks):
                            found, value = both()
                    if not alike(found, expected):
                        raise ElastifyError(
                            f"the subnet of {blocks} blocks is no exit of the full network",
                            where=stage.name,
                            why="what runs before or between its blocks depends on their number",
                            fix="Sorted trains the same subnets one by one",
                        )
                    cut = cut and trace.straight(scalar(value))
                return Habits(trace.changed(), cut)
        finally:
            set_random_state(outside)
