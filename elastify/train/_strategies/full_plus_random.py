"""The full network and a random subnetwork, in turn or together in each step.

Its authors train separation networks this way and extract subnetworks without any fine-tuning. What the public
text leaves open, the distribution of the random one, is that of `space(model).sample`: each size and depth evenly from
its choices; or an even draw from a list, which may tie sizes together, as one width for all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from elastify._errors import ElastifyError
from elastify._space import SubnetConfig
from elastify._verbs import space
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses, floats
from elastify.train._strategies.teaching import Lesson, Taught


@dataclass(frozen=True, eq=False)
class FullPlusRandom(Taught):
    """loss(full) + loss(one random subnet), no distillation (Li & Luo, Subnetwork-to-go, arXiv 2312.03464).

    >>> import torch
    >>> from torch import nn
    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)), torch.randn(2, 4))
    >>> x = torch.randn(8, 4)
    >>> losses = FullPlusRandom(model, cycle=False).step(lambda: model(x), lambda outputs: outputs.square().mean())
    >>> len(losses.random), losses.min is None
    (1, True)

    `subnets` are the configurations that are drawn from (as for `activate`); None: all there are. With `cycle` the
    batches train the full network and a random one in turn; `cycle=False` is the authors' form, both on each batch.
    `teacher`, `mix`, `temperature` and `start` are as for `Sorted`.
    """

    subnets: Sequence[Any] | None = None
    cycle: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._memory["turn"] = 0
        if self.subnets is not None:
            if not self.subnets:
                raise ElastifyError("there is no subnet to draw", where="FullPlusRandom", fix="subnets=None draws any")
            checked = tuple(space(self.model).config(wishes) for wishes in self.subnets)
            object.__setattr__(self, "subnets", checked)

    def sample(self) -> SubnetConfig:
        """A random configuration out of `subnets`, the next of the seeded sequence."""
        if self.subnets is None:
            return super().sample()
        return self.subnets[int(self._generator.integers(len(self.subnets)))]

    def step(
        self, forward: Forward, loss: Loss, *, distill: Distill | None = None, backward: Backward = Tensor.backward
    ) -> Losses:
        """Add the gradients of `loss(full) + loss(random)`, or of one of them; arguments as for `Sandwich.step`."""
        lesson, turn = Lesson(self, forward, loss, distill, backward), self._memory["turn"] % 2
        self._memory["turn"] += 1
        full = [lesson.full()] if turn == 0 or not self.cycle else []
        part = [lesson.subnet(self.sample())] if turn == 1 or not self.cycle else []
        values = floats([*full, *part])
        self._count()
        return Losses(values[0] if full else None, None, tuple(values[len(full) :]))
