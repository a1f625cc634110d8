"""The structure of code: outputs and inputs of every kind, containers, hooks, in-place writing, caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from .construct import Construct, Fn, images, param, through

X = (2, 6)
INNER = {"first.weight[0]": "12", "next.weight[0]": "10"}
MLP = {"up.weight[0]": "12", "down.weight[1]": "12"}


@dataclass
class Answer:
    logits: Tensor
    hidden: Tensor | None = None


class Pair(NamedTuple):
    logits: Tensor
    extra: dict[str, list[Tensor]]


def ends(forward: Any, **more: Any) -> Any:
    """up and down around what `forward` does with (net, x)."""
    return lambda: Fn(forward, up=nn.Linear(6, 12), down=nn.Linear(12, 3), **{k: v() for k, v in more.items()})


def hidden(m: Fn, x: Tensor) -> Tensor:
    return torch.relu(m.up(x))


def dictionary(m: Fn, x: Tensor) -> dict[str, Any]:
    h = hidden(m, x)
    return {"logits": m.down(h), "more": [h.mean(-1), {"norm": h.norm(dim=-1)}]}


def as_dataclass(m: Fn, x: Tensor) -> Answer:
    h = hidden(m, x)
    return Answer(m.down(h), h.sum(-1))


def as_named_tuple(m: Fn, x: Tensor) -> Pair:
    h = hidden(m, x)
    return Pair(m.down(h), {"sums": [h.sum(-1)]})


def exposed(m: Fn, x: Tensor) -> tuple[Tensor, Tensor]:
    h = hidden(m, x)
    return m.last(torch.relu(m.down(h))), h


def keywords(m: Fn, *, x: Tensor, mask: Tensor | None = None) -> Tensor:
    return m.down(hidden(m, x) * (1.0 if mask is None else mask))


def nested(m: Fn, batch: dict[str, Any]) -> Tensor:
    return m.down(hidden(m, batch["x"][0]) + hidden(m, batch["x"][1]))


def listed(m: Fn, xs: list[Tensor]) -> list[Tensor]:
    return [m.down(hidden(m, x)) for x in xs]


def stretched(m: Fn, x: Tensor) -> Tensor:
    """Every row as often as a layer says, in a table of zeros as long as the longest."""
    h = hidden(m, x)
    times = m.often(h).abs().long().squeeze(-1) + 1
    longest = times.max()
    table = torch.zeros((h.shape[0], longest, h.shape[1]), dtype=h.dtype)
    for row, n in zip(table, times, strict=True):
        row[: int(n)] = 1
    steps = torch.arange(longest, dtype=h.dtype)
    return m.down(h[:, None] * table * steps[:, None]).sum(1)


def rounds(m: Fn, x: Tensor) -> Tensor:
    """A loop whose number of rounds is read out of a tensor."""
    h = hidden(m, x)
    for _ in range(int(m.often(h).abs().sum().long().clamp(1, 5).item())):
        h = h + torch.tanh(m.mid(h))
    return m.down(h)


class Residual(nn.Module):
    def __init__(self, width: int = 12, hidden: int = 20) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class PairBlock(Residual):
    """Takes and gives a pair."""

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, y = pair
        return super().forward(x), y + x.mean(-1, keepdim=True)


def blocks(kind: Any = Residual) -> Any:
    return lambda: nn.ModuleList(kind() for _ in range(3))


def in_order(m: Fn, x: Tensor) -> Tensor:
    for block in m.blocks:
        x = block(x)
    return x


def by_name(m: Fn, x: Tensor) -> Tensor:
    for name in ("one", "two"):
        x = m.parts[name](x)
    return x


def checkpointed(m: Fn, x: Tensor) -> Tensor:
    """Activations are computed again in the backward pass, while training."""
    for block in m.blocks:
        x = checkpoint(block, x, use_reentrant=False) if m.training else block(x)
    return x


def checkpointed_always(m: Fn, x: Tensor) -> Tensor:
    for block in m.blocks:
        x = checkpoint(block, x, use_reentrant=True)
    return x


def checkpointed_sequence(m: Fn, x: Tensor) -> Tensor:
    return checkpoint_sequential(m.blocks, 2, x, use_reentrant=False)


class Hooked(nn.Module):
    """Hooks before and after change what a layer takes and gives."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(12, 12)
        self.inner.register_forward_pre_hook(before)
        self.inner.register_forward_hook(after)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def before(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0] * 0.5,)


def after(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return out + args[0]


class Remembering(nn.Module):
    """A cache that forward fills on its first call, and reads from then on (LeViT's attention biases)."""

    def __init__(self, heads: int = 4, dim: int = 3) -> None:
        super().__init__()
        self.heads, self.dim = heads, dim
        self.qkv, self.proj = nn.Linear(12, 3 * heads * dim), nn.Linear(heads * dim, 12)
        self.biases = param(heads, 9)
        self.register_buffer("index", torch.arange(5)[:, None] - torch.arange(5)[None] + 4, persistent=False)
        self.cache: dict[str, Tensor] = {}

    def bias(self) -> Tensor:
        if self.training:
            return self.biases[:, self.index]
        if "cpu" not in self.cache:
            self.cache["cpu"] = self.biases[:, self.index]
        return self.cache["cpu"]

    def train(self, mode: bool = True) -> Remembering:
        super().train(mode)
        if mode:
            self.cache = {}
        return self

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) + self.bias()).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, -1))


