"""What the subnets of a step learn from: the labels, a teacher, or both.

A `Lesson` is one batch. It asks the teacher once, without gradients, however many subnets learn on that batch, and
makes a loss of the labels and of what the teacher said. How the two are compared is in `distill`: by the probabilities
in every cross-entropy of the user's own loss, by a distance that the user gives, or, for a loss that has no
cross-entropy and one tensor of outputs (waveforms, say), by the mean absolute difference beside the targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from elastify._errors import ElastifyError
from elastify._space import SubnetConfig
from elastify._verbs import activate, space
from elastify.train._evaluate import evaluating
from elastify.train._strategies.distill import TeacherLabels, TeacherOutputs
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss
from elastify.train._strategies.strategy import Strategy
from elastify.train._teacher import as_it_was, tensors_of

_COPIES = ("frozen", "ema")
_DECAY = 0.999  # of the average of the weights, once there were many updates [our choice]


@dataclass(frozen=True, eq=False)
class Taught(Strategy):
    """A strategy whose subnets may learn from a teacher, too.

    `teacher` is None (labels only); "full", the full network as it is; "frozen", as `prepare` found it; "ema", the
    moving average of its weights; or another module that is called as the model is. `mix` is the share of the labels
    in what a student learns, the rest is the teacher's. `temperature` softens the probabilities of both (the loss is
    multiplied by its square, Hinton et al., arXiv 1503.02531). Until the share `start` of the training is done there
    are the labels only.
    """

    teacher: str | nn.Module | None = field(default=None, kw_only=True)
    mix: float = field(default=0.5, kw_only=True)
    temperature: float = field(default=1.0, kw_only=True)
    start: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        where = type(self).__name__
        if not (self.teacher is None or isinstance(self.teacher, nn.Module) or self.teacher in ("full", *_COPIES)):
            raise ElastifyError(
                f"there is no teacher {self.teacher!r}", where=where, fix='None, "full", "frozen", "ema" or a module'
            )
        for name, least, most in (("mix", 0.0, 1.0), ("start", 0.0, 1.0), ("temperature", 1e-3, 1e3)):
            value = getattr(self, name)
            if not isinstance(value, Real) or not least <= float(value) <= most:
                raise ElastifyError(f"{name}={value!r} is not a number from {least:g} to {most:g}", where=where)
        if self.teacher in _COPIES:
            self._memory["teacher"] = {}

    def prepare(self) -> None:
        """Copy the teacher, the first time."""
        if self.teacher in _COPIES and not self._memory["teacher"]:
            self._memory["teacher"] = {name: value.detach().clone() for name, value in tensors_of(self.model).items()}

    @property
    def teaches(self) -> bool:
        """Whether there is a teacher now."""
        return self.teacher is not None and self.mix < 1 and self.progress >= self.start

    def follow(self) -> None:
        """Move the average of the weights, once for each update."""
        if self.teacher != "ema" or self._memory["again"]:
            return
        number = self._memory["steps"]
        share = 1 - min(_DECAY, (1 + number) / (10 + number))  # the first updates say little
        with torch.no_grad():
            for name, value in tensors_of(self.model).items():
                mean = self._memory["teacher"].get(name)
                if mean is not None and mean.is_floating_point():
                    mean.lerp_(value.to(mean.device, mean.dtype), share)
                elif mean is not None:
                    mean.copy_(value)

    @contextmanager
    def as_teacher(self) -> Iterator[None]:
        """Inside, a run of the model gives the teacher's outputs, without gradients."""
        if self.teacher in _COPIES:
            if not self._memory["teacher"]:
                raise ElastifyError("there is no teacher yet", fix="strategy.prepare() before the first step")
            with as_it_was(self.model, self._memory["teacher"]):
                yield
        elif isinstance(self.teacher, nn.Module):
            with _answered_by(self.teacher, self.model):
                yield
        else:
            with torch.no_grad():  # in its own mode: batch norm sees the batch that the students see
                yield


class Lesson:
    """One batch of a strategy: each pass trains one subnet on it."""

    def __init__(
        self, strategy: Taught, forward: Forward, loss: Loss, distill: Distill | None, backward: Backward
    ) -> None:
        if distill is not None and strategy.teacher is None:
            strategy._labels_only(distill)
        self._strategy, self._forward, self._loss, self._backward = strategy, forward, loss, backward
        mix = strategy.mix
        words = (
            TeacherLabels(loss, strategy.temperature, mix) if distill is None else TeacherOutputs(loss, distill, mix)
        )
        self._words, self._outputs, self._asked = words, None, False
        strategy.follow()

    def full(self) -> Tensor:
        """The full network, on the labels; where it is the teacher the others learn what it said here."""
        if self._strategy.teacher != "full" or not self._strategy.teaches:
            return self.subnet(None)
        self._asked = True
        return self._strategy._pass(None, self._forward, self._listen, self._backward)

    def subnet(self, config: SubnetConfig | None) -> Tensor:
        """One subnet (None: the full network), on the labels and the teacher; its loss without the graph."""
        strategy = self._strategy
        is_full = config is None or config == space(strategy.model).max
        if not strategy.teaches or (is_full and strategy.teacher == "full"):
            return strategy._pass(config, self._forward, self._loss, self._backward)
        if not self._asked:
            self._asked = True
            activate(strategy.model, None)
            with strategy.as_teacher():
                self._listen(self._forward())
            strategy._spend(None, 1)
        return strategy._pass(config, self._forward, self._taught, self._backward)

    def _listen(self, outputs: Any) -> Tensor:
        self._outputs = outputs.detach() if isinstance(outputs, Tensor) and outputs.is_floating_point() else None
        return self._words.teacher(outputs)

    def _taught(self, outputs: Any) -> Tensor:
        if self._words.teaches:
            return self._words.student(outputs)
        said = self._outputs
        if (
            not isinstance(said, Tensor)
            or said.shape != getattr(outputs, "shape", None)
            or not said.is_floating_point()
        ):
            return self._loss(outputs)  # it computes its loss inside forward: there is nothing to compare
        return self._loss(outputs) + (1 - self._strategy.mix) * (outputs - said).abs().mean()


@contextmanager
def _answered_by(teacher: nn.Module, model: nn.Module) -> Iterator[None]:
    """Inside, whatever runs the model gets the outputs of another module for the same arguments."""

    def answer(module: nn.Module, args: Any, kwargs: Any, outputs: object) -> object:
        return teacher(*args, **kwargs)

    handle = model.register_forward_hook(answer, with_kwargs=True)
    try:
        with activate(model, space(model).min), evaluating(model), evaluating(teacher):  # the cheapest run there is
            yield
    finally:
        handle.remove()
