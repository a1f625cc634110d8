"""Random networks: seeded, every one of them runs.

`make(seed)` draws an input, a stem and a number of operations, then adds pieces until there are so many: a tensor of
the pool (recent and unused ones more often), a piece that takes its kind, and the result goes into the pool. Whatever
nobody used at the end goes into the outputs, and so does what the outputs do not depend on (a token that was joined on
and then left by taking the last), so that every parameter matters. The pieces are run as they are added, which is how
their shapes and the number of their operations are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import pieces_joins, pieces_last, pieces_odd, pieces_space, pieces_tokens  # noqa: F401 - they register
from .pieces import PIECES, Piece, UnfitError, fit, width

SINGLES = [piece for piece in PIECES if len(piece.takes) == 1]
JOINS = [piece for piece in PIECES if len(piece.takes) == 2]
OPERATIONS = (5, 60)
LARGEST = 3000  # elements of a tensor, without the batch
WIDEST = 48  # channels


@dataclass(frozen=True)
class Wire:
    """One step: which values go in, what the result is called."""

    name: str
    inputs: tuple[str, ...]


class FuzzNet(nn.Module):
    """Pieces in the order of their making; `wires` says what goes where."""

    def __init__(self) -> None:
        super().__init__()
        self.wires: list[Wire] = []
        self.heads: list[Wire] = []

    def values(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """What each piece gives, by its name."""
        pool = {f"in{i}": x for i, x in enumerate(inputs)}
        for wire in self.wires:
            pool[wire.name] = getattr(self, wire.name)(*(pool[name] for name in wire.inputs))
        return pool

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        pool = self.values(inputs)
        found = tuple(getattr(self, wire.name)(pool[wire.inputs[0]]) for wire in self.heads)
        return found if len(found) > 1 else found[0]


class Stem(nn.Module):
    """From what a network is given to channels."""

    def __init__(self, rng: Random, kind: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        out = width(rng)
        if kind == "ids":
            self.layer: nn.Module = nn.Embedding(13, out)
        elif kind == "bchw":
            self.layer = nn.Conv2d(shape[0], out, 3, padding=1)
        elif kind == "bct":
            self.layer = nn.Conv1d(shape[0], out, 3, padding=1)
        else:
            self.layer = nn.Linear(shape[-1], out)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Head(nn.Module):
    """All that is left of a tensor: its mean over space or time, and a classifier."""

    def __init__(self, kind: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = [i for i, letter in enumerate(kind) if letter in "thw"]
        self.fc = nn.Linear(shape[kind.index("c") - 1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean(self.dims) if self.dims else x)


INPUTS = {
    "bchw": [(3, 8, 8), (2, 6, 8), (3, 4, 6), (1, 6, 6)],
    "btc": [(6, 5), (8, 4), (9, 3), (5, 7)],
    "bct": [(2, 8), (1, 12), (3, 9)],
    "bc": [(6,), (9,), (5,)],
    "ids": [(6,), (8,), (9,)],
}


class Counted(TorchFunctionMode):
    """Counts the operations that give tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count += isinstance(out, Tensor) or (isinstance(out, (tuple, list)) and isinstance(out[0], Tensor))
        return out


class _Maker:
    def __init__(self, seed: int, operations: int | None) -> None:
        self.rng, self.net = Random(seed), FuzzNet()
        low, high = OPERATIONS
        self.wanted = operations or min(self.rng.randint(low, high) for _ in range(2))
        self.made = 0
        self.pool: dict[str, tuple[str, Tensor]] = {}
        self.used: set[str] = set()
        self.inputs: list[Tensor] = []

    def start(self) -> None:
        rng = self.rng
        for number in range(2 if rng.random() < 0.15 else 1):
            kind = rng.choice([*INPUTS, "bchw"])
            shape = rng.choice(INPUTS[kind])
            x = torch.randint(0, 13, (2, *shape)) if kind == "ids" else torch.randn(2, *shape)
            self.inputs.append(x)
            self.add(f"stem{number}", Stem(rng, kind, shape), "btc" if kind == "ids" else kind, [f"in{number}"], [x])

    def add(self, name: str, module: nn.Module, kind: str, names: list[str], values: list[Tensor]) -> None:
        with torch.no_grad(), Counted() as counted:
            out = module.eval()(*values)
        fit(out.dim() == len(kind) and out[0].numel() <= LARGEST and out.shape[kind.index("c")] <= WIDEST)
        fit(self.made + counted.count + self.in_heads() + 2 <= OPERATIONS[1])
        self.made += counted.count
        self.net.add_module(name, module)
        self.net.wires.append(Wire(name, tuple(names)))
        self.pool[name] = (kind, out)
        self.used.update(names)

    def draw(self) -> str:
        """A tensor of the pool: mostly the last, or one that nobody used yet."""
        names = list(self.pool)
        unused = self.unused()
        if self.rng.random() < 0.75 and unused:
            return self.rng.choice(unused[-2:])
        return self.rng.choice(names[-6:])

    def step(self, number: int) -> bool:
        """Add one piece; False where none is left that would not make too many operations."""
        for _ in range(200):
            first = self.draw()
            join = len(self.pool) > 1 and self.rng.random() < 0.3
            names = [first, self.rng.choice([n for n in self.pool if n != first])] if join else [first]
            kinds = tuple(self.pool[name][0] for name in names)
            fitting = [piece for piece in (JOINS if join else SINGLES) if piece.takes == kinds]
            if fitting and self.attempt(self.rng.choice(fitting), names, number):
                return True
        return False

    def attempt(self, piece: Piece, names: list[str], number: int) -> bool:
        values = [self.pool[name][1] for name in names]
        try:
            module = piece.make(self.rng, *(tuple(x.shape[1:]) for x in values))
            self.add(f"{piece.name}_{number}", module, piece.gives or piece.takes[0], names, values)
        except UnfitError:
            return False
        return True

    def unused(self) -> list[str]:
        return [name for name in self.pool if name not in self.used]

    def in_heads(self) -> int:
        """Operations of the heads of what nobody uses so far."""
        return sum(1 if self.pool[name][0] == "bc" else 2 for name in self.unused())

    def complete(self) -> bool:
        return self.made + self.in_heads() >= self.wanted

    def finish(self) -> None:
        for name in self.unused():
            self.add_head(name)
        while lost := self.lost():
            self.add_head(lost[-1])

    def add_head(self, name: str) -> None:
        kind, value = self.pool[name]
        self.net.add_module(f"head_{name}", Head(kind, tuple(value.shape[1:])).eval())
        self.net.heads.append(Wire(f"head_{name}", (name,)))

    def lost(self) -> list[str]:
        """Values on which no output depends, in the order of their making."""
        headed = {wire.inputs[0] for wire in self.net.heads}
        pool = self.net.values(tuple(self.inputs))
        outputs = [getattr(self.net, wire.name)(pool[wire.inputs[0]]) for wire in self.net.heads]
        names = [name for name in self.pool if name not in headed and pool[name].requires_grad]
        total = sum((out.sigmoid().sum() for out in outputs), torch.zeros(()))
        found = torch.autograd.grad(total, [pool[name] for name in names], allow_unused=True) if names else ()
        return [name for name, grad in zip(names, found, strict=True) if grad is None or not grad.any()]


def make(seed: int, operations: int | None = None) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network of about so many operations (drawn if left out), and its inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        maker = _Maker(seed, operations)
        maker.start()
        number = 0
        while not maker.complete() and maker.step(number):
            number += 1
        maker.finish()
    return maker.net.eval(), tuple(maker.inputs)
