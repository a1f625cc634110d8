"""Pieces that join two tensors: sums, products, concatenations, matrix products, cross-attention, modulation."""

from __future__ import annotations

from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .pieces import fit, piece, width

Shape = tuple[int, ...]


def channel(shape: Shape, kind_last: bool) -> int:
    return shape[-1] if kind_last else shape[0]


@piece("bc+bc btc+btc bhwc+bhwc bct+bct bchw+bchw", weight=3)
class Sum(nn.Module):
    def __init__(self, rng: Random, a: Shape, b: Shape) -> None:
        super().__init__()
        fit(a == b)
        self.style = rng.choice(["add", "mul", "sub", "max", "lerp"])
        self.weight = nn.Parameter(torch.ones(())) if self.style == "lerp" else None

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if self.style == "mul":
            return a * b.tanh()
        if self.style == "sub":
            return a - 0.5 * b
        if self.style == "max":
            return torch.maximum(a, b)
        if self.weight is not None:
            return torch.lerp(a, b, torch.sigmoid(self.weight))
        return a + b


@piece("bc+bc btc+btc bhwc+bhwc", weight=2)
class CatLast(nn.Module):
    def __init__(self, rng: Random, a: Shape, b: Shape) -> None:
        super().__init__()
        fit(a[:-1] == b[:-1] and a[-1] + b[-1] <= 40)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], dim=-1)


@piece("bct+bct bchw+bchw", weight=2)
class CatFirst(nn.Module):
    def __init__(self, rng: Random, a: Shape, b: Shape) -> None:
        super().__init__()
        fit(a[1:] == b[1:] and a[0] + b[0] <= 40)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat((a, b), 1)


@piece("bc+bc btc+btc bhwc+bhwc", weight=2)
class Projected(nn.Module):
    """The second is projected to the width of the first and added."""

    def __init__(self, rng: Random, a: Shape, b: Shape) -> None:
        super().__init__()
        fit(a[:-1] == b[:-1])
        self.fc = nn.Linear(b[-1], a[-1])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + self.fc(b)


@piece("bchw+bchw", weight=2)
class Lateral(nn.Module):
    """A 1x1 convolution and resampling, as in a feature pyramid."""

    def __init__(self, rng: Random, a: Shape, b: Shape) -> None:
        super().__init__()
        self.conv = nn.Conv2d(b[0], a[0], 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + F.interpolate(self.conv(b), size=a.shape[-2:], mode="nearest")


@piece("bct+bct")
class LateralSignal(nn.Module):
    def __init__(self, rng: Random, a: Shape, b: Shape) -> None:
        super().__init__()
        fit(a[1] == b[1])
        self.conv = nn.Conv1d(b[0], a[0], 3, padding=1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + self.conv(b)


@piece("btc+btc")
class InTime(nn.Module):
    """One sequence after the other."""

    def __init__(self, rng: Random, a: Shape, b: Shape) -> None:
        super().__init__()
        fit(a[1] == b[1] and a[0] + b[0] <= 20)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], dim=1)


@piece("btc+btc", weight=2)
class Cross(nn.Module):
    def __init__(self, rng: Random, a: Shape, b: Shape) -> None:
        super().__init__()
        self.heads, self.dim = rng.choice([2, 3]), rng.choice([2, 3, 4, 5])
        inner = self.heads * self.dim
        self.q, self.kv, self.out = nn.Linear(a[1], inner), nn.Linear(b[1], 2 * inner), nn.Linear(inner, a[1])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        q = self.q(a).view(*a.shape[:2], self.heads, self.dim).transpose(1, 2)
        k, v = self.kv(b).view(*b.shape[:2], 2, self.heads, self.dim).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT * self.dim**-0.5).softmax(-1)
        return a + self.out((weights @ v).transpose(1, 2).flatten(-2))


@piece("btc+btc")
class CrossModule(nn.Module):
    def __init__(self, rng: Random, a: Shape, b: Shape) -> None:
        super().__init__()
        heads = [n for n in (2, 3, 4) if a[1] % n == 0 and n < a[1]]
        fit(heads)
        self.attn = nn.MultiheadAttention(a[1], rng.choice(heads), kdim=b[1], vdim=b[1], batch_first=True)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + self.attn(a, b, b)[0]


@piece("btc+btc")
class Affinity(nn.Module):
    """Channels of one against channels of the other: the tokens of the result are channels."""

    def __init__(self, rng: Random, a: Shape, b: Shape) -> None:
        super().__init__()
        fit(a[0] == b[0] and a[1] <= 16)
        self.einsum = rng.random() < 0.5

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if self.einsum:
            return torch.einsum("btc,btd->bcd", a, b) / a.shape[1]
        return torch.matmul(a.transpose(1, 2), b).softmax(dim=-1)


@piece("bc+bc", weight=2)
class Bilinear(nn.Module):
    def __init__(self, rng: Random, a: Shape, b: Shape) -> None:
        super().__init__()
        fit(a[0] * b[0] <= 200)
        self.layer = nn.Bilinear(a[0], b[0], width(rng))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.layer(a, b)


@piece("bchw+bc", weight=2)
class Modulated(nn.Module):
    """Scale and shift of channels by a vector."""

    def __init__(self, rng: Random, a: Shape, b: Shape) -> None:
        super().__init__()
        self.fc, self.chunk = nn.Linear(b[0], 2 * a[0]), rng.random() < 0.5

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if self.chunk:
            scale, shift = self.fc(b)[:, :, None, None].chunk(2, dim=1)
        else:
            scale, shift = self.fc(b).view(b.shape[0], 2, -1, 1, 1).unbind(1)
        return a * (1 + scale) + shift


@piece("btc+bc", weight=2)
class Conditioned(nn.Module):
    def __init__(self, rng: Random, a: Shape, b: Shape) -> None:
        super().__init__()
        self.fc, self.style = nn.Linear(b[0], a[1]), rng.choice(["add", "gate", "cat", "token"])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        y = self.fc(b)[:, None]
        if self.style == "add":
            return a + y
        if self.style == "gate":
            return a * torch.sigmoid(y)
        if self.style == "token":
            return torch.cat([y, a], dim=1)
        return torch.cat([a, y.expand_as(a)], dim=2)
