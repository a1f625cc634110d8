"""Modules that have several names: containers, blocks and layers that a model registers more than once."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .code import INNER, Residual, X
from .construct import Construct, through


class Holder(nn.Module):
    """Holds a network that another module holds too; runs it if asked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def residuals() -> nn.Sequential:
    return nn.Sequential(Residual(), Residual(), Residual())


class Twice(nn.Module):
    """`first` and `second` say how the blocks are held."""

    def __init__(self, first: Any, second: Any, run: Any) -> None:
        super().__init__()
        net = residuals()
        self.first, self.second, self.run = first(net), second(net), [run]

    def forward(self, x: Tensor) -> Tensor:
        return self.run[0](self, x)


def same(net: Any) -> Any:
    return net


def some(net: nn.Sequential) -> nn.ModuleDict:
    return nn.ModuleDict({"begin": net[0], "end": net[2]})


def each(net: nn.Sequential) -> nn.ModuleList:
    return nn.ModuleList(net)


def last(net: nn.Sequential) -> nn.Module:
    return net[2]


def run_first(m: Any, x: Tensor) -> Tensor:
    return m.first(x)


def run_second(m: Any, x: Tensor) -> Tensor:
    return m.second(x)


def twice(first: Any, second: Any, run: Any) -> Any:
    return through(lambda m, x: m.part(x), part=lambda: Twice(first, second, run))


STAGES = ("part.first",)

CONSTRUCTS = [
    Construct("a container with two names", twice(same, same, run_first), X, INNER, stages=STAGES),
    Construct("a container run by its second name", twice(same, same, run_second), X, INNER, stages=STAGES),
    Construct("a container in an idle holder", twice(same, Holder, run_first), X, INNER, stages=STAGES),
    Construct(
        "a container first in an idle holder", twice(Holder, same, run_second), X, INNER, stages=("part.first.net",)
    ),
    Construct("a container run by its second holder", twice(same, Holder, run_second), X, INNER),
    Construct("a list of the same blocks", twice(same, each, run_first), X, INNER, stages=STAGES),
    Construct("some of the blocks in a dict", twice(same, some, run_first), X, INNER, stages=STAGES),
    Construct("a block with a name of its own", twice(same, last, run_first), X, INNER, stages=STAGES),
]
