"""Where a number comes from: what it may be an attribute of, what arithmetic it goes through, and where it is lost.

Each net reshapes 12 channels to 4 heads of 3 and treats every head by itself; a function says by which numbers.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from einops.layers.torch import EinMix, Rearrange, Reduce
from torch import Tensor, nn

from .construct import Construct, Fn, through

X = (2, 6)
HEADS = {"first.weight[0]": "3, 4", "gain[2]": "3"}
OTHERS = {"next.weight[0]": "10"}
LITERAL = {"first.weight[0]": "the number 4 is written in the source: view in the model (tests/constructs/integers.py:"}


@dataclass
class Config:
    heads: int = 4
    dim: int = 3


@dataclass(frozen=True)
class Fixed:
    heads: int = 4


@dataclass(slots=True)
class Slotted:
    heads: int = 4


class Counted(int):
    """An integer with a name."""


class Kind(enum.IntEnum):
    HEADS = 4


def heads(number: Callable[[Any, Tensor], Any], **parts: Any) -> Callable[[], nn.Module]:
    """`number(net, x)` is how many heads there are."""

    def op(m: Fn, x: Tensor) -> Tensor:
        y = x.view(x.shape[0], number(m, x), -1)
        return (y * y.norm(dim=-1, keepdim=True) * m.gain).flatten(1)

    return through(op, gain=lambda: nn.Parameter(torch.rand(1, 1, 3) + 0.5), **parts)


def rigid(number: Callable[[Any, Tensor], Any], **parts: Any) -> Callable[[], nn.Module]:
    """The same where the width of a head is a number in the source, so that the number of heads decides."""

    def op(m: Fn, x: Tensor) -> Tensor:
        return x.view(x.shape[0], number(m, x), 3).softmax(-1).flatten(1)

    return through(op, **parts)


def halves(number: Callable[[Any, Tensor], Any], **parts: Any) -> Callable[[], nn.Module]:
    """`number(net, x)` is where the channels are cut in two."""

    def op(m: Fn, x: Tensor) -> Tensor:
        n = number(m, x)
        return m.left(x[:, :n]) + m.right(x[:, n:])

    return through(op, out=8, left=lambda: nn.Linear(6, 8), right=lambda: nn.Linear(6, 8), **parts)


def scaled(number: Callable[[Any], float]) -> Callable[[], nn.Module]:
    """`number(net)` divides the channels; where it comes from is read as a number only, never as a size."""
    return through(lambda m, x: x / number(m), config=SimpleNamespace(hidden_size=12))


def layer(fn: Any, x: Tensor) -> Tensor:
    return fn(x)


def closed(number: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.view(x.shape[0], number, 3).softmax(-1).flatten(1)


def by_range(m: Fn, x: Tensor) -> Tensor:
    """Heads taken one after the other."""
    y = x.view(x.shape[0], m.heads, -1)
    return torch.cat([y[:, i].softmax(-1) for i in range(m.heads)], -1)


def by_einops(m: Fn, x: Tensor) -> Tensor:
    y = rearrange(x, "b (h d) -> b h d", h=m.heads).softmax(-1)
    return rearrange(y, "b h d -> b (h d)")


def by_einops_layers(m: Fn, x: Tensor) -> Tensor:
    return m.join(m.split(x).softmax(-1))


def by_einops_mixing(m: Fn, x: Tensor) -> Tensor:
    return m.join(m.mix(x) * m.mean(x))


def by_sizes(m: Fn, x: Tensor) -> Tensor:
    """Arithmetic on torch.Size."""
    y = x.view(x.shape[:-1] + x.new_empty(m.heads, x.shape[-1] // m.heads).shape).softmax(-1)
    return y.view(torch.Size([*y.shape[:-2], math.prod(y.shape[-2:])]))


def by_sum(m: Fn, x: Tensor) -> Tensor:
    """Sections added up."""
    a, b, c = x.split(m.sections, -1)
    return torch.cat([a, b.tanh(), c], -1).view(x.shape[0], sum(m.sections))


def by_divmod(m: Fn, x: Tensor) -> Tensor:
    each, rest = divmod(x.shape[-1], m.heads)
    return x.view(-1, m.heads, each).softmax(-1).reshape(-1, each * m.heads + rest)


HALF = {"first.weight[0]": "6", "left.weight[1]": "6"}


CONSTRUCTS = [
    Construct("an attribute", heads(lambda m, x: m.n, n=4), X, HEADS),
    Construct(
        "an attribute of the parent",
        lambda: Fn(
            lambda m, x: m.last(m.inner(torch.tanh(m.first(x)), m.n)),
            n=4,
            first=nn.Linear(6, 12),
            inner=Fn(lambda m, x, n: x.view(x.shape[0], n, -1).softmax(-1).flatten(1)),
            last=nn.Linear(12, 3),
        ),
        X,
        {"first.weight[0]": "4, 3"},
    ),
    Construct("in a tuple", heads(lambda m, x: m.n[1], n=(7, 4)), X, HEADS),
    Construct("in a list", heads(lambda m, x: m.n[0], n=[4]), X, HEADS),
    Construct("in a dict", heads(lambda m, x: m.n["heads"], n={"heads": 4}), X, HEADS),
    Construct("in a dict of lists", heads(lambda m, x: m.n["heads"][0], n={"heads": [4, 5]}), X, HEADS),
    Construct("in a config, for a quotient", scaled(lambda m: m.config.hidden_size / 3), X, {"first.weight[0]": "12"}),
    Construct(
        "in a config, for a root", scaled(lambda m: math.sqrt(m.config.hidden_size)), X, {"first.weight[0]": "12"}
    ),
    Construct("in a config, to a power", scaled(lambda m: m.config.hidden_size**-0.5), X, {"first.weight[0]": "12"}),
    Construct("in a dataclass", heads(lambda m, x: m.config.heads, config=Config()), X, HEADS),
    Construct("in a frozen dataclass", heads(lambda m, x: m.config.heads, config=Fixed()), X, HEADS),
    Construct("in a namespace", heads(lambda m, x: m.config.heads, config=SimpleNamespace(heads=4)), X, HEADS),
    Construct(
        "in a namespace of namespaces",
        heads(lambda m, x: m.config.a.heads, config=SimpleNamespace(a=SimpleNamespace(heads=4))),
        X,
        HEADS,
    ),
    Construct("in a dataclass with slots", rigid(lambda m, x: m.config.heads, config=Slotted()), X, OTHERS, LITERAL),
    Construct("in an object in a list", rigid(lambda m, x: m.configs[0].heads, configs=[Config()]), X, OTHERS, LITERAL),
    Construct(
        "in keywords of a partial function",
        through(
            lambda m, x: layer(m.cut[0], x).softmax(-1).flatten(1),
            cut=[functools.partial(torch.Tensor.unflatten, dim=-1, sizes=(4, -1))],
        ),
        X,
        {"first.weight[0]": "4, 3"},
    ),
    Construct(
        "in keywords of a partial norm",
        through(
            lambda m, x: m.norm[0](x), norm=[functools.partial(torch.nn.functional.layer_norm, normalized_shape=(12,))]
        ),
        X,
        {"first.weight[0]": "12"},
    ),
    Construct("in a closure", through(lambda m, x: m.cut[0](x), cut=[closed(4)]), X, OTHERS, LITERAL),
    Construct("in the source", rigid(lambda m, x: 4), X, OTHERS, LITERAL),
    Construct("an integer of numpy", rigid(lambda m, x: m.n, n=np.int64(4)), X, OTHERS, LITERAL),
    Construct("an integer of a subclass", rigid(lambda m, x: m.n, n=Counted(4)), X, OTHERS, LITERAL),
    Construct("a member of an enumeration", rigid(lambda m, x: m.n, n=Kind.HEADS), X, OTHERS, LITERAL),
    Construct("the length of a list", rigid(lambda m, x: len(m.parts), parts=[1, 2, 3, 4]), X, OTHERS, LITERAL),
    Construct(
        "the product of a numpy array",
        rigid(lambda m, x: int(np.prod([m.a, m.b])), a=2, b=2),
        X,
        OTHERS,
        {"first.weight[0]": ""},
    ),
    Construct("a product of attributes", heads(lambda m, x: m.a * m.b, a=2, b=2), X, {"first.weight[0]": "3, 2, 2"}),
    Construct("a sum of attributes", heads(lambda m, x: m.a + m.b, a=3, b=1), X, {"first.weight[0]": "3, 3"}),
    Construct("half of a shape", halves(lambda m, x: x.shape[1] // 2), X, HALF),
    Construct(
        "half by int of a quotient",
        halves(lambda m, x: int(x.shape[1] / 2)),
        X,
        OTHERS,
        {"first.weight[0]": "written in the source"},
    ),
    Construct("half by floor", halves(lambda m, x: math.floor(x.shape[1] / 2)), X, HALF),
    Construct("half by ceil", halves(lambda m, x: math.ceil(x.shape[1] / 2)), X, HALF),
    Construct("half by round", halves(lambda m, x: round(x.shape[1] * 0.5)), X, HALF),
    Construct("a half of half as much again", halves(lambda m, x: round(m.n * 1.5), n=4), X, OTHERS),
    Construct(
        "int of an attribute",
        rigid(lambda m, x: int(m.n), n=4),
        X,
        OTHERS,
        {"first.weight[0]": "written in the source"},
    ),
    Construct("the smaller of two", heads(lambda m, x: min(m.n, 100), n=4), X, HEADS),
    Construct("a number of rounds", through(by_range, heads=4), X, OTHERS, {}),
    Construct("arithmetic of torch.Size", through(by_sizes, heads=4), X, {"first.weight[0]": "4, 3"}),
    Construct("a sum of sections", through(by_sum, sections=[6, 4, 2]), X, {"first.weight[0]": "6, 4, 2"}),
    Construct("quotient and rest", through(by_divmod, heads=4), X, {"first.weight[0]": "4, 3"}),
    Construct("einops", through(by_einops, heads=4), X, {"first.weight[0]": "4, 3"}),
    Construct(
        "einops layers",
        through(
            by_einops_layers,
            split=lambda: Rearrange("b (h d) -> b h d", h=4),
            join=lambda: Rearrange("b h d -> b (h d)"),
        ),
        X,
        {"first.weight[0]": "4, 3"},
    ),
    Construct(
        "einops layers that reduce and mix",
        through(
            by_einops_mixing,
            mean=lambda: Reduce("b (h d) -> b h 1", "mean", h=4),
            mix=lambda: EinMix("b (h i) -> b h o", weight_shape="h i o", bias_shape="h o", h=4, i=3, o=5),
            join=lambda: EinMix("b h o -> b (h d)", weight_shape="h o d", h=4, o=5, d=3),
        ),
        X,
        {"first.weight[0]": "4, 3", "mix.weight[0]": "4", "mix.weight[2]": "5"},
    ),
]
