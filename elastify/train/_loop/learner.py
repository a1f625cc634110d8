"""What learns in a training run, and its state on disk: model, strategy, optimizer, schedule and gradient scaler.

A checkpoint can be resumed only by a learner of the same kind: tensors of the same shapes, and a strategy, an optimizer
and a schedule of the same classes, with the same arguments of the strategy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from elastify._errors import ElastifyError
from elastify._rewrite import all_statistics, is_elastic, remembered, restore_statistics
from elastify.train._loop.checkpoint import describe_tensors
from elastify.train._loop.plain import Plain
from elastify.train._loop.schedule import Constant
from elastify.train._strategies import Strategy, check_arguments


@dataclass(frozen=True, eq=False)
class Learner:
    """The parts that a step changes; `dtype` is that of autocast (None: without)."""

    model: nn.Module
    strategy: Strategy | Plain
    optimizer: Optimizer
    schedule: Constant
    device: torch.device
    dtype: torch.dtype | None
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        object.__setattr__(self, "scaler", scaler)

    def parameters(self) -> list[nn.Parameter]:
        """Those of the optimizer."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def buffers(self) -> Iterator[Tensor]:
        """The buffers of the model, and the statistics that are stored for its subnets."""
        yield from self.model.buffers()
        for _, _, stored in self._statistics():
            yield from stored.values()

    def buffers_as_they_are(self) -> Callable[[], None]:
        """What puts the buffers, and the statistics of subnets, back to what they are now."""
        return buffers_as_they_are(self.model, self._statistics())

    def autocast(self) -> torch.autocast:
        """For forward and loss."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def update(self, clip: float | None) -> None:
        """Let the optimizer step, after the norm of the gradient has been bounded."""
        if clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters(), clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def small_state(self) -> dict[str, Any]:
        """The state without what is as large as the model."""
        state = {name: part.state_dict() for name, part in self._small_parts().items()}
        return state | {"kinds": self._kinds(), "arguments": self.strategy.arguments}

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint holds of it."""
        large = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return self.small_state() | large | {"statistics": self._statistics()}

    def load_state_dict(self, state: Mapping[str, Any], where: str) -> None:
        """Go on from the state that `where` holds, or say why that cannot be: nothing is different then."""
        self._check(state, where)
        parts = {**self._small_parts(), "optimizer": self.optimizer}
        before = copy.deepcopy({name: part.state_dict() for name, part in parts.items()})
        statistics = self._statistics()
        if not all(isinstance(state[name], dict) for name in parts):
            raise TypeError("a part of its state is not a dict")
        try:
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self._restore_statistics(state.get("statistics", []))
            self.model.load_state_dict(state["model"])
        except BaseException:
            for name, part in parts.items():
                part.load_state_dict(before[name])
            self._restore_statistics(statistics)
            raise

    def _small_parts(self) -> dict[str, Any]:
        return {"schedule": self.schedule, "scaler": self.scaler, "strategy": self.strategy}

    def _statistics(self) -> list[Any]:
        return all_statistics(self.strategy.model) if is_elastic(self.strategy.model) else []

    def _restore_statistics(self, stored: list[Any]) -> None:
        if is_elastic(self.strategy.model):
            restore_statistics(self.strategy.model, stored)

    def _kinds(self) -> dict[str, str]:
        parts = {"strategy": self.strategy, "optimizer": self.optimizer, "scheduler": self.schedule}
        return {name: type(part).__name__ for name, part in parts.items()} | {"amp": str(self.dtype)}

    def _check(self, state: Mapping[str, Any], where: str) -> None:
        mine, stored = describe_tensors(self.model.state_dict()), describe_tensors(state["model"])
        different = [name for name in {**mine, **stored} if mine.get(name) != stored.get(name)]
        fix = "the same arguments as before, resume=False to start over, or another folder"
        if different:
            name = different[0]
            raise ElastifyError(
                "the checkpoint belongs to a different model",
                where=where,
                why=f"{name} has shape {mine.get(name)} here, {stored.get(name)} there ({len(different)} differ)",
                fix=fix,
            )
        for name, kind in self._kinds().items():
            if state["kinds"][name] != kind:
                raise ElastifyError(
                    f"the checkpoint was written with a different {name}",
                    where=where,
                    why=f"{state['kinds'][name]} there, {kind} here",
                    fix=fix,
                )
        if isinstance(self.strategy, Strategy):
            check_arguments(self.strategy, state.get("arguments", {}), where)


def buffers_as_they_are(model: nn.Module, statistics: list[Any]) -> Callable[[], None]:
    """What puts the buffers of a model, and these statistics of its subnets, back to what they are now."""
    tables = [module._buffers for module in model.modules()] + [stored for *_, stored in statistics]
    return remembered((table, list(table)) for table in tables)
