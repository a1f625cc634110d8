"""Numbers that tensors meet as operands, and floats that are a root of a size: they follow, or are listed."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elastify import elastify, extract, space
from elastify.testing import redraw

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

USES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "quotient": lambda t, n: t / n,
    "quotient, a function": torch.div,
    "quotient in place": lambda t, n: t.clone().div_(n),
    "whole quotient": lambda t, n: t // n,
    "product": lambda t, n: t * n,
    "product from the left": lambda t, n: n * t,
    "sum": lambda t, n: t + n,
    "sum with a factor": lambda t, n: torch.add(t, t, alpha=n),
    "difference with a factor": lambda t, n: t.sub(t, alpha=n),
    "power": lambda t, n: t.abs() ** (1 / n),
    "bound": lambda t, n: t.clamp(max=1 / n),
    "bound by the number": lambda t, n: (100 * t).clamp(-n, n),
    "comparison": lambda t, n: (20 * t > n).float(),
    "mean of two": lambda t, n: torch.lerp(t, -t, 1 / n),
    "choice": lambda t, n: torch.where(t > 0, t, n),
    "mask": lambda t, n: t.masked_fill(t < 0, n),
    "inverse": lambda t, n: t * (1 / n),
    "inverse power": lambda t, n: t * n**-1,
    "root": lambda t, n: t / n**0.5,
    "root of math": lambda t, n: t / math.sqrt(n),
    "float": lambda t, n: t / float(n),
    "tensor": lambda t, n: t / torch.tensor(n),
    "tensor of a float": lambda t, n: t / torch.tensor(float(n)),
    "new tensor": lambda t, n: t / t.new_tensor(n),
    "full": lambda t, n: t / torch.full((1,), n),
    "full by name": lambda t, n: t / torch.full((1,), fill_value=n),
    "new full": lambda t, n: t / t.new_full((1,), n),
    "full like": lambda t, n: t / torch.full_like(t, n),
    "filled": lambda t, n: t / torch.empty(1).fill_(n),
    "added product": lambda t, n: torch.addmm(t, t, torch.ones(1, 1), alpha=n),
    "added elements": lambda t, n: torch.addcmul(t, t, t, value=n),
    # nobody is told of these
    "inverse of a float": lambda t, n: t * (2.0 / n),
    "product with a float": lambda t, n: t * (2.0 * n),
    "power of a float": lambda t, n: t * 1.1**n,
    "whole quotient of a float": lambda t, n: t * (20.5 // n),
    "logarithm": lambda t, n: t / math.log(n),
    "whole root": lambda t, n: t / math.isqrt(n),
    "divisor": lambda t, n: t / math.gcd(n, 8),
    "digits": lambda t, n: t / float(f"{n}"),
    "bits": lambda t, n: t * (n >> 1),
}
CONVERTED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "plain integer": lambda t, n: t / int(n),
    "numpy": lambda t, n: t / float(np.sqrt(n)),
}
ALONE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sum of ones": lambda t, n: t / torch.ones(n).sum(),
    "number of entries": lambda t, n: t / torch.empty(n, 2).numel(),
    "size of an empty tensor": lambda t, n: t / torch.zeros(2, n).shape[1],
    "steps": lambda t, n: t * torch.arange(n).float().mean(),
}


class Net(nn.Module):
    """`use(t, n)` of the sum over the units and of their number, which is called `name`."""

    def __init__(self, use: Callable[[Tensor, int], Tensor], name: str, width: int = 12, held: bool = False) -> None:
        super().__init__()
        self.use, self.name = [use], name
        if held:
            self.config = SimpleNamespace(**{name: width})
        else:
            setattr(self, name, width)
        self.a, self.b = nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        n = getattr(getattr(self, "config", self), self.name)
        return self.b(h - self.use[0](h.sum(-1, keepdim=True), n))


@pytest.mark.parametrize("held", [False, True], ids=["attribute", "config"])
@pytest.mark.parametrize("use", USES)
def test_a_number_with_the_name_of_a_size_follows(use: str, held: bool) -> None:
    net = Net(USES[use], "hidden_dim", held=held)
    small = extract(elastify(net, X), 0.5)
    built = Net(USES[use], "hidden_dim", 6, held)
    built.load_state_dict(small.state_dict())
    torch.testing.assert_close(small(X), built(X))
    assert "matched by name and size, set to the new sizes (1)" in str(space(net))


@pytest.mark.parametrize("held", [False, True], ids=["attribute", "config"])
@pytest.mark.parametrize("use", [*USES, *ALONE, *CONVERTED])
def test_any_other_number_is_listed_with_file_and_line(use: str, held: bool) -> None:
    net = elastify(Net({**USES, **ALONE, **CONVERTED}[use], "n", held=held), X)
    text = str(space(net))
    assert "numbers that stay, though forward may compute with them (1)" in text
    assert f"  {'config.' if held else ''}n: " in text
    line = next(line for line in text.splitlines() if line.startswith(f"  {'config.' if held else ''}n: "))
    assert "test_operands.py:" in line


@pytest.mark.parametrize("use", CONVERTED)
def test_what_is_converted_of_a_shared_object_stays_and_is_listed_whatever_its_name(use: str) -> None:
    assert "  config.hidden_dim: " in str(space(elastify(Net(CONVERTED[use], "hidden_dim", held=True), X)))


@pytest.mark.parametrize("use", ALONE)
def test_a_number_that_sizes_only_what_no_weight_meets_is_listed_whatever_its_name(use: str) -> None:
    assert "  hidden_dim: " in str(space(elastify(Net(ALONE[use], "hidden_dim"), X)))


def test_numbers_that_nobody_uses_are_not_listed() -> None:
    net = Net(lambda t, n: t, "n")
    net.places, net.note = 12, SimpleNamespace(rounds=12)
    assert "numbers that stay" not in str(space(elastify(net, X)))
    assert (net.n, net.places, net.note.rounds) == (12, 12, 12)


def test_of_many_numbers_those_that_are_used_are_listed() -> None:
    def use(t: Tensor, n: int) -> Tensor:
        return t * (2.0 / n) * (1.0 / net.third)

    net = Net(use, "n")
    net.first, net.second, net.third, net.fourth = 12, 12, 12, 12
    assert {attr.name for attr in space(elastify(net, X)).plan.staying} == {"n", "third"}


def test_numbers_that_are_no_sizes_are_not_listed() -> None:
    def use(t: Tensor, n: int) -> Tensor:
        return t.unflatten(0, (n, -1)).flatten(0, 1)

    for net in (Net(use, "n", 12), Net(lambda t, n: t * (t != n), "pad_token_id"), Net(lambda t, n: t + n, "n")):
        setattr(net, net.name, 1)
        assert "numbers that stay" not in str(space(elastify(net, X)))


def test_a_number_that_sizes_a_tensor_as_well_follows_that() -> None:
    class Heads(nn.Module):
        def __init__(self, n: int = 3) -> None:
            super().__init__()
            self.n = n
            self.a, self.b = nn.Linear(4, n * 5), nn.Linear(n * 5, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).view(len(x), self.n, 5).softmax(-1) / self.n
            return self.b(h.flatten(1))

    net = elastify(Heads(), X)
    small: Any = extract(net, space(net).min)
    assert small.n == 1
    assert "numbers that stay" not in str(space(net))


class Attention(nn.Module):
    """Fused attention, or the same by hand with a scale that the fused one does not read."""

    def __init__(self, name: str = "scale", power: float = -0.5, head_dim: int = 8, heads: int = 4) -> None:
        super().__init__()
        width = heads * head_dim
        self.heads, self.head_dim, self.fused, self.name = heads, head_dim, True, name
        setattr(self, name, head_dim**power)
        self.qkv, self.out = nn.Linear(6, 3 * width), nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q * getattr(self, self.name) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("name", ["scale", "scaling", "softmax_scale", "inv_norm_factor", "rsqrt_dim", "temperature"])
def test_a_scale_that_only_another_path_reads_follows(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6)
    small: Any = extract(elastify(Attention(name), x, choices={"*head_dim": [0.5]}), {"*head_dim": 0.5})
    redraw(small, 0)
    fused = small(x)
    small.fused = False
    torch.testing.assert_close(small(x), fused)


@pytest.mark.parametrize(("heads", "head_dim"), [(4, 4), (8, 8), (4, 16), (16, 4)])
def test_a_scale_is_that_of_the_units_of_a_head_though_there_are_as_many_heads(heads: int, head_dim: int) -> None:
    class OfHeads(nn.Module):
        def __init__(self, heads: int, head_dim: int) -> None:
            super().__init__()
            self.heads, self.scale = heads, head_dim**-0.5  # of these only heads is an attribute
            self.qkv, self.out = nn.Linear(6, 3 * heads * head_dim), nn.Linear(heads * head_dim, 6)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            y = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
            return self.out(y.transpose(1, 2).flatten(2))

    model = elastify(OfHeads(heads, head_dim), torch.randn(2, 5, 6))
    for wish, sizes in {"*heads": (heads // 2, head_dim), "*head_dim": (heads, head_dim // 2)}.items():
        small, built = extract(model, {wish: 0.5}), OfHeads(*sizes)
        built.load_state_dict(small.state_dict())
        x = torch.randn(3, 4, 6)
        torch.testing.assert_close(small(x), built(x))


@pytest.mark.parametrize("power", [-1.0, 1.0, -0.25, 0.25])
def test_other_powers_are_listed(power: float) -> None:
    text = str(space(elastify(Attention(power=power), torch.randn(2, 5, 6), choices={"*head_dim": [0.5]})))
    assert f"scale: {8**power:g} may be 8 ** {power:g}, in a path that was not run" in text


def test_a_scale_that_may_be_of_two_sizes_is_listed_with_its_line() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = 9**-0.5
            self.a, self.b, self.c = nn.Linear(4, 9), nn.Linear(9, 9), nn.Linear(9, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.a(x)) * self.gain
            return self.c(torch.relu(self.b(h)) * self.gain)

    text = str(space(elastify(Two(), X)))
    assert "  gain: 0.333333 may be 9 ** -0.5, mul in tests/plan/test_operands.py:" in text


def test_floats_of_other_names_that_no_path_reads_are_left_alone() -> None:
    text = str(space(elastify(Attention("dropout"), torch.randn(2, 5, 6))))
    assert "numbers that stay" not in text
