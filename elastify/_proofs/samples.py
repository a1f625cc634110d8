"""What the proofs run on: one picture of a list, in another precision, and nothing of zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elastify._capture import Example


def first_of_lists(example: Example) -> Example:
    """The inputs with the first tensor of every list of tensors of one rank alone.

    >>> first_of_lists(Example(([torch.zeros(1, 2), torch.zeros(1, 3)], 7))).args
    ([tensor([[0., 0.]])], 7)
    """

    def shorter(tree: Any) -> Any:
        if isinstance(tree, list) and tree and all(isinstance(item, Tensor) for item in tree):
            return tree[:1] if len({item.dim() for item in tree}) == 1 else tree
        if isinstance(tree, dict):
            return {key: shorter(item) for key, item in tree.items()}
        return tuple(map(shorter, tree)) if type(tree) is tuple else tree

    return Example(shorter(example.args), shorter(dict(example.kwargs)))


def filled(example: Example, seed: int) -> Example:
    """Inputs of zeros, which would silence the first layer, are replaced by noise."""

    def fill(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or bool(tensor.any()):
            return tensor
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)

    return example.mapped(fill)


def cast(example: Example, dtype: torch.dtype) -> Example:
    """Floating point and complex inputs in a precision."""

    def convert(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(torch.complex128 if dtype is torch.float64 else torch.complex64)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return example.mapped(convert)
