"""Pieces for tensors with channels last: linear layers, gates, splits, shared and raw weights, orders that matter."""

from __future__ import annotations

from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from .pieces import LAST, composite, divisor, fit, piece, width

ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid", "softplus", "elu", "hardswish", "leaky_relu", "mish")


@piece("btc bhwc bc", weight=3)
class Plain(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.fc = nn.Linear(shape[-1], width(rng), bias=rng.random() < 0.7)
        self.act = rng.choice(ACTIVATIONS)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(F, self.act)(self.fc(x))


@piece(LAST)
class Mlp(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        hidden = width(rng)
        self.norm = (nn.LayerNorm if rng.random() < 0.7 else nn.RMSNorm)(shape[-1])
        self.up, self.down = nn.Linear(shape[-1], hidden), nn.Linear(hidden, shape[-1])
        self.scale = nn.Parameter(torch.ones(shape[-1]) * 0.1) if rng.random() < 0.4 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(self.norm(x))))
        return x + (y if self.scale is None else self.scale * y)


@piece(LAST)
class Norm(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        affine = rng.random() < 0.7
        kinds = [lambda c: nn.LayerNorm(c, elementwise_affine=affine), nn.RMSNorm]
        self.norm = rng.choice(kinds)(shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@piece("bc")
class BatchNorm(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(shape[0], affine=rng.random() < 0.8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@piece(LAST)
class Softmax(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.log = rng.random() < 0.3
        self.fc = nn.Linear(shape[-1], shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.fc(x), dim=-1) if self.log else x * self.fc(x).softmax(-1)


@piece(LAST, weight=2)
class Gated(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        hidden = width(rng)
        self.hidden, self.style = hidden, rng.choice(["chunk", "glu", "split", "slices", "two", "view"])
        self.up = nn.Linear(shape[-1], 2 * hidden, bias=rng.random() < 0.5)
        self.other = nn.Linear(shape[-1], hidden) if self.style == "two" else None
        self.first = nn.Linear(shape[-1], hidden) if self.style == "two" else None
        self.down = nn.Linear(hidden, width(rng))
        if self.style == "two":
            self.up = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        if self.style == "glu":
            return self.down(F.glu(y, dim=-1))
        if self.other is not None and self.first is not None:
            a, b = self.first(x), self.other(x)
        elif self.style == "chunk":
            a, b = y.chunk(2, dim=-1)
        elif self.style == "split":
            a, b = y.split(self.hidden, dim=-1)
        elif self.style == "slices":
            a, b = y[..., : self.hidden], y[..., self.hidden :]
        else:
            a, b = y.view(*y.shape[:-1], 2, self.hidden).unbind(-2)
        return self.down(F.silu(a) * b)


@piece(LAST)
class Uneven(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        fit(shape[-1] >= 4)
        first = rng.randrange(1, shape[-1] - 1)
        self.sizes = [first, shape[-1] - first]
        self.a, self.b = nn.Linear(self.sizes[0], width(rng)), nn.Linear(self.sizes[1], width(rng))

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(x, self.sizes, dim=-1)
        return torch.cat([self.a(a), self.b(b)], dim=-1)


@piece(LAST)
class FirstChannels(nn.Module):
    """A branch that is added to the first channels only."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        fit(shape[-1] >= 4)
        self.part = rng.randrange(1, shape[-1] - 1)
        self.fc = nn.Linear(self.part, self.part)
        self.inplace = rng.random() < 0.3

    def forward(self, x: Tensor) -> Tensor:
        if self.inplace:
            y, x = self.fc(x[..., : self.part]), x.clone()
            x[..., : self.part] += y
            return x
        head, tail = x[..., : self.part], x[..., self.part :]
        return torch.cat((head + self.fc(head), tail), -1)


@piece(LAST)
class Raw(nn.Module):
    """Parameters used without a layer."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        out = width(rng)
        self.style = rng.choice(["linear", "matmul", "einsum"])
        size = (shape[-1], out) if self.style == "matmul" else (out, shape[-1])
        self.weight = nn.Parameter(torch.randn(size) / shape[-1] ** 0.5)
        self.shift = nn.Parameter(torch.zeros(1, out) if rng.random() < 0.5 else torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "linear":
            return F.linear(x, self.weight) + self.shift
        if self.style == "matmul":
            return torch.tanh(x @ self.weight) + self.shift
        return torch.einsum("...i,oi->...o", x, self.weight) * self.shift


@piece(LAST)
class Tied(nn.Module):
    """One weight, down and up again."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.down = nn.Linear(shape[-1], width(rng), bias=False)
        self.bias = nn.Parameter(torch.zeros(shape[-1]))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(self.down(x)), self.down.weight.t(), self.bias)


@piece(LAST)
class TiedLayers(nn.Module):
    """Two layers with one Parameter."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        hidden = width(rng)
        self.up, self.down, self.again = nn.Linear(shape[-1], hidden), nn.Linear(hidden, shape[-1]), nn.Linear(1, 1)
        self.again = nn.Linear(shape[-1], hidden)
        self.again.weight = self.up.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.again(torch.tanh(self.down(F.relu(self.up(x)))))


@piece(LAST)
class Shared(nn.Module):
    """A layer used twice."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(shape[-1], shape[-1]), nn.LayerNorm(shape[-1])
        self.residual = rng.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            y = F.gelu(self.norm(self.fc(x)))
            x = x + y if self.residual else y
        return x


@piece("btc bc")
class InOrder(nn.Module):
    """The order of the channels matters: nothing that passes here may be permuted."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.style = rng.choice(["flip", "cumsum", "roll", "ramp", "sort", "neighbours"])
        self.before, self.after = nn.Linear(shape[-1], width(rng)), None
        self.after = nn.Linear(self.before.out_features, width(rng))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.before(x))
        if self.style == "flip":
            x = x + x.flip(-1)
        elif self.style == "cumsum":
            x = x.cumsum(-1) / x.shape[-1]
        elif self.style == "roll":
            x = x - torch.roll(x, 1, dims=-1)
        elif self.style == "ramp":
            x = x * torch.linspace(0, 1, x.shape[-1])
        elif self.style == "sort":
            x = x.sort(dim=-1).values
        else:
            x = torch.cat([x[..., 1:] - x[..., :-1], x[..., :1]], -1)
        return self.after(x)


@piece("bc")
class AlongChannels(nn.Module):
    """A convolution along channels (ECA)."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.unsqueeze(1)).squeeze(1).sigmoid()


@piece(LAST)
class Statistics(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.style = rng.choice(["centre", "scale", "max", "first", "norm", "var"])
        self.fc = nn.Linear(shape[-1], shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        if self.style == "centre":
            return y - y.mean(-1, keepdim=True)
        if self.style == "scale":
            return y / (1 + y.abs().sum(dim=-1, keepdim=True))
        if self.style == "max":
            return y - y.amax(-1, keepdim=True)
        if self.style == "first":
            return y * torch.sigmoid(y[..., :1])
        if self.style == "var":
            return y / torch.sqrt(y.var(-1, keepdim=True, unbiased=False) + 0.1)
        return F.normalize(y, dim=-1, eps=0.1)


@piece(LAST, weight=2)
class Groups(nn.Module):
    """Channels seen as groups."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        total = composite(rng)
        self.groups = divisor(rng, total)
        self.fc = nn.Linear(shape[-1], total)
        self.style = rng.choice(["softmax", "norm", "scale", "mix", "shuffle", "sum", "max"])
        self.dim = total // self.groups
        self.norm = nn.LayerNorm(self.dim) if self.style == "norm" else None
        self.scale = nn.Parameter(torch.ones(self.groups, 1)) if self.style == "scale" else None
        self.mix = nn.Linear(self.groups, self.groups) if self.style == "mix" else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        y = y.reshape(*y.shape[:-1], self.groups, -1)
        if self.style == "sum":
            return y.sum(-2)
        if self.style == "max":
            return y.max(dim=-2).values
        if self.style == "shuffle":
            y = y.transpose(-1, -2)
        elif self.norm is not None:
            y = self.norm(y)
        elif self.scale is not None:
            y = y * self.scale
        elif self.mix is not None:
            y = self.mix(y.transpose(-1, -2)).transpose(-1, -2)
        else:
            y = y * y.softmax(dim=-2)
        return y.flatten(-2)


@piece(LAST)
class Chosen(nn.Module):
    """Channels taken by a cached list of indices."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.fc = nn.Linear(shape[-1], width(rng))
        chosen = rng.sample(range(self.fc.out_features), rng.randint(2, self.fc.out_features))
        self.register_buffer("index", torch.tensor(chosen))
        self.select = rng.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return y.index_select(-1, self.index) if self.select else y[..., self.index]


@piece(LAST)
class Copies(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        fit(shape[-1] <= 12)
        self.times, self.style = rng.choice([2, 3]), rng.choice(["cat", "repeat", "interleave", "expand"])
        self.fc = nn.Linear(shape[-1] * self.times, width(rng))

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "cat":
            y = torch.cat([x] * self.times, dim=-1)
        elif self.style == "repeat":
            y = x.repeat(*[1] * (x.ndim - 1), self.times)
        elif self.style == "interleave":
            y = x.repeat_interleave(self.times, dim=-1)
        else:
            y = x.unsqueeze(-2).expand(*x.shape[:-1], self.times, x.shape[-1]).flatten(-2)
        return self.fc(y)


@piece(LAST)
class Stacked(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.count, self.style = rng.choice([2, 3]), rng.choice(["sum", "unbind", "softmax", "weights"])
        out = width(rng)
        self.branches = nn.ModuleList(nn.Linear(shape[-1], out) for _ in range(self.count))
        self.weights = nn.Parameter(torch.ones(self.count)) if self.style == "weights" else None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.stack([branch(x) for branch in self.branches], dim=-2)
        if self.style == "sum":
            return y.sum(dim=-2)
        if self.style == "unbind":
            first, *others = y.unbind(dim=-2)
            return first * torch.sigmoid(sum(others))
        if self.weights is not None:
            return torch.einsum("...kc,k->...c", y, self.weights)
        return (y * y.softmax(-2)).mean(-2)


@piece(LAST)
class Threefold(nn.Module):
    """One layer for three things that are told apart by a dimension."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.out, self.last = width(rng), rng.random() < 0.3
        self.fc = nn.Linear(shape[-1], 3 * self.out)
        self.select = rng.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        if self.last:
            y = y.view(*y.shape[:-1], self.out, 3)
            a, b, c = y[..., 0], y[..., 1], y[..., 2]
        elif self.select:
            y = y.reshape(*y.shape[:-1], 3, self.out)
            a, b, c = y.select(-2, 0), y.select(-2, 1), y.select(-2, 2)
        else:
            a, b, c = y.reshape(*y.shape[:-1], 3, -1).unbind(dim=-2)
        return a * torch.sigmoid(b) + c


@piece(LAST)
class Experts(nn.Module):
    """A soft mixture of experts whose weights are one parameter."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        out, count = width(rng), rng.choice([2, 3, 4])
        self.gate = nn.Linear(shape[-1], count)
        self.weight = nn.Parameter(torch.randn(count, shape[-1], out))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gate(x).softmax(-1)
        return torch.einsum("...e,...c,eco->...o", gates, x, self.weight)


@piece(LAST)
class Parametrized(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.fc = parametrizations.weight_norm(nn.Linear(shape[-1], width(rng)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@piece(LAST)
class Rotated(nn.Module):
    """Halves or pairs turned, as rotary embeddings do."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.pairs = rng.random() < 0.5
        self.fc = nn.Linear(shape[-1], 2 * rng.choice([2, 3, 4, 5, 6, 8]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        if self.pairs:
            even, odd = x[..., ::2], x[..., 1::2]
            return x + torch.stack([-odd, even], dim=-1).flatten(-2)
        a, b = x.chunk(2, dim=-1)
        return x * 0.5 + torch.cat([-b, a], dim=-1)


@piece(LAST)
class Either(nn.Module):
    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        out = width(rng)
        self.a, self.b, self.mask = nn.Linear(shape[-1], out), nn.Linear(shape[-1], out), nn.Linear(shape[-1], 1)
        self.maximum = rng.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return torch.maximum(a, b) if self.maximum else torch.where(self.mask(x) > 0, a, b)


@piece(LAST, weight=2)
class Blocks(nn.Module):
    """Repeated residual blocks."""

    def __init__(self, rng: Random, shape: tuple[int, ...]) -> None:
        super().__init__()
        count, seed, self.sequential = rng.choice([2, 3, 4]), rng.random(), rng.random() < 0.5
        blocks = [Mlp(Random(seed), shape) for _ in range(count)]
        self.blocks = nn.Sequential(*blocks) if self.sequential else nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        if self.sequential:
            return self.blocks(x)
        for block in self.blocks:
            x = block(x)
        return x
