"""Every depth of a stage in one forward: what follows the stage is run from each exit.

The full network runs once. For every smaller number of blocks the rest of the model (final norm, head) then runs
from what the last of these blocks gave, with the subnet of that depth active; the blocks hand out what they
returned (see `replay`). The gradients of all exits meet at the blocks, which are passed once backward as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from elastify._verbs import activate, space
from elastify.train._strategies.exits import cut_after, pick_exits, pick_stage
from elastify.train._strategies.habits import find_habits
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses, floats, scalar
from elastify.train._strategies.replay import Trace
from elastify.train._strategies.strategy import Strategy


@dataclass(frozen=True, eq=False)
class AllExits(Strategy):
    """The mean loss over all exits of a stage in every step (Kavehzadeh et al., SoFT, arXiv 2309.08968).

    >>> from torch import nn
    >>> import torch
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
            self._once["habits"] = find_habits(self.model, stage, exits, forward, loss)
        trace = Trace(self.model, stage.blocks, self._once["habits"])
        activate(self.model, None)
        with trace.full_run():
            full = scalar(loss(forward()))
        if trace.cut:
            backward(full * weight)
        for blocks in exits:
            config = cut_after(self.model, space(self.model).max, stage, blocks)
            with activate(self.model, config), trace.replay(blocks):
                value = scalar(loss(forward()))
                backward(value * weight)
                values.append(value.detach())
        trace.backward() if trace.cut else backward(full * weight)
        trace.check_joined()
        first, *others = floats([full.detach(), *values])
        return Losses(first, others[0] if exits else None, tuple(others[1:]), weight)
