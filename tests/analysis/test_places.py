"""Parameters with a row for each place: cut at the length of the input, they keep all rows, in their order."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elastify import elastify, extract, space
from elastify.train import sort_channels

ROWS, WIDTH = 32, 12


class Tokens(nn.Module):
    """Tokens to which `read(net, n)` adds rows of `table`, one for each of n tokens."""

    def __init__(self, read: Callable[[Tokens, int], Tensor], *shape: int) -> None:
        super().__init__()
        self.read = [read]
        self.embed, self.up, self.down = nn.Embedding(50, WIDTH), nn.Linear(WIDTH, 20), nn.Linear(20, 3)
        self.table = nn.Parameter(torch.randn(*shape or (ROWS, WIDTH)))
        self.named = nn.Embedding(ROWS, WIDTH)
        self.width, self.offset = WIDTH, 2

    def forward(self, ids: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(self.embed(ids) + self.read[0](self, ids.shape[1]))))


SPELLINGS: dict[str, Callable[[Tokens, int], Tensor]] = {
    "slice": lambda m, n: m.table[:n],
    "slice of a view": lambda m, n: m.table[None, :n],
    "slice of a transpose": lambda m, n: m.table.t()[:, :n].t(),
    "slice of a flat view": lambda m, n: m.table.reshape(-1)[: n * m.width].reshape(n, m.width),
    "slice of data": lambda m, n: m.table.data[:n],
    "slice with an offset": lambda m, n: m.table[m.offset : n + m.offset],
    "slice from the end": lambda m, n: m.table[-n:],
    "slice at the smaller of two": lambda m, n: m.table[: min(n, ROWS)],
    "slice of both sides": lambda m, n: m.table[:n] + m.table[ROWS - n :],
    "slice in two": lambda m, n: m.table[:n] + m.table[n:].mean(0),
    "every second": lambda m, n: m.table[: 2 * (n // 2) : 2].repeat_interleave(2, 0),
    "narrow": lambda m, n: m.table.narrow(0, 0, n),
    "narrow, a function": lambda m, n: torch.narrow(m.table, 0, 0, n),
    "split": lambda m, n: m.table.split([n, ROWS - n])[0],
    "split, a function": lambda m, n: torch.split(m.table, (n, ROWS - n), dim=0)[0],
    "split by a size": lambda m, n: m.table.split(n)[0],
    "split at a place": lambda m, n: m.table.tensor_split([n])[0],
    "split with sizes": lambda m, n: m.table.split_with_sizes([n, ROWS - n])[0],
    "rows by number": lambda m, n: m.table[torch.arange(n)],
    "rows by index_select": lambda m, n: m.table.index_select(0, torch.arange(n)),
    "rows by gather": lambda m, n: m.table.gather(0, torch.arange(n)[:, None].expand(n, m.width)),
    "rows by take_along_dim": lambda m, n: m.table.take_along_dim(torch.arange(n)[:, None], 0),
    "rows by a mask": lambda m, n: m.table[torch.arange(ROWS) < n],
    "rows one by one": lambda m, n: torch.stack([m.table[i] for i in range(n)]),
    "rows unbound": lambda m, n: torch.stack(m.table.unbind()[:n]),
    "rows padded away": lambda m, n: F.pad(m.table, (0, 0, 0, n - ROWS)),
    "a lookup": lambda m, n: F.embedding(torch.arange(n), m.table),
    "a lookup in a module": lambda m, n: m.named(torch.arange(n)),
    "the weight of a module": lambda m, n: m.named.weight[:n],
}
RANKS: dict[str, tuple[tuple[int, ...], Callable[[Tokens, int], Tensor]]] = {
    "one dimension": ((ROWS,), lambda m, n: m.table[:n, None]),
    "three dimensions": ((1, ROWS, WIDTH), lambda m, n: m.table[:, :n]),
    "channels first": ((1, WIDTH, ROWS), lambda m, n: m.table[..., :n].transpose(1, 2)),
    "a bias of pairs": ((WIDTH, ROWS, ROWS), lambda m, n: m.table[:, :n, :n].sum(-1).t()),
    "distances": ((2 * ROWS - 1, WIDTH), lambda m, n: m.table[ROWS - n : ROWS + n - 1].unfold(0, n, 1).mean(-1)),
}
CASES = {
    **{name: (read,) for name, read in SPELLINGS.items()},
    **{name: (f, *shape) for name, (shape, f) in RANKS.items()},
}


@pytest.mark.parametrize("case", CASES)
def test_rows_of_places_stay_where_they_are(case: str) -> None:
    torch.manual_seed(0)
    net = Tokens(*CASES[case])
    before = copy.deepcopy(net)
    elastify(net, torch.randint(0, 50, (2, 16)))
    assert {axis.role for axis in space(net).axes} <= {"embedding", "hidden", "width"}
    sort_channels(net)
    longer = torch.randint(0, 50, (2, 30))
    torch.testing.assert_close(net(longer), before(longer), rtol=1e-4, atol=1e-4)
    small = extract(net, space(net).min)
    assert small(longer).shape == (2, 30, 3)
    kept = [n for n in small.table.shape if n in (ROWS, 2 * ROWS - 1)]
    assert kept == [n for n in before.table.shape if n in (ROWS, 2 * ROWS - 1)]


def test_the_reason_says_that_rows_are_positions() -> None:
    net = elastify(Tokens(lambda m, n: m.table[:n]), torch.randint(0, 50, (2, 16)))
    assert "cut at the size of an input, so that its units are positions: getitem" in str(space(net))


def test_places_behind_a_convolution_are_places() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv1d(4, WIDTH, 3, stride=2, padding=1), nn.Linear(WIDTH, 3)
            self.table = nn.Parameter(torch.randn(ROWS, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).transpose(1, 2)
            return self.out(torch.relu(y + self.table[: y.shape[1]]))

    net = elastify(Net(), torch.randn(2, 4, 20))
    assert extract(net, 0.5).table.shape == (ROWS, WIDTH // 2)


def test_channels_cut_at_a_size_that_weights_have_still_move() -> None:
    """A skip connection into the first channels: how many there are is fixed by the weights, not by the example."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate, self.out = nn.Linear(4, 20), nn.Linear(16, 8), nn.Linear(4, 3)
            self.again = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.out(x + y[:, : x.shape[1]] + self.again(torch.relu(self.gate(y[:, x.shape[1] :]))))

    net = elastify(Net(), torch.randn(3, 4))
    assert extract(net, space(net).min).gate.weight.shape == (2, 4)
