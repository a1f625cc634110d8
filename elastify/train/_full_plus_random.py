"""The full network and one random subnetwork per step, both trained on the labels.

Its authors train separation networks this way and extract subnetworks without any fine-tuning. What the public
text leaves open, the distribution of the random one, is that of `space(model).sample`: each size and depth evenly from
its choices.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from elastify.train._strategy import Backward, Distill, Forward, Loss, Losses, Strategy, floats


@dataclass(frozen=True, eq=False)
class FullPlusRandom(Strategy):
    """loss(full) + loss(one random subnet), no distillation (Li & Luo, Subnetwork-to-go, arXiv 2312.03464).

    >>> import torch
    >>> from torch import nn
    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)), torch.randn(2, 4))
    >>> x = torch.randn(8, 4)
    >>> losses = FullPlusRandom(model).step(lambda: model(x), lambda outputs: outputs.square().mean())
    >>> len(losses.random), losses.min is None
    (1, True)
    """

    def step(
        self, forward: Forward, loss: Loss, *, distill: Distill | None = None, backward: Backward = Tensor.backward
    ) -> Losses:
        """Add the gradients of `loss(full) + loss(random)`; arguments as for `Sandwich.step`, but no `distill`."""
        self._labels_only(distill)
        full = self._pass(None, forward, loss, backward)
        part = self._pass(self.sample(), forward, loss, backward)
        first, second = floats([full, part])
        return Losses(first, None, (second,))
