"""What the proof of units runs on: fewer samples than the example has, and none of zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from elastify._capture import tensors


def first_sample(tree: Any, batch: int | None = None) -> Any:
    """The inputs cut down to a batch of one; `batch` is the first size of the first tensor if it is not given.

    >>> [tuple(x.shape) for x in first_sample((torch.zeros(4, 9), torch.zeros(1, 4, 7), torch.zeros(9, 9)))]
    [(1, 9), (1, 1, 7), (9, 9)]
    """
    size = next((t.size(0) for t in tensors(tree) if t.dim()), 1) if batch is None else batch

    def cut(tensor: Tensor) -> Tensor:
        where = next((dim for dim, n in enumerate(tensor.shape) if n == size), None)
        return tensor if where is None else tensor.narrow(where, 0, 1)

    return _mapped(tree, cut)


def first_of_lists(tree: Any) -> Any:
    """The inputs with the first tensor of every list of tensors of one rank alone.

    >>> first_of_lists(([torch.zeros(3, 4), torch.zeros(3, 5)], 7))
    ([tensor([[0., 0., 0., 0.],
            [0., 0., 0., 0.],
            [0., 0., 0., 0.]])], 7)
    """
    if isinstance(tree, list) and tree and all(isinstance(item, Tensor) for item in tree):
        return tree[:1] if len({item.dim() for item in tree}) == 1 else tree
    if isinstance(tree, dict):
        return {key: first_of_lists(item) for key, item in tree.items()}
    return tuple(map(first_of_lists, tree)) if type(tree) is tuple else tree


def filled(tree: Any, seed: int) -> Any:
    """Inputs of zeros, which would silence the first layer, are replaced by noise."""

    def fill(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or bool(tensor.any()):
            return tensor
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)

    return _mapped(tree, fill)


def cast(tree: Any, dtype: torch.dtype) -> Any:
    """Floating point and complex inputs in a precision."""

    def convert(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(torch.complex128 if dtype is torch.float64 else torch.complex64)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return _mapped(tree, convert)


def _mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, (tuple, list)):
        items = [_mapped(item, change) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, dict):
        return {key: _mapped(item, change) for key, item in tree.items()}
    return tree
