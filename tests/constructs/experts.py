"""Mixtures of experts: parameters in three dimensions, top-k routing, loops over the experts, and their gates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .construct import Construct, param, through

X = (2, 5, 6)


class Soft(nn.Module):
    """Every token visits every expert."""

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(12, experts), param(experts, 12, 8), param(experts, 8, 12)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1)
        hidden = torch.relu(torch.einsum("bnc,ech->bneh", x, self.up))
        return torch.einsum("bneh,ehc,bne->bnc", hidden, self.down, weights)


class Batched(nn.Module):
    """Fused experts with a GLU, as a batched matrix product of all tokens; weights of the top k scattered."""

    def __init__(self, experts: int = 4, k: int = 2) -> None:
        super().__init__()
        self.experts, self.k, self.hidden = experts, k, 8
        self.gate = nn.Linear(12, experts, bias=False)
        self.gate_up, self.down = param(experts, 12, 16), param(experts, 8, 12)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        top, index = self.gate(x).topk(self.k, -1)
        weights = torch.zeros(x.shape[0], self.experts, dtype=x.dtype).scatter(1, index, top.softmax(-1))
        tokens = x.repeat(self.experts, 1).view(self.experts, -1, shape[-1])
        gate, up = torch.bmm(tokens, self.gate_up).chunk(2, -1)
        out = torch.bmm(up * F.silu(gate), self.down)
        return (out * weights.t()[..., None]).sum(0).view(shape)


class Expert(nn.Module):
    def __init__(self, width: int = 12, hidden: int = 8) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(a, b) for a, b in ((width, hidden), (width, hidden), (hidden, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Looped(nn.Module):
    """Mixtral of old: every expert takes the tokens that chose it, found by `where`, and adds to its rows."""

    def __init__(self, experts: int = 3, k: int = 2) -> None:
        super().__init__()
        self.k, self.gate = k, nn.Linear(12, experts, bias=False)
        self.experts = nn.ModuleList(Expert() for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        weights, index = self.gate(x).softmax(-1).topk(self.k, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, place = torch.where(index == number)
            out.index_add_(0, rows, expert(x[rows]) * weights[rows, place, None])
        return out.view(shape)


class Visited(nn.Module):
    """Fused experts, one after the other, each with the tokens that chose it: mostly odd numbers of them."""

    def __init__(self, experts: int = 5) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(12, experts), param(experts, 12, 8), param(experts, 8, 12)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        scores, index = self.gate(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for number in range(5):
            (rows,) = torch.where(index == number)
            out = out.index_add(0, rows, torch.relu(flat[rows] @ self.up[number]) @ self.down[number])
        return (out * scores[:, None]).view_as(x)


class Masked(nn.Module):
    """One expert per token, by boolean masks, written in place."""

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.gate = nn.Linear(12, experts)
        self.experts = nn.ModuleList(Expert() for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        scores, index = self.gate(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            mask = index == number
            out[mask] = expert(flat[mask])
        return (out * scores[:, None]).view_as(x)


class Listed(nn.Module):
    """Tokens sorted by expert and cut into pieces of lengths that Python reads out of a tensor."""

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(12, experts), param(experts, 12, 8), param(experts, 8, 12)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        scores, index = self.gate(flat).softmax(-1).max(-1)
        order = index.argsort(stable=True)
        lengths = torch.bincount(index, minlength=len(self.up)).tolist()
        pieces = flat[order].split(lengths)
        made = [torch.relu(piece @ up) @ down for piece, up, down in zip(pieces, self.up, self.down, strict=True)]
        return (torch.cat(made)[order.argsort()] * scores[:, None]).view_as(x)


class Picked(nn.Module):
    """Weights of the chosen expert gathered per token (fast feed-forward)."""

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(12, experts), param(experts, 8, 12), param(experts, 12, 8)

    def forward(self, x: Tensor) -> Tensor:
        scores, index = self.gate(x).softmax(-1).max(-1)
        hidden = torch.relu(torch.einsum("bnc,bnhc->bnh", x, self.up[index]))
        return torch.einsum("bnh,bnch->bnc", hidden, self.down[index]) * scores[..., None]


class Sorted(nn.Module):
    """Tokens sorted by expert, the same number for each, then one batched product, and back."""

    def __init__(self, experts: int = 5) -> None:
        super().__init__()
        self.experts, self.gate = experts, nn.Linear(12, experts)
        self.up, self.down = param(experts, 12, 8), param(experts, 8, 12)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        scores = self.gate(flat).softmax(-1)
        order = scores.argmax(-1).argsort(stable=True)
        tokens = flat[order].view(self.experts, -1, flat.shape[-1])
        out = torch.relu(tokens @ self.up) @ self.down
        back = torch.zeros_like(flat).index_copy(0, order, out.flatten(0, 1))
        return (back * scores.amax(-1, keepdim=True)).view_as(x)


def shared(m: Any, x: Tensor) -> Tensor:
    """A shared expert beside the routed ones, with a gate of its own."""
    return m.routed(x) + m.always(x) * m.gate(x).sigmoid()


INSIDE = {"first.weight[0]": "12", "moe.up[2]": "8", "moe.down[1]": "8"}
LOOPED = {"first.weight[0]": "12", "moe.experts.0.up.weight[0]": "8", "moe.experts.2.down.weight[1]": "8"}

CONSTRUCTS = [
    Construct(
        "soft experts",
        through(lambda m, x: m.moe(x), moe=Soft),
        X,
        {**INSIDE, "moe.up[0]": "3", "moe.gate.weight[0]": "3"},
    ),
    Construct("fused experts in a loop", through(lambda m, x: m.moe(x), moe=Visited), X, INSIDE),
    Construct(
        "fused experts",
        through(lambda m, x: m.moe(x), moe=Batched),
        X,
        {"moe.gate_up[2]": "8", "moe.down[1]": "8", "first.weight[0]": "12"},
        {"moe.gate.weight[0]": "ranks units"},
    ),
    Construct(
        "experts in a loop",
        through(lambda m, x: m.moe(x), moe=Looped),
        (4, 9, 6),
        LOOPED,
        {"moe.gate.weight[0]": "ranks units"},
    ),
    Construct(
        "experts by masks",
        through(lambda m, x: m.moe(x), moe=Masked),
        (4, 9, 6),
        LOOPED,
        {"moe.gate.weight[0]": "positions"},
    ),
    Construct("experts on lists of tokens", through(lambda m, x: m.moe(x), moe=Listed), (4, 9, 6), INSIDE),
    Construct(
        "experts gathered per token",
        through(lambda m, x: m.moe(x), moe=Picked),
        X,
        {"moe.up[1]": "8", "moe.up[2]": "12"},
        {"moe.gate.weight[0]": "positions"},
    ),
    Construct("experts on sorted tokens", through(lambda m, x: m.moe(x), moe=Sorted), X, INSIDE),
    Construct(
        "a shared expert",
        through(shared, routed=Soft, always=Expert, gate=lambda: nn.Linear(12, 1)),
        X,
        {"routed.up[2]": "8", "always.up.weight[0]": "8"},
    ),
]
