"""Branches of which the example takes one side are listed in the space, with file and line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import elastify, space

HEADING = "branches of which the example takes one side"


class Net(nn.Module):
    """`change(net, h)` of the hidden units of [batch, 7, 5]."""

    def __init__(self, change: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.limit, self.window, self.width = [change], 8, 4, 16
        self.up, self.norm, self.down = nn.Linear(5, 16), nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, bias: Tensor | None = None) -> Tensor:
        h = self.change[0](self, self.up(x))
        h = h if mask is None else h * mask
        h = h if bias is None else h + bias
        return self.down(h)


def text(change: Callable[[Any, Tensor], Tensor], *args: Any, **kwargs: Any) -> str:
    torch.manual_seed(0)
    net = elastify(Net(change), (torch.randn(2, 7, 5), *args), example_kwargs=kwargs)
    return str(space(net)).partition(HEADING)[2].partition("cost per sample")[0]


SIZES: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "length": (lambda m, h: m.norm(h) if h.shape[1] > 8 else h, "shape[1] > 8 is False: "),
    "length by size": (lambda m, h: m.norm(h) if h.size(1) <= 7 else h, "shape[1] <= 7 is True: "),
    "an attribute": (lambda m, h: m.norm(h) if h.shape[1] < m.limit else h, "shape[1] < limit is True: "),
    "from the other side": (lambda m, h: m.norm(h) if m.limit > h.shape[1] else h, "limit > shape[1] is True: "),
    "a rest": (lambda m, h: m.norm(h) if h.shape[1] % m.window else h[:, :4], ""),
    "a computed size": (lambda m, h: m.norm(h) if h.shape[1] // 2 == 3 else h, "shape[1] // 2 == 3 is True: "),
    "batch": (lambda m, h: m.norm(h) if len(h) > 1 else h, ""),
    "two sizes": (lambda m, h: m.norm(h) if h.shape[0] < h.shape[1] else h, "shape[0] < shape[1] is True: "),
}


@pytest.mark.parametrize("case", SIZES)
def test_branches_on_sizes_of_inputs(case: str) -> None:
    change, expected = SIZES[case]
    found = text(change)
    assert expected in found
    assert "tests/plan/test_branches.py:" in found or case in ("a rest", "batch")


QUESTIONS: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "if": (lambda m, h: m.norm(h) if h.mean() > 10 else h, "the values of tensors"),
    "item": (lambda m, h: m.norm(h) if h.max().item() > 99 else h, "the values of tensors"),
    "float": (lambda m, h: m.norm(h) if float(h.max()) > 99 else h, "the values of tensors"),
    "int": (lambda m, h: m.norm(h) if int(h.max()) > 99 else h, "the values of tensors"),
    "equal": (lambda m, h: m.norm(h) if torch.equal(h, h + 1) else h, "the values of tensors"),
    "allclose": (lambda m, h: m.norm(h) if torch.allclose(h, h + 1) else h, "the values of tensors"),
    "tolist": (lambda m, h: m.norm(h) if h[0, 0].tolist()[0] > 99 else h, "the values of tensors"),
    "gradient": (lambda m, h: m.norm(h) if h.requires_grad else h, "whether tensors require gradients"),
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_branches_on_what_is_asked_of_tensors(case: str) -> None:
    change, expected = QUESTIONS[case]
    assert f"  {expected}: tests/plan/test_branches.py:" in text(change)


def test_inputs_that_the_example_does_not_give() -> None:
    def plain(m: Any, h: Tensor) -> Tensor:
        return torch.relu(h)

    def told(*args: Any, **kwargs: Any) -> str:
        return text(plain, *args, **kwargs).partition("inputs that the example does not give: ")[2].strip()

    assert told() == "mask, bias"
    assert told(torch.ones(1)) == "bias"
    assert told(None, bias=torch.ones(1)) == "mask"
    assert told(torch.ones(1), bias=torch.ones(1)) == ""


def test_what_has_one_answer_only_is_no_branch() -> None:
    """Sizes that weights fix, sizes of the same dimension, and what torch itself asks."""

    def change(m: Any, h: Tensor) -> Tensor:
        same = torch.relu(h)
        assert same.shape == h.shape
        assert h.shape[-1] == m.width
        return nn.functional.group_norm(torch.relu(h.transpose(1, 2)), 4).transpose(1, 2)

    assert "shape" not in text(change, torch.ones(1), bias=torch.ones(1))


def test_blocks_alike_share_a_line() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.limit, self.up, self.down = 9, nn.Linear(16, 8), nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            return x if x.shape[1] > self.limit else x + self.down(torch.relu(self.up(x)))

    class Row(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.ModuleDict({"a": nn.Sequential(*(Block() for _ in range(3)))})
            self.stem, self.out = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rows["a"](self.stem(x)))

    found = str(space(elastify(Row(), torch.randn(2, 7, 4))))
    assert f"{HEADING}, the other is not proven (1)" in found
    assert "shape[1] > rows.a.*.limit is False: tests/plan/test_branches.py:" in found