class Grid(nn.Module):
    """A table made at first use from sizes, kept as an attribute (not a buffer)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.scale, self.table = param(width), None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None or self.table.shape[0] != x.shape[1]:
            self.table = torch.linspace(0, 1, x.shape[1])[:, None]
        return x + self.table * self.scale


def autocast(m: Fn, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        x = m.mid(x.float())
    with torch.no_grad():
        scale = x.detach().abs().mean(-1, keepdim=True)
    return x / (scale + 1)


def in_place(m: Fn, x: Tensor) -> Tensor:
    y = m.mid(x)
    y += x
    y.mul_(m.gain).add_(1.0)
    return F.relu(y, inplace=True)


def written(m: Fn, x: Tensor) -> Tensor:
    """A tensor made of zeros and filled."""
    y = torch.zeros(x.shape[0], 2 * m.c)
    y[:, : m.c] = x
    y[:, m.c :] = m.mid(x)
    return y


def made(m: Fn, x: Tensor) -> Tensor:
    """Tensors sized by attributes and shapes."""
    x = x + torch.ones(m.c) + torch.full((1, m.c), 0.5) + x.new_zeros(x.shape)
    return x * torch.empty_like(x).fill_(2.0) + torch.zeros(x.size(-1), dtype=x.dtype)


def ellipsis(m: Fn, x: Tensor) -> Tensor:
    return torch.einsum("...i,oi->...o", x, m.weight) + torch.einsum("b...,...->b...", x, m.gain)


def transposed_ellipsis(m: Fn, x: Tensor) -> Tensor:
    return torch.einsum("bc...,dc->bd...", x, m.weight)


def vmapped(m: Fn, x: Tensor) -> Tensor:
    return torch.vmap(lambda row: row * m.gain)(x)


def drop_path(m: Fn, x: Tensor) -> Tensor:
    y = m.mid(x)
    if m.training:
        y = y / 0.5 * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.5)
    return x + y


def transformer(**options: Any) -> nn.Module:
    def forward(m: Fn, x: Tensor, y: Tensor) -> Tensor:
        return m.head(m.core(torch.tanh(m.stem(x)), torch.tanh(m.stem(y))))

    core = nn.Transformer(24, 4, 2, 2, 20, dropout=0.0, batch_first=True, **options)
    return Fn(forward, stem=nn.Linear(6, 24), core=core, head=nn.Linear(24, 3))


def encoder(**options: Any) -> nn.Module:
    def forward(m: Fn, x: Tensor) -> Tensor:
        return m.head(m.core(torch.tanh(m.stem(x))))

    layer = nn.TransformerEncoderLayer(24, 4, 20, dropout=0.0, batch_first=True, **options)
    return Fn(forward, stem=nn.Linear(6, 24), core=nn.TransformerEncoder(layer, 2), head=nn.Linear(24, 3))


def auxiliary() -> nn.Module:
    """A second head that only training uses."""

    def forward(m: Fn, x: Tensor) -> Any:
        h = torch.relu(m.up(x))
        return (m.down(h), m.aux(torch.tanh(m.more(h)))) if m.training else m.down(h)

    return Fn(forward, up=nn.Linear(6, 12), down=nn.Linear(12, 3), more=nn.Linear(12, 8), aux=nn.Linear(8, 3))


def unused() -> nn.Module:
    return Fn(
        lambda m, x: m.down(torch.relu(m.up(x))), up=nn.Linear(6, 12), down=nn.Linear(12, 3), spare=nn.Linear(5, 4)
    )


HEADS = "heads 4, head_dim 6"
CORE = {
    "core.layers.0.self_attn.in_proj_weight[0]": HEADS,
    "core.layers.0.linear1.weight[0]": "20",
    "stem.weight[0]": HEADS,
}


class Moved(nn.Module):
    """A buffer that forward brings to where the input is."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Buffer(torch.rand(12))

    def forward(self, x: Tensor) -> Tensor:
        self.shift = self.shift.to(device=x.device, dtype=x.dtype)
        return x + self.shift


