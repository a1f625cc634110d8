"""`elastify(model, examples=[...])`: what one run does not show is recorded and proven in another."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elastify import ElastifyError, activate, cost, elastify, load, save, search, space
from elastify._space.state import state
from elastify._verbs.examples import described_examples, examples_for
from elastify.testing import check_model, check_sizes


class Tokens(nn.Module):
    """Tokens of an image, of a text, or both in one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(6, 16), nn.Linear(9, 16)
        self.up, self.down, self.head = nn.Linear(16, 48), nn.Linear(48, 16), nn.Linear(16, 3)

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> Tensor:
        parts = [] if image is None else [self.image(image)]
        parts += [] if text is None else [self.text(text)]
        h = torch.cat(parts, 1)
        return self.head((h + self.down(self.up(h).relu())).mean(1))


class Features(nn.Module):
    """Features of both side by side, and fewer of them without a text: the width of the concatenation differs."""

    def __init__(self, by_size: bool = True) -> None:
        super().__init__()
        self.image, self.text, self.count, self.by_size = nn.Linear(6, 16), nn.Linear(9, 24), 16, by_size
        self.fuse, self.head = nn.Linear(40, 32), nn.Linear(32, 3)

    def forward(self, image: Tensor, text: Tensor | None = None) -> Tensor:
        parts = [self.image(image)] + ([] if text is None else [self.text(text)])
        h = torch.cat(parts, -1)
        count = h.shape[-1] if self.by_size or text is not None else self.count
        return self.head(F.linear(h, self.fuse.weight[:, :count], self.fuse.bias).relu())


class Length(nn.Module):
    """More is done to a longer sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(5, 16), nn.Linear(16, 3), nn.LayerNorm(16)
        self.wide, self.back = nn.Linear(16, 40), nn.Linear(40, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        if x.shape[1] > 8:
            h = h + self.back(self.wide(self.norm(h)).relu())
        return self.down(h)


class Flag(nn.Module):
    """Two heads, of which a flag chooses one."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.first, self.last = (
            nn.Linear(5, 16),
            nn.Linear(16, 3),
            nn.Linear(16, 24),
            nn.Linear(24, 2),
        )

    def forward(self, x: Tensor, other: bool = False) -> Tensor:
        h = self.up(x).relu()
        return self.last(self.first(h).relu()) if other else self.down(h)


def R(*shape: int) -> Tensor:  # noqa: N802
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


