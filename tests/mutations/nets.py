"""Small networks, one per construct, with what must be elastic in each: the controls of the mutation tests.

`NETS` maps a name to a `Net`: a factory, the shapes of its inputs, and the sizes of the axes that elastify finds in the
unmutated library (sorted; a test compares them, so that a mutation cannot hide behind an axis that never was there).
Widths are small; equal sizes are put together on purpose where a mutation needs two dimensions that can be confused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Net:
    make: Callable[[], nn.Module]
    axes: tuple[int, ...]
    shape: tuple[int, ...] = (2, 6)
    vocabulary: int = 0
    stages: tuple[int, ...] = ()

    def example(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        if self.vocabulary:
            return torch.randint(self.vocabulary, self.shape, generator=generator)
        return torch.randn(self.shape, generator=generator)


class Fn(nn.Module):
    """A module with parts and a function of (self, x) as its forward."""

    def __init__(self, forward: Callable[[Fn, Tensor], Tensor], **parts: object) -> None:
        super().__init__()
        self.function = [forward]
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function[0](self, x)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3))


def residual() -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        y = torch.relu(m.a(x))
        return m.c(y + torch.relu(m.b(y)))

    return Fn(forward, a=nn.Linear(6, 10), b=nn.Linear(10, 10), c=nn.Linear(10, 3))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.LayerNorm(10), nn.ReLU(), nn.Linear(10, 3))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    )


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 9, 3, groups=3), nn.GroupNorm(3, 9), nn.ReLU(), nn.Conv2d(9, 4, 1)
    )


def conv_groups() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 12, 1), nn.ReLU(), nn.Conv2d(12, 6, 1, groups=3), nn.ReLU(), nn.Conv2d(6, 4, 1))


def depthwise() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 6, 1), nn.ReLU(), nn.Conv1d(6, 18, 3, groups=6), nn.ReLU(), nn.Conv1d(18, 4, 1))


def transposed() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), nn.ConvTranspose1d(8, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 1))


def dense() -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        a = torch.relu(m.a(x))
        b = torch.relu(m.b(a))
        return m.d(torch.cat([a, b, torch.relu(m.c(torch.cat([a, b], 1)))], 1))

    return Fn(forward, a=nn.Linear(6, 8), b=nn.Linear(8, 4), c=nn.Linear(12, 4), d=nn.Linear(16, 3))


def gated() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 20), nn.GLU(), nn.Linear(10, 3))


def gated_by_split() -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        a, b = m.a(x).split([m.left, m.right], -1)
        return m.b(torch.relu(a)) + m.c(torch.tanh(b))

    return Fn(forward, a=nn.Linear(6, 16), b=nn.Linear(8, 3), c=nn.Linear(8, 3), left=8, right=8)


def shuffled() -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        y = torch.relu(m.b(torch.channel_shuffle(torch.relu(m.a(x)), m.groups)))
        return m.c(y)

    return Fn(forward, a=nn.Conv2d(3, 9, 1), b=nn.Conv2d(9, 6, 1, groups=3), c=nn.Conv2d(6, 4, 1), groups=3)


def pixels() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 1), nn.PixelShuffle(2), nn.PReLU(4), nn.Conv2d(4, 3, 1))


def tokens() -> nn.Module:
    return nn.Sequential(nn.Embedding(12, 12), nn.LayerNorm(12), nn.Linear(12, 5))


class Attention(nn.Module):
    """Fused qkv; as many heads as units per head, so that the two can be confused."""

    def __init__(self, width: int = 16, heads: int = 4, out: int = 3) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.scale = self.head_dim**-0.5
        self.embed, self.qkv, self.proj = nn.Linear(6, 12), nn.Linear(12, 3 * width), nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        x = torch.tanh(self.embed(x))
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))


class SplitAttention(nn.Module):
    """Separate q, k, v with the fused kernel; rotary halves or pairs, or grouped queries, on request."""

    def __init__(self, *, rotary: str = "", heads: int = 4, times: int = 1) -> None:
        super().__init__()
        self.num_heads, self.kv_heads, self.head_dim, self.rotary, self.times = heads * times, heads, 4, rotary, times
        self.grouped = times > 1
        self.q, self.k = nn.Linear(6, 4 * self.num_heads), nn.Linear(6, heads * 4)
        self.v, self.proj = nn.Linear(6, heads * 4), nn.Linear(4 * self.num_heads, 3)

    def split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], heads, self.head_dim).transpose(1, 2)

    def rotate(self, x: Tensor) -> Tensor:
        if self.rotary == "halves":
            a, b = x.chunk(2, -1)
            turned = torch.cat([-b, a], -1)
        else:
            turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        return x.cos() * 0.5 + turned

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            self.split(self.q(x), self.num_heads),
            self.split(self.k(x), self.kv_heads),
            self.split(self.v(x), self.kv_heads),
        )
        if self.rotary:
            q, k = self.rotate(q), self.rotate(k)
        if self.grouped:
            k, v = k.repeat_interleave(self.times, 1), v.repeat_interleave(self.times, 1)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class Positional(nn.Module):
    """A patch embedding with a table of positions, then token mixing by attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.mix, self.head = nn.Conv2d(3, 10, 2, 2), nn.Linear(10, 10), nn.Linear(10, 3)
        self.pos = nn.Parameter(torch.randn(1, 16, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.pos
        x = x + (x @ x.transpose(1, 2)).softmax(-1) @ self.mix(x)
        return self.head(torch.tanh(x.mean(1)))


def matmuls() -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        return torch.relu(torch.tanh(x @ m.a) @ m.b) @ m.c

    return Fn(
        forward, **{n: nn.Parameter(torch.randn(s)) for n, s in (("a", (6, 10)), ("b", (10, 10)), ("c", (10, 3)))}
    )


def einsums() -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        y = torch.tanh(torch.einsum("bi,io->bo", x, m.a))
        return torch.einsum("bi,ij,jk->bk", y, m.b, m.c)

    return Fn(
        forward, **{n: nn.Parameter(torch.randn(s)) for n, s in (("a", (6, 10)), ("b", (10, 10)), ("c", (10, 3)))}
    )


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, *, both: bool = False, layers: int = 1) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 7)
        self.rnn = kind(7, 5, num_layers=layers, batch_first=True, bidirectional=both)
        self.head = nn.Linear(10 if both else 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(torch.tanh(self.embed(x)))[0])


