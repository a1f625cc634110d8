"""Weights at a level of compression: a point on a line, then the largest ones or a few bits.

All transforms of a model share one `Level`. What selects and rounds is constant for the gradient: entries that are
left out get none, rounded ones get it straight through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from elastify._capture import resolve
from elastify._errors import ElastifyError
from elastify._ir import Axis, Layout, Product, axes_of
from elastify._rewrite import InputHook, Transform, attach, elastic_state
from elastify._space import SearchSpace, SubnetConfig
from elastify.train._strategies.choices import matched

LEAST = {"width": 0.0, "sparsity": 0.025, "bits": 1 / 6}


class Level:
    """The place on the line, the share of weights that are kept, the steps of the grid that they are rounded to.

    These are tensors: where they were numbers, a compiled model would be compiled anew for each.
    """

    def __init__(self) -> None:
        self.set(1.0, 1.0)

    def set(self, alpha: float, kept: float, inputs: bool = True) -> None:
        """Move to another level; `inputs`: whether what layers take in is rounded too, where it can be."""
        kept, whole = max(kept, LEAST["sparsity"]), kept >= 1
        self.alpha, self.kept = (torch.tensor(value, dtype=torch.float64) for value in (alpha, kept))
        self.steps, self.whole = torch.tensor(2.0 ** bits_of(alpha) - 1), whole
        self.inputs = inputs


def narrowed(where: SearchSpace, share: float) -> SubnetConfig:
    """The configuration of about this share of each width; of a product, only the first factor shrinks."""
    inner = {ident for layouts in where.plan.tensors.values() for layout in layouts for ident in _inner(layout)}
    return where.repair({a.name: math.ceil(share * a.size) for a in where.axes if a.id not in inner})


def _inner(layout: Layout) -> Iterator[int]:
    """Axes inside a product, behind its first part."""
    if not isinstance(layout, Axis):
        for part in layout.parts[1 if isinstance(layout, Product) else len(layout.parts) :]:
            yield from (axis.id for axis in axes_of(part))
        for part in layout.parts:
            yield from _inner(part)


class Compressed(Transform):
    """A line between the tensor (alpha 1) and its other end (alpha 0), made sparse or quantised."""

    def __init__(self, owner: nn.Module, local: str, *, level: Level, line: bool, how: str | None) -> None:
        super().__init__(owner, local)
        self.level, self.line, self.how = level, line, how

    def __call__(self, full: Tensor) -> Tensor:
        level = self.level
        value = torch.lerp(self.own(), full, level.alpha.to(full)) if self.line else full
        if self.how == "sparsity" and not level.whole:
            return value * largest(value.detach(), level.kept)
        return quantised(value, level.steps.to(full)) if self.how == "bits" else value

    def ends(self) -> tuple[Tensor, Tensor]:
        """Both ends of the line."""
        full = self.owner._parameters[self.local]
        assert full is not None
        return self.own(), full


class RoundedInputs(InputHook):
    """A forward pre-hook of a layer: what it takes in is rounded to as many bits as its weight.

    Extracted models keep it, with a level of their own, so they compute the same.
    """

    def __init__(self, level: Level) -> None:
        self.level = level

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        return tree_map(self._rounded, (args, kwargs)) if self.level.inputs else None

    def _rounded(self, value: Any) -> Any:
        known = isinstance(value, Tensor) and value.is_floating_point() and value.numel()
        return quantised(value, self.level.steps.to(value)) if known else value


def compressed(model: nn.Module) -> list[Compressed]:
    """The transforms of a model that has been prepared."""
    return [transform for transform in elastic_state(model).transforms.values() if isinstance(transform, Compressed)]


def set_level(model: nn.Module, alpha: float, kept: float, inputs: bool = True) -> None:
    """Move all transforms of a model, which share one level."""
    for transform in compressed(model)[:1]:
        transform.level.set(alpha, kept, inputs)


@torch.library.custom_op("elastify::largest", mutates_args=())
def largest(weight: Tensor, share: Tensor) -> Tensor:
    """1 for this share of the entries, the largest, at least one; 0 for the others. Opaque to `torch.compile`.

    >>> largest(torch.tensor([3.0, -4.0, 1.0, 2.0]), torch.tensor(0.5))
    tensor([1., 1., 0., 0.])
    """
    count = max(1, round(float(share) * weight.numel()))
    chosen = weight.abs().flatten().topk(count, sorted=False).indices
    mask = torch.zeros_like(weight, memory_format=torch.contiguous_format).view(-1)
    return mask.index_fill_(0, chosen, 1).view_as(weight)


@largest.register_fake
def _(weight: Tensor, share: Tensor) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def bits_of(alpha: float) -> int:
    """3 bits at 0 to 8 at 1, in sixths.

    >>> [bits_of(sixths / 6) for sixths in range(7)]
    [3, 3, 4, 5, 6, 7, 8]
    """
    return max(3, 2 + round(6 * alpha))


def quantised(weight: Tensor, steps: Tensor) -> Tensor:
    """The entries on an even grid of so many steps from the smallest to the largest one; straight-through.

    >>> quantised(torch.tensor([0.0, 0.4, 0.6, 3.0]), torch.tensor(3.0))
    tensor([0., 0., 1., 3.])
    """
    with torch.no_grad():
        low, high = weight.aminmax()
        step = ((high - low) / steps).clamp_min(torch.finfo(weight.dtype).tiny)
        error = ((weight - low) / step).round() * step + low - weight
    return weight + error


def squared_cosine(ends: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """cos^2 of the angle between the two ends of all lines, taken as one vector each."""
    dots, first, second = (torch.stack(list(values)).sum() for values in zip(*map(_products, ends), strict=True))
    return dots.square() / (first * second).clamp_min(1e-12)


def _products(ends: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    a, b = ends
    return (a * b).sum(), a.square().sum(), b.square().sum()


def lines(model: nn.Module, which: str) -> Iterator[str]:
    """Parameters that become lines: those of norm layers, or all."""
    norms = {path for path, module in model.named_modules() if "Norm" in type(module).__name__}
    for name, parameter in model.named_parameters():
        if which == "all" or (name.rpartition(".")[0] in norms and parameter.dim() == 1):
            yield name


def weights(model: nn.Module, dense: str | Sequence[str] | None) -> list[str]:
    """Parameters that are compressed: of two dimensions and more, without the dense ones; at least one."""
    names = [name for name, parameter in model.named_parameters() if parameter.dim() > 1]
    kept = {*names[:1], *names[-1:]} if dense is None else set(matched(dense, names))
    if kept.issuperset(names):
        raise ElastifyError(
            "there is nothing to compress",
            why=f"all weights stay dense: {', '.join(names[:4]) or 'there are none'}",
            fix="dense=() compresses every weight, dense=(glob, ...) all but those (None: all but the first and last)",
        )
    return [name for name in names if name not in kept]


def compress(
    model: nn.Module, how: str, which: str | None, dense: str | Sequence[str] | None, seed: int, inputs: bool
) -> bool:
    """Put transforms on the parameters that become lines and on those that are compressed, and on layers' inputs.

    Whether there are any: a point of widths needs none.
    """
    moving = set(lines(model, which)) if which else set()
    chosen = set() if how == "width" else set(weights(model, dense))
    if which and not moving:
        raise ElastifyError("there is nothing to make a line of", why=f"params={which}", fix='params="all"')
    level, generator, layouts = Level(), torch.Generator().manual_seed(seed), elastic_state(model).plan.tensors
    for name, parameter in list(model.named_parameters()):
        if name in moving or name in chosen:
            line = name in moving
            end = {"": (other_end(parameter, generator), layouts.get(name, ()))} if line else {}
            attach(model, name, Compressed, end, level=level, line=line, how=how if name in chosen else None)
        path, _, local = name.rpartition(".")
        layer = resolve(model, path)
        if inputs and name in chosen and local == "weight" and not list(layer.children()):
            layer.register_forward_pre_hook(RoundedInputs(level), with_kwargs=True)
    return bool(moving or chosen)


def other_end(weight: Tensor, generator: torch.Generator) -> Tensor:
    """The same entries in random order: a tensor as likely as the first, and unlike it."""
    order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
    return weight.detach().flatten()[order].view_as(weight)
