"""Pieces for signals and images, channels second: convolutions, norms, gates of channels, ways to rearrange space."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .pieces import FIRST, composite, divisor, fit, piece, width

Shape = tuple[int, ...]
CONV: dict[int, Any] = {2: nn.Conv1d, 3: nn.Conv2d}
UP: dict[int, Any] = {2: nn.ConvTranspose1d, 3: nn.ConvTranspose2d}
BATCH: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm2d}
INSTANCE: dict[int, Any] = {2: nn.InstanceNorm1d, 3: nn.InstanceNorm2d}


def conv(rng: Random, shape: Shape, out: int, **options: Any) -> nn.Module:
    kernel = rng.choice([1, 3])
    return CONV[len(shape)](shape[0], out, kernel, padding=kernel // 2, **options)


@piece(FIRST, weight=4)
class Conv(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        out = width(rng)
        self.conv = conv(rng, shape, out, bias=rng.random() < 0.5)
        self.norm = BATCH[len(shape)](out) if rng.random() < 0.6 else nn.Identity()
        self.act = rng.choice([nn.ReLU(inplace=True), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.PReLU(out)])

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


@piece(FIRST, weight=2)
class Grouped(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        inner = composite(rng)
        groups = divisor(rng, inner)
        out = groups * rng.choice([1, 2, 3])
        self.point = CONV[len(shape)](shape[0], inner, 1)
        self.conv = CONV[len(shape)](inner, out, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.point(x)))


@piece(FIRST, weight=2)
class Depthwise(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        times = rng.choice([1, 1, 2, 3])
        fit(shape[0] * times <= 40)
        self.conv = CONV[len(shape)](shape[0], shape[0] * times, 3, padding=1, groups=shape[0])
        self.point = CONV[len(shape)](shape[0] * times, width(rng), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(F.relu6(self.conv(x)))


@piece(FIRST)
class Transposed(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        fit(shape[1] <= 8)
        groups = rng.choice([1, divisor(rng, shape[0]) if rng.random() < 0.5 else 1])
        self.up = UP[len(shape)](shape[0], groups * rng.choice([2, 3, 4, 5]), 2, stride=2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x)


@piece(FIRST, weight=2)
class Normed(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        n = len(shape)
        kinds = [BATCH[n], lambda c: nn.GroupNorm(divisor(rng, c), c), lambda c: nn.GroupNorm(1, c)]
        kinds += [lambda c: INSTANCE[n](c, affine=True), lambda c: nn.GroupNorm(c, c)]
        self.norm = rng.choice(kinds)(shape[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@piece("bchw")
class NormLast(nn.Module):
    """A layer norm over channels by permuting."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.norm, self.by_hand = nn.LayerNorm(shape[0]), rng.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        if self.by_hand:
            u = x.mean(1, keepdim=True)
            s = (x - u).pow(2).mean(1, keepdim=True)
            x = (x - u) / torch.sqrt(s + 1e-2)
            return self.norm.weight[:, None, None] * x + self.norm.bias[:, None, None]
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@piece("bchw")
class Pool(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        fit(min(shape[1:]) >= 4)
        self.pool = rng.choice([nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3), nn.MaxPool2d(3, 1, 1)])

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