class Tied(nn.Module):
    """Two names for one weight of the stem; the embedding is tied to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(11, 10), nn.Linear(10, 10), nn.Linear(10, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + torch.tanh(self.body(x)))


class Block(nn.Module):
    def __init__(self, width: int, *, square: bool = True) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, width)
        self.square = square

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.fc(self.norm(x)))
        return x + y if self.square else y


class Down(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fc(x))


def deep() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.Sequential(Block(8), Block(8), Block(8), Down(8, 12), Down(12, 8), Block(8)),
        nn.Linear(8, 3),
    )


def through(op: Callable[[Tensor], Tensor], width: int = 10, out: int = 10) -> Callable[[], nn.Module]:
    """Linear, `op` on its output, Linear."""
    return lambda: Fn(lambda m, x: m.b(op(torch.tanh(m.a(x)))), a=nn.Linear(6, width), b=nn.Linear(out, 3))


def second(op: Callable[[Tensor, Tensor], Tensor], width: int = 10) -> Callable[[], nn.Module]:
    """Two branches joined by `op`, then Linear."""
    return lambda: Fn(
        lambda m, x: m.c(op(torch.tanh(m.a(x)), torch.tanh(m.b(x)))),
        a=nn.Linear(6, width), b=nn.Linear(6, width), c=nn.Linear(width, 3),
    )  # fmt: skip


def written(x: Tensor, y: Tensor) -> Tensor:
    z = torch.zeros_like(x)
    z[:] = y
    return x + z


def joined(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x, y], -1).amax(-1)


def square(x: Tensor) -> Tensor:
    return (x.softmax(1).transpose(1, 2) * 3).relu()


def numbered(m: Fn, x: Tensor) -> Tensor:
    return m.b(torch.tanh(m.a(x)).view(2, 4, 3).amax(2))


def first_units() -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        y = torch.tanh(m.a(x))
        return m.b(torch.cat([y[:, m.cut :], y[:, : m.cut]], 1)) + m.c(y)

    return Fn(forward, a=nn.Linear(6, 10), b=nn.Linear(10, 3), c=nn.Linear(10, 3), cut=5)


class TwoHeads(nn.Module):
    """Queries, keys and values are cut into two heads each, by numbers that nothing compares; a table of biases."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 2))
        self.register_buffer("index", torch.arange(5)[:, None] - torch.arange(5)[None] + 4)
        self.q_heads, self.k_heads, self.v_heads = 2, 2, 2
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8)
        self.proj = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.q_heads, -1)).transpose(1, 2)
        k = self.k(x).unflatten(-1, (self.k_heads, -1)).transpose(1, 2)
        v = self.v(x).unflatten(-1, (self.v_heads, -1)).transpose(1, 2)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.table[self.index].permute(2, 0, 1))
        return self.proj(x.transpose(1, 2).flatten(2))


