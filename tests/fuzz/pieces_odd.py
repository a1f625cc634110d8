"""Pieces that lay traps: orders that matter, weights used in odd ways, axes mixed by reshapes, states handed out."""

from __future__ import annotations

import math
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .pieces import LAST, composite, divisor, fit, piece, width

Shape = tuple[int, ...]


@piece("btc bc", weight=2)
class Ordered(nn.Module):
    """Things that depend on the places of the channels, or give places."""

    STYLES = (
        "cumprod cummax logcumsumexp diff topk argsort gather median kthvalue argmax onehot tril pool interpolate "
        "reversed fliplr positions mask lookup scatter response"
    ).split()
    PLACES = ("gather", "lookup", "scatter")

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        inner = rng.choice([4, 5, 6, 7, 8])
        self.style, self.last = rng.choice(self.STYLES), rng.randint(1, 3)
        self.before, self.after = nn.Linear(shape[-1], inner), nn.Linear(inner, width(rng))
        self.register_buffer("mask", torch.arange(inner) % 2 == 0 if self.style == "mask" else None)
        self.register_buffer("places", torch.randperm(inner) if self.style in self.PLACES else None)
        if self.style == "topk":
            self.mix = nn.Linear(self.last, inner)
        if self.style in ("argmax", "lookup"):
            self.table = nn.Embedding(inner, inner)
        if self.style == "tril":
            self.tril = nn.Parameter(torch.randn(inner, inner))

    def run(self, x: Tensor) -> Tensor:
        if self.style in ("cumprod", "logcumsumexp"):
            return getattr(torch, self.style)(x, dim=-1)
        if self.style == "cummax":
            return torch.cummax(x, dim=-1).values
        if self.style == "diff":
            return torch.cat([x[..., :1], torch.diff(x, dim=-1)], -1)
        if self.style == "topk":
            return x * 0.1 + self.mix(x.topk(self.last, dim=-1).values)
        if self.style == "argsort":
            return x + x.argsort(dim=-1).to(x.dtype) * 0.1
        if self.style == "gather":
            return torch.gather(x, -1, self.places.expand(x.shape))
        if self.style == "median":
            return x - x.median(dim=-1, keepdim=True).values
        if self.style == "kthvalue":
            return x - x.kthvalue(2, dim=-1, keepdim=True).values
        if self.style == "argmax":
            return x + self.table(x.argmax(dim=-1))
        if self.style == "onehot":
            return x * F.one_hot(x.argmax(-1), x.shape[-1])
        if self.style == "tril":
            return F.linear(x, torch.tril(self.tril))
        if self.style == "pool":
            return F.avg_pool1d(x.reshape(-1, 1, x.shape[-1]), 3, stride=1, padding=1).view(x.shape)
        if self.style == "interpolate":
            return F.interpolate(x.reshape(-1, 1, x.shape[-1]), scale_factor=1.0, mode="linear").reshape(x.shape)
        if self.style == "reversed":
            return x + x[..., torch.arange(x.shape[-1] - 1, -1, -1)]
        if self.style == "fliplr":
            return x - torch.fliplr(x.transpose(1, -1)).transpose(1, -1) * 0.5
        if self.style == "positions":
            return x + torch.sin(torch.arange(x.shape[-1], dtype=x.dtype))
        if self.style == "mask":
            return x.masked_fill(self.mask, 0.0) + 0.1 * x
        if self.style == "lookup":
            return x + self.table.weight[self.places].sum(0)
        if self.style == "scatter":
            return torch.zeros_like(x).scatter(-1, self.places.expand(x.shape), x)
        return F.local_response_norm(x.reshape(-1, x.shape[-1], 1), 3).view(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.run(torch.tanh(self.before(x))))


