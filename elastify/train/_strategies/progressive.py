"""Shrink the subnets that are trained phase by phase: depth first, then width.

The full network is trained before, or is the first phase. Each later phase opens a further part of the way from the
full to the smallest depth, then from the full to the smallest sizes; subnets are drawn from what is open. All learn
from the labels and from the full network: a copy of its first weights, put in their place for a pass, or as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from elastify._errors import ElastifyError
from elastify._space import SubnetConfig
from elastify._verbs import space
from elastify.train._strategies.distill import TeacherLabels, TeacherOutputs
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses, floats
from elastify.train._strategies.strategy import Strategy
from elastify.train._surgery import sort_channels
from elastify.train._teacher import as_it_was, tensors_of


@dataclass(frozen=True, eq=False)
class ProgressiveShrinking(Strategy):
    """Depth first, then width, taught by the full network (Cai et al., Once-for-all (OFA), arXiv 1908.09791).

    >>> import torch
    >>> from torch import nn
    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    >>> strategy = ProgressiveShrinking(model, draws=2)
    >>> strategy.prepare()  # sorts the channels, keeps a copy as the teacher
    >>> x, labels = torch.randn(8, 4), torch.randint(0, 3, (8,))
    >>> strategy.advance(0.8)  # in a loop of your own: the share of the run that is done; `fit` does it
    >>> strategy.phase, len(strategy.step(lambda: model(x), lambda y: nn.functional.cross_entropy(y, labels)).random)
    ((1.0, 1.0), 2)

    Make it when the full network is trained. Or let the first `full_phases` phases train it alone, with
    `teacher="inplace"`: then each step trains the full network, which teaches as it is. `teacher="copy"` is the network
    as `prepare` found it, in eval mode. All phases take equal shares of the run [our choice]; `depth_phases` and
    `width_phases` open the choices in equal parts, where there are any. Each step trains `draws` subnets on
    `loss + kd_ratio * distillation loss`. `sort` puts important channels first, in `prepare` (authors: each phase).
    """

    draws: int = 2
    depth_phases: int = 2
    width_phases: int = 2
    full_phases: int = 0
    kd_ratio: float = 1.0
    teacher: str = "copy"
    sort: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._memory.update(now={"done": 0.0, "prepared": 0}, teacher={})
        if self.teacher not in ("copy", "inplace"):
            raise ElastifyError(f"there is no teacher {self.teacher!r}", fix='teacher="copy" or "inplace"')
        if self.full_phases and self.teacher == "copy":
            raise ElastifyError("a copy of an untrained network cannot teach", fix='teacher="inplace" or full_phases=0')
        least = min(self.draws - 1, self.kd_ratio, self.full_phases, self.depth_phases, self.width_phases)
        if least < 0 or not self._plan:
            raise ElastifyError("draws must be at least 1, kd_ratio and phases at least 0, and there must be a phase")

    @property
    def _plan(self) -> list[tuple[float, float]]:
        where = space(self.model)
        depth, width = self.depth_phases * bool(where.stages), self.width_phases * bool(where.axes)
        shares = [(0.0, 0.0)] * self.full_phases + [(k / depth, 0.0) for k in range(1, depth + 1)]
        return shares + [(1.0, k / width) for k in range(1, width + 1)]

    @property
    def phase(self) -> tuple[float, float]:
        """How far depth and width are open now: 0 is the full network only, 1 everything."""
        return self._plan[min(int(self._memory["now"]["done"] * len(self._plan) + 1e-9), len(self._plan) - 1)]

    def advance(self, progress: float) -> None:
        """Go to the phase of this share of the run, from 0 to 1."""
        self._memory["now"]["done"] = float(progress)

    def prepare(self) -> None:
        """Sort the channels and copy the teacher, the first time."""
        first, copied = not self._memory["now"]["prepared"], self.teacher == "copy"
        if first and copied:
            self._warn_of_norms()
        if first and self.sort:
            sort_channels(self.model)
        if first and copied:
            self._memory["teacher"] = {name: value.detach().clone() for name, value in tensors_of(self.model).items()}
        self._memory["now"]["prepared"] = 1

    def sample(self) -> SubnetConfig:
        """A random configuration of what the phase has opened."""
        rows, n_axes = space(self.model).rows, len(space(self.model).axes)
        share = np.where(np.arange(len(rows.full)) < n_axes, *reversed(self.phase))
        row = rows.fit(rows.full - share * (rows.full - rows.sample(self._generator))[None])
        return space(self.model).decode(rows.normalise(row)[0])

    def step(
        self, forward: Forward, loss: Loss, *, distill: Distill | None = None, backward: Backward = Tensor.backward
    ) -> Losses:
        """Add the gradients of the losses of the drawn subnets; arguments as for `Sandwich.step`."""
        learn = TeacherLabels(loss) if distill is None else TeacherOutputs(loss, distill)
        full = [self._pass(None, forward, learn.teacher, backward)] if self.teacher == "inplace" else []
        if full and self.phase == (0.0, 0.0):
            return Losses(floats(full)[0])
        if not full and self.kd_ratio:
            if not self._memory["now"]["prepared"]:
                raise ElastifyError("there is no teacher yet", fix="strategy.prepare() before the first step")
            with as_it_was(self.model, self._memory["teacher"]):
                learn.teacher(forward())

        def taught(outputs: object) -> Tensor:
            value = loss(outputs)
            return value + self.kd_ratio * learn.student(outputs) if self.kd_ratio and learn.teaches else value

        values = floats([*full, *(self._pass(self.sample(), forward, taught, backward) for _ in range(self.draws))])
        return Losses(values[0] if full else None, None, tuple(values[len(full) :]))
