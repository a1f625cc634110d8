"""Numbers that meet tensors as operands: no dimension shows what they are, and a smaller network has others."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .nodes import WIDTHS, Part, part

LAST = "btc bc"
DIVIDED = (
    "truediv", "div", "divide", "tensor", "float_tensor", "full", "new_full", "inverse", "root", "power", "mul", "ones",
    "fill", "shape", "float", "floor", "times", "alpha", "reciprocal", "as_tensor", "true_divide_",
    "isqrt", "log", "over", "numel",
)  # fmt: skip
NAMES = ("hidden", "hidden_size", "num_features", "dim", "n")  # only some of which say what they are


@part(LAST, hidden=WIDTHS, options={"style": DIVIDED, "name": NAMES})
class Divided(Part):
    """A mean by hand: what is summed is divided by the number of units."""

    LAYERS: ClassVar = {"up": "hidden, width", "down": "width, hidden"}

    def __init__(self, width: int, hidden: int, style: str, name: str) -> None:
        super().__init__()
        self.name, self.style = name, style
        setattr(self, name, hidden)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def mean(self, y: Tensor) -> Tensor:
        t, n = y.sum(-1, keepdim=True), getattr(self, self.name)
        ways = {
            "truediv": lambda: t / n,
            "div": lambda: torch.div(t, n),
            "divide": lambda: t.divide(n),
            "tensor": lambda: t / torch.tensor(n),
            "float_tensor": lambda: t / torch.tensor(float(n)),
            "as_tensor": lambda: t / torch.as_tensor(n, dtype=t.dtype),
            "full": lambda: t / torch.full((1,), n),
            "new_full": lambda: t / t.new_full((1,), float(n)),
            "inverse": lambda: t * (1 / n),
            "root": lambda: t / math.sqrt(n),
            "power": lambda: t * n**-0.5,
            "mul": lambda: torch.mul(t, 1.0 / float(n)),
            "ones": lambda: t / torch.ones(n, dtype=t.dtype).sum(),
            "fill": lambda: t / torch.empty(1, dtype=t.dtype).fill_(n),
            "shape": lambda: t / y.shape[-1],
            "float": lambda: t / float(y.size(-1)),
            "floor": lambda: t / (n // 2 + 1),
            "times": lambda: t / (2 * n),
            "alpha": lambda: torch.add(t, t, alpha=n) * 0.05,
            "reciprocal": lambda: t * torch.tensor(float(n)).reciprocal(),
            "isqrt": lambda: t / math.isqrt(n),
            "log": lambda: t / math.log(n + 1),
            "over": lambda: t * (2.0 / n),
            "numel": lambda: t / torch.empty(n, 2).numel(),
            "true_divide_": lambda: t.clone().true_divide_(n),
        }
        return ways[self.style]()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.up(x))
        return x + self.down(y - self.mean(y))


@part(LAST, options={"style": ("mean", "norm", "shape", "stored", "functional", "rms"), "stored": (True, False)})
class OwnNorm(Part):
    LAYERS: ClassVar = {"gain": "width", "shift": "width"}

    def __init__(self, width: int, style: str, stored: bool) -> None:
        super().__init__()
        self.style, self.width = style, width
        self.scale = width**0.5
        self.shape = (width,)
        self.gain, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "mean":
            y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        elif self.style == "norm":
            y = x / (x.norm(2, dim=-1, keepdim=True) / self.width**0.5 + 1e-6)
        elif self.style == "stored":
            y = F.normalize(x, dim=-1) * self.scale
        elif self.style == "functional":
            return F.layer_norm(x, self.shape, self.gain, self.shift)
        elif self.style == "rms":
            return F.rms_norm(x, (self.width,), self.gain) + self.shift
        else:
            y = x * (x.shape[-1] / (x.square().sum(-1, keepdim=True) + 1e-6)).sqrt()
        return y * self.gain + self.shift


@part("btc", keys=WIDTHS, options={"style": ("attribute", "float", "property", "method", "unread", "argument")})
class Scores(Part):
    """One head of attention, its factor kept in many ways."""

    LAYERS: ClassVar = {"q": "keys, width", "k": "keys, width", "v": "width, width"}

    def __init__(self, width: int, keys: int, style: str) -> None:
        super().__init__()
        self.keys, self.style, self.scale = keys, style, 1 / math.sqrt(keys)
        self.temperature = keys**0.5
        self.q, self.k, self.v = nn.Linear(width, keys), nn.Linear(width, keys), nn.Linear(width, width)

    @property
    def factor(self) -> float:
        return self.keys**-0.5

    def factor_of(self, q: Tensor) -> float:
        return 1.0 / math.sqrt(q.size(-1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.style == "unread":
            return x + F.scaled_dot_product_attention(q, k, v)
        if self.style == "argument":
            return x + F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        scores = q @ k.transpose(-2, -1)
        if self.style == "attribute":
            scores = scores * self.scale
        elif self.style == "float":
            scores = scores / self.temperature
        else:
            scores = scores * (self.factor if self.style == "property" else self.factor_of(q))
        return x + scores.softmax(dim=-1) @ v


@part(
    "btc bc", hidden=WIDTHS, options={"style": ("zeros", "expand", "reshape", "stack", "pad", "eye", "slice", "repeat")}
)
class Shaped(Part):
    """Tensors made at the size of the units, views by stored numbers."""

    LAYERS: ClassVar = {"up": "hidden, width", "down": "width, hidden", "bias": "hidden"}

    def __init__(self, width: int, hidden: int, style: str) -> None:
        super().__init__()
        self.hidden, self.style = hidden, style
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.bias = nn.Parameter(torch.randn(hidden))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.up(x))
        if self.style == "zeros":
            y = y + torch.zeros(*x.shape[:-1], self.hidden, dtype=x.dtype) + self.bias
        elif self.style == "expand":
            y = y + self.bias.expand(*x.shape[:-1], self.hidden)
        elif self.style == "reshape":
            y = (y.reshape(-1, self.hidden) * self.bias).view(*x.shape[:-1], self.hidden)
        elif self.style == "stack":
            y = torch.stack([y, y * self.bias], dim=-1).sum(-1)
        elif self.style == "pad":
            y = F.pad(y, (0, self.hidden))[..., : self.hidden] * self.bias
        elif self.style == "eye":
            y = y @ (torch.eye(self.hidden, dtype=x.dtype) * self.bias)
        elif self.style == "slice":
            y = y[..., : self.hidden] + self.bias[: y.shape[-1]]
        else:
            y = y + self.bias.repeat(*x.shape[:-1], 1)
        return x + self.down(y)
