"""Small models with plans written by hand, so that rewriting is tested without capture and analysis.

Each entry of `CASES` makes a model, its inputs, its plan and a few choices of subnets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

from elastify._ir.choice import Choice
from elastify._ir.ints import Attr
from elastify._ir.layout import Axis, Concat, Layout, Product
from elastify._ir.plan import ElasticAxis, Plan, Stage


@dataclass
class Case:
    model: nn.Module
    inputs: tuple[Any, ...]
    plan: Plan
    configurations: list[Choice]


def fixed(size: int) -> Axis:
    """An axis that no configuration mentions."""
    return Axis(1000 + size, size)


def axis(entry: Axis, name: str) -> ElasticAxis:
    return ElasticAxis(entry.id, name, entry.size, tuple(range(1, entry.size + 1)))


def dims(*layouts: Layout | int) -> tuple[Layout, ...]:
    return tuple(fixed(layout) if isinstance(layout, int) else layout for layout in layouts)


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 16)
        self.fc2 = nn.Linear(16, 12)
        self.act = nn.PReLU(12)
        self.head = nn.Linear(12, 4, bias=False)

    def forward(self, x):
        return self.head(self.act(self.fc2(torch.relu(self.fc1(x)))))


def mlp() -> Case:
    a, b = Axis(0, 16), Axis(1, 12)
    plan = Plan(
        axes=(axis(a, "fc1"), axis(b, "fc2")),
        tensors={
            "fc1.weight": dims(a, 6),
            "fc1.bias": (a,),
            "fc2.weight": (b, a),
            "fc2.bias": (b,),
            "act.weight": (b,),
            "head.weight": dims(4, b),
        },
    )
    return Case(MLP(), (torch.randn(3, 6),), plan, [Choice({0: 5}), Choice({0: 8, 1: 3}), Choice({1: 1})])


class ConvBlock(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm = nn.GroupNorm(4, hidden)
        self.conv2 = nn.Conv2d(hidden, width, 1)

    def forward(self, x):
        return x + self.conv2(self.norm(self.depthwise(torch.relu(self.bn1(self.conv1(x))))))


class ConvNet(nn.Module):
    """Residual blocks in a Sequential, a transposed convolution and a dense concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(ConvBlock(8, 16), ConvBlock(8, 16), ConvBlock(8, 16))
        self.bn = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.cat_norm = nn.BatchNorm2d(14)
        self.head = nn.Linear(14 * 4, 5)

    def forward(self, x):
        x = self.bn(self.blocks(self.stem(x)))
        y = self.up(x)[:, :, ::2, ::2]
        x = self.cat_norm(torch.cat([x, y], 1))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def convnet() -> Case:
    width, up = Axis(0, 8), Axis(1, 6)
    per_group = [Axis(10 + i, 4) for i in range(3)]
    hidden = [Product((fixed(4), c)) for c in per_group]
    both = Concat((width, up))
    tensors: dict[str, tuple[Layout, ...]] = {
        "stem.weight": dims(width, 3, 3, 3),
        "stem.bias": (width,),
        "up.weight": dims(width, up, 2, 2),
        "up.bias": (up,),
        "head.weight": dims(5, Product((both, fixed(4)))),
    }
    attributes: dict[Attr, Layout] = {}
    statistics = []

    def norm(name: str, layout: Layout) -> None:
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{name}.{tensor}"] = (layout,)
        statistics.extend(f"{name}.{tensor}" for tensor in ("running_mean", "running_var", "num_batches_tracked"))

    norm("bn", width)
    norm("cat_norm", both)
    for i, h in enumerate(hidden):
        path = f"blocks.{i}"
        tensors |= {
            f"{path}.conv1.weight": dims(h, width, 1, 1),
            f"{path}.depthwise.weight": dims(h, 1, 3, 3),
            f"{path}.depthwise.bias": (h,),
            f"{path}.norm.weight": (h,),
            f"{path}.norm.bias": (h,),
            f"{path}.conv2.weight": dims(width, h, 1, 1),
            f"{path}.conv2.bias": (width,),
        }
        norm(f"{path}.bn1", h)
        attributes[Attr(f"{path}.depthwise", "groups")] = h
    plan = Plan(
        axes=(axis(width, "width"), axis(up, "up"), *(axis(c, f"hidden{i}") for i, c in enumerate(per_group))),
        stages=(Stage("blocks", "blocks", tuple(f"blocks.{i}" for i in range(3)), (1, 2, 3)),),
        tensors=tensors,
        attributes=attributes,
        statistics=frozenset(statistics),
    )
    model = ConvNet()
    for name, buffer in model.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 2)
    configurations: list[Choice] = [
        Choice({0: 4}),
        Choice({0: 3, 1: 2, 10: 2, 11: 1}, {"blocks": (0, 1)}),
        Choice({10: 2}, {"blocks": (0, 2)}),
        Choice(blocks={"blocks": (0,)}),
    ]
    return Case(model, (torch.randn(2, 3, 8, 8),), plan, configurations)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(5, 8, num_layers=2, bidirectional=True, batch_first=True, **options)
        self.fc = nn.Linear(2 * (options.get("proj_size") or 8), 3)

    def forward(self, x):
        return self.fc(self.rnn(x)[0])


