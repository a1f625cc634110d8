"""Convolutions: groups of every kind, generated and standardised weights, transposed ones, attention over channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .construct import Construct, Fn, images, param

X = (2, 3, 6, 6)


def chain(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(layer() for layer in layers))


class Squeeze(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()


def eca(m: Fn, x: Tensor) -> Tensor:
    """A convolution along the channels."""
    y = m.along(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
    return x * y[:, :, None, None]


def selective(m: Fn, x: Tensor) -> Tensor:
    """SK: two paths, chosen between by a softmax over them."""
    paths = torch.stack([m.small(x), m.large(x)], 1)
    weights = m.choose(torch.relu(m.squeeze(paths.sum(1).mean((2, 3), keepdim=True))))
    weights = weights.view(x.shape[0], 2, x.shape[1], 1, 1).softmax(1)
    return (paths * weights).sum(1)


class Radix(nn.Module):
    """Split attention: grouped convolution, radix copies of the channels, a softmax over the copies."""

    def __init__(self, width: int = 12, radix: int = 2, groups: int = 1) -> None:
        super().__init__()
        self.radix, self.groups = radix, groups
        self.conv = nn.Conv2d(width, width * radix, 3, padding=1, groups=groups * radix)
        self.bn = nn.BatchNorm2d(width * radix)
        self.fc1, self.fc2 = nn.Conv2d(width, 8, 1, groups=groups), nn.Conv2d(8, width * radix, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        b, rc, h, w = x.shape
        x = x.reshape(b, self.radix, rc // self.radix, h, w)
        gap = x.sum(1).mean((2, 3), keepdim=True)
        weights = self.fc2(torch.relu(self.fc1(gap)))
        weights = weights.view(b, self.groups, self.radix, -1).transpose(1, 2).softmax(1).reshape(b, -1)
        weights = weights.view(b, -1, 1, 1)
        return (x * weights.reshape(b, self.radix, rc // self.radix, 1, 1)).sum(1)


class Standardised(nn.Conv2d):
    """Weights of zero mean and unit variance per output channel, by batch_norm of the weight, with a gain."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None,
            weight=self.gain.view(-1), training=True, momentum=0.0,
        ).reshape_as(self.weight)  # fmt: skip
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Centred(nn.Conv2d):
    """The same by means and deviations."""

    def forward(self, x: Tensor) -> Tensor:
        std, mean = torch.std_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return self._conv_forward(x, (self.weight - mean) / (std + 1e-5), self.bias)


class Scaled(nn.Conv2d):
    """Standardised weights with a gain per channel, over the root of the inputs (NFNet)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gain, self.scale = param(self.out_channels, 1, 1, 1), self.weight[0].numel() ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        gain = (self.gain * self.scale).view(-1)
        weight = F.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0)
        return self._conv_forward(x, weight.reshape_as(self.weight), self.bias)


class Modulated(nn.Module):
    """Weights scaled per sample by a style, then demodulated: a grouped convolution over batch times channels."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.weight, self.style = param(12, width, 3, 3), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        weight = self.weight[None] * self.style(x.mean((2, 3)))[:, None, :, None, None]
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        out = F.conv2d(x.reshape(1, b * c, h, w), weight.flatten(0, 1), padding=1, groups=b)
        return out.view(b, -1, h, w)


class Conditional(nn.Module):
    """Experts as rows of a flat matrix, mixed per sample, applied as a grouped convolution."""

    def __init__(self, width: int = 12, out: int = 12, experts: int = 3) -> None:
        super().__init__()
        self.weight, self.routing = param(experts, out * width * 9), nn.Linear(width, experts)
        self.width, self.out = width, out

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        weight = torch.matmul(self.routing(x.mean((2, 3))).sigmoid(), self.weight)
        weight = weight.view(b * self.out, self.width, 3, 3)
        out = F.conv2d(x.reshape(1, b * c, h, w), weight, padding=1, groups=b)
        return out.permute(1, 0, 2, 3).view(b, self.out, h, w)