@piece("bchw", weight=2)
class Residual(nn.Module):
    """Basic, bottleneck or inverted residual block."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        c, hidden, style = shape[0], width(rng), rng.choice(["basic", "bottleneck", "inverted"])
        if style == "basic":
            layers = [nn.Conv2d(c, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()]
            layers += [nn.Conv2d(hidden, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)]
        elif style == "bottleneck":
            layers = [nn.Conv2d(c, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(hidden, c, 1)]
        else:
            layers = [nn.Conv2d(c, hidden, 1), nn.BatchNorm2d(hidden), nn.Hardswish()]
            layers += [nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden), nn.Conv2d(hidden, c, 1)]
        self.body, self.relu = nn.Sequential(*layers), rng.random() < 0.5
        self.gamma = nn.Parameter(torch.ones(c, 1, 1)) if rng.random() < 0.3 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        x = x + (y if self.gamma is None else self.gamma * y)
        return F.relu(x) if self.relu else x


@piece("bchw", weight=2)
class ResidualBlocks(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        seed = rng.random()
        self.blocks = nn.Sequential(*(Residual(Random(seed), shape) for _ in range(rng.choice([2, 3]))))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


@piece("bchw", weight=2)
class Squeeze(nn.Module):
    """Squeeze and excitation, with convolutions or linear layers."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        c, r, self.linear = shape[0], rng.choice([2, 3, 4, 5]), rng.random() < 0.5
        if self.linear:
            self.a, self.b = nn.Linear(c, r), nn.Linear(r, c)
        else:
            self.a, self.b = nn.Conv2d(c, r, 1), nn.Conv2d(r, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.linear:
            B, C = x.shape[:2]
            s = F.adaptive_avg_pool2d(x, 1).view(B, C)
            return x * self.b(F.relu(self.a(s))).sigmoid().view(B, C, 1, 1)
        s = x.mean((2, 3), keepdim=True)
        return x * self.b(F.relu(self.a(s))).sigmoid()


@piece("bchw")
class Eca(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1))
        return x * y.view(x.shape[0], -1, 1, 1).sigmoid()


@piece("bchw")
class Selective(nn.Module):
    """Two kernels, chosen by a softmax (SK)."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        c, r = shape[0], rng.choice([3, 4, 6])
        self.a, self.b = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=2, dilation=2)
        self.reduce, self.select = nn.Conv2d(c, r, 1), nn.Conv2d(r, 2 * c, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.stack([self.a(x), self.b(x)], dim=1)
        s = self.select(F.relu(self.reduce(y.sum(1).mean((2, 3), keepdim=True))))
        s = s.view(x.shape[0], 2, x.shape[1], 1, 1).softmax(dim=1)
        return (y * s).sum(dim=1)


@piece("bchw")
class SplitAttention(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.radix, out = 2, rng.choice([4, 5, 6, 8])
        self.conv = nn.Conv2d(shape[0], out * self.radix, 3, padding=1)
        self.fc1, self.fc2 = nn.Conv2d(out, 4, 1), nn.Conv2d(4, out * self.radix, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        B, RC, H, W = y.shape
        y = y.reshape((B, self.radix, RC // self.radix, H, W))
        gap = y.sum(dim=1).mean((2, 3), keepdim=True)
        s = self.fc2(F.relu(self.fc1(gap))).view(B, 1, self.radix, -1).transpose(1, 2).softmax(dim=1)
        return (y * s.reshape(B, self.radix, RC // self.radix, 1, 1)).sum(dim=1)


@piece("bchw")
class Response(nn.Module):
    """Global response normalisation."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(shape[0])), nn.Parameter(torch.zeros(shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        g = x.norm(p=2, dim=(2, 3), keepdim=True)
        n = g / (g.mean(dim=1, keepdim=True) + 1e-2)
        return x + self.gamma.view(1, -1, 1, 1) * (x * n) + self.beta.view(1, -1, 1, 1)


