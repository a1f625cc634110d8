"""Attention as it is written: own heads and those of torch, shared keys, rotary positions, biases, masks, positions."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .nodes import DIMS, HEADS, WIDTHS, Part, part

LONGEST = 16
FUSED = {"fused": (True, False)}


@part("btc", heads=HEADS, dim=DIMS, options={**FUSED, "masked": (True, False)})
class Attention(Part):
    LAYERS: ClassVar = {"qkv": "3*heads*dim, width", "out": "width, heads*dim"}

    def __init__(self, width: int, heads: int, dim: int, fused: bool, masked: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = heads, dim, dim**-0.5
        self.fused, self.masked = fused, masked
        self.qkv, self.out = nn.Linear(width, 3 * heads * dim), nn.Linear(heads * dim, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            y = (scores if mask is None else scores + mask).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))


@part("btc", heads=HEADS, dim=DIMS, options={**FUSED, "style": ("view", "stored", "root")})
class Classic(Part):
    """The units of a head are what all of them leave."""

    LAYERS: ClassVar = {
        "norm": "width",
        "q": "heads*dim, width",
        "kv": "2*heads*dim, width",
        "proj": "width, heads*dim",
    }

    def __init__(self, width: int, heads: int, dim: int, fused: bool, style: str) -> None:
        super().__init__()
        inner = heads * dim
        self.heads, self.head_dim, self.fused, self.style = heads, inner // heads, fused, style
        self.norm = nn.LayerNorm(width)
        self.q, self.kv, self.proj = nn.Linear(width, inner), nn.Linear(width, 2 * inner), nn.Linear(inner, width)

    def split(self, y: Tensor) -> Tensor:
        b, n, c = y.shape
        if self.style == "view":
            return y.view(b, n, self.heads, c // self.heads).transpose(1, 2)
        return y.view(b, n, self.heads, self.head_dim).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        k, v = self.kv(y).chunk(2, dim=-1)
        q, k, v = self.split(self.q(y)), self.split(k), self.split(v)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            root = math.sqrt(self.head_dim) if self.style == "root" else q.shape[-1] ** 0.5
            y = (q @ k.mT / root).softmax(-1) @ v
        return x + self.proj(y.transpose(1, 2).flatten(2))


@part("btc", split=True, options={"masked": (True, False)})
class TorchAttention(Part):
    LAYERS: ClassVar = {"attn": "width"}

    def __init__(self, width: int, heads: int, masked: bool) -> None:
        super().__init__()
        self.masked, self.attn = masked, nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x + self.attn(x, x, x, attn_mask=mask, need_weights=False)[0]


@part("btc", split=True, hidden=WIDTHS, options={"norm_first": (True, False), "masked": (True, False)})
class EncoderLayer(Part):
    LAYERS: ClassVar = {
        "layer.self_attn": "width",
        "layer.linear1": "hidden, width",
        "layer.linear2": "width, hidden",
        "layer.norm1": "width",
        "layer.norm2": "width",
    }

    def __init__(self, width: int, heads: int, hidden: int, norm_first: bool, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.layer = nn.TransformerEncoderLayer(width, heads, hidden, 0.0, batch_first=True, norm_first=norm_first)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.layer(x, mask)


@part("btc", kv=(2, 3), rep=(4, 5), dim=(6, 8), options={"style": ("repeat", "expand", "gqa")})
class SharedKeys(Part):
    """Several queries look at one head of keys."""

    LAYERS: ClassVar = {"q": "kv*rep*dim, width", "k": "kv*dim, width", "v": "kv*dim, width", "o": "width, kv*rep*dim"}

    def __init__(self, width: int, kv: int, rep: int, dim: int, style: str) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim, self.style = kv * rep, kv, dim, style
        self.n_rep = self.num_heads // self.num_kv_heads
        self.q, self.o = nn.Linear(width, kv * rep * dim, bias=False), nn.Linear(kv * rep * dim, width, bias=False)
        self.k, self.v = nn.Linear(width, kv * dim), nn.Linear(width, kv * dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.num_heads, self.head_dim).transpose(1, 2)
        k, v = (m(x).view(b, n, self.num_kv_heads, self.head_dim).transpose(1, 2) for m in (self.k, self.v))
        if self.style == "repeat":
            k, v = k.repeat_interleave(self.n_rep, dim=1), v.repeat_interleave(self.n_rep, dim=1)
        elif self.style == "expand":
            k, v = (
                y[:, :, None]
                .expand(b, self.num_kv_heads, self.n_rep, n, self.head_dim)
                .reshape(b, -1, n, self.head_dim)
                for y in (k, v)
            )
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.style == "gqa")
        return x + self.o(y.transpose(1, 2).contiguous().view(b, n, -1))


@part("btc", heads=HEADS, half=(5, 6))
class Interleaved(Part):
    """Queries, keys and values of a head stand together; queries and keys are turned by half."""

    LAYERS: ClassVar = {"qkv": "heads*(2*half + 2*half + 2*half), width", "out": "width, heads*2*half", "freq": "half"}

    def __init__(self, width: int, heads: int, half: int) -> None:
        super().__init__()
        self.heads, self.dim = heads, 2 * half
        self.qkv, self.out = nn.Linear(width, 3 * heads * self.dim), nn.Linear(heads * self.dim, width)
        self.register_buffer("freq", 1.0 / 100 ** (torch.arange(half) / half), persistent=False)

    def turn(self, y: Tensor) -> Tensor:
        angle = torch.arange(y.shape[1], device=y.device)[:, None] * self.freq
        angle = torch.cat((angle, angle), dim=-1)[None, :, None]
        a, b = y.chunk(2, dim=-1)
        return y * angle.cos() + torch.cat((-b, a), dim=-1) * angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, self.heads, 3 * self.dim).split(self.dim, dim=-1)
        q, k, v = (y.transpose(1, 2) for y in (self.turn(q), self.turn(k), v))
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).reshape(b, n, -1))


@part("btc", heads=HEADS, dim=DIMS)
class LinearAttention(Part):
    LAYERS: ClassVar = {"qkv": "3*heads*dim, width", "out": "width, heads*dim"}

    def __init__(self, width: int, heads: int, dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * heads * dim), nn.Linear(heads * dim, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (y.reshape(b, t, self.heads, -1) for y in self.qkv(x).chunk(3, -1))
        q, k = q.softmax(-1), k.softmax(1)
        context = torch.einsum("bthd,bthe->bhde", k, v)
        return x + self.out(torch.einsum("bthd,bhde->bthe", q, context).flatten(2))


@part("btc", heads=HEADS, dim=DIMS, options={"cached": (True, False)})
class Slopes(Part):
    """A bias that falls with the distance, with a slope for each head, kept for the longest input so far."""

    LAYERS: ClassVar = {"qkv": "3*heads*dim, width", "out": "width, heads*dim", "slope": "heads"}
    CACHES = ("bias",)

    def __init__(self, width: int, heads: int, dim: int, cached: bool) -> None:
        super().__init__()
        self.heads, self.cached = heads, cached
        self.qkv, self.out = nn.Linear(width, 3 * heads * dim), nn.Linear(heads * dim, width)
        self.register_buffer("slope", torch.rand(heads, 1, 1))
        self.register_buffer("bias", None, persistent=False)

    def distances(self, n: int) -> Tensor:
        at = torch.arange(n)
        return -(at - at[:, None]).abs() * self.slope[: self.heads]

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        if self.cached and (self.bias is None or self.bias.shape[-1] < n):
            self.register_buffer("bias", self.distances(n), persistent=False)
        bias = self.bias[:, :n, :n] if self.cached else self.distances(n)
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2) + bias).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).flatten(2))


@part("btc", heads=HEADS, dim=DIMS)
class RelativeTable(Part):
    """A learned bias for each distance and head."""

    LAYERS: ClassVar = {
        "q": "heads*dim, width",
        "kv": "2*heads*dim, width",
        "out": "width, heads*dim",
        "table": f"{2 * LONGEST - 1}, heads",
    }

    def __init__(self, width: int, heads: int, dim: int) -> None:
        super().__init__()
        self.heads, self.dim, self.inner = heads, dim, heads * dim
        self.q, self.kv = nn.Linear(width, self.inner), nn.Linear(width, 2 * self.inner)
        self.out, self.table = nn.Linear(self.inner, width), nn.Embedding(2 * LONGEST - 1, heads)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.dim).transpose(1, 2)
        k, v = self.kv(x).view(b, n, 2, self.heads, self.dim).permute(2, 0, 3, 1, 4).unbind(0)
        at = torch.arange(n)
        bias = self.table(at[None] - at[:, None] + LONGEST - 1).permute(2, 0, 1)
        y = (q @ k.transpose(2, 3) * self.dim**-0.5 + bias).softmax(-1) @ v
        return x + self.out(y.permute(0, 2, 1, 3).reshape(b, n, self.inner))


@part("btc", out="out", count=(4, 7), heads=HEADS, dim=DIMS, out_size=WIDTHS)
class Latents(Part):
    """A few learned queries look at the sequence."""

    LAYERS: ClassVar = {"queries": "count, heads*dim", "kv": "2*heads*dim, width", "out": "out, heads*dim"}

    def __init__(self, width: int, out: int, count: int, heads: int, dim: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * dim
        self.queries = nn.Parameter(torch.randn(count, inner))
        self.kv, self.out = nn.Linear(width, 2 * inner), nn.Linear(inner, out)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.kv(x).chunk(2, dim=-1)
        q = self.queries.expand(x.shape[0], -1, -1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@part("btc", options={"style": ("slice", "narrow", "arange", "split", "embedding")})
class Positions(Part):
    LAYERS: ClassVar = {"pos": f"{LONGEST}, width"}

    def __init__(self, width: int, style: str) -> None:
        super().__init__()
        self.style, self.pos = style, nn.Parameter(torch.randn(LONGEST, width))

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        if self.style == "slice":
            return x + self.pos[:n]
        if self.style == "narrow":
            return x + self.pos.narrow(0, 0, n)
        if self.style == "arange":
            return x + self.pos[torch.arange(n)]
        if self.style == "split":
            return x + self.pos.split([n, self.pos.shape[0] - n])[0]
        return x + F.embedding(torch.arange(n), self.pos)


@part("btc", "btc", options={"last": (True, False)})
class Token(Part):
    LAYERS: ClassVar = {"token": "1, 1, width"}

    def __init__(self, width: int, last: bool) -> None:
        super().__init__()
        self.token, self.last = nn.Parameter(torch.randn(1, 1, width)), last

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        return y[:, :-1] if self.last else y - y.mean(1, keepdim=True)
