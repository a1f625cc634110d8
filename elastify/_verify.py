"""The proof of units: a network is symmetric in every true axis.

Permuting the units of one axis in all the tensors that the plan says belong to it must leave the function as it
was. This is exact up to rounding, independent of training, and finds a forgotten parameter, a wrong order
or a position mistaken for a channel. It is done on a copy in float64 whose parameters are drawn anew at the size
of one, because what training or initialisation left at zero would hide errors. All axes are permuted at once,
twice, by permutations without a fixed point; a failure is narrowed down by halving. The control permutes one
tensor of each axis alone: if the output stays the same then, the test proves nothing and says so.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from elastify._errors import ElastifyError
from elastify._layout import axes_of, indices
from elastify._plan import ElasticAxis, Plan

Run = Callable[[nn.Module], list[Tensor]]
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}  # a float64 model may compute a norm in float32


def failing_axes(
    model: nn.Module, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any], pick: Callable[[Any], list[Tensor]],
    *, seed: int = 0, training: bool = False,
) -> dict[int, str]:
    """Axes (by id) in which the model is not symmetric, with what was measured; empty when all are proven.

    `pick` takes the outputs to compare out of what forward returns. The model is not changed.
    """
    check_finite(model)
    test = _Symmetry(model, plan, args, kwargs, pick, seed, training)
    return test.failures()


def check_finite(model: nn.Module) -> None:
    """Refuse parameters that are NaN or infinite: nothing can be compared."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter.detach()).all():
            raise ElastifyError(
                f"parameter {name} has values that are NaN or infinite",
                where="verification",
                why="outputs of such a model cannot be compared",
                fix="mend the weights, or pass verify=False",
            )