@piece(LAST, weight=2)
class WeightUse(nn.Module):
    """A layer's weight, cut, turned, joined or made by another layer."""

    STYLES = "prefix rows turned both chunk scaled generated stacked product normalised".split()

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        c, self.out = shape[-1], width(rng)
        self.style = rng.choice(self.STYLES)
        bare = self.style in ("rows", "turned", "chunk", "stacked")
        self.fc = nn.Linear(c, 2 * self.out, bias=not bare)
        self.part = rng.randint(1, 2 * self.out - 1)
        self.scale = nn.Parameter(torch.ones(2 * self.out, 1)) if self.style == "scaled" else None
        self.code = nn.Parameter(torch.randn(3)) if self.style == "generated" else None
        self.maker = nn.Linear(3, 2 * self.out * c) if self.style == "generated" else None
        self.left = nn.Parameter(torch.randn(2 * self.out, 3)) if self.style == "product" else None
        self.right = nn.Parameter(torch.randn(3, c)) if self.style == "product" else None
        self.pieces = nn.ParameterList(torch.randn(2, c) for _ in range(3)) if self.style == "stacked" else None

    def forward(self, x: Tensor) -> Tensor:
        w = self.fc.weight
        if self.style == "prefix":
            return F.linear(x, w[: self.part], self.fc.bias[: self.part])
        if self.style == "rows":
            return F.linear(x, w[self.part :]) * 0.5 + self.fc(x).mean(-1, keepdim=True)
        if self.style == "turned":
            return F.linear(torch.relu(x @ w.t()), w.T)
        if self.style == "both":
            return self.fc(x) + x.sum(-1, keepdim=True) * w.mean(1)
        if self.style == "chunk":
            a, b = w.chunk(2)
            return F.linear(x, a).sigmoid() * F.linear(x, b)
        if self.style == "scaled":
            return F.linear(x, w * self.scale, self.fc.bias)
        if self.maker is not None:
            return F.linear(x, self.maker(self.code).view(2 * self.out, -1) / x.shape[-1]) + self.fc(x)
        if self.left is not None and self.right is not None:
            return F.linear(x, self.left @ self.right, self.fc.bias) + self.fc(x)
        if self.pieces is not None:
            return F.linear(x, torch.cat(list(self.pieces))) + self.fc(x).mean(-1, keepdim=True)
        return F.linear(x, F.normalize(w, dim=1, eps=0.1), self.fc.bias)


@piece("btc")
class Mixed(nn.Module):
    """Reshapes that mix time and channels."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.style, self.step = rng.choice(["swap", "pairs", "flat", "norm", "unfold"]), 2
        self.norm = nn.LayerNorm(shape) if self.style == "norm" else None
        fit(self.style != "pairs" or shape[0] % 2 == 0)
        fit(self.style != "unfold" or shape[0] >= 3)
        wide = {"pairs": 2 * shape[1], "unfold": 3 * shape[1]}.get(self.style, shape[1])
        self.fc = nn.Linear(wide, width(rng))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        if self.norm is not None:
            x = self.norm(x)
        elif self.style == "swap":
            x = x.reshape(B, C, T).transpose(1, 2)
        elif self.style == "pairs":
            x = x.reshape(B, T // self.step, self.step * C)
        elif self.style == "flat":
            x = (x.view(B, -1) - x.view(B, -1).mean(1, keepdim=True)).view(B, T, -1)
        else:
            x = x.unfold(1, 3, 1).flatten(2)
        return self.fc(x)


@piece(LAST)
class Padded(nn.Module):
    """Zero channels at the end, for a shortcut of another width."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.more = rng.randint(1, 5)
        self.fc = nn.Linear(shape[-1], shape[-1] + self.more)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + F.pad(x, (0, self.more))