class GlobalResponse(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.gamma, self.beta = param(1, width, 1, 1), param(1, width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        g = x.norm(p=2, dim=(2, 3), keepdim=True)
        return x + self.gamma * (x * (g / (g.mean(1, keepdim=True) + 1e-6))) + self.beta


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias).permute(0, 3, 1, 2)


class Ghost(nn.Module):
    """Cheap further channels from a depthwise convolution, then exactly as many as asked for."""

    def __init__(self, width: int = 12, out: int = 12) -> None:
        super().__init__()
        self.out = out
        self.main, self.cheap = (
            nn.Conv2d(width, out // 2, 1),
            nn.Conv2d(out // 2, out // 2, 3, padding=1, groups=out // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.main(x)
        return torch.cat([x, self.cheap(x)], 1)[:, : self.out]


class Res2(nn.Module):
    """Parts of the channels, each convolved after adding the last result."""

    def __init__(self, width: int = 12, scale: int = 3) -> None:
        super().__init__()
        part = width // scale
        self.width = part
        self.convs = nn.ModuleList(nn.Conv2d(part, part, 3, padding=1) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.width, 1)
        done: list[Tensor] = [parts[0]]
        last = None
        for conv, part in zip(self.convs, parts[1:], strict=True):
            last = torch.relu(conv(part if last is None else last + part))
            done.append(last)
        return torch.cat(done, 1)


class Mixed(nn.Module):
    """Channels split by a list of sizes, convolved with kernels of several sizes."""

    def __init__(self, sizes: tuple[int, ...] = (6, 4, 2)) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.convs = nn.ModuleList(nn.Conv2d(n, n, 2 * i + 1, padding=i, groups=n) for i, n in enumerate(sizes))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.sizes, 1)
        return torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], 1)


def blurred(m: Fn, x: Tensor) -> Tensor:
    """A fixed kernel, expanded to all channels."""
    return F.conv2d(x, m.kernel.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])


def blurred_by_buffer(m: Fn, x: Tensor) -> Tensor:
    return F.conv2d(x, m.kernel, padding=1, groups=m.channels)


