"""Buffers that forward writes: statistics of norms, moving averages, counters, queues, vectors of a power iteration."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .nodes import DIMS, HEADS, WIDTHS, Part, part


@part("bc bct bchw", options={"dims": ((),), "style": ("functional", "hand", "assigned", "count")})
class OwnBatchNorm(Part):
    LAYERS: ClassVar = {"gain": "width", "shift": "width", "m": "width", "v": "width", "seen": ""}
    STATISTICS = ("m", "v", "seen")

    def __init__(self, width: int, dims: tuple[int, ...], style: str) -> None:
        super().__init__()
        self.dims, self.style = dims, style
        self.gain, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("m", torch.zeros(width))
        self.register_buffer("v", torch.ones(width))
        self.register_buffer("seen", torch.tensor(0) if style == "count" else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.style in ("functional", "count"):
            if self.training and self.seen is not None:
                self.seen.add_(1)
            return F.batch_norm(x, self.m, self.v, self.gain, self.shift, self.training, 0.1)
        over, shape = [0, *self.dims], (1, -1, *[1] * len(self.dims))
        if self.training:
            mean, var = x.mean(over), x.var(over, unbiased=False)
            with torch.no_grad():
                if self.style == "hand":
                    self.m.mul_(0.9).add_(0.1 * mean)
                    self.v.lerp_(var, 0.1)
                else:
                    self.m = 0.9 * self.m + 0.1 * mean
                    self.v = self.v + 0.1 * (var - self.v)
        else:
            mean, var = self.m, self.v
        y = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
        return y * self.gain.view(shape) + self.shift.view(shape)


@part("btc bc", hidden=WIDTHS, options={"style": ("lerp", "assigned", "copy", "slice", "data", "always", "inplace")})
class Average(Part):
    """A moving average that the model takes away, in training, too."""

    LAYERS: ClassVar = {"up": "hidden, width", "down": "width, hidden", "ema": "hidden", "steps": ""}

    def __init__(self, width: int, hidden: int, style: str) -> None:
        super().__init__()
        self.style = style
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.register_buffer("ema", torch.zeros(hidden))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.up(x))
        if self.training or self.style == "always":
            new = y.detach().flatten(0, -2).mean(0)
            with torch.no_grad():
                self.steps += 1
                if self.style == "lerp":
                    self.ema.lerp_(new, 0.5)
                elif self.style == "assigned":
                    self.ema = 0.9 * self.ema + 0.1 * new
                elif self.style == "copy":
                    self.ema.copy_(0.5 * (self.ema + new))
                elif self.style == "slice":
                    self.ema[:] = 0.5 * new
                elif self.style == "data":
                    self.ema.data.mul_(0.9).add_(new, alpha=0.1)
                else:
                    self.ema *= 0.9
                    self.ema += 0.1 * new
        return x + self.down(y - self.ema.clone())


@part("btc bc", heads=HEADS, dim=DIMS, options={"style": ("flat", "view", "heads", "assigned")})
class HeadAverage(Part):
    """The same over heads: what a smaller network has of the buffer is in no row."""

    LAYERS: ClassVar = {"up": "heads*dim, width", "down": "width, heads*dim", "ema": "heads*dim"}

    def __init__(self, width: int, heads: int, dim: int, style: str) -> None:
        super().__init__()
        self.heads, self.style = heads, style
        self.up, self.down = nn.Linear(width, heads * dim), nn.Linear(heads * dim, width)
        self.register_buffer("ema", torch.zeros(heads * dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x).unflatten(-1, (self.heads, -1)).softmax(-2).flatten(-2)
        if self.training:
            new = y.detach().flatten(0, -2).mean(0)
            with torch.no_grad():
                if self.style == "flat":
                    self.ema.lerp_(new, 0.5)
                elif self.style == "view":
                    self.ema.view(self.heads, -1).mul_(0.5).add_(new.view(self.heads, -1))
                elif self.style == "heads":
                    for head, row in zip(self.ema.view(self.heads, -1), new.view(self.heads, -1), strict=True):
                        head.copy_(row)
                else:
                    self.ema = torch.lerp(self.ema, new, 0.25)
        return x + self.down(y - self.ema.clone())


@part("btc bc", hidden=WIDTHS)
class Spectral(Part):
    """A weight divided by its largest singular value, by one step of the power iteration."""

    assigned: ClassVar[bool] = False

    LAYERS: ClassVar = {"weight": "hidden, width", "u": "hidden", "v": "width", "down": "width, hidden"}

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(hidden, width))
        self.down = nn.Linear(hidden, width)
        self.register_buffer("u", F.normalize(torch.randn(hidden), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(width), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                v = F.normalize(self.weight.t() @ self.u, dim=0)
                u = F.normalize(self.weight @ v, dim=0)
                if self.assigned:
                    self.u, self.v = u, v
                else:
                    self.u.copy_(u), self.v.copy_(v)
        sigma = self.u.clone() @ self.weight @ self.v.clone()
        return x + self.down(torch.tanh(F.linear(x, self.weight / sigma)))


@part("btc bc", hidden=WIDTHS)
class SpectralAssigned(Spectral):
    """Training reads nothing of what `v` was, only evaluation does: a statistic."""

    assigned = True
    STATISTICS = ("v",)


@part("btc bc", hidden=WIDTHS, options={"style": ("roll", "cat", "place")})
class Queue(Part):
    """The last means, looked at."""

    LAYERS: ClassVar = {"up": "hidden, width", "down": "width, hidden", "queue": "5, hidden", "at": ""}

    def __init__(self, width: int, hidden: int, style: str) -> None:
        super().__init__()
        self.style = style
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.register_buffer("queue", torch.zeros(5, hidden))
        self.register_buffer("at", torch.zeros(1, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        if self.training:
            new = y.detach().flatten(0, -2).mean(0)
            with torch.no_grad():
                if self.style == "roll":
                    self.queue.copy_(self.queue.roll(1, 0))
                    self.queue[0] = new
                elif self.style == "cat":
                    self.queue = torch.cat([new[None], self.queue[:-1]])
                else:
                    self.queue.index_copy_(0, self.at, new[None])
                    self.at.copy_((self.at + 1) % 5)
        return x + self.down((y @ self.queue.clone().t()).softmax(-1) @ self.queue.clone())


@part("btc bc", options={"style": ("add", "assigned")})
class Codes(Part):
    """A codebook that follows what comes in."""

    LAYERS: ClassVar = {"codes": "4, width", "counts": "4"}

    def __init__(self, width: int, style: str) -> None:
        super().__init__()
        self.style = style
        self.register_buffer("codes", torch.randn(4, width))
        self.register_buffer("counts", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        codes = self.codes.clone()
        near = (flat @ codes.t()).softmax(-1)
        out = (near @ codes).view_as(x)
        if self.training:
            near = near.detach()
            with torch.no_grad():
                if self.style == "add":
                    self.counts.mul_(0.9).add_(near.sum(0), alpha=0.1)
                    self.codes.mul_(0.9).add_(near.t() @ flat.detach() / self.counts[:, None], alpha=0.1)
                else:
                    self.counts = 0.9 * self.counts + 0.1 * near.sum(0)
                    self.codes = 0.9 * self.codes + 0.1 * near.t() @ flat.detach() / self.counts[:, None]
        return x + out


@part("bc bct bchw", options={"dims": ((),)})
class TorchNorm(Part):
    """The batch norms of torch."""

    LAYERS: ClassVar = {"norm": "width"}

    def __init__(self, width: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.norm = {2: nn.BatchNorm2d, 1: nn.BatchNorm1d, 0: nn.BatchNorm1d}[len(dims)](width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)
