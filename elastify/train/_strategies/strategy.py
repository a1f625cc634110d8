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
from dataclasses import dataclass, field, fields
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from elastify._errors import ElastifyError
from elastify._space import SubnetConfig
from elastify._verbs import activate, cost, space
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses, scalar


@dataclass(frozen=True, eq=False)
class Strategy(ABC):
    """How one batch trains the subnets of an elastic model; `seed` is that of the sampled configurations.

    What else changes as training goes on stands in `_memory`, by name, from `__post_init__` on, and is saved with the
    state. What an object has to do or to find out only once stands in `_once`, and is not saved.
    """

    model: nn.Module
    seed: int = field(default=0, kw_only=True)
    _generator: np.random.Generator = field(init=False, repr=False)
    _memory: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _once: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        space(self.model)  # an error for a model that is not elastic
        for known in fields(self):
            value = getattr(self, known.name, None)
            if known.type == "int" and (not isinstance(value, Integral) or isinstance(value, bool)):
                raise ElastifyError(f"{known.name}={value!r} is not a whole number", where=type(self).__name__)
        self._memory.update(steps=0, again=False, progress=0.0, passes=0, macs=0.0)
        object.__setattr__(self, "_generator", np.random.default_rng(self.seed))

    def prepare(self) -> None:  # noqa: B027 - most strategies add nothing
        """Add the parameters that the strategy needs to the model: call it before making the optimizer."""

    def advance(self, progress: float) -> None:
        """Told the share of the run that is done, from 0 to 1, before each step: `fit` does it."""
        self._memory["progress"] = float(progress)

    @property
    def progress(self) -> float:
        """The share of the run that is done, as `advance` was told."""
        return self._memory["progress"]

    @property
    def spent(self) -> tuple[int, float]:
        """Passes so far, and their MACs per sample: a pass that trains counts its forward three times."""
        return self._memory["passes"], self._memory["macs"]

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
        values = {known.name: _as_json(getattr(self, known.name)) for known in fields(self) if known.init}
        axes = [[axis.name, *axis.choices] for axis in where.axes]
        stages = [[stage.name, *stage.choices] for stage in where.stages]
        return {name: json.dumps(value) for name, value in {**values, "axes": axes, "stages": stages}.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        missing = {"generator", *self._memory} - state.keys()
        if missing:
            raise ElastifyError(
                f"this is not the state of a {type(self).__name__}",
                why=f"it has no {min(missing)}",
                fix="the state_dict() of such a strategy, from this version of elastify",
            )
        np.random.default_rng().bit_generator.state = state["generator"]  # an error before anything changes
        self._generator.bit_generator.state = state["generator"]
        self._memory.update({name: copy.copy(state[name]) for name in self._memory})

    def _labels_only(self, distill: Distill | None) -> None:
        """An error for a distillation loss given to a strategy that has no use for it."""
        if distill is not None:
            raise ElastifyError(
                f"{type(self).__name__} learns from labels only",
                fix="Sandwich(model, n_random=1) distils, or leave distill out",
            )

    def _check_prepared(self, done: bool) -> None:
        """Refuse a step before the parameters of the strategy exist: the optimizer would not know them."""
        if not done:
            raise ElastifyError(
                f"{type(self).__name__} has not been prepared",
                why="it adds parameters, which the optimizer must be given",
                fix="strategy.prepare(), then optimizer = ...(model.parameters())",
            )

    def warned_of_norms(self) -> None:
        """Let no warning of running statistics come: the caller measures them."""
        self._once["warned"] = True

    def _warn_of_norms(self) -> None:
        """Once, for strategies that seldom train the full network: its running statistics stay behind its weights."""
        norms = [module for module in self.model.modules() if isinstance(module, _NormBase)]
        if "warned" not in self._once and any(norm.running_mean is not None for norm in norms):
            warnings.warn(
                f"{type(self).__name__} seldom runs the full network, so the running statistics of its norms stay "
                "behind: recalibrate(model, batches, update_full=True) after the training, and each subnet as ever",
                stacklevel=3,
            )
            self._once["warned"] = True

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
            self._spend(config, 3)  # a backward costs about two forwards
            return value.detach()
        finally:
            activate(self.model, None)

    def _spend(self, config: SubnetConfig | None, forwards: int) -> None:
        """Count one pass of a subnet (None: the full one), which costs so many forwards."""
        known = self._once.setdefault("macs", {})
        if config not in known:
            known[config] = cost(self.model, space(self.model).max if config is None else config).macs
        self._memory["passes"] += 1
        self._memory["macs"] += float(forwards * known[config])


def _as_json(value: object) -> object:
    """An argument as JSON has it; of what only this process knows, a module or a function, the kind."""
    if isinstance(value, SubnetConfig):
        return [dict(value.sizes), {name: list(blocks) for name, blocks in value.depths.items()}]
    if isinstance(value, dict):
        return {str(name): _as_json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Real):  # of numpy, too
        return int(value) if isinstance(value, Integral) else float(value)
    return type(value).__name__
