"""What forward keeps for later belongs to one configuration and one order of units."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import activate, elastify, extract, space
from elastify.testing import check_model
from elastify.train import sort_channels
from tests.every_axis import every_axis


class Biased(nn.Module):
    """Channels get a bias that is gathered from a table on first use, as in LeViT; another is kept as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)
        self.table, self.shift = nn.Parameter(torch.randn(16, 2)), nn.Parameter(torch.randn(16))
        self.register_buffer("picked", torch.tensor([1, 0, 1]), persistent=False)
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        key = str(x.device)
        if key not in self.cache:
            self.cache[key] = self.table[:, self.picked]
        if not hasattr(self, "kept"):
            self.kept = self.shift.exp()
        return self.last((self.first(x).relu() + self.kept) * self.cache[key].sum(1))


def test_every_configuration_fills_its_own_caches() -> None:
    check_model(Biased(), torch.randn(2, 4), configurations=4, gradients=2).assert_passed()


def test_caches_are_what_they_were_before_the_first_run() -> None:
    x = torch.randn(2, 4)
    model = elastify(Biased(), x)
    whole = model(x)
    assert list(model.cache) == ["cpu"]
    with activate(model, space(model).min):
        assert model.cache == {}
        assert not hasattr(model, "kept")
        model(x)
        assert model.cache["cpu"].shape == (4, 3)
    assert torch.equal(model(x), whole)
    assert extract(model, 0.5).cache == {}


def test_sorted_channels_are_cached_anew() -> None:
    x = torch.randn(2, 4)
    model = elastify(Biased(), x)
    whole = model(x)
    sort_channels(model)
    torch.testing.assert_close(model(x), whole)


class Attention(nn.Module):
    """Heads by hand; `factor` is computed once, of numbers that follow."""

    def __init__(self, heads: int = 4, head_dim: int = 8) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv, self.out = nn.Linear(6, 3 * heads * head_dim), nn.Linear(heads * head_dim, 6)
        self.scale: Any = None
        self.memo: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return self.out(((q * self.factor() @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))

    def factor(self) -> Any:
        raise NotImplementedError


class LazyFloat(Attention):
    def factor(self) -> Any:
        if self.scale is None:
            self.scale = self.head_dim**-0.5
        return self.scale


class LazyInteger(Attention):
    def factor(self) -> Any:
        if not hasattr(self, "dk"):
            self.dk = self.head_dim * self.heads
        return 1 / self.dk


class LazyTensor(Attention):
    def factor(self) -> Any:
        if self.scale is None:
            self.scale = torch.tensor(self.head_dim**-0.5)
        return self.scale


class LazyEntry(Attention):
    def factor(self) -> Any:
        if "scale" not in self.memo:
            self.memo["scale"] = self.head_dim**-0.5
        return self.memo["scale"]


class CachedFloat(Attention):
    @functools.cached_property
    def root(self) -> float:
        return self.head_dim**-0.5

    def factor(self) -> Any:
        return self.root


class CachedInteger(Attention):
    @functools.cached_property
    def both(self) -> int:
        return self.head_dim * self.heads

    def factor(self) -> Any:
        return 1 / self.both


class CachedTensor(Attention):
    @functools.cached_property
    def slopes(self) -> Tensor:
        return 0.5 ** torch.arange(1, self.heads + 1)[:, None, None]

    def factor(self) -> Any:
        return self.slopes


class Remembering(Attention):
    @functools.lru_cache  # noqa: B019 - as some libraries do
    def factor(self) -> Any:
        return self.head_dim**-0.5


def remembering(function: Any) -> Any:
    kept = functools.lru_cache(function)

    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        return kept(*args)

    return wrapped


class RememberingInside(Attention):
    @remembering
    def factor(self) -> Any:
        return (self.head_dim * self.heads) ** -0.5


MADE_ONCE = [LazyFloat, LazyInteger, LazyTensor, LazyEntry, CachedFloat, CachedInteger, CachedTensor]
MADE_ONCE += [Remembering, RememberingInside]
LEFT_AS_THEY_ARE = {LazyInteger, LazyTensor, LazyEntry}  # where an earlier run has filled them: they are listed


@pytest.mark.parametrize("ran", [False, True], ids=["new", "has run"])
@pytest.mark.parametrize("net", MADE_ONCE)
def test_what_is_computed_once_is_computed_again_for_each_subnet(net: Any, ran: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6)
    model = net()
    if ran:
        model(x)
    every_axis(model, x)
    if ran and net in LEFT_AS_THEY_ARE:
        assert "numbers that stay" in str(space(model))
        return
    full = net()
    full.load_state_dict(model.state_dict())
    assert len(space(model).axes) == (1 if net is CachedTensor else 2)  # its table of slopes keeps the heads
    for axis in space(model).axes:
        name, size = axis.name, axis.size // 2
        small, built = extract(model, {name: size}), net(**{axis.role: size})
        built.load_state_dict(small.state_dict())
        torch.testing.assert_close(small(x), built(x))
        for _ in range(2):
            assert torch.equal(model(x), full(x))
            with activate(model, {name: size}):
                torch.testing.assert_close(model(x), built(x))