IMAGE, TEXT, PIXELS, WORDS = R(2, 4, 6), R(2, 5, 9), R(2, 6), R(2, 9)
THREE = {"image.hidden", "text.hidden", "hidden"}
CASES: dict[str, tuple[Callable[[], nn.Module], list[Any], set[str]]] = {
    "one of two inputs": (Tokens, [{"image": IMAGE}, {"text": TEXT}], {"width", "up.hidden"}),
    "both, then one": (Tokens, [(IMAGE, TEXT), IMAGE, {"text": TEXT}], {"width", "up.hidden"}),
    "one, then both": (Tokens, [{"text": TEXT}, (IMAGE, TEXT)], {"width", "up.hidden"}),
    "a wider concat": (Features, [PIXELS, (PIXELS, WORDS)], THREE),
    "a narrower concat": (Features, [(PIXELS, WORDS), PIXELS], THREE),
    "a concat by a number": (
        lambda: Features(False),
        [PIXELS, (PIXELS, WORDS)],
        THREE,
    ),
    "a longer sequence": (Length, [R(2, 7, 5), R(2, 9, 5)], {"hidden", "wide.hidden"}),
    "a shorter sequence": (Length, [R(2, 9, 5), R(2, 7, 5)], {"width", "wide.hidden"}),
    "a flag": (Flag, [R(2, 5), ((R(2, 5),), {"other": True})], {"up.hidden", "first.hidden"}),
    "other ranks": (Flag, [R(2, 5), ((R(3, 4, 5),), {"other": True})], {"up.hidden", "first.hidden"}),
    "other batches": (Flag, [R(4, 5), ([R(7, 5)], {"other": True}), R(1, 5)], {"up.hidden", "first.hidden"}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_one_example_does_not_run_another_does(case: str) -> None:
    make, examples, names = CASES[case]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = check_model(make(), examples=examples, configurations=4)
    report.assert_passed()
    assert report.space is not None
    assert {axis.name for axis in report.space.axes} == names
    check_sizes(make(), examples=examples).assert_passed()


class Stateful(nn.Module):
    """A table of positions, a cache by length, a moving average, and statistics that one flag alone uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.positions, self.masks = nn.Linear(5, 16), nn.Parameter(torch.randn(1, 32, 16)), {}
        self.up, self.norm, self.down = nn.Linear(16, 40), nn.BatchNorm1d(40), nn.Linear(40, 16)
        self.head = nn.Linear(16, 3)
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: Tensor, norm: bool = False) -> Tensor:
        h, length = self.stem(x) + self.positions[:, : x.shape[1]], x.shape[1]
        if length not in self.masks:
            self.masks[length] = torch.full((length, self.stem.out_features), 0.5)
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * h.mean((0, 1)))
        wide = self.up(h * self.masks[length])
        wide = self.norm(wide.transpose(1, 2)).transpose(1, 2) if norm else wide
        return self.head(h + self.down(wide.relu()) - self.mean)


class States(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 16), nn.Linear(16, 24), nn.Linear(24, 12)

    def forward(self, x: Tensor, states: bool = False) -> Any:
        a = self.a(x).relu()
        b = self.b(a)
        return {"a": a, "b": b} if states else self.c(b.relu())


@pytest.mark.parametrize("keep_outputs", [True, False])
@pytest.mark.parametrize("turned", [False, True])
def test_states_and_outputs_of_several_examples(keep_outputs: bool, turned: bool) -> None:
    torch.manual_seed(0)
    for make, examples in ((Stateful, [R(2, 7, 5), (R(3, 9, 5), True)]), (States, [R(2, 5), (R(2, 5), True)])):
        given = examples[::-1] if turned else examples
        if keep_outputs and make is States:
            with pytest.raises(ElastifyError, match="nothing in this States is elastic"):
                elastify(make(), examples=given)
            continue
        report = check_model(make(), examples=given, configurations=4, keep_outputs=keep_outputs)
        report.assert_passed()
        assert report.space is not None
        assert len(report.space.axes) == 2 + (not keep_outputs)


def test_the_example_that_is_given_alone_is_the_first() -> None:
    model = elastify(Flag(), R(2, 5), examples=[(R(3, 5), True)])
    assert space(model).example == {"x": (5,)}
    assert cost(model).macs == 5 * 16 + 16 * 3
    assert cost(elastify(Flag(), examples=[(R(3, 5), True)])).macs == 5 * 16 + 16 * 24 + 24 * 2
    model = elastify(Flag(), example_kwargs={"x": R(2, 5)}, examples=[(R(3, 5), True)])
    assert [list(spec.kwargs) for spec in described_examples(model) if spec] == [["x"], []]


def test_an_axis_that_no_example_uses_stays_whole() -> None:
    class Unused(Flag):
        def forward(self, x: Tensor, other: bool = False) -> Tensor:
            return super().forward(x, other) if not other else 0 * super().forward(x, other) + x[:, :2]

    with pytest.warns(UserWarning, match=r"for the examples does not depend on 1 axes \(first.hidden\)"):
        model = elastify(Unused(), examples=[R(2, 5), (R(2, 5), True)])
    assert [axis.name for axis in space(model).axes] == ["hidden"]


def test_units_that_one_example_alone_mixes_up_stay_whole() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.order = nn.Linear(5, 16), nn.Linear(16, 3), [torch.arange(16).flip(0)]

        def forward(self, x: Tensor, other: bool = False) -> Tensor:
            h = self.up(x)
            return self.down(h.view(-1, 16)[:, self.order[0]] if other else h)

    assert [axis.name for axis in space(elastify(Turned(), R(2, 5))).axes] == ["hidden"]
    for examples in ([R(2, 5), (R(2, 5), True)], [(R(2, 5), True), R(2, 5)]):
        with pytest.raises(ElastifyError, match="nothing in this Turned is elastic"):
            elastify(Turned(), examples=examples)


def test_search_and_extract_and_save(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, examples = elastify(Tokens(), examples=[(IMAGE, TEXT), {"text": TEXT}]), [(IMAGE, TEXT), (None, TEXT)]
    small = search(model, budget_macs="50%").model
    config = search(model, budget_macs="50%").config
    save(small, tmp_path)
    read = load(tmp_path, like=Tokens())
    for example in examples:
        with activate(model, config):
            assert torch.allclose(model(*example), small(*example), atol=1e-6)
        assert torch.equal(read(*example), small(*example))
    assert described_examples(read) == described_examples(small) == state(model).examples
    assert [(len(one.args), sorted(one.kwargs)) for one in examples_for(read)] == [(2, []), (0, ["text"])]
    again = space(elastify(read))
    assert {axis.name for axis in again.axes} == {"width", "up.hidden"}
    assert not again.plan.branches


class _Boxes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, boxes: Any = None, options: Any = None) -> Tensor:
        h = self.up(x if boxes is None else x + boxes[0] + boxes[1])
        return self.down(h.relu() if options is None else h * options["scale"])


FORMS: dict[str, Any] = {
    "a tensor": R(2, 4),
    "arguments": (R(2, 4), [R(2, 4), R(2, 4)]),
    "keyword arguments": {"x": R(2, 4), "boxes": (R(2, 4), R(2, 4))},
    "both": ((R(2, 4),), {"options": {"scale": 2.0}}),
    "both, of a list": ([R(2, 4)], {"options": {"scale": 2.0}}),
    "arguments that end with a dict": (R(2, 4), None, {"scale": 2.0}),
    "a tensor and a dict": (R(2, 4), {0: R(2, 4), 1: R(2, 4)}),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_examples(form: str) -> None:
    assert len(space(elastify(_Boxes(), examples=[FORMS[form]])).axes) == 1
    assert len(space(elastify(_Boxes(), R(2, 4), examples=[FORMS[form], R(3, 4)])).axes) == 1


WRONG: dict[str, tuple[Any, str, str]] = {
    "no list": (R(2, 5), "examples is a Tensor", "a list of one or more examples"),
    "a tuple of examples": ((R(2, 5), R(2, 5)), "examples is a tuple", "a list of one or more examples"),
    "empty": ([], "examples is empty", "a list of one or more examples"),
    "a list for an example": (
        [R(2, 5), [R(2, 5)]],
        "an example is a list",
        "([a, b],) for one",
    ),
    "a number": ([R(2, 5), 3], "an example is a int", "a tensor, a tuple of arguments"),
    "none": ([R(2, 5), None], "an example is a NoneType", "a tensor, a tuple of arguments"),
    "no names": ([R(2, 5), {0: R(2, 5)}], "names that are no text", "(args, kwargs)"),
    "another shape": ([R(2, 5), R(2, 6)], "does not run on the example inputs", "(args, kwargs)"),
    "too many": ([R(2, 5), (R(2, 5), True, 4)], "do not fit forward", "(args, kwargs)"),
    "an unknown name": ([R(2, 5), {"y": R(2, 5)}], "do not fit forward", "(args, kwargs)"),
    "a dict for the keywords": ([R(2, 5), (R(2, 5), {"other": True}, 1)], "do not fit forward", "(args, kwargs)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_example_is_named(case: str) -> None:
    examples, what, fix = WRONG[case]
    model = Flag()
    before = dict(vars(model))
    with pytest.raises(ElastifyError) as error:
        elastify(model, examples=examples)
    assert what in error.value.what
    assert fix in error.value.fix
    listed = isinstance(examples, list) and examples
    assert error.value.where.startswith("examples[1]" if listed else "examples")
    assert vars(model) == before


def test_a_single_example_is_told_as_ever() -> None:
    with pytest.raises(ElastifyError) as error:
        elastify(Flag(), R(2, 6), examples=[R(2, 5)])
    assert "examples[" not in error.value.where
    assert "example_inputs" in error.value.fix


@pytest.mark.parametrize(("told", "dims"), [({"text": 0}, [(0,), (0,)]), ({"image": 0, "text": None}, [(0,), ()])])
def test_what_counts_samples_is_told_of_inputs_of_any_example(told: Any, dims: list[tuple[int, ...]]) -> None:
    model = elastify(Tokens(), examples=[{"image": R(3, 4, 6)}, {"text": R(5, 4, 9)}], batch=told)
    assert [next(iter(spec.kwargs.values())).samples for spec in described_examples(model) if spec] == dims
    with pytest.raises(ElastifyError, match="'words' is not an input"):
        elastify(Tokens(), examples=[{"image": R(3, 4, 6)}, {"text": R(5, 4, 9)}], batch={"words": 0})
