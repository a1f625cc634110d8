"""Numbers that forward never reads: which follow the sizes, and which are left as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import ElastifyError, activate, elastify, extract, space
from elastify._rewrite.state import elastic_state

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


class Sizes:
    def __init__(self, **numbers: Any) -> None:
        self.__dict__.update(numbers)


class Block(nn.Module):
    def __init__(self, width: int, hidden: int, index: int) -> None:
        super().__init__()
        self.dim, self.hidden_dim, self.layer_id = width, hidden, index
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    """One width, one hidden size per block, and a description of itself."""

    def __init__(self, width: int = 16, hidden: int = 24, depth: int = 3) -> None:
        super().__init__()
        self.num_features = self.embed_dim = width
        self.depth = depth
        self.sizes = Sizes(hidden_size=width, intermediate_size=hidden, num_layers=depth, image_channels=6)
        self.stem = nn.Linear(6, width)
        self.blocks = nn.ModuleList(Block(width, hidden, i) for i in range(depth))
        self.head = nn.Linear(width, 3)
        self.info = [{"num_chs": width, "reduction": 2, "module": f"blocks.{i}"} for i in range(depth)]
        self.channels = {"stem": (6, width)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i in range(self.depth):
            x = self.blocks[i](x)
        return self.head(x)


SMALLER = {"width": 8, "blocks.*.hidden": 6}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return elastify(Net(), X)


def test_sizes_are_matched(net: nn.Module) -> None:
    small = extract(net, SMALLER)
    assert (small.num_features, small.embed_dim, small.sizes.hidden_size) == (8, 8, 8)
    assert [block.dim for block in small.blocks] == [8, 8, 8]
    assert [block.hidden_dim for block in small.blocks] == [6, 6, 6]
    assert small.channels == {"stem": (6, 8)}
    assert [entry["num_chs"] for entry in small.info] == [8, 8, 8]
    assert small.sizes.image_channels == 6


def test_what_fits_several_is_left_and_listed(net: nn.Module) -> None:
    assert extract(net, {**SMALLER, "blocks.0.hidden": 12}).sizes.intermediate_size == 24  # which of the blocks' own?
    assert extract(net, SMALLER).sizes.intermediate_size == 6
    assert [str(attr) for attr in space(net).plan.unclear] == ["sizes.intermediate_size"]
    assert "sizes.intermediate_size" in str(space(net))


def test_numbers_of_blocks_follow(net: nn.Module) -> None:
    assert [stage.name for stage in space(net).stages] == ["blocks"]  # the loop is over a range: proven by running it
    small = extract(net, {"blocks": (0, 2)})
    assert (small.depth, small.sizes.num_layers) == (2, 2)
    assert [block.layer_id for block in small.blocks] == [0, 1]
    assert [entry["module"] for entry in small.info] == ["blocks.0", "blocks.1"]
    torch.testing.assert_close(small(X), net.head(net.blocks[2](net.blocks[0](net.stem(X)))))


def test_all_is_restored(net: Any) -> None:
    with activate(net, {**SMALLER, "blocks": (0, 2)}):
        assert (net.num_features, net.depth, net.blocks[1].layer_id) == (8, 2, 1)
    assert (net.num_features, net.depth, net.blocks[2].layer_id, net.info) == (16, 3, 2, Net().info)
    assert elastic_state(net).block_numbers == {}


def test_two_widths_of_one_size_are_told_apart_by_place() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleDict({"a": Net(), "b": Net()})
            self.num_features = 16

        def forward(self, x: Tensor) -> Tensor:
            return self.inner["a"](x) + self.inner["b"](x)

    pair = elastify(Pair(), X)
    small = extract(pair, {"inner.a.width": 8, "inner.b.width": 12})
    assert (small.inner["a"].num_features, small.inner["b"].num_features, small.num_features) == (8, 12, 16)
    assert "num_features" in [str(attr) for attr in space(pair).plan.unclear]


def test_blocks_among_others_that_are_named_leave_their_places_behind() -> None:
    """A list of stages of which some are taps: the taps keep their numbers, which are written in several places."""

    class Stages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.Sequential(nn.Linear(6, 16), Block(16, 24, 1), Block(16, 24, 2), nn.Linear(16, 12))
            self.head = nn.Linear(12, 3)
            self.info = [{"num_chs": 16, "module": "stages.0"}, {"num_chs": 12, "module": "stages.3"}]
            self.ends = [0, 3]

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stages(x))

    model = elastify(Stages(), X)
    (stage,) = space(model).stages
    small: Any = extract(model, {stage.name: 1, "stages.width": 8})
    assert [type(part) for part in small.stages] == [nn.Linear, Block, nn.Identity, nn.Linear]
    assert small.info == [{"num_chs": 8, "module": "stages.0"}, {"num_chs": 12, "module": "stages.3"}]
    assert small.stages[: small.ends[1]](X).shape == (2, small.info[0]["num_chs"])


def test_places_are_no_features() -> None:
    """As many rows of pixels as channels, which a picture of another size would not have."""

    class Picture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.act, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Linear(16, 2)
            self.num_features, self.info = 16, [{"num_chs": 16, "module": "act"}]

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.stem(x)).mean((2, 3)))

    small: Any = extract(elastify(Picture(), torch.randn(2, 3, 16, 16)), 0.5)
    assert (small.num_features, small.info) == (8, [{"num_chs": 8, "module": "act"}])


def test_units_come_before_units_times_a_fixed_number() -> None:
    class Patches(nn.Module):
        """Four pixels of four channels each, flattened, are sixteen; so wide is the network, too."""

        def __init__(self) -> None:
            super().__init__()
            self.pixels, self.place = nn.Linear(1, 4), nn.Parameter(torch.randn(4, 1))
            self.join, self.head = nn.Linear(16, 16), nn.Linear(16, 3)
            self.num_features = 16

        def forward(self, x: Tensor) -> Tensor:
            x = self.pixels(x[..., None]) + self.place
            return self.head(self.join(x.flatten(1)).relu())

    model = elastify(Patches(), torch.randn(2, 4))
    small: Any = extract(model, 0.5)
    assert (small.num_features, small.head.in_features, small.join.in_features) == (8, 8, 8)
    assert not space(model).plan.unclear


def test_places_and_fields_of_records_are_told_by_their_own_names() -> None:
    class Shown(Net):
        """As many as the width of the network, and of no such thing."""

        def __init__(self) -> None:
            super().__init__()
            self.feature_ends, self.channel_index = [16, 24], 16
            self.feature_info = [{"num_chs": 16, "reduction": 16, "module": "blocks.0"}]
            self.features = [{"channels": 16, "module": "of another name"}]

    small: Any = extract(elastify(Shown(), X), SMALLER)
    assert (small.feature_ends, small.channel_index, small.num_features) == ([16, 24], 16, 8)
    assert small.feature_info == [{"num_chs": 8, "reduction": 16, "module": "blocks.0"}]
    assert small.features == [{"channels": 16, "module": "of another name"}]


class Grouped(nn.Module):
    """Four queries share a key. How many do is asked, and told to nothing where the kernel counts them itself."""

    def __init__(self, heads: int = 8, kv_heads: int = 2, head_dim: int = 6) -> None:
        super().__init__()
        self.head_dim, self.num_key_value_groups = head_dim, heads // kv_heads
        self.q, self.o = nn.Linear(6, heads * head_dim), nn.Linear(heads * head_dim, 3)
        self.k, self.v = nn.Linear(6, kv_heads * head_dim), nn.Linear(6, kv_heads * head_dim)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in (self.q, self.k, self.v))
        shared = self.num_key_value_groups > 1
        if shared and bias is not None:
            k, v = (part.repeat_interleave(self.num_key_value_groups, 1) for part in (k, v))
            shared = False
        y = nn.functional.scaled_dot_product_attention(q, k, v, bias, enable_gqa=shared)
        return self.o(y.transpose(1, 2).flatten(2))


def test_how_many_queries_share_a_key_follows() -> None:
    x, none = torch.randn(2, 5, 6), torch.zeros(5, 5)
    model = elastify(Grouped(), x, choices={"q_per_kv": [1, 2, 3, 4], "kv_heads": [1, 2]})
    with pytest.raises(ElastifyError, match="legal: 2, 3, 4"):  # one is another way through forward
        extract(model, {"q_per_kv": 1})
    for config in ({"q_per_kv": 2}, {"q_per_kv": 3, "kv_heads": 1}, {"kv_heads": 1}):
        small: Any = extract(model, config)
        assert small.num_key_value_groups == config.get("q_per_kv", 4)
        torch.testing.assert_close(small(x, none), small(x))
        with activate(model, config):
            torch.testing.assert_close(model(x, none), small(x))
