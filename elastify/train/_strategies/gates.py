"""Gates: numbers that are 0 or 1 and can be learnt, and what they are multiplied with.

A `Gate` holds logits, one per weight, per unit of an axis, or one for a block. While a step samples it draws noise
once, so that every use in a pass sees the same gates; at any other time a gate is open where its logit is not
negative. The value is exactly 0 or 1, its gradient that of a probability (straight-through).

Units are closed where they are summed over, in every layer that takes them in: nothing else hears them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from elastify._errors import ElastifyError
from elastify._rewrite import Hook, Transform, elastic_state


@dataclass(eq=False)
class Gate:
    """The gates whose logits are the parameter `name` of `owner`; `forced` replaces their values.

    `kind`: "gumbel" samples with the gradient of the sample's softmax, "bernoulli" with that of its probability,
    "top" opens the share `top` of largest logits and passes gradients through.
    """

    owner: nn.Module
    name: str
    kind: str = "gumbel"
    tau: float = 1.0
    top: float = 0.5
    noise: Tensor | None = None
    forced: Tensor | None = None

    @property
    def logits(self) -> nn.Parameter:
        """The parameter."""
        parameter = self.owner._parameters[self.name]
        assert parameter is not None
        return parameter

    def draw(self, generator: torch.Generator) -> None:
        """New noise, the difference of two Gumbel variables."""
        drawn = torch.rand(self.logits.shape, generator=generator).clamp_(1e-6, 1 - 1e-6)
        self.noise = torch.logit(drawn).to(self.logits)

    def value(self) -> Tensor:
        """0 or 1 for each logit."""
        logits = self.logits
        if self.forced is not None:
            return self.forced.to(logits)
        if self.kind == "top":
            chosen = logits.detach().flatten().topk(max(1, round(self.top * logits.numel())), sorted=False).indices
            hard = torch.zeros_like(logits).view(-1).index_fill_(0, chosen, 1).view_as(logits)
            return hard + (logits - logits.detach())
        if self.noise is None:
            return (logits >= 0).to(logits)
        moved = logits + self.noise
        soft = torch.sigmoid(moved / self.tau if self.kind == "gumbel" else logits)
        return (moved > 0).to(logits) + (soft - soft.detach())


class MaskedWeight(Transform):
    """A weight times its gates; `rescale` multiplies with a learnt scale ("smart") or by how few are open ("kept")."""

    def __init__(self, owner: nn.Module, local: str, *, gate: Gate, rescale: str | None) -> None:
        super().__init__(owner, local)
        self.gates, self.rescale = (gate,), rescale

    def __call__(self, full: Tensor) -> Tensor:
        gate = self.gates[0].value()
        value = full * gate.to(full.dtype)
        if self.rescale == "smart":
            return value * self.own("scale")
        return value * (gate.numel() / gate.detach().sum().clamp_min(1)) if self.rescale == "kept" else value


class GatedUnits(Transform):
    """A weight whose dimensions are closed for some units: (dimension, gate, unit of each position or -1)."""

    def __init__(self, owner: nn.Module, local: str, *, dims: Sequence[tuple[int, Gate, np.ndarray]]) -> None:
        super().__init__(owner, local)
        self.dims = [(dim, gate, torch.from_numpy(units)) for dim, gate, units in dims]
        self.gates = tuple(gate for _, gate, _ in dims)

    def __call__(self, full: Tensor) -> Tensor:
        for dim, gate, units in self.dims:
            value = gate.value().to(full.dtype)
            line = torch.cat([value, value.new_ones(1)])[units.to(full.device)]  # -1 is the last one, always open
            full = full * line.view([-1 if d == dim else 1 for d in range(full.dim())])
        return full


class GatedBlock(Hook):
    """A forward hook: a closed block hands on its first tensor, as if it had been left out."""

    def __init__(self, gate: Gate) -> None:
        self.gates = (gate,)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if given is None or not isinstance(first, Tensor) or given.shape != first.shape:
            raise ElastifyError(
                "a block cannot be gated",
                where=type(module).__name__,
                why="its first tensor and its result have different shapes",
                fix='granularity="unit"',
            )
        gate = self.gates[0].value().to(first.dtype)
        mixed = given + gate * (first - given)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed


def gates_of(model: nn.Module) -> list[Gate]:
    """All gates of a model, each once."""
    return list({id(gate): gate for gate in _all(model)}.values())


def _all(model: nn.Module) -> Iterator[Gate]:
    for transform in elastic_state(model).transforms.values():
        if isinstance(transform, (MaskedWeight, GatedUnits)):
            yield from transform.gates
    for module in model.modules():
        for hook in module._forward_hooks.values():
            if isinstance(hook, GatedBlock):
                yield from hook.gates
