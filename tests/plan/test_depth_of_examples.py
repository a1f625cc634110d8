"""Rows of blocks where several examples run: a block goes if it can go in each run in which it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from elastify import SearchSpace, activate, elastify, extract, space
from elastify.testing import check_model


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


def blocks(count: int) -> nn.ModuleList:
    return nn.ModuleList(Block() for _ in range(count))


class Row(nn.Module):
    """`rounds(net, flag)` are the blocks that run."""

    def __init__(self, rounds: object, count: int = 5) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(5, 16), blocks(count), nn.Linear(16, 3)
        self.rounds = [rounds]

    def forward(self, x: Tensor, flag: bool = False) -> Tensor:
        x = self.stem(x)
        for block in self.rounds[0](self, flag):  # type: ignore[operator]
            x = block(x)
        return self.head(x)


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text, self.head = nn.Linear(6, 16), nn.Linear(9, 16), nn.Linear(16, 3)
        self.pixels, self.words, self.both = nn.Sequential(*blocks(3)), blocks(4), nn.Sequential(*blocks(3))

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> Tensor:
        parts = [] if image is None else [self.pixels(self.image(image))]
        if text is not None:
            h = self.text(text)
            for block in self.words:
                h = block(h)
            parts.append(h)
        return self.head(self.both(torch.cat(parts, 1)).mean(1))


class Attributes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 16), nn.Linear(16, 3)
        self.a, self.b, self.c, self.d = blocks(4)

    def forward(self, x: Tensor, more: bool = False) -> Tensor:
        x = self.b(self.a(self.stem(x)))
        return self.head(self.d(self.c(x)) if more else x)


class Collected(nn.Module):
    """All states are used with a flag: no block can go then."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head, self.all = nn.Linear(5, 16), blocks(3), nn.Linear(16, 3), nn.Linear(48, 3)

    def forward(self, x: Tensor, states: bool = False) -> Tensor:
        found = [self.stem(x)]
        for block in self.blocks:
            found.append(block(found[-1]))
        return self.all(torch.cat(found[1:], -1)) if states else self.head(found[-1])


X = torch.randn(2, 5)


def found_in(make: object, *examples: object) -> SearchSpace:
    torch.manual_seed(0)
    report = check_model(make(), examples=list(examples), configurations=6)  # type: ignore[operator]
    report.assert_passed()
    assert report.space is not None
    return report.space


@pytest.mark.parametrize("turned", [False, True])
def test_rows_that_one_example_alone_runs(turned: bool) -> None:
    examples = [{"image": torch.randn(2, 4, 6)}, {"text": torch.randn(2, 5, 9)}]
    found = found_in(Towers, *(examples[::-1] if turned else examples))
    stages = {stage.name: (len(stage.blocks), stage.choices[0], stage.prefix) for stage in found.stages}
    assert stages == {"pixels": (3, 1, ""), "words": (4, 1, ""), "both": (3, 1, "")}
    assert not found.plan.rigid


def test_any_selection_of_blocks_in_attributes_that_some_example_leaves_out() -> None:
    (stage,) = found_in(Attributes, X, (X, True)).stages
    assert (stage.blocks, stage.prefix) == (("a", "b", "c", "d"), "")
    model = elastify(Attributes(), examples=[X, (X, True)])
    small = extract(model, {stage.name: [0, 2]})
    for example in ((X,), (X, True)):
        with activate(model, {stage.name: [0, 2]}):
            assert torch.equal(model(*example), small(*example))


PARTS = {
    "an early exit": lambda net, short: net.blocks[:3] if short else net.blocks,
    "every second": lambda net, half: net.blocks[::2] if half else net.blocks,
}


@pytest.mark.parametrize("case", PARTS)
@pytest.mark.parametrize("turned", [False, True])
def test_only_the_first_blocks_where_an_example_takes_some_by_their_places(case: str, turned: bool) -> None:
    examples = [(X, True), X] if turned else [X, (X, True)]
    (stage,) = found_in(lambda: Row(PARTS[case]), *examples).stages
    assert len(stage.blocks) == 5
    assert stage.choices == (2, 3, 4, 5)
    assert stage.prefix.startswith("not every selection")


def test_the_last_blocks_by_their_places_stay() -> None:
    found = found_in(lambda: Row(lambda net, few: net.blocks[-2:] if few else net.blocks), X, (X, True))
    assert not found.stages
    assert any("blocks.0" in row.blocks for row in found.plan.rigid)


@pytest.mark.parametrize("turned", [False, True])
def test_blocks_that_one_example_needs_stay(turned: bool) -> None:
    examples = [(X, True), X] if turned else [X, (X, True)]
    assert [len(stage.blocks) for stage in space(elastify(Collected(), X)).stages] == [3]
    found = found_in(Collected, *examples)
    assert not found.stages
    (row,) = found.plan.rigid
    assert row.blocks == ("blocks.0", "blocks.1", "blocks.2")
    assert f"examples[{int(not turned)}]" in row.reason


def test_a_block_that_runs_twice_in_one_example_stays() -> None:
    found = found_in(lambda: Row(lambda net, twice: [*net.blocks, *net.blocks] if twice else net.blocks), X, (X, True))
    assert not found.stages
    assert any("runs 2 times" in row.reason for row in found.plan.rigid)
