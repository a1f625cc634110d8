"""The sandwich rule with in-place distillation: full, smallest and random subnets in every step.

The full network learns from the labels. Its outputs, detached, are what the smallest and `n_random` random subnets
learn. As performance is bounded by the smallest and the full network, training both in every step lifts all
between them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from elastify._errors import ElastifyError
from elastify._verbs import space
from elastify.train._strategies.distill import TeacherLabels, TeacherOutputs
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses, floats
from elastify.train._strategies.strategy import Strategy


@dataclass(frozen=True, eq=False)
class Sandwich(Strategy):
    """Full, smallest and `n_random` random subnets in each step (Yu & Huang, US-Nets, arXiv 1903.05134).

    >>> import torch
    >>> from torch import nn
    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    >>> strategy = Sandwich(model, n_random=2)
    >>> x, labels = torch.randn(8, 4), torch.randint(0, 3, (8,))
    >>> losses = strategy.step(lambda: model(x), lambda logits: nn.functional.cross_entropy(logits, labels))
    >>> len(losses.random), losses.total > 0
    (2, True)

    `distill=False` trains every subnet on the labels.
    """

    n_random: int = 2
    distill: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_random < 0:
            raise ElastifyError(f"n_random must be 0 or more, not {self.n_random}", where="Sandwich")

    def step(
        self, forward: Forward, loss: Loss, *, distill: Distill | None = None, backward: Backward = Tensor.backward
    ) -> Losses:
        """Add the gradients of `loss(full)` and of the distillation losses of the other subnets.

        `forward()` runs the model on the batch at hand, `loss(outputs)` compares with its labels: a scalar.
        `distill(outputs, teacher_outputs)` is the loss of the smaller subnets, a scalar; the teacher's outputs are
        detached. Without it they get `loss` with the teacher's probabilities in place of the labels of every
        `cross_entropy` and `binary_cross_entropy_with_logits` that it calls; a loss that calls neither (regression,
        waveforms, or one computed inside forward) is taken as it is. `backward(loss)` is for gradient scalers.
        """
        teach, learn = loss, loss
        if distill is not None:
            outputs = TeacherOutputs(loss, distill)
            teach, learn = outputs.teacher, outputs.student
        elif self.distill:
            labels = TeacherLabels(loss)
            teach, learn = labels.teacher, labels.student
        values = [self._pass(None, forward, teach, backward)]
        values.append(self._pass(space(self.model).min, forward, learn, backward))
        values += [self._pass(self.sample(), forward, learn, backward) for _ in range(self.n_random)]
        full, least, *others = floats(values)
        return Losses(full, least, tuple(others))
