"""Pieces for sequences: attention of all kinds, recurrence, token mixing, ways to images and vectors."""

from __future__ import annotations

from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .pieces import composite, divisor, divisors, fit, piece, width

HEADS = (2, 3, 4)
DIMS = (2, 3, 4, 5, 6)


def rotate_half(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


@piece("btc", weight=4)
class Attention(nn.Module):
    """Self-attention: how q, k and v come out of one layer, and what is done with them, are drawn."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        tokens, channels = shape
        self.num_heads, self.head_dim = rng.choice(HEADS), rng.choice(DIMS)
        if rng.random() < 0.3 and divisors(channels):
            self.num_heads = divisor(rng, channels)
            self.head_dim = channels // self.num_heads
        inner = self.num_heads * self.head_dim
        self.inner, self.scale = inner, self.head_dim**-0.5
        self.style = rng.choice(["reshape", "chunk", "split", "unbind", "separate", "slices", "heads first"])
        self.core = rng.choice(["sdpa", "softmax", "einsum"])
        if self.style == "separate":
            self.q, self.k, self.v = (nn.Linear(channels, inner, bias=rng.random() < 0.5) for _ in range(3))
        else:
            self.qkv = nn.Linear(channels, 3 * inner, bias=rng.random() < 0.5)
        self.proj = nn.Linear(inner, channels)
        self.norm = nn.LayerNorm(self.head_dim) if rng.random() < 0.2 else nn.Identity()
        self.table = nn.Parameter(torch.zeros(self.num_heads, tokens, tokens)) if rng.random() < 0.2 else None
        self.talk = nn.Linear(self.num_heads, self.num_heads) if rng.random() < 0.15 else None
        self.head_scale = nn.Parameter(torch.ones(self.num_heads, 1, 1)) if rng.random() < 0.15 else None
        rotary = rng.random() < 0.25 and self.head_dim % 2 == 0
        angles = torch.outer(torch.arange(tokens), 0.5 ** torch.arange(self.head_dim // 2)) if rotary else None
        self.register_buffer("angles", angles)
        self.residual = rng.random() < 0.6

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        B, T, _ = x.shape
        if self.style == "separate":
            q, k, v = self.q(x), self.k(x), self.v(x)
        elif self.style == "reshape":
            qkv = self.qkv(x).reshape(B, T, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
            return qkv[0], qkv[1], qkv[2]
        elif self.style == "unbind":
            q, k, v = self.qkv(x).view(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            return q, k, v
        elif self.style == "heads first":
            qkv = self.qkv(x).view(B, T, self.num_heads, 3 * self.head_dim).transpose(1, 2)
            q, k, v = qkv.chunk(3, dim=-1)
            return q, k, v
        elif self.style == "chunk":
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        elif self.style == "split":
            q, k, v = self.qkv(x).split(self.inner, dim=-1)
        else:
            y = self.qkv(x)
            q, k, v = y[..., : self.inner], y[..., self.inner : 2 * self.inner], y[..., 2 * self.inner :]
        q, k, v = (y.view(B, T, self.num_heads, self.head_dim).transpose(1, 2) for y in (q, k, v))
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = self.heads(x)
        q, k = self.norm(q), self.norm(k)
        if self.angles is not None:
            cos, sin = torch.cat([self.angles] * 2, -1).cos(), torch.cat([self.angles] * 2, -1).sin()
            q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        if self.core == "sdpa" and self.talk is None:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.table)
        else:
            logits = torch.einsum("bhqd,bhkd->bhqk", q, k) if self.core == "einsum" else q @ k.transpose(-2, -1)
            logits = logits * self.scale
            if self.table is not None:
                logits = logits + self.table
            if self.talk is not None:
                logits = self.talk(logits.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            weights = logits.softmax(dim=-1)
            y = torch.einsum("bhqk,bhkd->bhqd", weights, v) if self.core == "einsum" else weights @ v
        if self.head_scale is not None:
            y = y * self.head_scale
        y = self.proj(y.transpose(1, 2).reshape(B, T, -1))
        return x + y if self.residual else y


@piece("btc")
class GroupedQuery(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.kv, self.groups, self.head_dim = rng.choice([1, 2, 3]), rng.choice([2, 3]), rng.choice(DIMS)
        self.num_heads, self.style = self.kv * self.groups, rng.choice(["gqa", "interleave", "expand"])
        self.q = nn.Linear(shape[1], self.num_heads * self.head_dim)
        self.k, self.v = (nn.Linear(shape[1], self.kv * self.head_dim, bias=False) for _ in range(2))
        self.o = nn.Linear(self.num_heads * self.head_dim, shape[1])

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.style == "gqa":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            if self.style == "interleave":
                k, v = k.repeat_interleave(self.groups, 1), v.repeat_interleave(self.groups, dim=1)
            else:
                B, n, T, d = k.shape
                k = k[:, :, None].expand(B, n, self.groups, T, d).reshape(B, n * self.groups, T, d)
                v = v[:, :, None].expand(B, n, self.groups, T, d).reshape(B, n * self.groups, T, d)
            y = F.scaled_dot_product_attention(q, k, v)
        return x + self.o(y.transpose(1, 2).reshape(*x.shape[:-1], -1).contiguous())


@piece("btc")
class MultiHead(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(shape[1], divisor(rng, shape[1]), batch_first=True, bias=rng.random() < 0.7)
        self.need = rng.random() < 0.3

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(x, x, x, need_weights=self.need)[0]


@piece("btc")
class Encoder(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        first, heads = rng.random() < 0.5, divisor(rng, shape[1])
        layer = nn.TransformerEncoderLayer(shape[1], heads, width(rng), batch_first=True, norm_first=first, dropout=0.0)
        self.layers = nn.TransformerEncoder(layer, rng.choice([1, 2]), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@piece("btc")
class EncoderBlocks(nn.Module):
    """Attention and MLP blocks in a list."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        heads, hidden, count = rng.choice(HEADS), width(rng), rng.choice([2, 3])
        dim = heads * rng.choice(DIMS)
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(shape[1]) for _ in range(count))
        self.qkv = nn.ModuleList(nn.Linear(shape[1], 3 * dim) for _ in range(count))
        self.proj = nn.ModuleList(nn.Linear(dim, shape[1]) for _ in range(count))
        self.up, self.down = nn.Linear(shape[1], hidden), nn.Linear(hidden, shape[1])  # shared by all blocks

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        for norm, qkv, proj in zip(self.norms, self.qkv, self.proj, strict=True):
            q, k, v = qkv(norm(x)).reshape(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + proj(y)
            x = x + self.down(torch.relu(self.up(x)))
        return x


@piece("btc", weight=2)
class Recurrent(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        kind = rng.choice([nn.LSTM, nn.GRU, nn.RNN])
        both, layers = rng.random() < 0.5, rng.choice([1, 1, 2])
        self.rnn = kind(shape[1], width(rng), layers, batch_first=True, bidirectional=both)
        self.fc = nn.Linear(self.rnn.hidden_size * (2 if both else 1), shape[1]) if rng.random() < 0.5 else None

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        return y if self.fc is None else x + self.fc(y)


@piece("btc")
class CellLoop(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        fit(shape[0] >= 2)
        self.lstm, self.size = rng.random() < 0.5, width(rng)
        self.cell = (nn.LSTMCell if self.lstm else nn.GRUCell)(shape[1], self.size)

    def forward(self, x: Tensor) -> Tensor:
        h, c = x.new_zeros(x.shape[0], self.size), x.new_zeros(x.shape[0], self.size)
        found = []
        for t in range(2):
            if self.lstm:
                h, c = self.cell(x[:, t], (h, c))
            else:
                h = self.cell(x[:, t], h)
            found.append(h)
        return torch.stack(found, dim=1)


@piece("btc", weight=3)
class Scan(nn.Module):
    """A state-space scan written as a loop."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        fit(shape[0] <= 6)
        self.state, self.inner = rng.choice([2, 3, 4]), width(rng)
        self.inp, self.out = nn.Linear(shape[1], 2 * self.inner), nn.Linear(self.inner, shape[1])
        self.bc = nn.Linear(self.inner, 2 * self.state)
        self.log = nn.Parameter(torch.randn(self.inner, self.state))
        self.skip = nn.Parameter(torch.ones(self.inner))

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.inp(x).chunk(2, dim=-1)
        b, c = self.bc(u).split([self.state, self.state], dim=-1)
        a = torch.exp(-F.softplus(self.log))
        h, found = torch.zeros(x.shape[0], self.inner, self.state), []
        for t in range(x.shape[1]):
            h = h * a + torch.einsum("bi,bs->bis", u[:, t], b[:, t])
            found.append(torch.einsum("bis,bs->bi", h, c[:, t]))
        return self.out((torch.stack(found, 1) + u * self.skip) * F.silu(gate))


@piece("btc")
class TokenMix(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape[1])
        hidden = width(rng)
        self.up, self.down = nn.Linear(shape[0], hidden), nn.Linear(hidden, shape[0])

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x).transpose(1, 2)
        return x + self.down(F.gelu(self.up(y))).transpose(1, 2)


@piece("btc")
class Position(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, *shape)) if rng.random() < 0.5 else None
        self.embed = nn.Embedding(*shape) if self.table is None else None

    def forward(self, x: Tensor) -> Tensor:
        if self.embed is not None:
            return x + self.embed(torch.arange(x.shape[1], device=x.device))
        return x + self.table


@piece("btc")
class ClassToken(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        fit(shape[0] <= 14)
        self.token = nn.Parameter(torch.randn(1, 1, shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)


@piece("btc")
class InTime(nn.Module):
    """The order of time may matter: it is fixed anyway."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.style = rng.choice(["flip", "cumsum", "shift", "diff"])

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "flip":
            return torch.flip(x, dims=[1])
        if self.style == "cumsum":
            return torch.cumsum(x, dim=1) / x.size(1)
        if self.style == "shift":
            return F.pad(x, (0, 0, 1, 0))[:, :-1]
        return torch.cat([x[:, :1], x[:, 1:] - x[:, :-1]], dim=1)


@piece("btc")
class TimeConv(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(shape[1], shape[1], 3, padding=1, groups=shape[1])
        self.point = nn.Linear(shape[1], width(rng))

    def forward(self, x: Tensor) -> Tensor:
        return self.point(F.silu(self.conv(x.transpose(1, 2)).transpose(1, 2)))


@piece("btc")
class LinearAttention(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.heads, dim = rng.choice(HEADS), rng.choice(DIMS)
        self.qkv, self.out = nn.Linear(shape[1], 3 * self.heads * dim), nn.Linear(self.heads * dim, shape[1])

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = (y.reshape(B, T, self.heads, -1) for y in self.qkv(x).chunk(3, -1))
        q, k = q.softmax(-1), k.softmax(1)
        context = torch.einsum("bthd,bthe->bhde", k, v)
        return self.out(torch.einsum("bthd,bhde->bthe", q, context).flatten(2))


@piece("btc")
class Windows(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.window = divisor(rng, shape[0])
        self.shift = rng.random() < 0.5
        self.attn = Attention(rng, (self.window, shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        if self.shift:
            x = torch.roll(x, shifts=-1, dims=1)
        y = self.attn(x.view(B, T // self.window, self.window, C).reshape(-1, self.window, C))
        y = y.view(B, -1, self.window, C).reshape(B, T, C)
        return torch.roll(y, 1, 1) if self.shift else y


@piece("btc")
class Latents(nn.Module):
    """A few learned queries look at the sequence."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.heads = rng.choice(HEADS)
        inner = self.heads * rng.choice(DIMS)
        self.queries = nn.Parameter(torch.randn(rng.choice([2, 3, 5]), inner))
        self.kv, self.out = nn.Linear(shape[1], 2 * inner), nn.Linear(inner, width(rng))

    def forward(self, x: Tensor) -> Tensor:
        B = x.shape[0]
        k, v = self.kv(x).chunk(2, dim=-1)
        q = self.queries.unsqueeze(0).expand(B, -1, -1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@piece("btc", gives="bc", weight=2)
class Pooled(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.style = rng.choice(["mean", "last", "max", "weights"])
        self.score = nn.Linear(shape[1], 1) if self.style == "weights" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.score is not None:
            return (self.score(x).softmax(dim=1) * x).sum(dim=1)
        if self.style == "last":
            return x[:, -1]
        return x.mean(1) if self.style == "mean" else x.max(dim=1)[0]


@piece("btc", gives="bc")
class Gram(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        fit(shape[1] <= 12)
        self.bottle = rng.random() < 0.5
        self.fc = nn.Linear(shape[1] if self.bottle else shape[1] ** 2, width(rng))

    def forward(self, x: Tensor) -> Tensor:
        gram = torch.bmm(x.transpose(1, 2), x) / x.shape[1]
        return self.fc(gram.softmax(-1).sum(1) if self.bottle else gram.flatten(1))


@piece("btc", gives="bc")
class FlatTokens(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.view = rng.random() < 0.5
        self.fc = nn.Linear(shape[0] * shape[1], width(rng))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.reshape(x.size(0), -1) if self.view else x.flatten(start_dim=1))


@piece("btc", gives="bct")
class ToSignal(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous()


@piece("btc", gives="bchw")
class ToImage(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.height, self.unflatten = divisor(rng, shape[0]), rng.random() < 0.5
        self.width = shape[0] // self.height

    def forward(self, x: Tensor) -> Tensor:
        if self.unflatten:
            return x.unflatten(1, (self.height, self.width)).permute(0, 3, 1, 2)
        return x.transpose(1, 2).reshape(x.shape[0], -1, self.height, self.width)


@piece("bc", gives="btc", weight=2)
class ToTokens(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.tokens, channels = rng.choice([3, 4, 6]), rng.choice([3, 4, 5, 6, 8])
        self.fc = nn.Linear(shape[0], self.tokens * channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).view(x.shape[0], self.tokens, -1)


@piece("bc", gives="btc")
class ChannelsAsTokens(nn.Module):
    """Every channel becomes a token: its own units, mixed by attention."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(shape[0], width(rng)))

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-1) * self.embed


@piece("bc")
class Outer(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        a, b = rng.choice([3, 4, 5]), rng.choice([2, 3, 4])
        self.a, self.b, self.fc = nn.Linear(shape[0], a), nn.Linear(shape[0], b), nn.Linear(a * b, width(rng))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.a(x).unsqueeze(2) * self.b(x).unsqueeze(1)).flatten(1))


@piece("bc")
class Composite(nn.Module):
    """A vector seen as heads, each with a matrix of its own."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        total = composite(rng)
        self.heads = divisor(rng, total)
        self.fc = nn.Linear(shape[0], total)
        dim = total // self.heads
        self.weight = nn.Parameter(torch.randn(self.heads, dim, rng.choice([2, 3, 5])) / dim**0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x).view(-1, self.heads, self.weight.shape[1])
        return torch.einsum("bhd,hde->bhe", y, self.weight).flatten(1)