def halved() -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        y = torch.tanh(m.a(x))
        half = y.shape[1] // 2
        return m.b(y[:, :half]) + m.c(y[:, half:])

    return Fn(forward, a=nn.Linear(6, 10), b=nn.Linear(5, 3), c=nn.Linear(5, 3))


def first_four() -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        y = torch.tanh(m.a(x))
        return m.b(y[:, :4]) + m.c(y[:, 4:])

    return Fn(forward, a=nn.Linear(6, 10), b=nn.Linear(4, 3), c=nn.Linear(6, 3))


def one_unit() -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        y = torch.tanh(m.a(x))
        return m.b(y) * y[:, 0, None]

    return Fn(forward, a=nn.Linear(6, 10), b=nn.Linear(10, 3))


def permuted() -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        y = torch.tanh(m.a(x))
        return m.b(y + y[:, m.order])

    module = Fn(forward, a=nn.Linear(6, 10), b=nn.Linear(10, 3))
    module.register_buffer("order", torch.arange(10).flip(0))
    return module


NETS = {
    "mlp": Net(mlp, (10, 10)),
    "residual": Net(residual, (10,)),
    "normed": Net(normed, (10,)),
    "conv": Net(conv, (8, 8), (2, 3, 8, 8)),
    "grouped": Net(grouped, (3, 3, 4), (2, 3, 6, 6)),
    "conv_groups": Net(conv_groups, (2, 3, 4), (2, 3, 4, 4)),
    "depthwise": Net(depthwise, (3, 6), (2, 3, 7)),
    "transposed": Net(transposed, (8, 8), (2, 3, 7)),
    "dense": Net(dense, (4, 4, 8)),
    "gated": Net(gated, (10,)),
    "gated_by_split": Net(gated_by_split, (8, 8)),
    "shuffled": Net(shuffled, (2, 3, 3), (2, 3, 5, 5)),
    "pixels": Net(pixels, (4,), (2, 3, 3, 3)),
    "tokens": Net(tokens, (12,), (2, 5), vocabulary=12),
    "attention": Net(Attention, (4, 4, 12), (2, 5, 6)),
    "sdpa": Net(SplitAttention, (4, 4), (2, 5, 6)),
    "rotary": Net(lambda: SplitAttention(rotary="halves"), (2, 4), (2, 5, 6)),
    "interleaved": Net(lambda: SplitAttention(rotary="pairs"), (2, 4), (2, 5, 6)),
    "queries": Net(lambda: SplitAttention(heads=2, times=3), (2, 3, 4), (2, 5, 6)),
    "halved": Net(halved, (5,)),
    "positional": Net(Positional, (10,), (2, 3, 8, 8)),
    "matmuls": Net(matmuls, (10, 10)),
    "einsums": Net(einsums, (10, 10)),
    "lstm": Net(Recurrent, (5, 7), (2, 4, 6)),
    "gru": Net(lambda: Recurrent(nn.GRU), (5, 7), (2, 4, 6)),
    "both": Net(lambda: Recurrent(both=True, layers=2), (5, 7), (2, 4, 6)),
    "tied": Net(Tied, (10,), (2, 5), vocabulary=11),
    "deep": Net(deep, (8, 8, 12), stages=(3,)),
    "cumsum": Net(through(lambda x: x.cumsum(-1)), ()),
    "flip": Net(through(lambda x: x.flip(-1)), ()),
    "roll": Net(through(lambda x: x.roll(1, -1)), ()),
    "sort": Net(through(lambda x: x.sort(-1)[0]), ()),
    "tril": Net(through(lambda x: x.tril()), ()),
    "cut": Net(first_units, (5, 5)),
    "literal": Net(lambda: Fn(numbered, a=nn.Linear(6, 12), b=nn.Linear(4, 3)), ()),
    "picked": Net(lambda: Fn(lambda m, x: m.b(torch.tanh(m.a(x))) + torch.tanh(m.a(x))[:, :1],
                             a=nn.Linear(6, 10), b=nn.Linear(10, 3)), (9,)),
    "square": Net(through(square, 4, 4), (), (2, 4, 6)),
    "two": Net(second(torch.add, 2), (2,)),
    "two_heads": Net(TwoHeads, (2, 4, 4), (2, 5, 6)),
    "first_four": Net(first_four, (6,)),
    "one_unit": Net(one_unit, ()),
    "permuted": Net(permuted, ()),
    "written": Net(second(written), (10,)),
    "joined": Net(second(joined), (10,)),
    "unknown": Net(second(lambda x, y: torch.special.hermite_polynomial_h(x, 2) * y), ()),
}  # fmt: skip
