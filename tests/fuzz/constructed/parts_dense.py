"""Parts with channels last: stems and heads, linear layers, gates, experts, shared weights, recurrent layers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .nodes import WIDTHS, Part, part

ACTS = {"act": ("relu", "gelu", "silu", "tanh", "softplus", "elu")}
LAST = "btc bc"


@part("x", "btc", out="out", out_size=(0,))
class LinearStem(Part):
    LAYERS: ClassVar = {"fc": "out, 5"}

    def __init__(self, out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(5, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@part("ids", "btc", out="out", out_size=(0,))
class IdsStem(Part):
    LAYERS: ClassVar = {"embed": "13, out"}

    def __init__(self, out: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x)


@part("vector", "bc", out="out", out_size=(0,))
class VectorStem(LinearStem):
    pass


@part("image", "bchw", out="out", out_size=(0,))
class ImageStem(Part):
    LAYERS: ClassVar = {"conv": "out, 3"}

    def __init__(self, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@part("signal", "bct", out="out", out_size=(0,))
class SignalStem(Part):
    LAYERS: ClassVar = {"conv": "out, 3"}

    def __init__(self, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Head(Part):
    """The mean over places (`dims`), and a classifier."""

    LAYERS: ClassVar = {"fc": "3, width"}

    def __init__(self, width: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims, self.fc = dims, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean(self.dims) if self.dims else x)


part("btc bc bct bchw", "end", options={"dims": ((),)})(Head)


@part(LAST, hidden=WIDTHS, options={**ACTS, "norm": ("LayerNorm", "RMSNorm", ""), "gain": (True, False)})
class Mlp(Part):
    LAYERS: ClassVar = {"norm": "width", "up": "hidden, width", "down": "width, hidden", "gamma": "width"}

    def __init__(self, width: int, hidden: int, act: str, norm: str, gain: bool) -> None:
        super().__init__()
        self.norm = getattr(nn, norm)(width) if norm else None
        self.up, self.down, self.act = nn.Linear(width, hidden), nn.Linear(hidden, width), act
        self.gamma = nn.Parameter(torch.ones(width)) if gain else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x) if self.norm is not None else x
        y = self.down(getattr(F, self.act)(self.up(y)))
        return x + (y if self.gamma is None else self.gamma * y)


@part(LAST, out="out", out_size=WIDTHS, options={**ACTS, "bias": (True, False)})
class Plain(Part):
    LAYERS: ClassVar = {"fc": "out, width"}

    def __init__(self, width: int, out: int, act: str, bias: bool) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(width, out, bias=bias), act

    def forward(self, x: Tensor) -> Tensor:
        return getattr(F, self.act)(self.fc(x))


@part(LAST, hidden=WIDTHS, options={"style": ("glu", "chunk", "split", "slice", "unflatten")})
class Gated(Part):
    LAYERS: ClassVar = {"up": "hidden + hidden, width", "down": "width, hidden"}

    def __init__(self, width: int, hidden: int, style: str) -> None:
        super().__init__()
        self.hidden, self.style = hidden, style
        self.up, self.down = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        if self.style == "glu":
            return x + self.down(F.glu(y, dim=-1))
        if self.style == "chunk":
            a, b = y.chunk(2, dim=-1)
        elif self.style == "split":
            a, b = y.split(self.hidden, dim=-1)
        elif self.style == "slice":
            a, b = y[..., : self.hidden], y[..., self.hidden :]
        else:
            a, b = y.unflatten(-1, (2, -1)).unbind(-2)
        return x + self.down(F.silu(a) * b)


@part(LAST, out="a + b", a=WIDTHS, b=WIDTHS, options={"skip": (True, False)})
class Branches(Part):
    LAYERS: ClassVar = {"one": "a, width", "two": "b, width", "norm": "a + b"}

    def __init__(self, width: int, a: int, b: int, skip: bool) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(width, a), nn.Linear(width, b), nn.LayerNorm(a + b)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(torch.cat([self.one(x), torch.tanh(self.two(x))], dim=-1))
        return y * torch.sigmoid(y) if self.skip else y


@part(LAST, out="width + grow", grow=WIDTHS)
class Joined(Part):
    LAYERS: ClassVar = {"fc": "grow, width"}

    def __init__(self, width: int, grow: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, grow)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, F.relu(self.fc(x))], -1)


@part(LAST, out="out", rank=WIDTHS, out_size=WIDTHS)
class LowRank(Part):
    LAYERS: ClassVar = {"down": "rank, width", "up": "out, rank"}

    def __init__(self, width: int, rank: int, out: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


@part(LAST, a=WIDTHS, b=WIDTHS, options={"whole": (True, False)})
class Fused(Part):
    """One matrix makes parts of different sizes."""

    LAYERS: ClassVar = {"proj": "a + b + b, width", "out": "width, a + b"}

    def __init__(self, width: int, a: int, b: int, whole: bool) -> None:
        super().__init__()
        self.sizes = [a, b, b] if whole else None
        self.a, self.b = a, b
        self.proj, self.out = nn.Linear(width, a + 2 * b), nn.Linear(a + b, width)

    def forward(self, x: Tensor) -> Tensor:
        y, u, v = torch.split(self.proj(x), self.sizes or [self.a, self.b, self.b], dim=-1)
        return x + self.out(torch.cat((F.gelu(y), u * torch.tanh(v)), dim=-1))


@part(LAST, experts=(3, 4), hidden=(5, 6, 8))
class Experts(Part):
    LAYERS: ClassVar = {"router": "experts, width", "up": "experts, hidden, width", "down": "experts, width, hidden"}

    def __init__(self, width: int, experts: int, hidden: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.up = nn.Parameter(torch.randn(experts, hidden, width))
        self.down = nn.Parameter(torch.randn(experts, width, hidden))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(torch.einsum("...c,ehc->...eh", x, self.up))
        y = torch.einsum("...eh,ech->...ec", y, self.down)
        return x + (self.router(x).softmax(-1).unsqueeze(-1) * y).sum(-2)


@part(LAST, hidden=WIDTHS, options={"twice": (True, False)})
class Tied(Part):
    """A matrix used there and back, or by two modules."""

    LAYERS: ClassVar = {"a": "hidden, width", "b": "hidden, width", "back": "width, hidden"}

    def __init__(self, width: int, hidden: int, twice: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden) if twice else None
        self.back = nn.Linear(hidden, width) if twice else None
        if self.b is not None:
            self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.b is None or self.back is None:
            return x + torch.tanh(self.a(x)) @ self.a.weight
        return x + self.back(torch.tanh(self.a(x)) * self.b(x))


@part(LAST, words=(7, 11))
class TiedTable(Part):
    """Words are looked at, and given back, in one table."""

    LAYERS: ClassVar = {"table": "words, width"}

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.table = nn.Embedding(words, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.linear(x, self.table.weight).softmax(-1) @ self.table.weight


@part("btc", out="hidden + hidden", hidden=WIDTHS, options={"layers": (1, 2), "kind": ("LSTM", "GRU", "RNN")})
class TwoWays(Part):
    LAYERS: ClassVar = {"rnn": "hidden, width"}

    def __init__(self, width: int, hidden: int, layers: int, kind: str) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(width, hidden, layers, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


@part("btc", hidden=WIDTHS, options={"layers": (1, 2), "kind": ("LSTM", "GRU"), "start": (True, False)})
class Recurrent(Part):
    LAYERS: ClassVar = {"rnn": "hidden, width", "out": "width, hidden"}

    def __init__(self, width: int, hidden: int, layers: int, kind: str, start: bool) -> None:
        super().__init__()
        self.hidden, self.layers, self.start = hidden, layers, start
        self.rnn, self.out = getattr(nn, kind)(width, hidden, layers, batch_first=True), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = x.new_zeros(self.layers, x.size(0), self.hidden)
        if isinstance(self.rnn, nn.LSTM):
            state = (state, torch.zeros_like(state))
        return x + self.out(self.rnn(x, state)[0] if self.start else self.rnn(x)[0])


@part("btc", hidden=WIDTHS)
class OwnCell(Part):
    """Gates written out, step by step."""

    LAYERS: ClassVar = {"inp": "hidden + hidden, width", "rec": "hidden + hidden, hidden", "out": "width, hidden"}

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.size = hidden
        self.inp, self.rec = nn.Linear(width, 2 * hidden), nn.Linear(hidden, 2 * hidden, bias=False)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        h, found = torch.zeros(x.shape[0], self.size, dtype=x.dtype), []
        for step in x.unbind(1):
            z, n = (self.inp(step) + self.rec(h)).chunk(2, -1)
            z = torch.sigmoid(z)
            h = z * h + (1 - z) * torch.tanh(n)
            found.append(h)
        return x + self.out(torch.stack(found, dim=1))


@part("btc", "bc", options={"style": ("mean", "last", "max", "weights", "first")})
class Pooled(Part):
    LAYERS: ClassVar = {"score": "1, width"}

    def __init__(self, width: int, style: str) -> None:
        super().__init__()
        self.style, self.score = style, nn.Linear(width, 1) if style == "weights" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.score is not None:
            return (self.score(x).softmax(1) * x).sum(1)
        if self.style in ("last", "first"):
            return x[:, -1 if self.style == "last" else 0]
        return x.mean(1) if self.style == "mean" else x.amax(dim=1)
