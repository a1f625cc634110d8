"""What all strategies share: one pass per subnet, one graph at a time, gradients left as their sum.

A step runs forward, loss and backward for one subnet after the other, each while it is active (a checkpointed block
computes again during backward), and drops a graph before the next is made. Whatever happens, the full network is
active afterwards. Sampling has a random generator of its own, the same on every rank for the same seed, whose state can
be saved.
"""

from __future__ import annotations

import copy
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import zip_longest
from numbers import Integral, Real
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from elastify._errors import ElastifyError
from elastify._space import SubnetConfig
from elastify._verbs import activate, space

Forward = Callable[[], Any]
Loss = Callable[[Any], Tensor]
Distill = Callable[[Any, Any], Tensor]
Backward = Callable[[Tensor], Any]


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of one step: of the full network and of the smallest one (None: not trained), and of the random ones.

    >>> Losses(2.0, 2.5, (2.25, 2.5)).mean_random
    2.375

    Each counts with `weight` in the gradient: 1, but where a strategy takes the mean of its losses.
    """

    max: float | None = None
    min: float | None = None
    random: tuple[float, ...] = ()
    weight: float = 1.0

    @property
    def total(self) -> float:
        """The weighted sum, whose gradient the step leaves."""
        return self.weight * ((self.max or 0.0) + (self.min or 0.0) + sum(self.random))

    @property
    def largest(self) -> float:
        """The loss of the full network, or where it was not trained the mean of the others."""
        if self.max is not None:
            return self.max
        values = [*self.random] if self.min is None else [self.min, *self.random]
        return sum(values) / len(values)

    @staticmethod
    def average(many: Sequence[Losses]) -> Losses:
        """The mean over several batches of what each of them has.

        >>> Losses.average([Losses(2.0, random=(1.0,)), Losses(4.0, 3.0, (2.0,))])
        Losses(max=3.0, min=3.0, random=(1.5,), weight=1.0)
        """
        columns = zip_longest(*([x.max, x.min, *x.random] for x in many))
        means = [fmean(known) if (known := [v for v in column if v is not None]) else None for column in columns]
        return Losses(means[0], means[1], tuple(v for v in means[2:] if v is not None), many[0].weight)

    @property
    def mean_random(self) -> float | None:
        """Mean loss of the random subnets; None where there are none."""
        return sum(self.random) / len(self.random) if self.random else None


@dataclass(frozen=True, eq=False)
class Strategy(ABC):
    """How one batch trains the subnets of an elastic model; `seed` is that of the sampled configurations.

    What else changes as training goes on stands in `_memory`, by name, from `__post_init__` on.
    """

    model: nn.Module
    seed: int = field(default=0, kw_only=True)
    _generator: np.random.Generator = field(init=False, repr=False)
    _memory: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        space(self.model)  # an error for a model that is not elastic
        for known in fields(self):
            value = getattr(self, known.name, None)
            if known.type == "int" and (not isinstance(value, Integral) or isinstance(value, bool)):
                raise ElastifyError(f"{known.name}={value!r} is not a whole number", where=type(self).__name__)
        self._memory.update(steps=0, again=False)
        object.__setattr__(self, "_generator", np.random.default_rng(self.seed))

    def prepare(self) -> None:  # noqa: B027 - most strategies add nothing
        """Add the parameters that the strategy needs to the model: call it before making the optimizer."""

    def advance(self, progress: float) -> None:  # noqa: B027 - most strategies do the same throughout
        """Told the share of the run that is done, from 0 to 1, before each step: `fit` does it."""

    def same_step(self, again: bool) -> None:
        """Told that the batches from now on are (or no longer are) of the same optimizer step as the one before.

        Where gradients are accumulated over several batches, strategies that do different things in turn count once.
        """
        self._memory["again"] = again

    @abstractmethod
    def step(
        self, forward: Forward, loss: Loss, *, distill: Distill | None = None, backward: Backward = Tensor.backward
    ) -> Losses:
        """Add the gradients of one batch; the optimizer is the caller's."""

    def sample(self) -> SubnetConfig:
        """A random configuration, the next of the seeded sequence."""
        return space(self.model).sample(self._generator)

    def state_dict(self) -> dict[str, Any]:
        """The state of the sampling and what else changes, as numbers, text and tensors."""
        memory = {name: copy.copy(value) for name, value in self._memory.items()}
        return {"generator": copy.deepcopy(self._generator.bit_generator.state), **memory}

    @cached_property
    def arguments(self) -> dict[str, str]:
        """What it was made with, its own arguments and the model's space, as text that is the same in every process."""
        where = space(self.model)
        values = {known.name: _said(getattr(self, known.name)) for known in fields(self) if known.init}
        axes = [[axis.name, *axis.choices] for axis in where.axes]
        stages = [[stage.name, *stage.choices] for stage in where.stages]
        return {name: json.dumps(value) for name, value in {**values, "axes": axes, "stages": stages}.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        missing = {"generator", *self._memory} - state.keys()
        if missing:
            raise ElastifyError(
                f"this is no state of a {type(self).__name__}",
                why=f"it has no {min(missing)}",
                fix="what state_dict() of such a strategy gave, in this version of elastify",
            )
        self._generator.bit_generator.state = state["generator"]
        self._memory.update({name: copy.copy(state[name]) for name in self._memory})

    def _labels_only(self, distill: Distill | None) -> None:
        """An error for a distillation loss given to a strategy that has no use for it."""
        if distill is not None:
            raise ElastifyError(
                f"{type(self).__name__} learns from labels only",
                fix="Sandwich(model, n_random=1) distils, or leave distill out",
            )

    def _number(self) -> int:
        """How many optimizer steps there were before this one."""
        return self._memory["steps"] - self._memory["again"]

    def _count(self) -> None:
        """A batch is done, and with it a step, if it is the first one of it."""
        self._memory["steps"] += not self._memory["again"]

    def _pass(self, config: SubnetConfig | None, forward: Forward, loss: Loss, backward: Backward) -> Tensor:
        """Gradients of one subnet (None: the full one); its loss without the graph."""
        activate(self.model, config)
        try:
            value = scalar(loss(forward()))
            backward(value)
            return value.detach()
        finally:
            activate(self.model, None)


def _said(value: Any) -> Any:
    """An argument as JSON has it; of what only this process knows, a module or a function, the kind."""
    if isinstance(value, SubnetConfig):
        return [dict(value.sizes), {name: list(blocks) for name, blocks in value.depths.items()}]
    if isinstance(value, dict):
        return {str(name): _said(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_said(item) for item in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Real):  # of numpy, too
        return int(value) if isinstance(value, Integral) else float(value)
    return type(value).__name__


def check_strategy(strategy: Any, model: nn.Module) -> None:
    """Refuse what is no strategy of this model."""
    if not isinstance(strategy, Strategy):
        raise ElastifyError(f"{strategy!r} is not a strategy", fix="an object of one, as strategy=Sandwich(model)")
    if not isinstance(model, nn.Module) or not any(strategy.model is module for module in model.modules()):
        name = type(strategy).__name__
        raise ElastifyError(f"this {name} trains another model", fix=f"strategy={name}(model), of the same model")


def check_optimizer(strategy: Strategy, optimizer: Any) -> None:
    """Refuse an optimizer that was made before the strategy added its parameters: it knows none of them."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    added = {name: p for name, p in strategy.model.named_parameters() if name.endswith("_elastic") and p.requires_grad}
    if added and not any(id(parameter) in known for parameter in added.values()):
        raise ElastifyError(
            f"the optimizer does not know {next(iter(added))}",
            why=f"{type(strategy).__name__} adds parameters to the model",
            fix="strategy.prepare() before the optimizer is made",
        )


def check_arguments(strategy: Strategy, stored: Mapping[str, str], where: str) -> None:
    """Refuse to go on from the checkpoint of a run whose strategy had other arguments."""
    for name, value in strategy.arguments.items():
        before = stored.get(name, value)
        if before != value:
            same = next((n for n, (a, b) in enumerate(zip(before, value, strict=False)) if a != b), 0)
            start = max(0, same - 20)
            raise ElastifyError(
                f"the checkpoint is of a run with another {name} of the strategy",
                where=where,
                why=f"{before[start : start + 80]} there, {value[start : start + 80]} here",
                fix="the same arguments as before, or another folder",
            )


def warn_of_norms(strategy: Strategy) -> None:
    """For strategies that train the full network seldom, whose running statistics then stay behind its weights."""
    if any(isinstance(m, _NormBase) and m.running_mean is not None for m in strategy.model.modules()):
        warnings.warn(
            f"{type(strategy).__name__} seldom runs the full network, so the running statistics of its norms stay "
            "behind: recalibrate(model, batches, update_full=True) after the training, and each subnet as ever",
            stacklevel=3,
        )


def check_prepared(strategy: Strategy, done: bool) -> None:
    """Refuse a step before the parameters of the strategy exist: the optimizer would not know them."""
    if not done:
        raise ElastifyError(
            f"{type(strategy).__name__} has not been prepared",
            why="it adds parameters, which the optimizer must be given",
            fix="strategy.prepare(), then optimizer = ...(model.parameters())",
        )


def scalar(value: Any) -> Tensor:
    """A loss that can be differentiated, or an error that says what it is instead."""
    if isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad:
        return value
    why = f"it is a {type(value).__name__}"
    if isinstance(value, Tensor):
        why = f"its shape is {tuple(value.shape)}" if value.numel() != 1 else "no gradient flows through it"
    raise ElastifyError("a loss must be one differentiable number", why=why, fix="loss(outputs) -> scalar tensor")


def floats(values: list[Tensor]) -> list[float]:
    """Detached losses as numbers, with one wait for the device."""
    return torch.stack([value.reshape(()).double() for value in values]).tolist()