@piece("bchw")
class Shuffled(nn.Module):
    """Pixel shuffle, pixel unshuffle, or channel shuffle after a convolution."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.style = rng.choice(["up", "down", "channels", "view", "slices"])
        out = 4 * rng.choice([1, 2, 3]) if self.style == "up" else rng.choice([3, 4, 5])
        fit(self.style not in ("down", "slices") or (shape[1] % 2 == shape[2] % 2 == 0 and min(shape[1:]) >= 4))
        fit(self.style != "up" or max(shape[1:]) <= 6)
        self.groups = 2
        if self.style in ("channels", "view"):
            out = composite(rng)
            self.groups = divisor(rng, out)
        self.conv = nn.Conv2d(shape[0], out, 1)
        self.module = {"up": nn.PixelShuffle(2), "down": nn.PixelUnshuffle(2), "channels": None}.get(self.style)
        if self.style == "channels":
            self.module = nn.ChannelShuffle(self.groups)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.module is not None:
            return self.module(x)
        if self.style == "view":
            B, C, H, W = x.shape
            return x.view(B, self.groups, C // self.groups, H, W).transpose(1, 2).reshape(B, C, H, W)
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return torch.cat(parts, dim=1)


@piece(FIRST)
class Dense(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        fit(shape[0] <= 20)
        growth = rng.choice([3, 4, 5])
        self.layers = nn.ModuleList(
            CONV[len(shape)](shape[0] + i * growth, growth, 3, padding=1) for i in range(rng.choice([1, 2, 3]))
        )

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        return torch.cat(found, 1)


@piece("bchw", weight=2)
class Multiscale(nn.Module):
    """Res2Net: parts of the channels see ever more."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.width, self.scale, self.chunks = rng.choice([2, 3, 4, 5]), rng.choice([2, 3]), rng.random() < 0.5
        self.inp = nn.Conv2d(shape[0], self.width * self.scale, 1)
        self.convs = nn.ModuleList(nn.Conv2d(self.width, self.width, 3, padding=1) for _ in range(self.scale - 1))
        self.out = nn.Conv2d(self.width * self.scale, shape[0], 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inp(x)
        parts = torch.chunk(y, self.scale, 1) if self.chunks else torch.split(y, self.width, 1)
        found = [parts[0]]
        for layer, part in zip(self.convs, parts[1:], strict=True):
            found.append(layer(part + found[-1]))
        return x + self.out(torch.cat(found, dim=1))


@piece(FIRST)
class GatedConv(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.conv = conv(rng, shape, 2 * width(rng))
        self.style = rng.choice(["glu", "chunk", "simple"])

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.style == "glu":
            return F.glu(y, dim=1)
        a, b = y.chunk(2, dim=1)
        return torch.tanh(a) * torch.sigmoid(b) if self.style == "chunk" else a.tanh() * b


@piece("bchw")
class Standardised(nn.Module):
    """A convolution whose weight is standardised at every call."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(shape[0], width(rng), 3, padding=1), rng.random() < 0.5
        self.gain = nn.Parameter(torch.ones(self.conv.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        w = self.conv.weight
        if self.norm:
            w = F.batch_norm(w.reshape(1, self.conv.out_channels, -1), None, None, training=True).reshape_as(w)
        else:
            w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.var((1, 2, 3), keepdim=True) + 1e-2).sqrt()
        return F.conv2d(x, w * self.gain * self.conv.weight[0].numel() ** -0.5, self.conv.bias, padding=1)


@piece("bchw")
class Conditional(nn.Module):
    """A convolution with one weight per sample, mixed from experts."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.out, self.experts = width(rng), rng.choice([2, 3])
        self.route = nn.Linear(shape[0], self.experts)
        self.shape = (self.out, shape[0], 3, 3)
        self.weight = nn.Parameter(torch.randn(self.experts, self.out * shape[0] * 9) * (9 * shape[0]) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        weight = torch.matmul(torch.sigmoid(self.route(x.mean((2, 3)))), self.weight)
        weight = weight.view(B * self.out, C, 3, 3)
        y = F.conv2d(x.reshape(1, B * C, H, W), weight, padding=1, groups=B)
        return y.view(B, self.out, H, W)


@piece("bchw")
class SpatialGate(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * self.conv(pooled).sigmoid()


@piece("bchw")
class Patches(nn.Module):
    """im2col and a linear layer."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.fc = nn.Linear(shape[0] * 9, width(rng))

    def forward(self, x: Tensor) -> Tensor:
        B, _, H, W = x.shape
        y = F.unfold(x, 3, padding=1).transpose(1, 2)
        return self.fc(y).transpose(1, 2).reshape(B, -1, H, W)


@piece("bchw")
class CrossCovariance(nn.Module):
    """Attention among channels."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.num_heads = divisor(rng, shape[0])
        self.qkv, self.proj = nn.Conv2d(shape[0], 3 * shape[0], 1), nn.Conv2d(shape[0], shape[0], 1)
        self.temperature = nn.Parameter(torch.ones(self.num_heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(x).reshape(B, 3, self.num_heads, C // self.num_heads, H * W)
        q, k, v = qkv.unbind(1)
        attn = F.normalize(q, dim=-1, eps=0.1) @ F.normalize(k, dim=-1, eps=0.1).transpose(-2, -1) * self.temperature
        return x + self.proj((attn.softmax(-1) @ v).reshape(B, C, H, W))


@piece("bchw")
class Fourier(nn.Module):
    """A learned filter per channel and frequency."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape[0], shape[1], shape[2] // 2 + 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(self.weight)
        return torch.fft.irfft2(y, s=x.shape[-2:], norm="ortho")


@piece("bchw")
class Upsampled(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        fit(max(shape[1:]) <= 6)
        self.mode = rng.choice(["nearest", "bilinear"])

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode=self.mode)


@piece("bchw", gives="bc", weight=2)
class GlobalPool(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.style = rng.choice(["mean", "pool", "max", "flat"])
        fit(self.style != "flat" or shape[0] * shape[1] * shape[2] <= 600)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(shape[0] * shape[1] * shape[2], width(rng)) if self.style == "flat" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.fc is not None:
            return self.fc(torch.flatten(x, 1))
        if self.style == "pool":
            return self.pool(x).flatten(1)
        return x.mean([2, 3]) if self.style == "mean" else x.flatten(2).amax(dim=2)


@piece("bct", gives="bc")
class PooledSignal(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool1d(1) if rng.random() < 0.5 else nn.AdaptiveMaxPool1d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x).squeeze(-1)


@piece("bct", gives="btc", weight=2)
class SignalTokens(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 1)


@piece("bchw", gives="btc", weight=2)
class ImageTokens(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        fit(shape[1] * shape[2] <= 36)
        self.reshape = rng.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        if self.reshape:
            B, C, H, W = x.shape
            return x.reshape(B, C, H * W).permute(0, 2, 1)
        return x.flatten(2).transpose(1, 2)


@piece("bchw", gives="bhwc", weight=4)
class ChannelsLast(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).contiguous()


@piece("bhwc", gives="bchw", weight=4)
class ChannelsSecond(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 1)


@piece("bhwc", weight=8)
class Merging(nn.Module):
    """Patch merging: four neighbours become one of four times the channels, then twice."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        fit(shape[0] % 2 == shape[1] % 2 == 0 and min(shape[:2]) >= 4 and shape[2] <= 12)
        self.norm, self.reduction = nn.LayerNorm(4 * shape[2]), nn.Linear(4 * shape[2], 2 * shape[2], bias=False)
        self.view = rng.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        if self.view:
            x = x.reshape(B, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 4, 2, 5).flatten(3)
        else:
            x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.reduction(self.norm(x))


@piece("bhwc", weight=8)
class WindowAttention(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.window, self.heads, dim = 2, rng.choice([2, 3]), rng.choice([2, 3, 4])
        fit(shape[0] % 2 == shape[1] % 2 == 0)
        self.qkv, self.proj = nn.Linear(shape[2], 3 * self.heads * dim), nn.Linear(self.heads * dim, shape[2])
        self.table = nn.Parameter(torch.zeros(9, self.heads))
        self.register_buffer("index", torch.randint(0, 9, (4, 4), generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        n = self.window
        y = x.view(B, H // n, n, W // n, n, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, n * n, C)
        q, k, v = self.qkv(y).reshape(y.shape[0], n * n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(n * n, n * n, -1).permute(2, 0, 1)
        y = ((q @ k.transpose(-2, -1) + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)
        y = self.proj(y).view(B, H // n, W // n, n, n, C).permute(0, 1, 3, 2, 4, 5).reshape(B, H, W, C)
        return x + y
