"""Two small networks that the tests of the public functions share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Net(nn.Module):
    """A residual network of four blocks."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, width), nn.Linear(width, 3)
        self.blocks = nn.ModuleList(Block(width, 20) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Odd(nn.Module):
    """Two layers around a function of the test's."""

    def __init__(self, function: Callable[[Odd, Tensor], Tensor], width: int = 10) -> None:
        super().__init__()
        self.a, self.b, self.width, self.function = nn.Linear(6, width), nn.Linear(width, 3), width, [function]

    def forward(self, x: Tensor) -> Tensor:
        return self.function[0](self, x)


def plain(m: Odd, x: Tensor) -> Tensor:
    return m.b(torch.relu(m.a(x)))
