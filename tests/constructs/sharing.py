"""Weights used more than once, parameters without a module, and parametrizations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from .construct import Construct, Fn, images, param, through

X = (2, 6)
WORDS = torch.randint(9, (2, 5), generator=torch.Generator().manual_seed(0))


class Tied(nn.Module):
    """The embedding is the head, too; a factor between them (ALBERT), tied bias, or only the transposed weight."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.kind = kind
        self.embed, self.body, self.norm = nn.Embedding(9, 12), nn.Linear(12, 12), nn.LayerNorm(12)
        self.head = nn.Linear(12, 9, bias=kind == "bias")
        if kind == "bias":
            self.bias = nn.Parameter(torch.zeros(9))
            self.head.bias = self.bias
        if kind == "functional":
            del self.head
        else:
            self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        x = self.norm(x + torch.tanh(self.body(x)))
        return F.linear(x, self.embed.weight) if self.kind == "functional" else self.head(x)


class Albert(nn.Module):
    """One block called over and over, after a factorised embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.widen, self.head = nn.Embedding(9, 4), nn.Linear(4, 12), nn.Linear(12, 9)
        self.block = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 12))
        self.rounds = 3

    def forward(self, words: Tensor) -> Tensor:
        x = self.widen(self.embed(words))
        for _ in range(self.rounds):
            x = x + self.block(x)
        return self.head(x)


class Pyramid(nn.Module):
    """FPN: a shared head on maps of three sizes, lateral and top-down paths."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 10, 3, 2, 1), nn.Conv2d(10, 14, 3, 2, 1)])
        self.lateral = nn.ModuleList(nn.Conv2d(n, 12, 1) for n in (8, 10, 14))
        self.smooth = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(3))
        self.head = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.ReLU(), nn.Conv2d(12, 5, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = torch.relu(stage(x))
            maps.append(lateral(x))
        for i in (1, 0):
            maps[i] = maps[i] + F.interpolate(maps[i + 1], size=maps[i].shape[-2:], mode="nearest")
        return [self.head(smooth(y)) for smooth, y in zip(self.smooth, maps, strict=True)]


class Lender(nn.Module):
    """Hands its weight to others; has no forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = param(8, 12), param(8)


def borrowed(m: Fn, x: Tensor) -> Tensor:
    return F.linear(torch.relu(F.linear(x, m.lender.weight, m.lender.bias)), m.lender.weight.t())


def siamese(m: Fn, x: Tensor, y: Tensor) -> Tensor:
    x, y = (m.two(torch.relu(m.one(z))) for z in (x, y))
    return m.head((x - y).abs())


def two_resolutions(m: Fn, x: Tensor) -> Tensor:
    return m.conv(x) + F.interpolate(m.conv(F.avg_pool2d(x, 2)), scale_factor=2.0)


def recursion(m: Fn, x: Tensor) -> Tensor:
    for _ in range(3):
        x = torch.tanh(m.cell(x))
    return x


def raw(m: Fn, x: Tensor) -> Tensor:
    return torch.einsum("...i,io->...o", x, m.a) @ m.b + m.c


def listed(m: Fn, x: Tensor) -> Tensor:
    for weight, bias in zip(m.weights, m.biases, strict=True):
        x = torch.tanh(x @ weight + bias)
    return x


def keyed(m: Fn, x: Tensor) -> Tensor:
    return x * m.scales["gain"] + m.scales["shift"]


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


class Positive(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return F.softplus(weight)


def parametrized(module: nn.Module, how: Any, name: str = "weight") -> nn.Module:
    parametrize.register_parametrization(module, name, how)
    return module


class Bottleneck(nn.Module):
    """LoRA beside a layer that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.a, self.b = nn.Linear(12, 12), param(4, 12), param(12, 4)
        self.base.requires_grad_(False)
        self.scale = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.a.T @ self.b.T) * self.scale


