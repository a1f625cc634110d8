"""Branches of which the examples take one side are listed in the space, with file and line."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import elastify, space

HEADING = "branches of which one side was run"


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


def several(net: nn.Module, *examples: Any) -> str:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Net depends on the values")
        return str(space(elastify(net, examples=list(examples)))).partition(HEADING)[2].partition("cost per sample")[0]


BOTH: dict[str, tuple[Callable[[Any, Tensor], Tensor], Tensor, Tensor]] = {
    "lengths": (SIZES["length"][0], torch.randn(2, 7, 5), torch.randn(2, 9, 5)),
    "lengths against an attribute": (SIZES["an attribute"][0], torch.randn(2, 7, 5), torch.randn(2, 9, 5)),
    "values": (QUESTIONS["if"][0], torch.randn(2, 7, 5), torch.full((2, 7, 5), 1e4)),
    "equality": (
        lambda m, h: m.norm(h) if torch.equal(h[0], h[1]) else h,
        torch.randn(2, 7, 5),
        torch.randn(1, 7, 5).repeat(2, 1, 1),
    ),
}


@pytest.mark.parametrize("case", BOTH)
@pytest.mark.parametrize("turned", [False, True])
def test_branches_of_which_examples_run_both_sides_are_none(case: str, turned: bool) -> None:
    change, *inputs = BOTH[case]
    first, second = inputs[::-1] if turned else inputs
    torch.manual_seed(0)
    net = Net(change)
    with torch.no_grad():
        net.up.weight.abs_()
        net.up.bias.abs_()
    one_side = several(copy.deepcopy(net), first, (first, torch.ones(1)))
    assert "tests/plan/test_branches.py" in one_side
    both = several(net, (first, torch.ones(1)), ((second,), {"bias": torch.ones(1)}))
    assert not both.strip()


def test_other_numbers_than_yes_and_no_show_no_side() -> None:
    change = QUESTIONS["float"][0]
    assert "the values of tensors: " in several(Net(change), torch.randn(2, 7, 5), torch.full((2, 7, 5), 1e4))


def test_inputs_that_no_example_gives() -> None:
    def plain(m: Any, h: Tensor) -> Tensor:
        return torch.relu(h)

    x, mask = torch.randn(2, 7, 5), torch.ones(1)
    assert "no example gives: mask, bias" in several(Net(plain), x, x)
    assert "no example gives: bias\n" in several(Net(plain), x, (x, mask))
    assert not several(Net(plain), (x, mask), ((x,), {"bias": mask})).strip()


def test_one_line_in_two_modules_is_two_questions() -> None:
    """The first module always has the longer input: that the other side ran in the second one proves nothing for it."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.norm = nn.Linear(5, 5), nn.LayerNorm(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) if x.shape[1] > 8 else self.up(x)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.long, self.short, self.wide, self.down = Half(), Half(), nn.Linear(5, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor, both: bool = True) -> Tensor:
            x = self.long(x)
            return self.down(self.wide(self.short(x[:, :4]) if both else x).relu())

    x = torch.randn(2, 9, 5)
    one_run, two_runs = several(Both(), x), several(Both(), x, (x, False))
    for found in (one_run, two_runs):
        assert "shape[1] > 8 is True" in found
        assert "shape[1] > 8 is False" in found
