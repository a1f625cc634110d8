"""What forward keeps for later belongs to one configuration and one order of units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from elastify import activate, elastify, extract, space
from elastify.testing import check_model
from elastify.train import sort_channels


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