CONSTRUCTS = [
    Construct(
        "embedding tied to head",
        Tied,
        WORDS,
        {"embed.weight[1]": "12", "norm.weight[0]": "12"},
        {"embed.weight[0]": ""},
    ),
    Construct(
        "embedding tied to head with bias",
        lambda: Tied("bias"),
        WORDS,
        {"embed.weight[1]": "12"},
        {"bias[0]": "looked up"},
    ),
    Construct("embedding used as head by function", lambda: Tied("functional"), WORDS, {"embed.weight[1]": "12"}),
    Construct(
        "one block over and over",
        Albert,
        WORDS,
        {"embed.weight[1]": "4", "block.1.weight[0]": "20", "widen.weight[0]": "12"},
    ),
    Construct(
        "one head on a pyramid",
        Pyramid,
        (2, 3, 16, 16),
        {"lateral.0.weight[0]": "12", "head.0.weight[0]": "3, 4", "stages.1.weight[0]": "10"},
    ),
    Construct(
        "one branch for two inputs",
        lambda: Fn(siamese, one=nn.Linear(6, 12), two=nn.Linear(12, 10), head=nn.Linear(10, 3)),
        (X, X),
        {"one.weight[0]": "12", "two.weight[0]": "10"},
    ),
    Construct(
        "one layer at two resolutions",
        images(two_resolutions, conv=lambda: nn.Conv2d(12, 12, 3, padding=1)),
        (2, 3, 4, 4),
        {"conv.weight[0]": "12", "conv.weight[1]": "12"},
    ),
    Construct(
        "one layer in a loop",
        through(recursion, cell=lambda: nn.Linear(12, 12)),
        X,
        {"cell.weight[0]": "12", "cell.weight[1]": "12"},
    ),
    Construct(
        "weights of another module",
        through(borrowed, lender=Lender),
        X,
        {"lender.weight[0]": "8", "lender.weight[1]": "12"},
    ),
    Construct(
        "parameters without a module",
        through(raw, out=9, a=lambda: param(12, 7), b=lambda: param(7, 9), c=lambda: param(9)),
        X,
        {"a[1]": "7", "b[1]": "9", "c[0]": "9"},
    ),
    Construct(
        "ParameterList",
        through(
            listed,
            out=9,
            weights=lambda: nn.ParameterList([param(12, 7), param(7, 9)]),
            biases=lambda: nn.ParameterList([param(7), param(9)]),
        ),
        X,
        {"weights.0[1]": "7", "biases.1[0]": "9"},
    ),
    Construct(
        "ParameterDict",
        through(keyed, scales=lambda: nn.ParameterDict({"gain": param(12), "shift": param(12)})),
        X,
        {"scales.gain[0]": "12"},
    ),
    Construct(
        "weight norm",
        through(lambda m, x: m.l(x), out=9, l=lambda: parametrizations.weight_norm(nn.Linear(12, 9))),
        X,
        {"l.parametrizations.weight.original1[0]": "9", "l.parametrizations.weight.original1[1]": "12"},
    ),
    Construct(
        "weight norm of old",
        through(lambda m, x: m.l(x), out=9, l=lambda: nn.utils.weight_norm(nn.Linear(12, 9))),
        X,
        {"l.weight_v[0]": "9"},
    ),
    Construct(
        "spectral norm",
        through(lambda m, x: m.l(x), out=9, l=lambda: parametrizations.spectral_norm(nn.Linear(12, 9))),
        X,
        {"l.parametrizations.weight.original[0]": "9", "l.parametrizations.weight.original[1]": "12"},
    ),
    Construct(
        "positive weights",
        through(lambda m, x: m.l(x), out=9, l=lambda: parametrized(nn.Linear(12, 9), Positive())),
        X,
        {"l.parametrizations.weight.original[0]": "9"},
    ),
    Construct(
        "symmetric weights",
        through(lambda m, x: m.l(x), l=lambda: parametrized(nn.Linear(12, 12), Symmetric())),
        X,
        {"next.weight[0]": "10"},
        {"l.parametrizations.weight.original[0]": "the position of a unit"},
    ),
    Construct("LoRA", through(lambda m, x: m.l(x), l=Bottleneck), X, {"l.a[0]": "4", "l.base.weight[0]": "12"}),
    Construct(
        "embedding bag",
        lambda: Fn(lambda m, x: m.last(torch.relu(m.bag(x))), bag=nn.EmbeddingBag(9, 12), last=nn.Linear(12, 3)),
        WORDS,
        {"bag.weight[1]": "12"},
    ),
    Construct(
        "bilinear",
        lambda: Fn(
            lambda m, x: m.last(torch.relu(m.both(torch.tanh(m.a(x)), torch.tanh(m.b(x))))),
            a=nn.Linear(6, 7),
            b=nn.Linear(6, 5),
            both=nn.Bilinear(7, 5, 8),
            last=nn.Linear(8, 3),
        ),
        X,
        {"both.weight[0]": "8", "both.weight[1]": "7", "both.weight[2]": "5"},
    ),
]
