"""Where tokens are: position tables, rotations, biases from distances, windows, and mixing along places."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .attention import SPLIT, Separate, attend
from .construct import Construct, Fn, param, through

X = (2, 4, 6)
INDEX = torch.arange(4)[:, None] - torch.arange(4)[None] + 3


def biased(bias: Any) -> Any:
    """Attention with `bias(net)` of [heads, n, n] on its scores."""

    def change(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) + bias(m)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(q.shape[0], q.shape[2], -1)

    return change


def from_mlp(m: Any) -> Tensor:
    offsets = m.offsets.view(-1, 1)
    return 16 * torch.sigmoid(m.mlp(offsets)[m.index.flatten()].view(4, 4, -1).permute(2, 0, 1))


def alibi(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Slopes counted from the number of heads."""
    slopes = 2.0 ** (-8.0 * torch.arange(1, m.heads + 1) / m.heads)
    n = q.shape[2]
    distance = (torch.arange(n)[None] - torch.arange(n)[:, None]).abs()
    scores = q @ k.transpose(-2, -1) - slopes[:, None, None] * distance
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def angles(n: int, dim: int) -> Tensor:
    return torch.arange(n)[:, None] / 10000 ** (torch.arange(dim)[None] / dim)


def halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * torch.cat([cos, cos], -1) + torch.cat([-b, a], -1) * torch.cat([sin, sin], -1)


