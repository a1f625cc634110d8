"""The sandwich rule with in-place distillation: full, smallest and random subnets in every step.

The full network learns from the labels. Its outputs, detached, are what the smallest and `n_random` random subnets
learn. As performance is bounded by the smallest and the full network, training both lifts all between them. The authors
sum the gradients of all of them on one batch. Taken in turn, each on a fresh batch and with an update of its own, they
make more of the same computation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from elastify._errors import ElastifyError
from elastify._verbs import space
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses, floats
from elastify.train._strategies.teaching import Lesson, Taught


@dataclass(frozen=True, eq=False)
class Sandwich(Taught):
    """Full, smallest and `n_random` random subnets, in turn or in each step (Yu & Huang, US-Nets, arXiv 1903.05134).

    >>> import torch
    >>> from torch import nn
    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    >>> strategy = Sandwich(model, n_random=2, cycle=False)
    >>> x, labels = torch.randn(8, 4), torch.randint(0, 3, (8,))
    >>> losses = strategy.step(lambda: model(x), lambda logits: nn.functional.cross_entropy(logits, labels))
    >>> len(losses.random), losses.total > 0
    (2, True)

    With `cycle` each batch trains one of them: the full one, the smallest, the random ones, and so on. `cycle=False` is
    the authors' form, all of them on each batch. `teacher`, `mix`, `temperature` and `start` are as for `Sorted`; by
    default the full network teaches, and its students see no labels. `teacher=None` trains every subnet on the labels.
    """

    n_random: int = 2
    cycle: bool = True
    teacher: str | nn.Module | None = field(default="full", kw_only=True)
    mix: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._memory["turn"] = 0
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
        lesson, turns = Lesson(self, forward, loss, distill, backward), 2 + self.n_random
        mine = range(turns) if not self.cycle else [self._memory["turn"] % turns]
        self._memory["turn"] += 1
        values = floats([self._learn(lesson, turn) for turn in mine])
        self._count()
        by_turn = dict(zip(mine, values, strict=True))
        return Losses(by_turn.pop(0, None), by_turn.pop(1, None), tuple(by_turn.values()))

    def _learn(self, lesson: Lesson, turn: int) -> Tensor:
        """The full network, the smallest, a random one."""
        if turn == 0:
            return lesson.full()
        return lesson.subnet(space(self.model).min if turn == 1 else self.sample())
