"""How much each unit of an axis matters, measured on all the tensors that the axis runs through.

A measure gives *lines*: for a dimension of a tensor, one score per position. Lines of weights are sums of scores of
single weights (squares, squares of weight times gradient, random numbers); those of activations are mean squares of
what goes in and out of linear layers and convolutions, seen by a function mode. The score of a unit is the sum over
all lines that it has a part in. An axis of which a measure knows nothing is scored by magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from elastify._errors import ElastifyError
from elastify._ir import Plan
from elastify.train._batches import run_batch, to_device
from elastify.train._evaluate import evaluating

Importance = Callable[[nn.Parameter], Tensor]
Loss = Callable[[Any, Any], Tensor]
Lines = dict[tuple[str, int], Tensor]
_CHANNEL: dict[Any, int] = {F.linear: -1, F.conv1d: -2, F.conv2d: -3, F.conv3d: -4}
MEASURES = "magnitude", "taylor", "activation", "scale", "random"


def measure(
    model: nn.Module,
    plan: Plan,
    importance: str | Importance,
    batches: Iterable[Any] | None,
    loss: Loss | None,
    seed: int,
) -> list[Lines]:
    """The lines of a measure, and those that serve axes of which it knows nothing."""
    weights = {name: p for name, p in model.named_parameters(remove_duplicate=False) if name in plan.tensors}
    if callable(importance):
        return [_sums(weights, importance)]
    if importance not in MEASURES:
        raise ElastifyError(
            f"unknown importance {importance!r}", fix=f"one of {', '.join(MEASURES)}, or a function of a parameter"
        )
    if importance in ("taylor", "activation") and (batches is None or (loss is None and importance == "taylor")):
        raise ElastifyError(
            f"importance={importance!r} is measured on data",
            fix=f"sort_channels(model, {importance!r}, batches{', loss' * (importance == 'taylor')})",
        )
    magnitude = _sums(weights, torch.square)
    if importance == "magnitude":
        return [magnitude]
    if importance == "random":
        generator = torch.Generator().manual_seed(seed)
        return [_sums(weights, lambda p: torch.rand(p.shape, generator=generator))]
    if importance == "scale":
        return [_sums(_scales(model, weights), torch.abs), magnitude]
    return [_on_data(model, weights, batches or (), loss if importance == "taylor" else None), magnitude]


def _sums(weights: Mapping[str, nn.Parameter], score: Importance) -> Lines:
    """Lines of scores of single weights."""
    lines: Lines = {}
    for name, parameter in weights.items():
        with torch.no_grad():
            values = score(parameter)
        if values.shape != parameter.shape:
            raise ElastifyError(
                f"importance of shape {tuple(values.shape)} for {name} of shape {tuple(parameter.shape)}",
                why="every weight needs its own score",
                fix="importance=lambda p: p.abs()",
            )
        values = values.double()
        if not torch.isfinite(values).all():
            raise ElastifyError("the importance of a weight is not finite", where=name)
        for dim in range(values.dim()):
            others = [d for d in range(values.dim()) if d != dim]
            lines[name, dim] = values.sum(others) if others else values
    return lines


def _scales(model: nn.Module, weights: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """What norms multiply units with: vectors, but for biases, of modules that own nothing else."""
    scales: dict[str, nn.Parameter] = {}
    for path, module in model.named_modules():
        own = dict(module.named_parameters(prefix=path, recurse=False))
        if all(p.dim() == 1 for p in own.values()):
            scales |= {name: p for name, p in own.items() if name in weights and not name.endswith("bias")}
    return scales


def _on_data(model: nn.Module, weights: Mapping[str, nn.Parameter], batches: Iterable[Any], loss: Loss | None) -> Lines:
    """Squares of weight times gradient (with a loss), or of activations, summed over batches in eval mode."""
    total: Lines = {}
    device = next(iter(weights.values())).device
    count = 0
    for batch in batches:
        batch = to_device(batch, device)
        with evaluating(model), _Activations(weights) as seen, torch.set_grad_enabled(loss is not None):
            outputs, targets = (model(batch), None) if isinstance(batch, Tensor) else run_batch(model, batch)
            lines = seen.lines if loss is None else _taylor(weights, loss(outputs, targets))
        for place, line in lines.items():
            total[place] = total.get(place, 0) + line
        count += 1
    if not count:
        raise ElastifyError("nothing to measure importance on", why="there is no batch", fix="a loader or a list")
    return total


def _taylor(weights: Mapping[str, nn.Parameter], value: Tensor) -> Lines:
    trained = {name: p for name, p in weights.items() if p.requires_grad}
    gradients = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
    effects = {id(p): p * g for p, g in zip(trained.values(), gradients, strict=True) if g is not None}
    known = {name: p for name, p in trained.items() if id(p) in effects}
    return _sums(known, lambda p: effects[id(p)].square())


class _Activations(TorchFunctionMode):
    """Mean squares of the inputs and outputs of layers with these weights, by position."""

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._names = {id(parameter): name for name, parameter in weights.items()}
        self.lines: Lines = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        channel = _CHANNEL.get(func) if callable(func) else None
        if channel is not None:
            given = dict(zip(("input", "weight"), args, strict=False)) | (kwargs or {})
            name = self._names.get(id(given["weight"]))
            if name is not None:
                self._add(name, 0, out, channel)
                if given["weight"].shape[1] == given["input"].shape[channel]:  # not grouped
                    self._add(name, 1, given["input"], channel)
        return out

    def _add(self, name: str, dim: int, values: Tensor, channel: int) -> None:
        squares = values.detach().double().square().movedim(channel, -1)
        line = squares.reshape(-1, squares.shape[-1]).mean(0)
        self.lines[name, dim] = self.lines.get((name, dim), 0) + line


def as_arrays(lines: Lines) -> dict[tuple[str, int], np.ndarray]:
    """The lines on the CPU."""
    return {place: line.cpu().numpy() for place, line in lines.items()}
