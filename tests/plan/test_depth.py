"""Blocks that can be left out: which ones, and why not the others."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elastify import ElastifyError, SubnetConfig, activate, elastify, extract, space
from elastify._analysis.analyse import analyse
from elastify._capture.examples import Example
from elastify._capture.paths import attribute_value
from elastify._capture.session import capture, capture_all
from elastify._ir.ints import Attr
from elastify._plan.blocks import BlockRow
from elastify._plan.depth import find_rows
from elastify._plan.stages import children
from elastify._proofs import demote as _proofs
from elastify.testing import check_model

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


class Fn(nn.Module):
    """A module with parts and a function of (self, x) as its forward."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = [forward]
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function[0](self, *args, **kwargs)


def residual(width: int = 8) -> Fn:
    return Fn(lambda m, x: x + torch.tanh(m.fc(m.norm(x))), norm=nn.LayerNorm(width), fc=nn.Linear(width, width))


def post_norm(width: int = 8) -> Fn:
    return Fn(lambda m, x: m.norm(x + torch.tanh(m.fc(x))), norm=nn.LayerNorm(width), fc=nn.Linear(width, width))


def post_norm_by_hand(width: int = 8) -> Fn:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = x + torch.tanh(m.fc(x))
        x = x - x.mean(-1, keepdim=True)
        return x / (x.norm(dim=-1, keepdim=True) + 1e-5)

    return Fn(forward, fc=nn.Linear(width, width))


def plain(width: int = 8, out: int = 8) -> Fn:
    return Fn(lambda m, x: torch.tanh(m.fc(x)), fc=nn.Linear(width, out))


def rigid() -> Fn:
    """Not residual, but of a width that nothing can change: the next block takes what this one gives."""
    return Fn(lambda m, x: torch.tanh(m.fc(x)).view(2, 8), fc=nn.Linear(8, 8))


