"""A ratio bounds a dimension, also where it is a product of axes: in options, configurations and nested paths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import ElastifyError, SubnetConfig, activate, elastify, extract, search, space
from elastify._space import SearchSpace


class Attends(nn.Module):
    def __init__(self, width: int = 96, heads: int = 8) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(5, width), nn.Linear(width, 3)
        self.m = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        return self.o(x + self.m(x, x, x)[0])


class Grouped(nn.Module):
    """A norm of groups, whose units are those of a convolution."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 32, 3), nn.Conv2d(32, 2, 1)
        self.n = nn.GroupNorm(groups, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.n(self.a(x)).relu()).relu())


class Shared(nn.Module):
    """Two heads of keys, each for eight queries."""

    def __init__(self) -> None:
        super().__init__()
        self.kv_heads, self.heads = 2, 16
        self.q, self.k, self.v, self.o = nn.Linear(6, 64), nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, -1).transpose(1, 2)
        k, v = (layer(x).view(b, n, self.kv_heads, -1).transpose(1, 2) for layer in (self.k, self.v))
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        return self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


TOKENS, IMAGE = torch.randn(2, 7, 5), torch.randn(2, 3, 8, 8)


def legal(found: SearchSpace) -> dict[str, tuple[int, ...]]:
    """Sizes that are drawn without being named."""
    return {axis.name: axis.choices for axis in found.axes if not axis.whole}


@pytest.mark.parametrize(("ratio", "width"), [(1.0, 96), (0.75, 72), (0.5, 48), (0.3, 36), (0.25, 24)])
def test_a_width_of_heads_keeps_the_ratio(ratio: float, width: int) -> None:
    small: Any = extract(elastify(Attends(), TOKENS), ratio)
    assert (small.i.out_features, small.m.head_dim) == (width, 12)
    assert torch.isfinite(small(TOKENS)).all()


@pytest.mark.parametrize(
    ("least", "groups", "units"),
    [(0.25, (1, 2, 3, 4), None), (0.5, (2, 3, 4), None), (0.125, (1, 2, 3, 4), tuple(range(8, 17)))],
)
def test_groups_before_the_units_of_a_group(least: float, groups: tuple[int, ...], units: Any) -> None:
    found = space(elastify(Grouped(), IMAGE, min_ratio=least))
    assert (legal(found)["groups"], legal(found).get("a.channels")) == (groups, units)
    assert [extract_size(least, ratio) for ratio in (1.0, 0.5)] == [64, 32]


def extract_size(least: float, ratio: float) -> int:
    small: Any = extract(elastify(Grouped(), IMAGE, min_ratio=least), ratio)
    return int(small.a.out_channels)


def test_heads_of_keys_before_the_queries_that_share_them() -> None:
    model = elastify(Shared(), torch.randn(2, 7, 6), min_ratio=0.125)
    found = space(model)
    assert legal(found) == {"kv_heads": (1, 2), "q_per_kv": tuple(range(2, 9))}
    assert found.config(0.5).sizes == {"kv_heads": 1, "q_per_kv": 8, "qk_head_dim": 4, "v_head_dim": 4}
    assert found.config(0.25).sizes == {"kv_heads": 1, "q_per_kv": 4, "qk_head_dim": 4, "v_head_dim": 4}
    products = [config.sizes["kv_heads"] * config.sizes["q_per_kv"] for config in found.nested(8)]
    assert products == sorted(products)
    assert (products[0], products[-1]) == (2, 16)
    assert max(abs(n - (2 + 2 * i)) for i, n in enumerate(products)) <= 8  # evenly, as far as two heads allow