def recurrent(kind: type[nn.RNNBase] = nn.LSTM, **options: Any) -> Case:
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    model = Recurrent(kind, **options)
    hidden = Axis(0, 8)
    out = Axis(1, options["proj_size"]) if "proj_size" in options else hidden
    rows = Concat((hidden,) * gates) if gates > 1 else hidden
    both = Concat((out, out))
    tensors: dict[str, tuple[Layout, ...]] = {"fc.weight": dims(3, both)}
    for layer in (0, 1):
        for suffix in ("", "_reverse"):
            tensors |= {
                f"rnn.weight_ih_l{layer}{suffix}": dims(rows, both if layer else 5),
                f"rnn.weight_hh_l{layer}{suffix}": (rows, out),
                f"rnn.bias_ih_l{layer}{suffix}": (rows,),
                f"rnn.bias_hh_l{layer}{suffix}": (rows,),
            }
            if out is not hidden:
                tensors[f"rnn.weight_hr_l{layer}{suffix}"] = (out, hidden)
    attributes: dict[Attr, Layout] = {Attr("rnn", "hidden_size"): hidden}
    axes = [axis(hidden, "hidden")]
    configurations: list[Choice] = [Choice({0: 3}), Choice({0: 6})]
    if out is not hidden:
        attributes[Attr("rnn", "proj_size")] = out
        axes.append(axis(out, "projection"))
        configurations = [Choice({0: 6, 1: 2}), Choice({1: 1})]
    plan = Plan(axes=tuple(axes), tensors=tensors, attributes=attributes)
    return Case(model, (torch.randn(2, 7, 5),), plan, configurations)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = width // heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        a = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((a @ v).transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))


class Layer(nn.Module):
    def __init__(self, width: int, index: int) -> None:
        super().__init__()
        self.layer_idx = index
        self.norm = nn.LayerNorm(width)
        self.attn = Attention(width, 4)

    def forward(self, x, bias):
        return x + self.attn(self.norm(x)) + bias * self.layer_idx


class Settings:
    def __init__(self) -> None:
        self.hidden_size = 16
        self.sizes = {"vocab": 11, "widths": [16, 2]}


