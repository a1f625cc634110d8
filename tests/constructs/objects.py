"""Arguments that forward writes into, and tensors of odd kinds: sparse ones, and such without entries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .code import MLP, X, ends, hidden
from .construct import Construct, Fn, param


class States:
    """An object of the user's that forward collects tensors in."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []


def writes_list(m: Fn, xs: list[Tensor]) -> Tensor:
    for i in range(len(xs)):
        xs[i] = hidden(m, xs[i])
    return m.down(xs[0] + xs[1])


def writes_dict(m: Fn, batch: dict[str, Any]) -> Tensor:
    batch["x"] = hidden(m, batch["x"])
    return m.down(batch.pop("x"))


def pops(m: Fn, batch: dict[str, list[Tensor]]) -> Tensor:
    return m.down(hidden(m, batch["xs"].pop()) + hidden(m, batch["xs"].pop(0)))


def collects(m: Fn, x: Tensor, states: list[Tensor]) -> Tensor:
    states.append(hidden(m, x))
    return m.down(torch.stack(states).sum(0))


def collects_in_object(m: Fn, x: Tensor, states: States) -> Tensor:
    return collects(m, x, states.seen)


def writes_tensor(m: Fn, x: Tensor) -> Tensor:
    x.mul_(3.0).add_(1.0)
    x[:, 0] = 0.0
    return m.down(hidden(m, x))


def sparse(layout: torch.layout) -> Any:
    return lambda: (torch.eye(12) + torch.eye(12).roll(1, 0)).to_sparse(layout=layout)


def mixed(m: Fn, x: Tensor) -> Tensor:
    return m.out(m.down((m.mix @ hidden(m, x).t()).t()).tanh())


def beside(layout: torch.layout) -> Any:
    return ends(lambda m, x: m.down(hidden(m, x)), beside=sparse(layout))


def in_the_way(layout: torch.layout) -> Any:
    return ends(mixed, mix=sparse(layout), out=lambda: nn.Linear(3, 2))


OUT = {"down.weight[1]": "sparse"}

CONSTRUCTS = [
    Construct("an argument list that is written", ends(writes_list), ([X, X],), MLP),
    Construct("an argument dict that is written", ends(writes_dict), {"batch": {"x": X}}, MLP),
    Construct("an argument list that is emptied", ends(pops), {"batch": {"xs": [X, X]}}, MLP),
    Construct("an argument list that grows", ends(collects), (X, []), MLP),
    Construct("an argument object that grows", ends(collects_in_object), (X, States()), MLP),
    Construct("an input that is changed in place", ends(writes_tensor), X, MLP),
    Construct("a sparse buffer beside", beside(torch.sparse_coo), X, MLP),
    Construct("a csr buffer beside", beside(torch.sparse_csr), X, MLP),
    Construct(
        "a sparse buffer in the way",
        in_the_way(torch.sparse_coo),
        X,
        {"out.weight[1]": "3"},
        OUT,
    ),
    Construct(
        "a csr buffer in the way",
        in_the_way(torch.sparse_csr),
        X,
        {"out.weight[1]": "3"},
        OUT,
    ),
    Construct(
        "no rows in front",
        ends(lambda m, x: m.down(torch.cat([m.front, hidden(m, x)])), front=lambda: param(0, 12)),
        X,
        {"front[1]": "12", **MLP},
    ),
    Construct(
        "no columns",
        ends(lambda m, x: m.down(hidden(m, x) + (m.none @ m.none.t()).sum(0)), none=lambda: param(12, 0)),
        X,
        {"none[0]": "12", **MLP},
    ),
    Construct(
        "a layer without inputs",
        ends(lambda m, x: m.down(hidden(m, x) + m.bias(x[:, :0])), bias=lambda: nn.Linear(0, 12)),
        X,
        {"bias.weight[0]": "12", **MLP},
    ),
]
