"""Sorting units by importance: the same function, and what a slice keeps is more."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastify import ElastifyError, activate, elastify, extract, space
from elastify._ir.layout import Axis, Concat, Product
from elastify.train import recalibrate, sort_channels
from elastify.train._surgery.sort import owners


class Conv(nn.Module):
    """Batch norm with statistics that matter, grouped and depthwise convolutions, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.other = nn.Conv2d(3, 6, 1)
        self.join = nn.Conv2d(18, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.stem(x)).relu()
        h = torch.cat([h + self.depthwise(h), self.other(x)], 1)
        return self.head(F.gelu(self.join(h)).mean((2, 3)))


class Attention(nn.Module):
    """Fused qkv (a product of heads and head_dim), a gated MLP (a concatenation of halves), a residual width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 24), nn.LayerNorm(24)
        self.heads, self.head_dim = 4, 6
        self.qkv, self.proj = nn.Linear(24, 72), nn.Linear(24, 24)
        self.up, self.down, self.head = nn.Linear(24, 40), nn.Linear(20, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        batch, length, _ = h.shape
        q, k, v = self.qkv(self.norm(h)).reshape(batch, length, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, self.heads * self.head_dim)
        h = h + self.proj(y)
        return self.head(h + self.down(F.glu(self.up(h))))


class Recurrent(nn.Module):
    """Gates of an LSTM, both directions, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(5, 10)
        self.rnn = nn.LSTM(10, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.into(x))[0])


