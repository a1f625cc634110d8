"""What a user may ask for, of a network that has a little of everything: it is done and said, and all checks pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import ElastifyError, SearchSpace
from elastify.testing import check_model

from .attention import Separate
from .code import Residual

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolutions with a norm of four groups, attention of four heads, blocks, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 96, 1), nn.GroupNorm(4, 96)
        self.tokens, self.attention = nn.Conv2d(96, 6, 1), Separate()
        self.join = nn.Linear(3, 12)
        self.blocks = nn.ModuleList(Residual(12, 80) for _ in range(4))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(torch.relu(self.norm(self.stem(x)))).flatten(2).transpose(1, 2)
        x = self.join(self.attention(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def found(**options: Any) -> SearchSpace:
    report = check_model(Net(), X, configurations=4, costs=2, **options)
    report.assert_passed()
    assert report.space is not None
    return report.space


def choices(space: SearchSpace) -> dict[str, tuple[int, ...]]:
    """Legal sizes, by the name of the axis or stage."""
    legal = zip(space.columns, space.rows.choices, strict=True)
    return {name: tuple(map(int, sizes)) for name, sizes in legal}


@pytest.fixture(scope="module")
def plain() -> SearchSpace:
    return found()


def test_nothing_asked(plain: SearchSpace) -> None:
    assert choices(plain) == {
        "stem.groups": (1, 2, 3, 4),
        "stem.channels": tuple(range(6, 25)),
        "tokens.channels": (2, 3, 4, 5, 6),
        "attention.heads": (1, 2, 3, 4),
        "attention.head_dim": (2, 3, 4, 5, 6),
        "attention.proj.hidden": (1, 2, 3),
        "width": tuple(range(3, 13)),
        **{f"blocks.{i}.hidden": tuple(range(24, 81, 8)) for i in range(4)},
        "blocks": (1, 2, 3, 4),
    }
    assert "asked:" not in str(plain)


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("attention", {"tokens.channels", "attention.heads", "attention.head_dim", "attention.proj.hidden"}),
        ("attention.q", {"tokens.channels", "attention.heads", "attention.head_dim"}),
        ("*.heads", {"attention.heads"}),
        ("blocks.1", {"blocks.1.hidden", "width", "blocks"}),
        ("blocks.*.hidden", {f"blocks.{i}.hidden" for i in range(4)}),
        ("norm", {"stem.groups", "stem.channels"}),
    ],
)
def test_what_is_frozen(plain: SearchSpace, pattern: str, gone: set[str]) -> None:
    space = found(freeze=[pattern])
    assert choices(plain).keys() - choices(space).keys() == gone
    assert f"asked: freeze={[pattern]!r}" in str(space)
    parts = pattern == "*.heads"  # of dimensions that still move, with head_dim
    assert parts or f"frozen by the pattern {pattern!r}" in str(space)


def test_choices() -> None:
    asked: dict[str, Any] = {"*.hidden": [0.5], "*.channels": [0.5], "blocks.2.hidden": [16, 0.6]}
    asked |= {"*.heads": [2, 3], "blocks": [1, 3]}
    space = found(choices=asked)
    legal = choices(space)
    assert legal["blocks.0.hidden"] == (40, 80)
    assert legal["blocks.2.hidden"] == (16, 48, 80)
    assert legal["stem.channels"] == (12, 24)
    assert (legal["attention.heads"], legal["blocks"]) == ((2, 3, 4), (1, 3, 4))
    assert legal["width"] == tuple(range(3, 13))
    assert f"asked: choices={asked!r}"[:119] in str(space)


def test_min_ratio() -> None:
    legal = choices(found(min_ratio={"*": 0.9, "blocks.*.hidden": 0.1, "blocks": 0.5, "width": 0.7}))
    assert (legal["blocks.0.hidden"][0], legal["blocks"], legal["width"][0]) == (8, (2, 3, 4), 9)
    assert legal["stem.channels"] == (22, 23, 24)
    assert "attention.heads" not in legal, "nine tenths of four, rounded up, are four"
    legal = choices(found(min_ratio=0.5))
    assert (legal["blocks.0.hidden"][0], legal["blocks"], legal["width"][0]) == (40, (2, 3, 4), 6)


def test_multiple_of() -> None:
    legal = choices(found(multiple_of=3))
    assert legal["blocks.0.hidden"] == (*range(21, 80, 3), 80)
    assert legal["width"] == (3, 6, 9, 12)
    assert legal["attention.head_dim"] == (3, 6)
    assert legal["attention.heads"] == legal["stem.groups"] == legal["blocks"] == (1, 2, 3, 4), "these are counted"


def test_outputs_may_move(plain: SearchSpace) -> None:
    space = found(keep_outputs=False)
    assert choices(space).items() - choices(plain).items() == {("head.hidden", (2, 3, 4, 5))}
    assert "output" not in "".join(dim.reason for dim in space.plan.frozen)


def test_no_depth(plain: SearchSpace) -> None:
    space = found(depth=False)
    assert choices(plain).keys() - choices(space).keys() == {"blocks"}
    assert space.plan.rigid == ()


def test_without_proofs() -> None:
    report = check_model(Net(), X, configurations=2, costs=1, verify=False)
    report.assert_passed()
    assert report.space is not None
    assert not report.space.verified
    assert "not verified" in str(report.space).splitlines()[0]


def test_options_go_together() -> None:
    space = found(freeze=["norm"], choices={"blocks": [2]}, min_ratio=0.5, multiple_of=4, keep_outputs=False)
    legal = choices(space)
    assert legal["blocks"] == (2, 4)
    assert legal["width"] == (8, 12)
    assert legal["blocks.3.hidden"] == tuple(range(40, 81, 4))
    assert "stem.channels" not in legal
    asked = [line for line in str(space).splitlines() if line.startswith("asked:")]
    assert [line.partition("=")[0] for line in asked] == [
        f"asked: {name}" for name in ("freeze", "choices", "min_ratio", "multiple_of", "keep_outputs")
    ]


@pytest.mark.parametrize("argument", ["freeze", "choices", "min_ratio"])
def test_a_pattern_that_fits_nothing(argument: str) -> None:
    asked: Any = {"freeze": ["blocs.*"], "choices": {"blocs.*": [4]}, "min_ratio": {"blocs.*": 0.5}}[argument]
    with pytest.raises(ElastifyError, match=f"{argument} pattern 'blocs.*' fits no axis"):
        found(**{argument: asked})
