"""Norms, gates and reductions: what runs over the channels, and what multiplies them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .construct import Construct, Fn, images, param, through

X = (2, 6)
MAP = (2, 3, 4, 4)
ORDER = {"next.weight[0]": "10"}


class EvoNorm(nn.Module):
    """EvoNorm-S0: a gate over the deviation inside groups of channels."""

    def __init__(self, width: int = 12, groups: int = 3) -> None:
        super().__init__()
        self.groups = groups
        self.weight, self.bias, self.v = param(width), param(width), param(width)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        grouped = x.view(b, self.groups, c // self.groups, h, w)
        std = (grouped.var((2, 3, 4), unbiased=False, keepdim=True) + 1e-5).sqrt().expand_as(grouped).reshape(x.shape)
        shape = (1, -1, 1, 1)
        return x * (x * self.v.view(shape)).sigmoid() / std * self.weight.view(shape) + self.bias.view(shape)


class FilterResponse(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.gamma, self.beta, self.tau = param(1, width, 1, 1), param(1, width, 1, 1), param(1, width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + 1e-6)
        return torch.max(self.gamma * x + self.beta, self.tau)


class FrozenNorm(nn.Module):
    """A batch norm whose four vectors are buffers."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        for i, name in enumerate(("weight", "bias", "running_mean", "running_var")):
            self.register_buffer(name, torch.rand(width, generator=torch.Generator().manual_seed(i)) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.weight * (self.running_var + 1e-5).rsqrt()).reshape(1, -1, 1, 1)
        return x * scale + (self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale)


class Running(nn.Module):
    """Statistics that forward itself keeps, by hand."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.momentum = 0.1

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.mul_(1 - self.momentum).add_(self.momentum * x.mean((0, 2, 3)))
        return x - self.mean[:, None, None]


class RMS(nn.Module):
    """By hand, in float32 as language models do."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.weight = param(width)

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return self.weight * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def scaled(m: Fn, x: Tensor) -> Tensor:
    """LayerScale on a branch."""
    return x + m.gamma * m.branch(x)


def adaptive(m: Fn, x: Tensor) -> Tensor:
    """Shift, scale and gate made from a condition (DiT)."""
    shift, scale, gate = m.modulation(x.mean(1)).unsqueeze(1).chunk(3, -1)
    return x + gate * m.branch(m.norm(x) * (1 + scale) + shift)


def film(m: Fn, x: Tensor) -> Tensor:
    scale, shift = m.film(x.mean((2, 3))).view(x.shape[0], 2, -1, 1, 1).unbind(1)
    return x * scale + shift


def gated(m: Fn, x: Tensor) -> Tensor:
    return m.down(F.silu(m.gate(x)) * m.up(x))


def gated_by_chunk(m: Fn, x: Tensor) -> Tensor:
    gate, up = m.both(x).chunk(2, -1)
    return m.down(F.gelu(gate) * up)


def gated_by_split(m: Fn, x: Tensor) -> Tensor:
    gate, up = m.both(x).split(m.hidden, -1)
    return m.down(gate.sigmoid() * up)


def gated_by_slices(m: Fn, x: Tensor) -> Tensor:
    y = m.both(x)
    return m.down(y[..., : m.hidden].sigmoid() * y[..., m.hidden :])


def gated_by_view(m: Fn, x: Tensor) -> Tensor:
    y = m.both(x).unflatten(-1, (2, -1))
    return m.down(y.select(-2, 0).tanh() * y.select(-2, 1))


def gated_interleaved(m: Fn, x: Tensor) -> Tensor:
    y = m.both(x)
    return m.down(y[..., ::2].sigmoid() * y[..., 1::2])


def spatial_gate(m: Fn, x: Tensor) -> Tensor:
    """gMLP: one half of the channels, mixed along the places, gates the other."""
    u, v = m.both(x).chunk(2, -1)
    return m.down(u * m.mix(m.norm(v).transpose(1, 2)).transpose(1, 2))


def self_gate(m: Fn, x: Tensor) -> Tensor:
    return x * (x.mean(-1, keepdim=True) + x.amax(-1, keepdim=True)).sigmoid()


def places_gate(m: Fn, x: Tensor) -> Tensor:
    """CBAM: mean and maximum over the channels, convolved, gate every place."""
    return x * m.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


def gate_parts(**more: Any) -> dict[str, Any]:
    return {"both": lambda: nn.Linear(12, 16), "down": lambda: nn.Linear(8, 12), **more}


GATED = {"both.weight[0]": "8", "down.weight[1]": "8", "first.weight[0]": "12"}