@piece("bchw")
class Shortcut(nn.Module):
    """A shortcut that pads channels, or joins them with zeros, or takes some away."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.style = rng.choice(["pad", "zeros", "cut"])
        out = shape[0] + rng.randint(1, 4) if self.style != "cut" else rng.randint(1, shape[0])
        self.conv, self.out = nn.Conv2d(shape[0], out, 3, padding=1), out

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.style == "pad":
            return y + F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        if self.style == "zeros":
            zeros = torch.zeros(x.shape[0], y.shape[1] - x.shape[1], *x.shape[2:], dtype=x.dtype)
            return y + torch.cat([x, zeros], dim=1)
        return y + x[:, : self.out]


@piece(LAST)
class InPlace(nn.Module):
    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.style, inner = rng.choice(["add", "mul", "fill", "assign", "relu", "index"]), width(rng)
        self.a, self.b = nn.Linear(shape[-1], inner), nn.Linear(shape[-1], inner)
        self.part = rng.randint(1, inner - 1)

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.a(x), self.b(x)
        if self.style == "add":
            y += z
            return y
        if self.style == "mul":
            return y.clone().mul_(z.sigmoid())
        if self.style == "fill":
            return y.masked_fill_(z > 0.5, 0.1)
        if self.style == "relu":
            return F.relu_(y) + z
        out = torch.empty_like(y)
        if self.style == "assign":
            out[..., : self.part] = y[..., : self.part]
            out[..., self.part :] = z[..., self.part :]
        else:
            out.copy_(y)
            out[:, ...] = out + z
        return out


@piece("btc", weight=2)
class States(nn.Module):
    """The final states of a recurrence, used as they come."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.lstm, self.both, size = rng.random() < 0.6, rng.random() < 0.5, width(rng)
        project = rng.randint(1, size - 1) if self.lstm and rng.random() < 0.3 else 0
        options = {"proj_size": project} if project else {}
        kind = nn.LSTM if self.lstm else nn.GRU
        self.rnn = kind(shape[1], size, batch_first=True, bidirectional=self.both, **options)
        self.style = rng.choice(["add", "flat", "cat", "start"])
        seen, directions = project or size, 2 if self.both else 1
        if self.style == "start":
            self.start = nn.Parameter(torch.randn(directions, 1, seen))
            self.cell = nn.Parameter(torch.randn(directions, 1, size)) if self.lstm else None
        self.fc = nn.Linear(seen * directions if self.style in ("flat", "cat") else seen, seen * directions)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        if self.style == "start":
            h = self.start.expand(-1, x.shape[0], -1).contiguous()
            state = (h, self.cell.expand(-1, x.shape[0], -1).contiguous()) if self.lstm else h
        y, final = self.rnn(x, state)
        h = final[0] if self.lstm else final
        if self.style == "flat":
            s = h.transpose(0, 1).reshape(x.shape[0], -1)
        elif self.style == "cat":
            s = torch.cat(list(h.unbind(0)), dim=-1)
        else:
            s = h[-1]
        return y * torch.sigmoid(self.fc(s)).unsqueeze(1)