class Rotary(nn.Module):
    """Rotary positions: head_dim is twice a frequency axis that also runs through a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.qk, self.v, self.head = nn.Linear(6, 32), nn.Linear(6, 20), nn.Linear(20, 3)
        self.register_buffer("frequency", torch.rand(8) + 0.1)

    def rotate(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * self.frequency
        a, b = x.chunk(2, -1)
        return x * torch.cat([angle, angle], -1).cos() + torch.cat([-b, a], -1) * torch.cat([angle, angle], -1).sin()

    def forward(self, x: Tensor) -> Tensor:
        q, k = (self.rotate(part) for part in self.qk(x).chunk(2, -1))
        return self.head((q @ k.transpose(1, 2) * 0.3).softmax(-1) @ self.v(x))


SHAPES = {Rotary: (2, 5, 6), Conv: (4, 3, 6, 6), Attention: (2, 5, 6), Recurrent: (2, 7, 5)}
_made: dict[type, nn.Module] = {}


def make(kind: type) -> tuple[nn.Module, Tensor]:
    if kind not in _made:
        torch.manual_seed(0)
        net = kind()
        with torch.no_grad():
            for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
                if tensor.is_floating_point():  # every tensor matters, also norms and statistics
                    tensor.copy_(
                        torch.rand_like(tensor) + 0.5 if name.endswith("var") else torch.randn_like(tensor) * 0.4
                    )
        _made[kind] = elastify(net.eval(), torch.randn(SHAPES[kind]))
    return copy.deepcopy(_made[kind]), torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(1))


def kept_norm(model: nn.Module) -> float:
    small = extract(model, 0.5)
    return sum(p.square().sum().item() for p in small.parameters())


@pytest.mark.parametrize("kind", [Conv, Attention, Recurrent, Rotary])
def test_the_function_stays_and_a_slice_keeps_more(kind: type) -> None:
    model, x = make(kind)
    before, kept, whole = model(x).detach(), kept_norm(model), {n: t.clone() for n, t in model.state_dict().items()}
    orders = sort_channels(model)
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    assert kept_norm(model) > 1.02 * kept
    assert orders.keys() == {axis.name for axis in space(model).axes}
    for axis in space(model).axes:
        assert sorted(orders[axis.name].tolist()) == list(range(axis.size))
    assert any(not torch.equal(tensor, whole[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.square().sum().isclose(whole[n].square().sum()) for n, tensor in model.named_parameters())


@pytest.mark.parametrize("kind", [Conv, Attention, Recurrent, Rotary])
def test_sorting_twice_changes_nothing(kind: type) -> None:
    model, _ = make(kind)
    sort_channels(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    orders = sort_channels(model)
    assert all(torch.equal(order, torch.arange(len(order))) for order in orders.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_importance_of_ones_own() -> None:
    model, x = make(Attention)
    before = model(x).detach()
    model(x).square().sum().backward()
    orders = sort_channels(model, lambda p: (p * p.grad).square())
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    other, _ = make(Attention)
    by_size = sort_channels(other)
    assert any(not torch.equal(orders[name], by_size[name]) for name in orders)


MEASURES = ("taylor", "activation", "scale", "random")


@pytest.mark.parametrize("kind", [Conv, Attention, Recurrent, Rotary])
@pytest.mark.parametrize("importance", MEASURES)
def test_every_measure_leaves_the_function_and_the_model(kind: type, importance: str) -> None:
    model, x = make(kind)
    before = model(x).detach()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    model.train()
    orders = sort_channels(model, importance, [(x, None)] * 2, lambda outputs, targets: outputs.square().mean())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(b.sum().isclose(buffers[name].sum()) for name, b in model.named_buffers())
    torch.testing.assert_close(model.eval()(x), before, rtol=1e-5, atol=1e-5)
    other, _ = make(kind)
    by_size = sort_channels(other)
    scaled = importance != "scale" or kind in (Conv, Attention)  # the others have no norm: sorted by magnitude
    assert any(not torch.equal(orders[name], by_size[name]) for name in orders) == scaled


def test_measures_find_what_they_measure() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    model = elastify(net.eval(), torch.randn(4, 6))
    with torch.no_grad():
        model[1].weight[5] = 9.0  # a large scale
        model[3].bias[2] = 30.0  # a unit that is always on, so nothing can be learnt about it: tanh is flat
        model[3].weight[:] = model[3].weight[:1] * torch.linspace(1, 0.8, 8)[:, None]
        model[5].weight.fill_(0.5)
    data = [(torch.randn(32, 6), torch.randint(0, 3, (32,))) for _ in range(3)]
    first, second = (name for name in sort_channels(copy.deepcopy(model)))
    assert sort_channels(copy.deepcopy(model), "scale")[first][0] == 5
    assert sort_channels(copy.deepcopy(model), "activation", data)[second][0] == 2
    loss = torch.nn.functional.cross_entropy
    assert sort_channels(copy.deepcopy(model), "taylor", data, loss)[first][0] == 5
    orders = [sort_channels(copy.deepcopy(model), "random", seed=seed)[second].tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_the_planted_unit_comes_first() -> None:
    model, _ = make(Recurrent)
    with torch.no_grad():
        model.rnn.weight_hh_l0[2 * 12 + 7] *= 50  # the cell gate of unit 7
    orders = sort_channels(model)
    hidden = next(order for order in orders.values() if len(order) == 12)
    assert hidden[0] == 7


def test_parameters_stay_the_same_objects_and_overlays_go() -> None:
    model, x = make(Conv)
    recalibrate(model, [x], 0.5)
    before = [id(p) for p in model.parameters()]
    with activate(model, 0.5):
        sort_channels(model)
    activate(model, None)
    assert [id(p) for p in model.parameters()] == before
    small = extract(model, 0.5)
    assert small.norm.num_batches_tracked == model.norm.num_batches_tracked


def test_refusals() -> None:
    model, _ = make(Attention)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ElastifyError, match="unknown importance 'size'"):
        sort_channels(model, "size")
    with pytest.raises(ElastifyError, match="importance='taylor' is measured on data"):
        sort_channels(model, "taylor", [torch.randn(2, 5, 6)])
    with pytest.raises(ElastifyError, match="importance='activation' is measured on data"):
        sort_channels(model, "activation")
    with pytest.raises(ElastifyError, match="nothing to measure importance on"):
        sort_channels(model, "activation", [])
    with pytest.raises(ElastifyError, match=r"importance of shape \(\) for embed.weight of shape \(24, 6\)"):
        sort_channels(model, lambda p: p.sum())
    with pytest.raises(ElastifyError, match="the importance of a weight is not finite"):
        sort_channels(model, lambda p: p / 0)
    with pytest.raises(ElastifyError, match="this Linear is not elastic"):
        sort_channels(nn.Linear(2, 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_owners_of_nested_layouts() -> None:
    heads, dim, fixed = Axis(0, 2), Axis(1, 3), Axis(2, 2)
    layout = Concat((Product((fixed, heads, dim)), dim))
    (of_heads,) = owners(layout, 0)
    assert of_heads.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, -1, -1, -1]
    in_product, alone = owners(layout, 1)
    assert in_product.tolist() == [0, 1, 2] * 4 + [-1] * 3
    assert alone.tolist() == [-1] * 12 + [0, 1, 2]
    squared = list(owners(Product((dim, dim)), 1))
    assert np.array_equal(squared[0], [0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert np.array_equal(squared[1], [0, 1, 2] * 3)
    assert list(owners(fixed, 1)) == []
