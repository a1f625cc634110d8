"""Numbers of config objects, which describe many modules at once, follow the subnet, too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from elastify import activate, elastify, extract, load, save, space


class Attention(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.heads, self.size = config.n_head, config.head_dim
        self.q, self.k, self.v = (nn.Linear(config.d_model, self.heads * self.size) for _ in range(3))
        self.out = nn.Linear(self.heads * self.size, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).view(*x.shape[:2], self.heads, self.size).transpose(1, 2) for m in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(*x.shape[:2], self.heads * self.size))


class Layer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.up, self.down = nn.Linear(config.d_model, config.d_ff), nn.Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = {"d_model": 20, "n_head": 3, "head_dim": 8, "d_ff": 28, "num_layers": 4}
        self.config = SimpleNamespace(**sizes, kinds=["a", "b", "c", "d"], vocab_size=20, name="net")
        self.first = nn.Linear(6, 20)
        self.layers = nn.ModuleList(Layer(self.config) for _ in range(4))
        self.last = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


def small() -> tuple[Any, Any, Any]:
    model = elastify(Net().eval(), torch.randn(2, 7, 6), choices={"*.head_dim": [4]})
    config = space(model).config({"*.hidden": 7, "width": 10, "*.heads": 2, "*.head_dim": 4, "layers": 2})
    return model, config, extract(model, config)


def test_numbers_of_the_extracted_model_are_its_own() -> None:
    shown = vars(small()[2].config)
    assert shown == {
        "d_model": 10,
        "n_head": 2,
        "head_dim": 4,
        "d_ff": 7,
        "num_layers": 2,
        "kinds": ["a", "b"],
        "vocab_size": 20,
        "name": "net",
    }


def test_the_number_of_layers_follows_the_active_subnet() -> None:
    model, config, _ = small()
    with activate(model, config):
        assert (model.config.num_layers, model.config.kinds) == (2, ["a", "b", "c", "d"])
    assert model.config.num_layers == 4


def test_where_layers_differ_it_is_left_as_it_was() -> None:
    model, _, _ = small()
    uneven = space(model).config({"layers.0.hidden": 7, "layers.1.hidden": 14, "layers": 2})
    assert extract(model, uneven).config.d_ff == 28


def test_blocks_that_are_left_out_have_no_say() -> None:
    model, config, _ = small()
    assert model.config.d_ff == 28
    with activate(model, config):
        assert (model.config.d_ff, model.config.n_head, model.config.head_dim) == (7, 2, 4)
    with activate(model, {"layers.0.hidden": 7, "layers.2.hidden": 7, "layers": (0, 2)}):
        assert model.config.d_ff == 7
    assert vars(model.config) == vars(Net().config)


def test_they_are_saved(tmp_path: Any) -> None:
    model = small()[2]
    save(model, tmp_path)
    assert vars(load(tmp_path, like=Net).config) == vars(model.config)


def test_a_number_that_forward_computes_with_stays() -> None:
    class Picky(Net):
        def forward(self, x: Tensor) -> Tensor:
            if self.config.d_model % 4 != 0:
                raise ValueError("a width that is no multiple of 4")
            return super().forward(x) * torch.arange(self.config.n_head).sum()

    model = elastify(Picky().eval(), torch.randn(2, 7, 6))
    config = extract(model, {"width": 10, "*.heads": 2}).config
    assert (config.d_model, config.n_head) == (20, 3)


class Tower(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.layer = config, nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x))


class TwoTowers(nn.Module):
    """The config of each tower is known by two paths; forward compares their widths, and would want a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(one=SimpleNamespace(hidden_size=12), two=SimpleNamespace(hidden_size=12))
        self.one, self.two = Tower(self.config.one), Tower(self.config.two)
        self.inlet, self.bridge, self.last = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(self.inlet(x))
        if self.one.config.hidden_size != self.two.config.hidden_size:
            h = self.projection(h)
        return self.last(self.two(self.bridge(h)))


def test_numbers_that_are_compared_stay_under_whatever_path_they_are_known() -> None:
    model, x = elastify(TwoTowers().eval(), torch.randn(2, 6)), torch.randn(3, 6)
    for seed in range(6):
        config = space(model).sample(seed)
        with activate(model, config):
            expected = model(x)
        torch.testing.assert_close(extract(model, config)(x), expected)