class Language(nn.Module):
    """Tied embedding and head, a ModuleList indexed by a slice, a config object, a block in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Settings()
        self.shape = (16, (1, 16))
        self.embed = nn.Embedding(11, 16)
        self.position = nn.Parameter(torch.randn(1, 9, 16))
        self.layers = nn.ModuleList(Layer(16, i) for i in range(4))
        self.extra = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))
        self.register_buffer("mark", torch.randn(16), persistent=False)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids, gain=1.0):
        x = self.embed(ids) + self.position[:, : ids.shape[1]] + self.mark
        x = x.view(*ids.shape, self.config.hidden_size).view(*ids.shape, self.config.sizes["widths"][0])
        for layer in self.layers[: len(self.layers)]:
            x = layer(x, gain)
        y = self.extra(x)
        return self.head(y.view(*ids.shape, self.shape[1][1]))


def language() -> Case:
    width, heads, head_dim, inner = Axis(0, 16), Axis(1, 4), Axis(2, 4), Axis(3, 16)
    tensors: dict[str, tuple[Layout, ...]] = {
        "embed.weight": dims(11, width),
        "position": dims(1, 9, width),
        "mark": (width,),
        "extra.0.weight": (inner, width),
        "extra.0.bias": (inner,),
        "extra.2.weight": (width, inner),
        "extra.2.bias": (width,),
    }
    attributes: dict[Attr, Layout] = {
        Attr("config", "hidden_size"): width,
        Attr("config", "sizes", ("widths", 0)): width,
        Attr("", "shape", (0,)): width,
        Attr("", "shape", (1, 1)): width,
    }
    scales: dict[Attr, tuple[Layout, float]] = {}
    for i in range(4):
        path = f"layers.{i}"
        inside = Product((heads, head_dim))
        tensors |= {
            f"{path}.norm.weight": (width,),
            f"{path}.norm.bias": (width,),
            f"{path}.attn.qkv.weight": (Product((fixed(3), heads, head_dim)), width),
            f"{path}.attn.qkv.bias": (Product((fixed(3), heads, head_dim)),),
            f"{path}.attn.proj.weight": (width, inside),
            f"{path}.attn.proj.bias": (width,),
        }
        attributes |= {
            Attr(f"{path}.attn", "num_heads"): heads,
            Attr(f"{path}.attn", "head_dim"): head_dim,
            Attr(f"{path}.norm", "normalized_shape", (0,)): width,
        }
        scales[Attr(f"{path}.attn", "scale")] = (head_dim, -0.5)
    plan = Plan(
        axes=(axis(width, "width"), axis(heads, "heads"), axis(head_dim, "head_dim"), axis(inner, "inner")),
        stages=(
            Stage("layers", "layers", tuple(f"layers.{i}" for i in range(4)), (1, 2, 3, 4)),
            Stage("tail", "", ("extra",), (0, 1), bypassed=True),
        ),
        tensors=tensors,
        aliases={"head.weight": "embed.weight"},
        attributes=attributes,
        scales=scales,
    )
    configurations: list[Choice] = [
        Choice({0: 8}),
        Choice({1: 2, 2: 3}),
        Choice({0: 5, 1: 3, 2: 2, 3: 7}, {"layers": (0, 1)}),
        Choice({2: 1}, {"layers": (0, 3), "tail": ()}),
    ]
    return Case(Language(), (torch.randint(11, (2, 9)),), plan, configurations)


class Torch(nn.Module):
    """nn.MultiheadAttention, weight norm, a parameter list and dictionary, a ModuleDict of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True)
        self.normed = parametrizations.weight_norm(nn.Linear(12, 10))
        self.gains = nn.ParameterList([torch.randn(10), torch.randn(10)])
        self.biases = nn.ParameterDict({"a": torch.randn(10)})
        self.steps = nn.ModuleDict({"first": nn.Linear(10, 10), "second": nn.Linear(10, 10)})
        self.out = nn.Bilinear(10, 10, 3)

    def forward(self, x):
        x = self.normed(self.attention(x, x, x, need_weights=False)[0])
        x = x * self.gains[0] + self.gains[1] + self.biases["a"]
        for step in self.steps.values():
            x = x + step(x)
        return self.out(x, x)


def torch_modules() -> Case:
    head_dim, width = Axis(0, 3), Axis(1, 10)
    inside = Product((fixed(4), head_dim))
    tensors: dict[str, tuple[Layout, ...]] = {
        "attention.in_proj_weight": (Concat((inside,) * 3), inside),
        "attention.in_proj_bias": (Concat((inside,) * 3),),
        "attention.out_proj.weight": (inside, inside),
        "attention.out_proj.bias": (inside,),
        "normed.parametrizations.weight.original0": dims(width, 1),
        "normed.parametrizations.weight.original1": (width, inside),
        "normed.bias": (width,),
        "gains.0": (width,),
        "gains.1": (width,),
        "biases.a": (width,),
        "out.weight": dims(3, width, width),
    }
    for name in ("first", "second"):
        tensors |= {f"steps.{name}.weight": (width, width), f"steps.{name}.bias": (width,)}
    plan = Plan(
        axes=(axis(head_dim, "head_dim"), axis(width, "width")),
        stages=(Stage("steps", "steps", ("steps.first", "steps.second"), (1, 2)),),
        tensors=tensors,
        attributes={
            Attr("attention", "embed_dim"): inside,
            Attr("attention", "head_dim"): head_dim,
        },
    )
    configurations: list[Choice] = [Choice({1: 4}), Choice({1: 3}, {"steps": (0,)})]
    return Case(Torch(), (torch.randn(2, 5, 12),), plan, configurations)


CASES: dict[str, Callable[[], Case]] = {
    "mlp": mlp,
    "convnet": convnet,
    "lstm": recurrent,
    "gru": lambda: recurrent(nn.GRU),
    "rnn": lambda: recurrent(nn.RNN),
    "lstm_projected": lambda: recurrent(nn.LSTM, proj_size=4),
    "language": language,
    "torch_modules": torch_modules,
}


def make(name: str) -> Case:
    torch.manual_seed(0)
    return CASES[name]()
