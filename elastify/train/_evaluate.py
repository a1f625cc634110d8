"""A model in evaluation mode, and whether two of its runs gave the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """All modules in eval mode and no gradients, inside the block."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def float_tensors(outputs: object) -> list[Tensor]:
    """The tensors of floating-point numbers in nested outputs, in their order."""
    leaves = tree_leaves(dict(outputs) if isinstance(outputs, Mapping) else outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def alike(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether two runs gave the same tensors, except for rounding.

    >>> alike([torch.ones(2)], [torch.ones(2) + 1e-6]), alike([torch.ones(2)], [torch.ones(3)])
    (True, False)
    """
    return len(first) == len(second) and all(map(_close, first, second))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    tolerance = torch.finfo(a.dtype).eps ** 0.5
    return not a.numel() or bool((a - b).abs().max() <= tolerance * (b.abs().max() + tolerance))