def halves_by_slices(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x * torch.cat([cos, cos], -1) + torch.cat([-b, a], -1) * torch.cat([sin, sin], -1)


def pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def pairs_by_view(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def pairs_as_complex(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.complex(cos, sin)
    return torch.view_as_real(turned).flatten(-2)


def rotated(turn: Any, *, share: float = 1.0) -> Any:
    """Queries and keys turned by tables that are buffers of the net; only a share of each head where asked."""

    def change(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if share == 1.0:
            return attend(turn(q, m.cos, m.sin), turn(k, m.cos, m.sin), v)
        (q, q_rest), (k, k_rest) = ((x[..., : m.rotary], x[..., m.rotary :]) for x in (q, k))
        q = torch.cat([turn(q, m.cos, m.sin), q_rest], -1)
        return attend(q, torch.cat([turn(k, m.cos, m.sin), k_rest], -1), v)

    return change


def tables(dim: int = 3) -> dict[str, Tensor]:
    return {"cos": angles(4, dim).cos(), "sin": angles(4, dim).sin()}


def computed(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Frequencies counted from head_dim inside forward, in a region without gradients."""
    with torch.no_grad():
        turn = angles(q.shape[2], q.shape[-1] // 2)
    return attend(halves(q, turn.cos(), turn.sin()), halves(k, turn.cos(), turn.sin()), v)


class Rotary(nn.Module):
    """Tables made of a buffer of frequencies, as language models do."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 1 / 10000 ** (torch.arange(dim) / dim), persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", enabled=False):
            places = torch.arange(x.shape[2], dtype=torch.float32)[:, None]
            turn = places @ self.frequencies[None].float()
        return turn.cos().to(x.dtype), turn.sin().to(x.dtype)


def by_module(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    cos, sin = m.rotary(q)
    return attend(halves(q, cos, sin), halves(k, cos, sin), v)


def sinusoids(m: Fn, x: Tensor) -> Tensor:
    """A table counted from the width."""
    half = x.shape[-1] // 2
    turn = torch.arange(x.shape[1])[:, None] * torch.exp(torch.arange(half) * (-math.log(10000.0) / half))
    return x + torch.cat([turn.sin(), turn.cos()], -1)


def windows(m: Fn, x: Tensor) -> Tensor:
    """Shifted windows of 2 x 2 on a 4 x 4 map, attention inside, and back."""
    b, h, w, c = x.shape
    x = torch.roll(x, (-1, -1), (1, 2))
    x = x.view(b, h // m.size, m.size, w // m.size, m.size, c).transpose(2, 3).reshape(-1, m.size * m.size, c)
    x = m.attn(x)
    x = x.view(b, h // m.size, w // m.size, m.size, m.size, -1).transpose(2, 3).reshape(b, h, w, -1)
    return torch.roll(x, (1, 1), (1, 2))


def grid(m: Fn, x: Tensor) -> Tensor:
    b, h, w, c = x.shape
    x = x.view(b, m.size, h // m.size, m.size, w // m.size, c).permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(0, 1)
    x = m.attn(x.flatten(1, 2))
    x = x.view(b, h // m.size, w // m.size, m.size, m.size, c)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(b, h, w, c)


class Inside(nn.Module):
    """Attention inside a window whose head_dim is the width over the heads."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = 3, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(attend(q, k, v).reshape(b, n, c))


def merging(m: Fn, x: Tensor) -> Tensor:
    """Four neighbours become one place of twice the width."""
    x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
    return m.reduce(m.norm(x))


def merging_by_view(m: Fn, x: Tensor) -> Tensor:
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).flatten(3)
    return m.reduce(m.norm(x))


def class_token(m: Fn, x: Tensor) -> Tensor:
    x = torch.cat([m.cls.expand(x.shape[0], -1, -1), m.registers.expand(x.shape[0], -1, -1), x], 1) + m.pos
    return m.norm(x)[:, 0]


def sides(m: Fn, x: Tensor) -> Tensor:
    """Half of the width says the row, the other half the column."""
    h, w = x.shape[1], x.shape[2]
    rows, columns = m.rows[:h, None].expand(-1, w, -1), m.columns[None, :w].expand(h, -1, -1)
    return x + torch.cat([rows, columns], -1)


def mixing(m: Fn, x: Tensor) -> Tensor:
    """An MLP along the places: its hidden width moves, the places do not."""
    return x + m.down(torch.relu(m.up(x.transpose(1, 2)))).transpose(1, 2)


IMAGE = (2, 4, 4, 6)
INSIDE = {"attn.qkv.weight[0]": "heads 3, head_dim 4", "first.weight[0]": "heads 3, head_dim 4"}

CONSTRUCTS = [
    Construct(
        "bias table gathered by an index buffer",
        lambda: Separate(change=biased(lambda m: m.table[m.index].permute(2, 0, 1)), table=param(7, 4), index=INDEX),
        X,
        {**SPLIT, "table[1]": "heads 4"},
        {"table[0]": "picked by an index tensor"},
    ),
    Construct(
        "bias table gathered flat",
        lambda: Separate(
            change=biased(lambda m: m.table[m.index.view(-1)].view(4, 4, -1).permute(2, 0, 1).contiguous()[None]),
            table=param(7, 4),
            index=INDEX,
        ),
        X,
        {**SPLIT, "table[1]": "heads 4"},
    ),
    Construct(
        "bias table with heads in front",
        lambda: Separate(change=biased(lambda m: m.table[:, m.index]), table=param(4, 7), index=INDEX),
        X,
        {**SPLIT, "table[0]": "heads 4"},
    ),
    Construct(
        "bias parameter",
        lambda: Separate(change=biased(lambda m: m.bias), bias=param(4, 4, 4)),
        X,
        {"bias[0]": "heads 4"},
    ),
    Construct(
        "bias made by an MLP",
        lambda: Separate(
            change=biased(from_mlp),
            mlp=nn.Sequential(nn.Linear(1, 9), nn.ReLU(), nn.Linear(9, 4, bias=False)),
            index=INDEX,
            offsets=torch.linspace(-1, 1, 7),
        ),
        X,
        {**SPLIT, "mlp.0.weight[0]": "9", "mlp.2.weight[0]": "heads 4"},
    ),
    Construct(
        "ALiBi from the number of heads",
        lambda: Separate(change=alibi),
        X,
        {"q.weight[0]": "6", "v.weight[0]": "6"},
    ),
    Construct(
        "rotation of halves",
        lambda: Separate(change=rotated(halves), **tables()),
        X,
        {"q.weight[0]": "heads 4, head_dim 3"},
    ),
    Construct(
        "rotation of halves by slices",
        lambda: Separate(change=rotated(halves_by_slices), **tables()),
        X,
        {"q.weight[0]": "heads 4, head_dim 3"},
    ),
    Construct(
        "rotation of pairs", lambda: Separate(change=rotated(pairs), **tables()), X, {"q.weight[0]": "heads 4, 3"}
    ),
    Construct(
        "rotation of pairs by view",
        lambda: Separate(change=rotated(pairs_by_view), **tables()),
        X,
        {"q.weight[0]": "heads 4, 3"},
    ),
    Construct(
        "rotation of pairs as complex numbers",
        lambda: Separate(change=rotated(pairs_as_complex), **tables()),
        X,
        {"q.weight[0]": "heads 4, 3"},
    ),
    Construct(
        "partial rotation",
        lambda: Separate(change=rotated(halves, share=0.5), rotary=4, **tables(2)),
        X,
        {"q.weight[0]": "heads 4, head_dim 2, 2"},
    ),
    Construct(
        "rotation counted from head_dim",
        lambda: Separate(change=computed),
        X,
        {"q.weight[0]": "heads 4", "v.weight[0]": "heads 4"},
    ),
    Construct(
        "rotation by a module",
        lambda: Separate(change=by_module, rotary=Rotary(3)),
        X,
        {"q.weight[0]": "heads 4, head_dim 3"},
    ),
    Construct(
        "sinusoids counted from the width",
        through(sinusoids),
        X,
        {"next.weight[0]": "10"},
        {"first.weight[0]": "numbered"},
    ),
    Construct(
        "sinusoids in a buffer",
        through(lambda m, x: x + m.pos, pos=lambda: torch.randn(1, 4, 12)),
        X,
        {"first.weight[0]": "12"},
    ),
    Construct(
        "table of positions",
        through(lambda m, x: x + m.pos[:, : x.shape[1]], pos=lambda: param(1, 9, 12)),
        X,
        {"first.weight[0]": "12", "pos[2]": "12"},
    ),
    Construct(
        "embedding of positions",
        through(lambda m, x: x + m.pos(torch.arange(x.shape[1])), pos=lambda: nn.Embedding(9, 12)),
        X,
        {"pos.weight[1]": "12"},
        {"pos.weight[0]": "looked up by index"},
    ),
    Construct(
        "class token and registers",
        through(
            class_token,
            cls=lambda: param(1, 1, 12),
            registers=lambda: param(1, 2, 12),
            pos=lambda: param(1, 7, 12),
            norm=lambda: nn.LayerNorm(12),
        ),
        X,
        {"cls[2]": "12", "registers[2]": "12", "pos[2]": "12"},
        {"registers[1]": "", "pos[1]": ""},
    ),
    Construct(
        "rows and columns side by side",
        through(sides, rows=lambda: param(5, 6), columns=lambda: param(5, 6)),
        IMAGE,
        {"first.weight[0]": "6, 6", "rows[1]": "6", "columns[1]": "6"},
    ),
    Construct("shifted windows", through(windows, size=2, attn=Inside), IMAGE, INSIDE),
    Construct("grid", through(grid, size=2, attn=Inside), IMAGE, INSIDE),
    Construct(
        "patch merging",
        through(merging, out=24, norm=lambda: nn.LayerNorm(48), reduce=lambda: nn.Linear(48, 24, bias=False)),
        IMAGE,
        {"first.weight[0]": "12", "norm.weight[0]": "12", "reduce.weight[0]": "24"},
    ),
    Construct(
        "patch merging by view",
        through(merging_by_view, out=24, norm=lambda: nn.LayerNorm(48), reduce=lambda: nn.Linear(48, 24, bias=False)),
        IMAGE,
        {"first.weight[0]": "12", "norm.weight[0]": "12", "reduce.weight[0]": "24"},
    ),
    Construct(
        "mixing of tokens",
        through(mixing, up=lambda: nn.Linear(4, 9), down=lambda: nn.Linear(9, 4)),
        X,
        {"first.weight[0]": "12", "up.weight[0]": "9"},
        {"up.weight[1]": "interface", "down.weight[0]": "interface"},
    ),
]