class _Symmetry:
    """The test of one model; `measure(axes)` gives the error after permuting those axes together."""

    def __init__(
        self, model: nn.Module, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any],
        pick: Callable[[Any], list[Tensor]], seed: int, training: bool,
    ) -> None:
        self.plan, self.pick, self.seed, self.training = plan, pick, seed, training
        self.members: dict[int, list[str]] = {}
        for name, layouts in plan.tensors.items():
            for ident in {axis.id for layout in layouts for axis in axes_of(layout)}:
                self.members.setdefault(ident, []).append(name)
        self.parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        # one sample in float64 where the model allows it; some insist on a batch, or on float32 somewhere
        samples = ((args, kwargs),) if training else (first_sample((args, kwargs)), (args, kwargs))
        trials = [(dtype, inputs) for dtype in (torch.float64, torch.float32) for inputs in samples]
        for number, (dtype, inputs) in enumerate(trials, 1):
            self.model = copy.deepcopy(model).train(training)
            quiet(self.model)
            self.args, self.kwargs = _cast(inputs, dtype)
            self.tolerance = _TOLERANCE[dtype]
            try:
                self.model.to(dtype)
                self.tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
                redraw(self.model, seed)
                self.original = {name: self.tensors[name].detach().clone() for name in plan.tensors}
                self.reference = self.outputs()
                return
            except Exception:
                if number == len(trials):
                    raise

    def outputs(self) -> list[Tensor]:
        with torch.no_grad(), _seeded(self.seed):
            found = self.pick(self.model(*self.args, **self.kwargs))
        return [t.detach().to(torch.float64) for t in found if t.is_floating_point() or t.is_complex()]

    def error(self) -> float:
        """Largest deviation from the reference, relative to the spread of each output."""
        worst = 0.0
        for now, then in zip(self.outputs(), self.reference, strict=True):
            if now.shape != then.shape or not torch.equal(torch.isnan(now), torch.isnan(then)):
                return math.inf
            finite = torch.isfinite(then)
            if not torch.equal(finite, torch.isfinite(now)):
                return math.inf
            scale = float(then[finite].abs().max()) if finite.any() else 0.0
            difference = float((now[finite] - then[finite]).abs().max()) if finite.any() else 0.0
            worst = max(worst, difference / (scale or 1.0))
        return worst

    @torch.no_grad()
    def measure(self, axes: Iterable[ElasticAxis], draw: int, only: Callable[[ElasticAxis], Sequence[str]] | None = None) -> float:
        """Error after permuting some axes (in the tensors that `only` names) by derangement number `draw`."""
        axes = list(axes)
        orders = {axis.id: derangement(axis.size, self.seed + 7919 * draw + axis.id) for axis in axes}
        touched = {name for axis in axes for name in (only(axis) if only else self.members.get(axis.id, ()))}
        for name in touched:
            value = self.original[name]
            for dim, layout in enumerate(self.plan.tensors[name]):
                if any(axis.id in orders for axis in axes_of(layout)):
                    value = value.index_select(dim, torch.from_numpy(indices(layout, orders)).to(value.device))
            self.tensors[name].copy_(value)
        try:
            return self.error()
        finally:
            for name in touched:
                self.tensors[name].copy_(self.original[name])

    def failures(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for draw in range(2):
            self._narrow([axis for axis in self.plan.axes if axis.id not in found], draw, found)
        proven = [axis for axis in self.plan.axes if axis.id not in found]
        if proven and self.measure(proven, 0, self._one_member) <= self.tolerance:
            for axis in self._unmoved(proven):
                found[axis.id] = "permuting one of its tensors alone does not change the output: nothing is proven"
        return found

    def _narrow(self, axes: list[ElasticAxis], draw: int, found: dict[int, str]) -> None:
        if not axes:
            return
        error = self.measure(axes, draw)
        if error <= self.tolerance:
            return
        if len(axes) == 1:
            found[axes[0].id] = f"the permutation test fails: the output moves by {error:.1e} of its size"
            return
        half = len(axes) // 2
        self._narrow(axes[:half], draw, found)
        self._narrow(axes[half:], draw, found)

    def _one_member(self, axis: ElasticAxis) -> list[str]:
        names = [name for name in self.members[axis.id] if name in self.parameters]
        return sorted(names, key=lambda name: -self.tensors[name].dim())[:1]

    def _unmoved(self, axes: list[ElasticAxis]) -> list[ElasticAxis]:
        return [axis for axis in axes if self.measure([axis], 0, self._one_member) <= self.tolerance]


def derangement(size: int, seed: int) -> np.ndarray:
    """A permutation without a fixed point (for `size` of at least 2).

    >>> bool((derangement(5, 0) == np.arange(5)).any())
    False
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(size)
    cycle = np.empty(size, np.int64)
    cycle[order] = np.roll(order, -1)  # one long cycle through a random order
    return cycle


@torch.no_grad()
def redraw(model: nn.Module, seed: int) -> None:
    """Draw all parameters anew so that every one matters: matrices keep the scale, vectors lie around one."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if not (parameter.is_floating_point() or parameter.is_complex()):
            continue
        shape = parameter.shape
        draw = torch.randn(shape, generator=generator, dtype=torch.float64)
        if parameter.dim() >= 2 and parameter[0].numel() > 1:
            draw = draw / math.sqrt(parameter[0].numel())
        else:
            draw = 1 + 0.3 * draw.clamp(-2, 2)
        parameter.copy_(draw.to(parameter.device, parameter.dtype))
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        elif name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3)


def quiet(model: nn.Module) -> None:
    """Put modules without weights of their own (dropout, drop path) into evaluation mode."""
    for module in model.modules():
        if not any(True for _ in module.parameters()) and not any(True for _ in module.children()):
            module.eval()


def first_sample(tree: Any) -> Any:
    """The inputs cut down to a batch of one."""
    if isinstance(tree, Tensor):
        return tree[:1] if tree.dim() else tree
    if isinstance(tree, (tuple, list)):
        items = [first_sample(item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, dict):
        return {key: first_sample(item) for key, item in tree.items()}
    return tree


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    if isinstance(tree, Tensor):
        if tree.is_complex():
            return tree.to(torch.complex128 if dtype is torch.float64 else torch.complex64)
        return tree.to(dtype) if tree.is_floating_point() else tree
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_cast(x, dtype) for x in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(_cast(x, dtype) for x in tree)
    if isinstance(tree, dict):
        return {key: _cast(x, dtype) for key, x in tree.items()}
    return tree


@contextmanager
def _seeded(seed: int):  # noqa: ANN202 - a context manager
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
