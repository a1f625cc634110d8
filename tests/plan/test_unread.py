"""Numbers in paths that the recorded run did not take: each follows, or is listed with its file and line."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elastify import elastify, extract, space
from elastify.testing import redraw
from tests.every_axis import every_axis

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Fused attention, or the same by hand: `by_hand` reads what the fused one does not."""

    def __init__(self, heads: int = 4, head_dim: int = 8) -> None:
        super().__init__()
        self.heads, self.head_dim, self.fused = heads, head_dim, True
        self.qkv, self.out = nn.Linear(6, 3 * heads * head_dim), nn.Linear(heads * head_dim, 6)
        self.make()

    def make(self) -> None: ...

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v) if self.fused else self.by_hand(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


def attend(q: Tensor, k: Tensor, v: Tensor, scale: Any) -> Tensor:
    return (q * scale @ k.mT).softmax(-1) @ v


class Named(Attention):
    def make(self) -> None:
        self.scale = self.head_dim**-0.5

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, self.scale)


class Slow(nn.Module):
    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.scale = head_dim**-0.5

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, self.scale)


class InAModule(Attention):
    def make(self) -> None:
        self.slow = Slow(self.head_dim)

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.slow(q, k, v)


class OfAnInteger(Attention):
    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, 1 / math.sqrt(self.head_dim))


@pytest.mark.parametrize("net", [Named, InAModule, OfAnInteger])
def test_what_is_clear_follows(net: type[Attention]) -> None:
    torch.manual_seed(0)
    model = every_axis(net(), X)
    small: Any = extract(model, {"*head_dim": 0.5})
    redraw(small, 0)
    fused = small(X)
    small.fused = False
    torch.testing.assert_close(small(X), fused)
    assert "numbers that stay" not in str(space(model))


class InAnObject(Attention):
    def make(self) -> None:
        self.config = SimpleNamespace(scaling=self.head_dim**-0.5)

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, self.config.scaling)  # here


class InADictionary(Attention):
    def make(self) -> None:
        self.config = {"scale": self.head_dim**-0.5}

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, self.config["scale"])  # here


class AnyName(Attention):
    def make(self) -> None:
        self.norm = self.head_dim**-0.5

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, self.norm)  # here


class Inverse(Attention):
    def make(self) -> None:
        self.coefficient = self.head_dim**0.5

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, 1 / self.coefficient)  # here


class ATensor(Attention):
    def make(self) -> None:
        self.register_buffer("scale", torch.tensor(self.head_dim**-0.5))

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, self.scale)  # here


class AnyInteger(Attention):
    def make(self) -> None:
        self.dk = self.head_dim

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, 1 / math.sqrt(self.dk))  # here


class IntegerInAnObject(Attention):
    def make(self) -> None:
        self.config = SimpleNamespace(dk=self.head_dim)

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, 1 / math.sqrt(self.config.dk))  # here


class ByLength(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.w = width
        self.a, self.b = nn.Linear(6, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        if x.shape[1] > 5:
            h = h - h.sum(-1, keepdim=True) / self.w  # here
        return self.b(h)


class Interpolated(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.c = width
        self.a, self.b = nn.Linear(6, width), nn.Linear(width, 2)
        self.positions = nn.Parameter(torch.randn(1, 5, width))

    def forward(self, x: Tensor) -> Tensor:
        table = self.positions
        if x.shape[1] != table.shape[1]:
            table = table.reshape(1, -1, self.c).transpose(1, 2)  # here
            table = F.interpolate(table, size=x.shape[1]).transpose(1, 2)
        return self.b((self.a(x) + table).relu())


LISTED = {
    AnyName: "norm: 0.353553 may be 8 ** -0.5",
    Inverse: "coefficient: 2.82843 may be 8 ** 0.5",
    InAnObject: "config.scaling: 0.353553 may be 8 ** -0.5",
    InADictionary: "config['scale']: 0.353553 may be 8 ** -0.5",
    ATensor: "scale: 0.353553 may be 8 ** -0.5",
    AnyInteger: "dk: 8 may be a size",
    IntegerInAnObject: "config.dk: 8 may be a size",
    ByLength: "w: 16 may be a size",
    Interpolated: "c: 16 may be a size",
}


@pytest.mark.parametrize("net", LISTED)
def test_what_is_not_clear_is_listed_with_its_line(net: type[nn.Module]) -> None:
    text = str(space(every_axis(net(), X)))
    assert "numbers that stay, though forward may compute with them (1)" in text
    line = next(line for line in text.splitlines() if line.strip().startswith(LISTED[net]))
    assert f", in a {'tensor' if net is ATensor else 'path that was not run'} (tests/plan/test_unread.py:" in line
    number = int(line.rpartition(":")[2].rstrip(")"))
    with open(__file__, encoding="utf-8") as source:
        assert source.readlines()[number - 1].endswith("# here\n")


def test_an_object_that_the_recorded_run_reads() -> None:
    class Always(InAnObject):
        def make(self) -> None:
            super().make()
            self.fused = False

    text = str(space(every_axis(Always(), X)))
    assert "  config.scaling: 0.353553 may be 8 ** -0.5, mul in tests/plan/test_unread.py:" in text


class NoSizes(Attention):
    """Numbers of the values of sizes that no code of forward reads, or that are something else by their names."""

    def make(self) -> None:
        self.unread, self.dropout, self.pad_token_id = 8, 8**-0.5, 8

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.dropout(attend(q, k, v, 1), self.dropout) + self.pad_token_id

    def extra_repr(self) -> str:
        return f"{self.unread}"


def test_what_can_be_no_size_is_not_listed() -> None:
    assert "numbers that stay" not in str(space(elastify(NoSizes(), X)))


def test_a_module_that_has_run_is_not_asked_for_what_is_around_it() -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = 16**-0.5  # of its own dimension, which stays

        def forward(self, x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], 2, 16).softmax(-1).flatten(2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.inside = nn.Linear(6, 16), nn.Linear(16, 32), Inside()
            self.b = nn.Linear(32, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.inside(self.a(self.first(x).relu())))

    assert not space(elastify(Net(), X)).plan.scales