def test_what_stays_whole_is_listed_and_gets_smaller_where_it_is_named() -> None:
    model = elastify(Attends(), TOKENS)
    found = space(model)
    assert [axis.name for axis in found.axes if axis.whole] == ["width.head_dim"]
    assert "width.head_dim 3..12" in str(found)
    assert found.size == 7
    drawn = [found.min, *found.nested(4), *found.grid(3, 1), *(found.sample(seed) for seed in range(20))]
    assert {config.sizes["width.head_dim"] for config in drawn} == {12}
    named = found.config({"*": 0.5, "*head_dim": 0.5})
    assert named.sizes == {"width.heads": 4, "width.head_dim": 6}
    small: Any = extract(model, named)
    assert (small.m.num_heads, small.m.head_dim) == (4, 6)
    with activate(model, named):
        torch.testing.assert_close(model(TOKENS), small(TOKENS))


def test_a_pattern_of_all_leaves_what_another_has_named() -> None:
    found = space(elastify(Attends(), TOKENS))
    both = {"width.heads": 4, "width.head_dim": 6}
    assert found.config({"*head_dim": 0.5, "*": 0.5}).sizes == both
    assert found.config({"*": 0.5, "*head_dim": 0.5}).sizes == both
    assert found.config({"*head_dim": 0.5, "*": 12 / 12}).sizes == {"width.heads": 8, "width.head_dim": 6}


def test_a_search_keeps_it() -> None:
    model = elastify(Attends(), TOKENS)
    result = search(model, budget_macs="50%", evaluate=lambda _: 0.0, n_trials=6, progress=False)
    assert {trial.config.sizes["width.head_dim"] for trial in result.history} == {12}


@pytest.mark.parametrize("options", [{"choices": {"*head_dim": [0.5]}}, {"min_ratio": {"*": 0.25, "*.head_dim": 0.5}}])
def test_a_pattern_that_matches_one_factor_means_it(options: dict[str, Any]) -> None:
    found = space(elastify(Attends(), TOKENS, **options))
    assert (legal(found)["width.head_dim"][0], legal(found)["width.heads"][0]) == (6, 2)
    assert found.config({"*head_dim": 0.5}).sizes == {"width.heads": 8, "width.head_dim": 6}
    assert found.config(0.5).sizes == {"width.heads": 4, "width.head_dim": 12}


def test_a_list_of_ratios_for_several_factors_is_of_their_product() -> None:
    found = space(elastify(Grouped(), IMAGE, choices={"*": [0.125, 0.5]}))
    assert legal(found) == {"groups": (1, 2, 4), "a.channels": (8, 16), "b.channels": (4, 16, 32)}


def test_sizes_of_a_coarse_factor_leave_the_rest_to_the_next() -> None:
    found = space(elastify(Grouped(), IMAGE, choices={"groups": [2]}))
    assert (legal(found)["groups"], legal(found)["a.channels"]) == ((2, 4), tuple(range(8, 17)))


def test_frozen_factors_do_not_count() -> None:
    found = space(elastify(Grouped(), IMAGE, freeze=["groups"]))
    assert legal(found)["a.channels"] == tuple(range(4, 17))


def test_a_configuration_from_before_is_read() -> None:
    found = space(elastify(Attends(), TOKENS))
    before = next(mark for mark in found.spellings if mark != found.fingerprint)
    sizes = {"width.heads": 4, "width.head_dim": 6}
    assert found.check(SubnetConfig.of(sizes, {}, before)) == found.config({"*": 0.5, "*head_dim": 0.5})
    with pytest.raises(ElastifyError, match="1 is not a legal size"):
        found.check(SubnetConfig.of(sizes | {"width.heads": 1}, {}, before))


def test_a_study_from_before_goes_on_beside_a_new_one(tmp_path: Any, monkeypatch: Any) -> None:
    model, study = elastify(Attends(), TOKENS), str(tmp_path / "study.log")
    options: dict[str, Any] = {"evaluate": lambda _: 0.0, "study": study, "n_trials": 2, "progress": False}
    before = next(mark for mark in space(model).spellings if mark != space(model).fingerprint)
    with monkeypatch.context() as patch:
        patch.setattr(SearchSpace, "fingerprint", before)
        patch.setattr(SearchSpace, "spellings", {before: space(model).columns})
        first = search(model, **options)
    assert [t.config.sizes for t in search(model, **options).history] == [t.config.sizes for t in first.history]