CONSTRUCTS = [
    Construct(
        "batch norm",
        images(lambda m, x: m.bn(x), bn=lambda: nn.BatchNorm2d(12)),
        MAP,
        {"bn.weight[0]": "12", "first.weight[0]": "12"},
    ),
    Construct(
        "batch norm without statistics",
        images(lambda m, x: m.bn(x), bn=lambda: nn.BatchNorm2d(12, track_running_stats=False)),
        (3, 3, 4, 4),
        {"bn.weight[0]": "12"},
    ),
    Construct(
        "group norm", images(lambda m, x: m.gn(x), gn=lambda: nn.GroupNorm(3, 12)), MAP, {"gn.weight[0]": "3, 4"}
    ),
    Construct(
        "group norm of one group",
        images(lambda m, x: m.gn(x), gn=lambda: nn.GroupNorm(1, 12)),
        MAP,
        {"gn.weight[0]": "12"},
    ),
    Construct(
        "instance norm",
        images(lambda m, x: m.n(x), n=lambda: nn.InstanceNorm2d(12, affine=True)),
        MAP,
        {"n.weight[0]": "12"},
    ),
    Construct(
        "local response norm",
        images(lambda m, x: m.n(x), n=lambda: nn.LocalResponseNorm(3)),
        MAP,
        ORDER,
        {"first.weight[0]": ""},
    ),
    Construct("layer norm", through(lambda m, x: m.n(x), n=lambda: nn.LayerNorm(12)), X, {"n.weight[0]": "12"}),
    Construct(
        "layer norm by the width of a tensor",
        through(lambda m, x: F.layer_norm(x, x.shape[-1:])),
        X,
        {"first.weight[0]": "12"},
    ),
    Construct(
        "layer norm over channels and places",
        images(lambda m, x: m.n(x), n=lambda: nn.LayerNorm((12, 4, 4))),
        MAP,
        {"n.weight[0]": "12", "first.weight[0]": "12"},
        {"n.weight[1]": ""},
    ),
    Construct("RMS norm by hand", through(lambda m, x: m.n(x), n=RMS), X, {"n.weight[0]": "12"}),
    Construct("EvoNorm", images(lambda m, x: m.n(x), n=EvoNorm), MAP, {"n.v[0]": "3, 4", "first.weight[0]": "3, 4"}),
    Construct("filter response norm", images(lambda m, x: m.n(x), n=FilterResponse), MAP, {"n.tau[1]": "12"}),
    Construct(
        "norm of buffers",
        images(lambda m, x: m.n(x), n=FrozenNorm),
        MAP,
        {"first.weight[0]": "12", "n.running_var[0]": "12"},
    ),
    Construct(
        "running statistics by hand",
        images(lambda m, x: m.n(x), n=Running),
        MAP,
        {"first.weight[0]": "12", "n.mean[0]": "12"},
    ),
    Construct(
        "layer scale", through(scaled, gamma=lambda: param(12), branch=lambda: nn.Linear(12, 12)), X, {"gamma[0]": "12"}
    ),
    Construct(
        "adaptive norm",
        through(
            adaptive,
            modulation=lambda: nn.Linear(12, 36),
            norm=lambda: nn.LayerNorm(12, elementwise_affine=False),
            branch=lambda: nn.Linear(12, 12),
        ),
        (2, 5, 6),
        {"modulation.weight[0]": "12", "branch.weight[0]": "12"},
    ),
    Construct("FiLM", images(film, film=lambda: nn.Linear(12, 24)), MAP, {"film.weight[0]": "12"}),
    Construct("softmax over channels", through(lambda m, x: x.softmax(-1)), X, {"first.weight[0]": "12"}),
    Construct("norm over channels", through(lambda m, x: F.normalize(x, dim=-1)), X, {"first.weight[0]": "12"}),
    Construct("mean over channels", through(lambda m, x: x - x.mean(-1, keepdim=True)), X, {"first.weight[0]": "12"}),
    Construct("gate of mean and maximum", through(self_gate), X, {"first.weight[0]": "12"}),
    Construct(
        "gate per place",
        images(places_gate, conv=lambda: nn.Conv2d(2, 1, 3, padding=1)),
        MAP,
        {"first.weight[0]": "12"},
    ),
    Construct("GLU", through(lambda m, x: m.down(F.glu(m.both(x), -1)), **gate_parts()), X, GATED),
    Construct(
        "GLU of two layers",
        through(gated, gate=lambda: nn.Linear(12, 8), up=lambda: nn.Linear(12, 8), down=lambda: nn.Linear(8, 12)),
        X,
        {"gate.weight[0]": "8", "up.weight[0]": "8"},
    ),
    Construct("GLU by chunk", through(gated_by_chunk, **gate_parts()), X, GATED),
    Construct("GLU by split", through(gated_by_split, **gate_parts(hidden=8)), X, GATED),
    Construct("GLU by slices", through(gated_by_slices, **gate_parts(hidden=8)), X, GATED),
    Construct("GLU by view", through(gated_by_view, **gate_parts()), X, GATED),
    Construct("GLU interleaved", through(gated_interleaved, **gate_parts()), X, GATED),
    Construct(
        "spatial gate",
        through(spatial_gate, norm=lambda: nn.LayerNorm(8), mix=lambda: nn.Linear(5, 5), **gate_parts()),
        (2, 5, 6),
        {**GATED, "norm.weight[0]": "8"},
        {"mix.weight[0]": ""},
    ),
    Construct(
        "PReLU per channel", images(lambda m, x: m.act(x), act=lambda: nn.PReLU(12)), MAP, {"act.weight[0]": "12"}
    ),
    Construct(
        "dropout of channels",
        images(lambda m, x: m.drop(x), drop=lambda: nn.Dropout2d(0.5)),
        MAP,
        {"first.weight[0]": "12"},
    ),
    Construct(
        "argmax over channels",
        through(lambda m, x: x * (x.argmax(-1, keepdim=True) > 3)),
        X,
        ORDER,
        {"first.weight[0]": "positions"},
    ),
]