CONSTRUCTS = [
    Construct("a buffer moved to the input", through(lambda m, x: m.part(x), part=Moved), X, {"first.weight[0]": "12"}),
    Construct("outputs in a dict", ends(dictionary), X, MLP),
    Construct("outputs in a dataclass", ends(as_dataclass), X, MLP),
    Construct("outputs in a named tuple", ends(as_named_tuple), X, MLP),
    Construct(
        "a hidden state among the outputs",
        ends(exposed, last=lambda: nn.Linear(3, 2)),
        X,
        {"down.weight[0]": "3"},
        {"up.weight[0]": "interface"},
    ),
    Construct("keyword inputs", ends(keywords), {"x": X, "mask": (2, 1)}, MLP),
    Construct("inputs in a dict of lists", ends(nested), {"batch": {"x": [X, X]}}, MLP),
    Construct("a list of inputs", ends(listed), ([X, X],), MLP),
    Construct(
        "ModuleList",
        through(in_order, blocks=blocks()),
        X,
        {"blocks.1.up.weight[0]": "20", **INNER},
        stages=("blocks",),
    ),
    Construct(
        "Sequential of pairs",
        through(lambda m, x: m.blocks((x, x))[0], blocks=lambda: nn.Sequential(PairBlock(), PairBlock())),
        X,
        {"blocks.1.up.weight[0]": "20", **INNER},
        stages=("blocks",),
    ),
    Construct(
        "ModuleDict",
        through(by_name, parts=lambda: nn.ModuleDict({"one": Residual(), "two": Residual(12, 15)})),
        X,
        {"parts.two.up.weight[0]": "15", **INNER},
    ),
    Construct(
        "checkpointing while training",
        through(checkpointed, blocks=blocks()),
        X,
        {"blocks.1.up.weight[0]": "20", **INNER},
        stages=("blocks",),
    ),
    Construct(
        "checkpointing always",
        through(checkpointed_always, blocks=blocks()),
        X,
        {"blocks.1.up.weight[0]": "20", **INNER},
        stages=("blocks",),
    ),
    Construct(
        "checkpointing of a sequence",
        through(checkpointed_sequence, blocks=lambda: nn.Sequential(*(Residual() for _ in range(4)))),
        X,
        {"blocks.1.up.weight[0]": "20", **INNER},
    ),
    Construct("hooks", through(lambda m, x: m.hooked(x), hooked=Hooked), X, {"hooked.inner.weight[0]": "12", **INNER}),
    Construct(
        "a cache filled at first use",
        through(lambda m, x: m.attn(x), attn=Remembering),
        (2, 5, 6),
        {"attn.biases[0]": "heads 4", "attn.qkv.weight[0]": "heads 4, head_dim 3", **INNER},
    ),
    Construct(
        "a table made at first use",
        through(lambda m, x: m.grid(x), grid=Grid),
        (2, 5, 6),
        {"grid.scale[0]": "12", **INNER},
    ),
    Construct(
        "autocast and no-grad", through(autocast, mid=lambda: nn.Linear(12, 12)), X, {"mid.weight[0]": "12", **INNER}
    ),
    Construct(
        "in-place operations",
        through(in_place, mid=lambda: nn.Linear(12, 12), gain=lambda: param(12)),
        X,
        {"mid.weight[0]": "12", "gain[0]": "12"},
    ),
    Construct(
        "written into zeros",
        through(written, out=24, mid=lambda: nn.Linear(12, 12), c=12),
        X,
        {"mid.weight[0]": "12", "next.weight[1]": "12"},
    ),
    Construct("tensors sized by attributes", through(made, c=12), X, INNER),
    Construct(
        "einsum with ellipsis",
        through(ellipsis, weight=lambda: param(12, 12), gain=lambda: param(12)),
        X,
        {"gain[0]": "12", "weight[0]": "12"},
    ),
    Construct(
        "einsum with ellipsis at the end",
        images(transposed_ellipsis, out=8, weight=lambda: param(8, 12)),
        (2, 3, 4, 4),
        {"weight[0]": "8", "weight[1]": "12"},
    ),
    Construct("vmap", through(vmapped, gain=lambda: param(12)), X, {"next.weight[0]": "10"}),
    Construct("drop path", through(drop_path, mid=lambda: nn.Linear(12, 12)), X, {"mid.weight[0]": "12", **INNER}),
    Construct(
        "nn.Transformer",
        transformer,
        ((2, 5, 6), (2, 4, 6)),
        {"core.encoder.layers.0.self_attn.in_proj_weight[0]": HEADS, "core.decoder.layers.1.linear1.weight[0]": "20"},
        stages=("core.decoder.layers", "core.encoder.layers"),
    ),
    Construct("nn.TransformerEncoder", encoder, (2, 5, 6), CORE, stages=("core.layers",)),
    Construct(
        "nn.TransformerEncoder with norms in front",
        lambda: encoder(norm_first=True),
        (2, 5, 6),
        CORE,
        stages=("core.layers",),
    ),
    Construct("as many rows as the data say", ends(stretched, often=lambda: nn.Linear(12, 1)), X, MLP),
    Construct(
        "as many rounds as the data say",
        ends(rounds, often=lambda: nn.Linear(12, 1), mid=lambda: nn.Linear(12, 12)),
        X,
        {"mid.weight[0]": "12"},
    ),
    Construct("a head for training only", auxiliary, X, {"more.weight[0]": "8", **MLP}),
    Construct("a layer that is never used", unused, X, MLP, {"spare.weight[0]": "no captured run used"}),
]