@piece(LAST)
class Scaled(nn.Module):
    """Factors that are made of sizes, at the start or in every call."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.style, self.dim = rng.choice(["root", "shape", "init", "mean", "config"]), width(rng)
        self.fc, self.out = nn.Linear(shape[-1], self.dim), nn.Linear(self.dim, shape[-1])
        self.scale = self.dim**-0.5
        self.config = {"dim": self.dim, "eps": 1e-2}
        self.weight = nn.Parameter(torch.ones(self.dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        if self.style == "root":
            y = y / math.sqrt(self.dim)
        elif self.style == "shape":
            y = y * (y.shape[-1] ** -0.5)
        elif self.style == "init":
            y = y * self.scale
        elif self.style == "mean":
            y = y - y.sum(-1, keepdim=True) / self.dim
        else:
            y = F.layer_norm(y, (self.config["dim"],), self.weight, None, self.config["eps"])
        return x + self.out(y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 0.1) * self.weight)


@piece("btc")
class HeadsFromWidth(nn.Module):
    """The number of heads, or their size, follows from the width."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.inner = composite(rng)
        self.num_heads, self.given = divisor(rng, self.inner), rng.choice(["heads", "dim", "quotient"])
        self.dim = self.inner // self.num_heads
        self.qkv, self.proj = nn.Linear(shape[1], 3 * self.inner), nn.Linear(self.inner, shape[1])

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = torch.tensor_split(self.qkv(x), 3, dim=-1)
        if self.given == "heads":
            split = (B, T, self.num_heads, self.inner // self.num_heads)
        elif self.given == "dim":
            split = (B, T, self.inner // self.dim, self.dim)
        else:
            split = (B, T, -1, q.shape[-1] // self.num_heads)
        q, k, v = (y.reshape(split).permute(0, 2, 1, 3) for y in (q, k, v))
        bias = torch.arange(T, dtype=x.dtype)[None, :] * torch.arange(1, q.shape[1] + 1)[:, None, None] * -0.1
        if self.given == "heads":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.proj(y.permute(0, 2, 1, 3).reshape(B, T, self.inner))


@piece(LAST)
class Regions(nn.Module):
    """Checkpointed, without gradients in part, in complex numbers, or otherwise wrapped."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        inner = width(rng)
        self.style = rng.choice(["checkpoint", "no grad", "complex", "aux", "autocast"])
        self.a, self.b = nn.Linear(shape[-1], inner), nn.Linear(inner, shape[-1])
        self.c = nn.Linear(shape[-1], inner) if self.style in ("complex", "aux") else nn.Identity()
        self.phase = nn.Parameter(torch.randn(inner, 2)) if self.style == "complex" else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.style == "checkpoint":
            return x + checkpoint(lambda t: self.b(F.gelu(t)), y, use_reentrant=False)
        if self.style == "no grad":
            with torch.no_grad():
                scale = y.abs().mean(-1, keepdim=True) + 0.5
            y = y / scale
        elif self.phase is not None:
            z = torch.complex(y, self.c(x)) * torch.view_as_complex(self.phase)
            y = torch.view_as_real(z).sum(-1)
        elif self.style == "aux":
            y = F.dropout(y, 0.1, self.training) * torch.sigmoid(self.c(x))
        else:
            with torch.autocast("cpu", enabled=False):
                y = torch.tanh(y.float())
        return x + self.b(y)


@piece("bc btc")
class Metric(nn.Module):
    """Distances and similarities to learned prototypes."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.style, count = rng.choice(["cdist", "cosine", "tensordot", "softmax"]), rng.choice([2, 3, 5])
        self.prototypes = nn.Parameter(torch.randn(count, shape[-1]))
        self.values = nn.Linear(count, width(rng))

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "cdist":
            y = torch.cdist(x, self.prototypes.expand(*x.shape[:-2], -1, -1))
        elif self.style == "cosine":
            y = F.cosine_similarity(x.unsqueeze(-2), self.prototypes, dim=-1, eps=0.1)
        elif self.style == "tensordot":
            y = torch.tensordot(x, self.prototypes, dims=([-1], [1]))
        else:
            y = (x @ self.prototypes.T).softmax(-1)
        return self.values(y)


@piece("bchw")
class AsImage(nn.Module):
    """Channels taken for a dimension of space."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        super().__init__()
        self.style = rng.choice(["conv", "pool", "norm", "shift"])
        self.conv = nn.Conv3d(1, 1, 3, padding=1) if self.style == "conv" else None
        self.norm = nn.LayerNorm(shape) if self.style == "norm" else None
        self.after = nn.Conv2d(shape[0], width(rng), 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is not None:
            x = x + self.conv(x.unsqueeze(1)).squeeze(1)
        elif self.norm is not None:
            x = self.norm(x)
        elif self.style == "pool":
            x = F.max_pool3d(x.unsqueeze(1), (3, 1, 1), stride=1, padding=(1, 0, 0)).squeeze(1)
        else:
            a, b, c = x.tensor_split(3, dim=1)
            x = torch.cat([a.roll(1, dims=2), b.roll(-1, 3), c], dim=1)
        return self.after(x)
