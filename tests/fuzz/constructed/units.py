"""Which indices of a dimension a smaller network keeps: the oracle's own rule, in thirty lines.

A layout is written as the sum and product that it is: `"heads*dim"` has the units of a head next to each other,
`"hidden + hidden"` has two halves. A smaller network keeps the first units of each number, so `Units` are the kept
indices of a dimension and its full size; `*` and `+` work on them as they do on the numbers.

`tensors_of` says the same for the layers of torch: `"out, in"` is the weight of a linear layer, and its bias follows.
Nothing here knows the library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

KNOWN = (nn.Linear, _ConvNd, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.Embedding, nn.Identity)


@dataclass(frozen=True)
class Units:
    """
    >>> heads, dim = Units.first(1, 2), Units.first(2, 3)
    >>> (heads * dim + dim).kept, (2 * dim).kept
    ((0, 1, 6, 7), (0, 1, 3, 4))
    """

    kept: tuple[int, ...]
    size: int

    @staticmethod
    def first(count: int, size: int) -> Units:
        return Units(tuple(range(count)), size)

    @staticmethod
    def of(value: Units | int) -> Units:
        return value if isinstance(value, Units) else Units.first(value, value)

    def __mul__(self, other: Units | int) -> Units:
        inner = Units.of(other)
        return Units(tuple(a * inner.size + b for a in self.kept for b in inner.kept), self.size * inner.size)

    def __rmul__(self, other: int) -> Units:
        return Units.of(other) * self

    def __add__(self, other: Units) -> Units:
        return Units((*self.kept, *(self.size + b for b in other.kept)), self.size + other.size)


def read(text: str, numbers: Mapping[str, Units]) -> Units:
    """The units of one dimension, such as `3*heads*dim`."""
    return Units.of(eval(text, {"__builtins__": {}}, dict(numbers)))  # noqa: S307 - written in this folder


def dims_of(text: str) -> list[str]:
    """The dimensions in a text; `*` alone is whatever the tensor has."""
    return [part.strip() for part in text.split(",")]


def cut(tensor: Tensor, text: str, numbers: Mapping[str, Units]) -> Tensor:
    """What a smaller network has of a tensor; dimensions after those of the text stay whole."""
    for dim, part in enumerate(dims_of(text) if text else []):
        units = read(part, numbers)
        assert units.size == tensor.shape[dim], f"{text} is {units.size} at dimension {dim} of {list(tensor.shape)}"
        tensor = tensor.index_select(dim, torch.tensor(units.kept, dtype=torch.long))
    return tensor.clone()


def tensors_of(layer: nn.Module | Tensor, text: str) -> Iterator[tuple[str, str, bool]]:
    """Names of the tensors of a layer with their dimensions, and whether they are statistics of a norm."""
    if isinstance(layer, Tensor):
        yield "", text, False
        return
    if isinstance(layer, (nn.LSTM, nn.GRU, nn.RNN)):
        yield from _recurrent(layer, text)
        return
    if isinstance(layer, nn.MultiheadAttention):
        yield from (("in_proj_weight", f"3*({text}), {text}", False), ("in_proj_bias", f"3*({text})", False))
        yield from (("out_proj.weight", f"{text}, {text}", False), ("out_proj.bias", text, False))
        return
    parts = dims_of(text)
    yield "weight", text, False
    yield "bias", parts[1] if isinstance(layer, _ConvTransposeNd) else parts[0], False
    if isinstance(layer, _BatchNorm):
        yield from (("running_mean", text, True), ("running_var", text, True), ("num_batches_tracked", "", True))
    else:
        assert isinstance(
            layer, (nn.Linear, _ConvNd, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.Embedding, nn.Identity)
        ), layer


def _recurrent(layer: nn.RNNBase, text: str) -> Iterator[tuple[str, str, bool]]:
    """`hidden, input`: gates stand one after the other, two directions side by side."""
    hidden, given = dims_of(text)
    gates = {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
    for number in range(layer.num_layers):
        below = given if not number else " + ".join([hidden] * (2 if layer.bidirectional else 1))
        for way in ("", "_reverse")[: 2 if layer.bidirectional else 1]:
            yield f"weight_ih_l{number}{way}", f"{gates}*{hidden}, {below}", False
            yield f"weight_hh_l{number}{way}", f"{gates}*{hidden}, {hidden}", False
            yield f"bias_ih_l{number}{way}", f"{gates}*{hidden}", False
            yield f"bias_hh_l{number}{way}", f"{gates}*{hidden}", False