def shuffled(width: int = 24) -> Fn:
    """Half of the channels through a layer, then both interleaved: every block puts the units in another order."""

    def forward(m: Any, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=-1)
        y = torch.cat([kept, torch.tanh(m.fc(changed))], dim=-1)
        return y.view(y.shape[0], 2, -1).transpose(1, 2).reshape(y.shape)

    return Fn(forward, fc=nn.Linear(width // 2, width // 2))


def chain(*blocks: nn.Module, width: int = 8, out: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.Sequential(*blocks), nn.Linear(out, 3))


def all_runs(model: nn.Module) -> list[BlockRow]:
    graphs = capture_all(model, Example((X,)))
    found = analyse(graphs, lambda attr: attribute_value(model, attr), [name for name, _ in model.named_parameters()])
    parts = children(model, contained=True), children(model, contained=False)
    return find_rows(found, parts[0], lambda path: type(model.get_submodule(path)), parts[1])


def runs(model: nn.Module) -> list[BlockRow]:
    return [run for run in all_runs(model) if not run.refusal]


def refused(model: nn.Module) -> dict[tuple[str, ...], str]:
    return {run.blocks: run.refusal for run in all_runs(model) if run.refusal}


def blocks_of(model: nn.Module) -> list[tuple[str, ...]]:
    return [run.blocks for run in runs(model)]


@pytest.mark.parametrize("make", [residual, post_norm, post_norm_by_hand, rigid])
def test_repeated_blocks_are_a_stage(make: Callable[[], nn.Module]) -> None:
    assert runs(chain(make(), make(), make())) == [BlockRow("1", ("1.0", "1.1", "1.2"))]


def test_blocks_with_widths_of_their_own_are_no_stage() -> None:
    """Layouts are never made one just to gain depth."""
    assert runs(chain(plain(), plain(), plain())) == []


def test_width_comes_before_depth_and_the_space_says_so() -> None:
    model = elastify(chain(*(shuffled() for _ in range(3)), width=24, out=24), X)
    assert space(model).stages == ()
    (axis,) = (axis for axis in space(model).axes if any(name.startswith("1.0") for name, _ in axis.members))
    (whole,) = space(model).plan.rigid
    assert whole.blocks == ("1.0", "1.1", "1.2")
    assert whole.reason == (
        f"width comes first: shorter, it would mix up units of {axis.name}; freeze them for depth instead"
    )


@pytest.mark.parametrize(("make", "width"), [(shuffled, 24), (plain, 8)])
def test_depth_takes_the_place_of_a_frozen_width(make: Callable[[], nn.Module], width: int) -> None:
    def made() -> nn.Module:
        return chain(*(make() for _ in range(3)), width=width, out=width)

    wide = space(elastify(made(), X))
    freeze = [axis.name for axis in wide.axes]
    assert wide.stages == ()
    report = check_model(made(), X, freeze=freeze)
    report.assert_passed()
    assert report.space is not None
    assert report.space.axes == ()
    assert [stage.blocks for stage in report.space.stages] == [("1.0", "1.1", "1.2")]
    one = space(elastify(made(), X, freeze=freeze, choices={"1": [2]}))  # a stage that only the freeze makes
    assert [stage.choices for stage in one.stages] == [(2, 3)]


def test_one_block_is_no_stage() -> None:
    assert runs(chain(residual())) == []


def test_a_block_that_changes_the_width_ends_a_run_and_begins_the_next() -> None:
    model = chain(residual(), residual(), plain(8, 12), residual(12), residual(12), width=8, out=12)
    assert blocks_of(model) == [("1.0", "1.1"), ("1.2", "1.3", "1.4")]


class Down(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def test_what_stays_is_of_the_kind_of_what_may_go() -> None:
    model = chain(Down(), residual(12), residual(12), residual(12), out=12)
    assert blocks_of(model) == [("1.1", "1.2", "1.3")]


def test_a_loop_over_a_module_list() -> None:
    def forward(m: Fn, x: Tensor) -> Tensor:
        x = m.stem(x)
        for block in m.blocks:
            x = block(x)
        return m.head(x)

    parts = {"stem": nn.Linear(6, 8), "head": nn.Linear(8, 3)}
    model = Fn(forward, blocks=nn.ModuleList(residual() for _ in range(4)), **parts)
    assert blocks_of(model) == [tuple(f"blocks.{i}" for i in range(4))]


def test_a_block_called_twice_is_no_member() -> None:
    block = residual()
    assert runs(chain(block, block)) == []
    assert blocks_of(chain(residual(), residual(), block, block)) == [("1.0", "1.1")]
    text = "it runs 2 times with the same weights: without it all of these would be gone"
    assert refused(chain(block, block)) == {("1.0",): text}
    one = nn.Linear(8, 8)  # shared, but no residual branch: nobody expects that it can go
    assert refused(chain(one, one)) == {}


def test_attributes_called_with_several_tensors_stay_and_the_space_says_so() -> None:
    def block() -> Fn:
        return Fn(lambda m, x, y: (x + torch.tanh(m.fc(x * y)), y), fc=nn.Linear(8, 8))

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        y = torch.sigmoid(m.gate(x))
        for part in m.blocks if hasattr(m, "blocks") else (m.first, m.second, m.third):
            x, y = part(x, y)
        return m.head(x)

    def ends() -> dict[str, nn.Module]:
        return {"stem": nn.Linear(6, 8), "gate": nn.Linear(8, 8), "head": nn.Linear(8, 3)}

    found = space(elastify(Fn(forward, **ends(), first=block(), second=block(), third=block()), X))
    assert found.stages == ()
    assert [row.blocks for row in found.plan.rigid] == [("first", "second", "third")]
    assert "a ModuleList could leave them out" in str(found)
    listed = space(elastify(Fn(forward, **ends(), blocks=nn.ModuleList(block() for _ in range(3))), X))
    assert [stage.blocks for stage in listed.stages] == [("blocks.0", "blocks.1", "blocks.2")]
    assert listed.plan.rigid == ()


def test_blocks_without_weights_are_no_members() -> None:
    assert runs(chain(nn.Tanh(), nn.Tanh(), nn.Tanh())) == []


def test_a_plain_block_that_is_not_like_its_neighbour_is_no_member() -> None:
    other = Fn(lambda m, x: torch.relu(m.fc(x)), fc=nn.Linear(8, 8))
    assert runs(chain(plain(), other)) == []


def test_units_that_are_not_the_same_keep_a_block_in() -> None:
    """Sizes agree, layouts do not: the second output is tied to other units than its input."""
    model = Fn(
        lambda m, x: m.head(m.blocks(m.stem(x))),
        stem=nn.Linear(6, 8), blocks=nn.Sequential(Down(), nn.Linear(12, 8), residual()), head=nn.Linear(8, 3),
    )  # fmt: skip
    assert runs(model) == []


def test_blocks_with_tuples() -> None:
    def block() -> Fn:
        return Fn(lambda m, x, y: (x + torch.tanh(m.fc(y)), y), fc=nn.Linear(8, 8))

    def forward(m: Fn, x: Tensor) -> Tensor:
        x = y = m.stem(x)
        for one in m.blocks:
            x, y = one(x, y)
        return m.head(x)

    parts = {"stem": nn.Linear(6, 8), "head": nn.Linear(8, 3)}
    model = Fn(forward, blocks=nn.ModuleList(block() for _ in range(3)), **parts)
    assert blocks_of(model) == [("blocks.0", "blocks.1", "blocks.2")]


def test_stages_inside_the_blocks_of_a_stage_stay_whole() -> None:
    def outer() -> Fn:
        return Fn(lambda m, x: x + m.inner(x), inner=nn.Sequential(residual(), residual()))

    assert blocks_of(chain(outer(), outer())) == [("1.0", "1.1")]


def test_a_block_that_only_training_skips_is_no_member() -> None:
    def forward(m: Fn, x: Tensor) -> Tensor:
        y = torch.tanh(m.fc(x))
        return y if m.training else x + y

    odd = Fn(forward, fc=nn.Linear(8, 8))
    assert blocks_of(chain(residual(), odd, residual())) == [("1.1", "1.2")]


# -- in elastify ---------------------------------------------------------------------------------------------


def net(count: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return elastify(chain(*(residual() for _ in range(count))), X)


@pytest.mark.parametrize(
    ("wish", "kept"), [({"1": 2}, (0, 1)), ({"1": 0.5}, (0, 1)), ({"1": 4}, (0, 1, 2, 3)), ({"1": (0, 3)}, (0, 3))]
)
def test_a_prefix_or_chosen_blocks_are_kept(wish: dict[str, Any], kept: Sequence[int]) -> None:
    model = net()
    config = space(model).config(wish)
    assert config.depths["1"] == tuple(kept)
    expected = X
    with torch.no_grad(), activate(model, None):
        expected = model[0](X)
        for i in kept:
            expected = model[1][i](expected)
        expected = model[2](expected)
    with torch.no_grad(), activate(model, config):
        torch.testing.assert_close(model(X), expected)
    small = extract(model, config)
    assert len(small[1]) == len(kept)
    torch.testing.assert_close(small(X), expected)


def test_min_ratio_choices_and_freeze_reach_stages() -> None:
    def stage(**options: Any) -> tuple[int, ...]:
        model = elastify(chain(*(residual() for _ in range(4))), X, **options)
        return next((stage.choices for stage in space(model).stages), ())

    assert stage() == (1, 2, 3, 4)
    assert stage(min_ratio=0.5) == (2, 3, 4)
    assert stage(min_ratio={"1": 0.7}) == (3, 4)
    assert stage(choices={"1": [2]}) == (2, 4)
    assert stage(freeze=["1"], keep_outputs=False) == ()
    assert stage(depth=False) == ()


# -- where blocks are found, and where not -------------------------------------------------------------------


def fc(width: int = 8) -> nn.Linear:
    return nn.Linear(width, width)


def looped(forward: Callable[..., Any], blocks: nn.Module, **parts: Any) -> Fn:
    """A stem, blocks that `forward(m, x)` runs, and a head."""
    return Fn(
        lambda m, x: m.head(forward(m, m.stem(x))), stem=nn.Linear(6, 8), blocks=blocks, head=nn.Linear(8, 3), **parts
    )


def every(m: Any, x: Any, step: Callable[[Any, Any], Any]) -> Any:
    for block in m.blocks:
        x = step(block, x)
    return x


def proven(model: nn.Module) -> list[tuple[str, ...]]:
    """Blocks of the stages that survive verification, after a look at what leaving out the middle ones does."""
    torch.manual_seed(0)
    elastify(model, X, min_ratio=1 / 8)
    found = [stage for stage in space(model).stages if len(stage.blocks) > 1]
    for stage in found:
        for wish in (1, range(0, len(stage.blocks), 2)) if not stage.prefix else stage.choices:
            config = space(model).config({stage.name: wish})
            with activate(model, config), torch.no_grad():
                expected = model(X)
            torch.testing.assert_close(extract(model, config)(X), expected)
    return [stage.blocks for stage in found]


def named(count: int, first: int = 0) -> tuple[str, ...]:
    return tuple(f"blocks.{i}" for i in range(first, count))


def lists(count: int, *make: Callable[[], nn.Module]) -> nn.ModuleList:
    return nn.ModuleList(nn.ModuleList(one() for one in make) for _ in range(count))


def many(make: Callable[[], nn.Module], count: int = 3) -> nn.ModuleList:
    return nn.ModuleList(make() for _ in range(count))


def attention_and_mlp(m: Any, x: Tensor) -> Tensor:
    for attention, mlp in m.blocks:
        x = x + torch.tanh(attention(x))
        x = x + torch.relu(mlp(x))
    return x


def with_weights(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = m.fc(x)
    return x + torch.tanh(y), y.softmax(-1)


def two_streams(m: Any, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    hidden, residual = pair
    residual = hidden + residual
    return torch.tanh(m.fc(residual)), residual


def gated(m: Any, x: Tensor) -> Tensor:
    x = x + m.fc(x)
    return x * torch.sigmoid(m.gate(x.mean(0, keepdim=True)))


FOUND: dict[str, tuple[Callable[[], nn.Module], list[tuple[str, ...]]]] = {
    "parts of a block in a list": (lambda: looped(attention_and_mlp, lists(3, fc, fc)), [named(3)]),
    "an addition in the loop": (
        lambda: looped(lambda m, x: every(m, x, lambda b, x: x + torch.tanh(b(x))), many(fc)),
        [named(3)],
    ),
    "a norm before and an addition after": (
        lambda: looped(lambda m, x: every(m, x, lambda b, x: x + b(torch.relu(x) * 2)), many(fc)),
        [named(3)],
    ),
    "attention weights beside the result": (
        lambda: looped(lambda m, x: every(m, x, lambda b, x: b(x)[0]), many(lambda: Fn(with_weights, fc=fc()))),
        [named(3)],
    ),
    "two streams": (
        lambda: looped(
            lambda m, x: sum(every(m, (x, x * 2), lambda b, p: b(p))), many(lambda: Fn(two_streams, fc=fc()))
        ),
        [named(3)],
    ),
    "keywords": (
        lambda: looped(
            lambda m, x: every(m, x, lambda b, x: b(other=m.mask, x=x)),
            many(lambda: Fn(lambda m, other, x: x + torch.tanh(m.fc(x)) * other, fc=fc())), mask=torch.ones(8),
        ),
        [named(3)],
    ),
    "a memory first": (
        lambda: looped(
            lambda m, x: every(m, x, lambda b, y: b(x, y)),
            many(lambda: Fn(lambda m, memory, x: x + torch.tanh(m.a(x) + m.b(memory)), a=fc(), b=fc())),
        ),
        [named(3)],
    ),
    "a gate on the sum": (
        lambda: looped(lambda m, x: every(m, x, lambda b, x: b(x)), many(lambda: Fn(gated, fc=fc(), gate=fc()))),
        [named(3)],
    ),
    "something before the third": (
        lambda: looped(
            lambda m, x: [x := b(m.extra(x)) if i == 2 else b(x) for i, b in enumerate(m.blocks)][-1],
            many(residual, 5), extra=residual(),
        ),
        [named(5, 2)],
    ),
    "something between the first two": (
        lambda: looped(
            lambda m, x: [x := b(m.extra(x)) if i == 1 else b(x) for i, b in enumerate(m.blocks)][-1],
            many(residual), extra=residual(),
        ),
        [named(3, 1)],
    ),
    "something after the first": (
        lambda: looped(
            lambda m, x: [x := m.extra(b(x)) if i == 0 else b(x) for i, b in enumerate(m.blocks)][-1],
            many(residual), extra=residual(),
        ),
        [named(3)],
    ),
    "a dictionary": (
        lambda: looped(
            lambda m, x: [x := b(x) for b in m.blocks.values()][-1], nn.ModuleDict({k: residual() for k in "abc"})
        ),
        [("blocks.a", "blocks.b", "blocks.c")],
    ),
    "plain attributes": (
        lambda: looped(
            lambda m, x: m.b3(m.b2(m.b1(m.blocks(x)))), nn.Tanh(), b1=residual(), b2=residual(), b3=residual()
        ),
        [("b1", "b2", "b3")],
    ),
    "children of a module": (
        lambda: looped(
            lambda m, x: m.blocks(x),
            Fn(lambda m, x: [x := b(x) for b in m.children()][-1], b1=residual(), b2=residual(), b3=residual()),
        ),
        [("blocks.b1", "blocks.b2", "blocks.b3")],
    ),
    "branches in blocks that cannot go": (
        lambda: looped(
            lambda m, x: every(m, x, lambda b, x: b(x)),
            many(lambda: nn.Sequential(residual(), nn.Linear(8, 8), nn.ReLU())),
        ),
        [("blocks.0.0", "blocks.1.0", "blocks.2.0")],
    ),
    "blocks in stages": (
        lambda: looped(
            lambda m, x: every(m, x, lambda b, x: b(x)), many(lambda: nn.Sequential(residual(), residual(), fc()), 2)
        ),
        [("blocks.0.0", "blocks.0.1"), ("blocks.1.0", "blocks.1.1")],
    ),
    "rows of blocks in a row": (
        lambda: looped(
            lambda m, x: every(m, x, lambda b, x: b(x)), many(lambda: nn.Sequential(residual(), residual()), 2)
        ),
        [("blocks.0.0", "blocks.0.1"), ("blocks.1.0", "blocks.1.1")],
    ),
    "a loop over the length": (
        lambda: looped(lambda m, x: [x := m.blocks[i](x) for i in range(len(m.blocks))][-1], many(residual)),
        [named(3)],
    ),
    "the results of all blocks side by side": (
        lambda: looped(
            lambda m, x: m.mix(torch.cat([x := b(x) for b in m.blocks], 1)), many(residual), mix=nn.Linear(24, 8)
        ),
        [],
    ),
    "the result of a certain block": (
        lambda: looped(lambda m, x: [x := b(x) for b in m.blocks][1], many(residual, 4)),
        [named(3)],
    ),
    "branches side by side": (
        lambda: looped(
            lambda m, x: sum(b(y) for b, y in zip(m.blocks, (x, x * 2, x * 3), strict=True)), many(residual)
        ),
        [],
    ),
    "weights in a second list": (
        lambda: looped(
            lambda m, x: [x := b(x) + g(x) for b, g in zip(m.blocks, m.gates, strict=False)][-1],
            many(residual), gates=many(fc),
        ),
        [named(3)],
    ),
    "the number of a block": (
        lambda: looped(
            lambda m, x: [x := b(m.extra(x)) if i == m.at else b(x) for i, b in enumerate(m.blocks)][-1],
            many(residual, 5), extra=residual(), at=2,
        ),
        [named(2), named(5, 2)],
    ),
    "weights that another block uses": (
        lambda: looped(lambda m, x: m.blocks[1].fc(every(m, x, lambda b, x: b(x))), many(residual)),
        [named(3, 1)],
    ),
    "a number in the source": (
        lambda: looped(lambda m, x: [x := m.blocks[i](x) for i in range(3)][-1], many(residual)),
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
@pytest.mark.filterwarnings("ignore:verification took")
def test_what_is_found_and_proven(case: str) -> None:
    make, expected = FOUND[case]
    assert proven(make()) == expected


# -- rows that do not work with every selection --------------------------------------------------------------


def collecting(count: int, place: int = 2) -> nn.Module:
    """A head that also sees the result of a block that is chosen by its number."""

    def forward(m: Any, x: Tensor) -> Tensor:
        found = [x := block(x) for block in m.blocks]
        return x + torch.tanh(found[place])

    return looped(forward, many(residual, count))


def test_the_minimum_is_raised_to_what_works_and_the_space_says_why() -> None:
    model = elastify(collecting(6), X, min_ratio=1 / 8)
    (stage,) = space(model).stages
    assert stage.choices == (3, 4, 5, 6)
    assert stage.prefix.startswith("not the first 2: the smaller network does not run: IndexError")
    assert "test_depth.py:" in stage.prefix
    told = " ".join(str(space(model)).split())
    assert f"stages that keep only their first blocks, in numbers that were tested (1) blocks: {stage.prefix}" in told
    assert f"the first blocks only: {stage.prefix}" in space(model).why("blocks")
    assert space(model).min.depths["blocks"] == (0, 1, 2)
    assert space(model).plan.rigid == ()


def test_other_blocks_than_the_first_are_then_refused_with_the_reason() -> None:
    model = elastify(collecting(6), X, min_ratio=1 / 8)
    for kept in ((0, 1, 2, 4), (0, 1)):
        with pytest.raises(ElastifyError, match=re.escape("the first blocks; number of blocks legal: 3..6")) as caught:
            space(model).config({"blocks": kept})
        assert caught.value.why == space(model).stages[0].prefix
    config = SubnetConfig.of(space(model).max.sizes, {"blocks": (0, 1, 2, 4)}, space(model).fingerprint)
    with pytest.raises(ElastifyError, match="cannot be kept"):
        activate(model, config)


def test_of_many_blocks_only_some_numbers_are_tried() -> None:
    model = elastify(collecting(41, 20), X, min_ratio=1 / 8)
    assert space(model).stages[0].choices == (22, 25, 28, 31, 34, 37, 40, 41)


def test_only_numbers_that_were_asked_for_are_tried() -> None:
    model = elastify(collecting(6), X, choices={"blocks": [2, 4]})
    assert space(model).stages[0].choices == (4, 6)
    whole = elastify(collecting(6), X, choices={"blocks": [2]})
    assert space(whole).stages == ()
    assert "IndexError" in space(whole).plan.rigid[0].reason


def test_rows_in_which_any_selection_works_cost_no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    monkeypatch.setattr(_proofs, "capture", lambda *args, **kwargs: runs.append(1) or capture(*args, **kwargs))
    elastify(looped(lambda m, x: every(m, x, lambda b, x: b(x)), many(residual, 8)), X)
    assert len(runs) == 5  # widths and depths together, in five configurations


@pytest.mark.parametrize(("make", "stages"), [(lambda: collecting(5), 1), (FOUND["the number of a block"][0], 2)])
def test_what_is_left_of_such_rows_passes_every_check(make: Callable[[], nn.Module], stages: int) -> None:
    report = check_model(make(), X)
    assert report.stages == stages
    assert report.failures == []


def test_a_number_that_is_compared_with_every_place_counts_the_blocks_before() -> None:
    model = elastify(FOUND["the number of a block"][0](), X, min_ratio=1 / 8)
    assert space(model).plan.counts == {Attr("", "at"): ("blocks",)}
    for first, rest in ((1, (0, 1, 2)), (2, (0,)), (1, (0, 2))):
        config = space(model).config({"blocks.0-1": first, "blocks.2-4": rest})
        small: Any = extract(model, config)
        assert small.at == first
        with activate(model, config):
            assert model.at == first
            torch.testing.assert_close(model(X), small(X))
    assert model.at == 2


def log_cosh(x: Tensor) -> Tensor:
    """An element-wise function of a user's own, made of primitive ones."""
    return x + F.softplus(-2 * x) - math.log(2)


def swish_by_hand(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.5 * x) / (1 + torch.exp(-x))


ACTIVATIONS = [
    *(torch.relu, torch.tanh, torch.sigmoid, F.selu, F.celu, F.softplus, F.hardsigmoid, F.logsigmoid),
    *(F.mish, F.softsign, F.hardswish, F.gelu, F.tanhshrink, log_cosh, swish_by_hand),
]


@pytest.mark.parametrize("act", ACTIVATIONS, ids=lambda act: act.__name__)
def test_a_residual_sum_may_be_followed_by_any_element_wise_function(act: Callable[[Tensor], Tensor]) -> None:
    def block(hidden: int) -> Fn:
        parts = {"a": nn.Linear(16, hidden), "b": nn.Linear(hidden, 16)}
        return Fn(lambda m, x: act(x + m.b(torch.relu(m.a(x)))), **parts)

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 16), *map(block, (40, 48, 56)), nn.Linear(16, 3))

    (stage,) = space(elastify(model(), X)).stages
    assert stage.blocks == ("1", "2", "3")
    check_model(model(), X, configurations=4, costs=1).assert_passed()


def test_what_mixes_units_after_a_residual_sum_ends_the_branch() -> None:
    """A matrix product is no function of a sum alone: without the block, what it hands on would be something else."""

    def block(hidden: int) -> Fn:
        parts = {"a": nn.Linear(16, hidden), "b": nn.Linear(hidden, 16), "c": nn.Linear(16, 16)}
        return Fn(lambda m, x: m.c(x + m.b(torch.relu(m.a(x)))), **parts)

    model = nn.Sequential(nn.Linear(6, 16), *map(block, (40, 48, 56)), nn.Linear(16, 3))
    assert space(elastify(model, X)).stages == ()