def dynamic(m: Fn, x: Tensor) -> Tensor:
    """Involution: a kernel per place and group, made by a bottleneck, over unfolded patches."""
    b, c, h, w = x.shape
    kernels = m.span(torch.relu(m.reduce(x))).view(b, m.groups, 9, h, w).unsqueeze(2)
    patches = F.unfold(x, 3, padding=1).view(b, m.groups, c // m.groups, 9, h, w)
    return (kernels * patches).sum(3).view(b, c, h, w)


def deep(channels: int = 12, groups: int = 3, out: int = 12, **kwargs: Any) -> Callable[[], nn.Module]:
    return images(
        lambda m, x: m.mid(x),
        channels,
        out,
        mid=lambda: nn.Conv2d(channels, out, 3, padding=1, groups=groups, **kwargs),
    )


def shared_kernel(m: Fn, x: Tensor) -> Tensor:
    """One convolution at two dilations, weights handed over by another module."""
    return m.conv(x) + F.conv2d(x, m.conv.weight, m.conv.bias, padding=2, dilation=2)


CONSTRUCTS = [
    Construct(
        "fixed number of groups",
        deep(groups=3),
        X,
        {"first.weight[0]": "3, 4", "mid.weight[0]": "3, 4", "mid.weight[1]": "4"},
    ),
    Construct("fixed width of groups", deep(groups=4), X, {"mid.weight[0]": "4, 3"}),
    Construct("two groups", deep(groups=2), X, {"first.weight[0]": "2, 6", "mid.weight[0]": "2, 6"}),
    Construct("depthwise", deep(groups=12), X, {"first.weight[0]": "12", "mid.weight[0]": "12"}),
    Construct("depthwise with a multiplier", deep(groups=12, out=36), X, {"mid.weight[0]": "12, 3"}),
    Construct(
        "transposed with groups",
        images(lambda m, x: m.mid(x), 12, 8, mid=lambda: nn.ConvTranspose2d(12, 8, 2, stride=2, groups=4)),
        X,
        {"mid.weight[0]": "4, 3", "mid.weight[1]": "2"},
    ),
    Construct(
        "squeeze and excite",
        images(lambda m, x: m.se(x), se=lambda: Squeeze(12, 5)),
        X,
        {"first.weight[0]": "12", "se.down.weight[0]": "5"},
    ),
    Construct(
        "convolution along channels",
        images(eca, along=lambda: nn.Conv1d(1, 1, 3, padding=1, bias=False)),
        X,
        {"next.weight[0]": "10"},
        {"first.weight[0]": "convolution runs along it"},
    ),
    Construct(
        "selective kernels",
        images(
            selective,
            small=lambda: nn.Conv2d(12, 12, 3, padding=1),
            large=lambda: nn.Conv2d(12, 12, 3, padding=2, dilation=2),
            squeeze=lambda: nn.Conv2d(12, 5, 1),
            choose=lambda: nn.Conv2d(5, 24, 1),
        ),
        X,
        {"first.weight[0]": "12", "small.weight[0]": "12", "squeeze.weight[0]": "5", "choose.weight[0]": "12"},
    ),
    Construct(
        "split attention",
        images(lambda m, x: m.sa(x), sa=Radix),
        X,
        {"sa.conv.weight[0]": "2, 12", "sa.fc1.weight[0]": "8"},
    ),
    Construct(
        "split attention in groups",
        images(lambda m, x: m.sa(x), sa=lambda: Radix(groups=2)),
        X,
        {"sa.conv.weight[0]": "2, 2, 6", "sa.fc1.weight[0]": "2, 4"},
    ),
    Construct(
        "standardised weights by batch_norm",
        images(lambda m, x: m.ws(x), out=8, ws=lambda: Standardised(12, 8, 3, padding=1)),
        X,
        {"ws.weight[0]": "8", "ws.weight[1]": "12", "ws.gain[0]": "8"},
    ),
    Construct(
        "standardised weights by moments",
        images(lambda m, x: m.ws(x), out=8, ws=lambda: Centred(12, 8, 3, padding=1)),
        X,
        {"ws.weight[0]": "8", "ws.weight[1]": "12"},
    ),
    Construct(
        "standardised weights with a scale",
        images(lambda m, x: m.ws(x), out=8, ws=lambda: Scaled(12, 8, 3, padding=1)),
        X,
        {"ws.weight[0]": "8", "ws.weight[1]": "12", "ws.gain[0]": "8"},
    ),
    Construct(
        "weights modulated per sample",
        images(lambda m, x: m.mod(x), mod=Modulated),
        X,
        {"mod.weight[0]": "12", "mod.weight[1]": "12"},
    ),
    Construct(
        "conditional weights",
        images(lambda m, x: m.cond(x), cond=Conditional),
        X,
        {"cond.weight[1]": "12, 12", "first.weight[0]": "12"},
    ),
    Construct(
        "global response normalisation",
        images(lambda m, x: m.grn(x), grn=GlobalResponse),
        X,
        {"first.weight[0]": "12", "grn.gamma[1]": "12"},
    ),
    Construct(
        "layer norm over channels of images",
        images(lambda m, x: m.norm(x), norm=lambda: LayerNorm2d(12)),
        X,
        {"norm.weight[0]": "12"},
    ),
    Construct(
        "ghost",
        images(lambda m, x: m.ghost(x), ghost=Ghost),
        X,
        {"ghost.main.weight[0]": "6", "ghost.cheap.weight[0]": "6", "next.weight[1]": "6"},
    ),
    Construct(
        "res2", images(lambda m, x: m.res2(x), res2=Res2), X, {"first.weight[0]": "4", "res2.convs.0.weight[0]": "4"}
    ),
    Construct(
        "kernels of several sizes",
        images(lambda m, x: m.mixed(x), mixed=Mixed),
        X,
        {"first.weight[0]": "6, 4, 2", "mixed.convs.0.weight[0]": "6"},
    ),
    Construct(
        "a kernel for all channels",
        images(blurred, kernel=lambda: torch.ones(1, 1, 3, 3)),
        X,
        {"first.weight[0]": "12"},
    ),
    Construct(
        "a kernel in a buffer of all channels",
        images(blurred_by_buffer, kernel=lambda: torch.rand(12, 1, 3, 3), channels=12),
        X,
        {"first.weight[0]": "12"},
    ),
    Construct(
        "kernels per place",
        images(dynamic, reduce=lambda: nn.Conv2d(12, 5, 1), span=lambda: nn.Conv2d(5, 27, 1), groups=3),
        X,
        {"first.weight[0]": "3, 4", "span.weight[0]": "3", "reduce.weight[0]": "5"},
    ),
    Construct(
        "weights handed to another convolution",
        images(shared_kernel, conv=lambda: nn.Conv2d(12, 12, 3, padding=1)),
        X,
        {"conv.weight[0]": "12", "conv.weight[1]": "12"},
    ),
    Construct(
        "three dimensions",
        chain(lambda: nn.Conv3d(1, 8, 2), nn.ReLU, lambda: nn.BatchNorm3d(8), lambda: nn.Conv3d(8, 4, 2)),
        (2, 1, 4, 4, 4),
        {"0.weight[0]": "8"},
    ),
]
