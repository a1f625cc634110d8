"""Parts that hold others: the network, rows of blocks run in many ways, lists beside them, branches and skips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .nodes import Part, part

ANY = "btc bc bct bchw"


def go(inner: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    return inner(x, mask) if inner.masked else inner(x)


class Net(Part):
    """A stem, parts, and a head, one after the other."""

    def __init__(self, inner: Sequence[Part]) -> None:
        super().__init__()
        self.inner = nn.ModuleList(inner)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.inner:
            x = go(layer, x, mask)
        return x


part("", "", children=(1,))(Net)


@part(
    ANY,
    children=(2, 3, 4),
    options={"style": ("for", "sequential", "enumerate", "range", "rates", "while", "reversed")},
)
class Row(Part):
    masked = True

    def __init__(self, inner: Sequence[Part], style: str, width: int = 0) -> None:
        super().__init__()
        self.style, self.inner = style, nn.ModuleList(inner)
        self.depth, self.rates = len(inner), [0.0 for _ in inner]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.style == "enumerate":
            for index, block in enumerate(self.inner):
                x = go(block, x, mask) if index >= 0 else x
        elif self.style == "range":
            for index in range(len(self.inner)):
                x = go(self.inner[index], x, mask)
        elif self.style == "rates":
            for block, rate in zip(self.inner, self.rates, strict=False):
                x = nn.functional.dropout(go(block, x, mask), rate, self.training)
        elif self.style == "while":
            index = 0
            while index < len(self.inner):
                x = go(self.inner[index], x, mask)
                index += 1
        elif self.style == "reversed":
            for block in reversed(self.inner):
                x = go(block, x, mask)
        else:
            for block in self.inner:
                x = go(block, x, mask)
        return x


@part(ANY, children=(2, 3, 4))
class Chain(Part):
    """Blocks in a Sequential; none of them takes a mask."""

    def __init__(self, inner: Sequence[Part], width: int = 0) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@part(ANY, children=(2, 3, 4), options={"style": ("zip", "index", "enumerate")})
class Weighted(Part):
    """Each block has a parameter in a list beside it."""

    masked = True
    LAYERS: ClassVar = {"gains.*": "1", "scales.*": "1"}

    def __init__(self, inner: Sequence[Part], style: str, width: int = 0) -> None:
        super().__init__()
        self.style, self.inner = style, nn.ModuleList(inner)
        self.gains = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in inner)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.style == "zip":
            for block, gain in zip(self.inner, self.gains, strict=True):
                x = x + gain * go(block, x, mask)
        elif self.style == "enumerate":
            for index, block in enumerate(self.inner):
                x = x + self.gains[index] * go(block, x, mask)
        else:
            for index in range(len(self.inner)):
                x = x + self.gains[index] * go(self.inner[index], x, mask)
        return x


@part("btc bc", children=(2, 3), options={"norm": ("list", "")})
class Normed(Part):
    """Norms of the width in a list beside the blocks."""

    masked = True
    LAYERS: ClassVar = {"norms.*": "width", "scales.*": "width"}

    def __init__(self, inner: Sequence[Part], norm: str, width: int) -> None:
        super().__init__()
        self.inner = nn.ModuleList(inner)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in inner)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(width)) for _ in inner) if norm else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.scales is not None:
            for norm, block, scale in zip(self.norms, self.inner, self.scales, strict=True):
                x = x + scale * go(block, norm(x), mask)
            return x
        for norm, block in zip(self.norms, self.inner, strict=True):
            x = x + go(block, norm(x), mask)
        return x


@part(ANY, children=(1, 2), options={"style": ("add", "mean", "gate")})
class Around(Part):
    """What goes in is added to what comes out."""

    masked = True

    def __init__(self, inner: Sequence[Part], style: str, width: int = 0) -> None:
        super().__init__()
        self.style, self.inner = style, nn.ModuleList(inner)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = x
        for block in self.inner:
            y = go(block, y, mask)
        if self.style == "mean":
            return (x + y) / 2
        return x + y if self.style == "add" else x * torch.sigmoid(y)


@part(ANY, children=(2, 3), options={"style": ("sum", "stack", "list")})
class Parallel(Part):
    """Branches that see the same, and are summed."""

    masked = True

    def __init__(self, inner: Sequence[Part], style: str, width: int = 0) -> None:
        super().__init__()
        self.style, self.inner = style, nn.ModuleList(inner)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.style == "sum":
            return x + sum(go(block, x, mask) for block in self.inner)
        if self.style == "stack":
            return torch.stack([go(block, x, mask) for block in self.inner]).sum(0)
        out = x
        for block in self.inner:
            out = out + go(block, x, mask)
        return out


@part(ANY, out="width + width", children=(1, 2), options={"dim": (1,)})
class Fork(Part):
    """What goes in is put beside what comes out."""

    masked = True

    def __init__(self, inner: Sequence[Part], dim: int, width: int = 0) -> None:
        super().__init__()
        self.dim, self.inner = dim, nn.ModuleList(inner)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = x
        for block in self.inner:
            y = go(block, y, mask)
        return torch.cat([x, y], self.dim)
