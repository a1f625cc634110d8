"""The two proofs, on plans and records made by hand: what they catch, and what they must not accuse."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elastify import ElastifyError, cost, elastify, space
from elastify._analysis.analyse import Analysis, analyse
from elastify._capture.examples import Example
from elastify._capture.session import capture
from elastify._errors import ElastifyError as Error
from elastify._ir.choice import FULL, Choice
from elastify._ir.graph import Graph
from elastify._ir.layout import Axis, Concat, Layout, Product
from elastify._ir.plan import ElasticAxis, Plan, Skip, Stage
from elastify._proofs.sizes import compare, failing
from elastify._proofs.units import (
    UNPROVEN,
    Case,
    _Exact,
    _Symmetry,
    check_finite,
    derangement,
    failing_axes,
    quiet,
    redraw,
)

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
IN, OUT = Axis(90, 6), Axis(91, 3)


class Net(nn.Module):
    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = [forward]
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function[0](self, x)


def mlp(function: Callable[[Tensor], Tensor] = torch.tanh) -> Net:
    return Net(lambda m, x: m.b(function(m.a(x))), a=nn.Linear(6, 4), b=nn.Linear(4, 3))


def plan_of(rows: Layout, bias: Layout, columns: Layout) -> Plan:
    """The plan of an mlp in which the hidden dimension is written differently in its three places."""
    ids = {part.id: part.size for layout in (rows, bias, columns) for part in parts(layout) if part.id < 90}
    axes = tuple(ElasticAxis(ident, f"axis{ident}", size, tuple(range(1, size + 1))) for ident, size in ids.items())
    return Plan(axes, tensors={"a.weight": (rows, IN), "a.bias": (bias,), "b.weight": (OUT, columns)})


def parts(layout: Layout) -> list[Axis]:
    return [layout] if isinstance(layout, Axis) else [axis for part in layout.parts for axis in parts(part)]


def failures(model: nn.Module, plan: Plan, **options: Any) -> dict[int, str]:
    def pick(result: Any) -> list[Tensor]:
        return [result] if isinstance(result, Tensor) else list(result)

    case = Case(Example(options.pop("args", (X,))))
    return failing_axes(model, plan, [case], pick, **options)


H, A, B = Axis(0, 4), Axis(1, 2), Axis(2, 2)
AB, BA = Product((A, B)), Product((B, A))
RIGHT = [plan_of(H, H, H), plan_of(AB, AB, AB), plan_of(Concat((A, B)), Concat((A, B)), Concat((A, B)))]
WRONG = {
    "another axis for the bias": plan_of(H, Axis(1, 4), H),
    "another axis of two units": plan_of(Concat((A, B)), Concat((A, B)), Concat((A, Axis(3, 2)))),
    "factors exchanged": plan_of(AB, AB, BA),
    "parts exchanged": plan_of(Concat((A, B)), Concat((A, B)), Concat((B, A))),
    "a product for a concat": plan_of(Concat((A, A)), Concat((A, A)), Product((A, Axis(95, 2)))),
    "an input taken for units": Plan(
        (ElasticAxis(4, "in", 6, (1, 6)), *plan_of(H, H, H).axes),
        tensors={**plan_of(H, H, H).tensors, "a.weight": (H, Axis(4, 6))},
    ),
}


@pytest.mark.parametrize("plan", RIGHT)
def test_true_axes_pass(plan: Plan) -> None:
    assert failures(mlp(), plan) == {}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_axes_fail(case: str) -> None:
    found = failures(mlp(), WRONG[case])
    assert found
    assert all("the permutation test fails: the output moves by" in text for text in found.values())


def test_only_the_wrong_axis_is_accused() -> None:
    plan = WRONG["an input taken for units"]
    assert list(failures(mlp(), plan)) == [4]


def test_the_model_is_not_changed() -> None:
    model = mlp().train()
    before = copy.deepcopy(model.state_dict())
    failures(model, RIGHT[0])
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert all(p.grad is None and p.dtype is torch.float32 for p in model.parameters())


def test_weights_of_zero_hide_nothing() -> None:
    model = mlp()
    nn.init.zeros_(model.b.weight)
    nn.init.zeros_(model.a.bias)
    assert failures(model, WRONG["another axis for the bias"])
    assert failures(model, RIGHT[0]) == {}


def test_inputs_of_zero_hide_nothing() -> None:
    zeros = (torch.zeros(2, 6),)
    assert failures(mlp(), RIGHT[0], args=zeros) == {}
    assert failures(mlp(), WRONG["an input taken for units"], args=zeros)


def test_an_axis_that_the_output_does_not_depend_on_is_not_proven() -> None:
    model = Net(lambda m, x: m.b(m.a(x)) * 0 + x[:, :3], a=nn.Linear(6, 4), b=nn.Linear(4, 3))
    assert "nothing is proven" in failures(model, RIGHT[0])[0]


@pytest.mark.parametrize("rows", [Concat((H, Axis(5, 2))), Concat((Axis(5, 2), H)), Concat((A, Axis(5, 2), B))])
def test_units_that_only_lie_beside_those_that_matter_are_not_proven(rows: Concat) -> None:
    """The gradient is asked for unit by unit: an axis does not count as tested by its neighbours in a tensor."""
    model = mlp()
    model.a = nn.Linear(6, 6)
    used = [i for i, part in enumerate(axis.id for part in rows.parts for axis in [part] * part.size) if part != 5]
    model.function = [lambda m, x: m.b(torch.tanh(m.a(x)[:, used]))]
    columns = Concat((A, B)) if len(rows.parts) > 2 else H
    axes = tuple(ElasticAxis(axis.id, f"axis{axis.id}", axis.size, (1, axis.size)) for axis in parts(rows))
    plan = Plan(axes, tensors={"a.weight": (rows, IN), "a.bias": (rows,), "b.weight": (OUT, columns)})
    assert failures(model, plan) == {5: UNPROVEN}


def test_axes_that_matter_to_nothing_are_told_by_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    monkeypatch.setattr(_Symmetry, "error", lambda self, orders: runs.append(len(orders)) or 0.0)
    model = Net(lambda m, x: m.b(m.a(x)) * 0 + x[:, :3], a=nn.Linear(6, 8), b=nn.Linear(8, 3))
    wide = Axis(0, 8)
    plan = Plan(
        (ElasticAxis(0, "hidden", 8, (2, 8)),),
        tensors={"a.weight": (wide, IN), "a.bias": (wide,), "b.weight": (OUT, wide)},
    )
    assert "nothing is proven" in failures(model, plan)[0]
    assert len(runs) == 4 * 3  # in each draw two of all axes together, and one of these, each tensor by itself


class Pictures(nn.Module):
    """Takes a list of pictures, as detectors do; with two encoders each has its own."""

    seen: ClassVar[list[int]] = []

    def __init__(self, encoders: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(nn.Conv2d(3, 8, 3) for _ in range(encoders))
        self.head = nn.Linear(8, 2)

    def forward(self, pictures: list[Tensor]) -> list[Tensor]:
        if self.head.weight.dtype is torch.float64:
            self.seen.append(len(pictures))
        found = [conv(x[None]) for conv, x in zip([*self.encoders] * len(pictures), pictures, strict=False)]
        return [self.head(torch.tanh(y).mean((2, 3))) for y in found]


@pytest.mark.parametrize(("encoders", "seen"), [(1, {1}), (2, {2})])
def test_one_of_a_list_of_samples_is_enough_where_it_meets_all_weights(encoders: int, seen: set[int]) -> None:
    Pictures.seen.clear()
    model = elastify(Pictures(encoders), ([torch.randn(3, 6, 6), torch.randn(3, 5, 7)],))
    assert space(model).verified
    assert set(Pictures.seen) == seen


@pytest.mark.parametrize("seed", range(6))
def test_units_below_a_threshold_get_other_weights(seed: int) -> None:
    assert failures(mlp(lambda h: torch.relu(h - 2.5)), RIGHT[0], seed=seed) == {}


def test_units_that_only_large_weights_wake_are_proven() -> None:
    assert failures(mlp(lambda h: torch.relu(h - 5)), RIGHT[0]) == {}


def test_outputs_that_are_whole_numbers_prove_nothing_by_staying_the_same() -> None:
    model = Net(lambda m, x: (m.b(m.a(x)) > 1e9).long(), a=nn.Linear(6, 4), b=nn.Linear(4, 3))
    assert "nothing is proven" in failures(model, RIGHT[0])[0]


def test_a_network_symmetric_in_a_single_tensor_is_not_accused() -> None:
    model = Net(lambda m, x: torch.tanh(m.a(x)).sum(-1), a=nn.Linear(6, 4, bias=False))
    plan = Plan((ElasticAxis(0, "hidden", 4, (1, 4)),), tensors={"a.weight": (H, IN)})
    assert failures(model, plan) == {}


def test_a_forward_without_gradients_is_measured_instead() -> None:
    model = mlp(lambda x: torch.tanh(x.detach()))
    model.b.requires_grad_(False)
    assert failures(model, RIGHT[0]) == {}


def test_a_forward_that_insists_on_float32_is_tested_in_float32() -> None:
    def single(m: Net, x: Tensor) -> Tensor:
        if m.a.weight.dtype is not torch.float32:
            raise RuntimeError("float32 only")
        return m.b(torch.tanh(m.a(x)))

    model = Net(single, a=nn.Linear(6, 4), b=nn.Linear(4, 3))
    assert failures(model, RIGHT[0]) == {}
    assert failures(model, WRONG["another axis for the bias"])


@pytest.mark.parametrize(
    "drop",
    [
        lambda m, x: nn.functional.dropout(x, 0.5, m.training),
        lambda m, x: nn.functional.alpha_dropout(x, 0.5, training=m.training),
        lambda m, x: nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5 if m.training else 0.0),
    ],
)
def test_dropout_called_as_a_function_does_not_disturb_it(drop: Callable[..., Tensor]) -> None:
    model = Net(lambda m, x: m.b(drop(m, m.a(x))), a=nn.Linear(6, 4), b=nn.Linear(4, 3))
    hidden = Axis(0, 4)
    assert failures(model, plan_of(hidden, hidden, hidden), modes=(True,)) == {}
    assert failures(model, plan_of(hidden, Axis(1, 4), hidden), modes=(True,)) != {}


def test_dropout_and_batch_statistics_do_not_disturb_the_training_mode() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    tensors = {"0.weight": (H, IN), "0.bias": (H,), "3.weight": (OUT, H)}
    tensors |= {f"1.{name}": (H,) for name in ("weight", "bias", "running_mean", "running_var")}
    plan = Plan((ElasticAxis(0, "hidden", 4, (1, 4)),), tensors=tensors)
    args = (torch.randn(8, 6),)
    assert failures(model, plan, args=args, modes=(False, True)) == {}
    forgotten = replace(plan, tensors={n: layout for n, layout in tensors.items() if n != "1.running_var"})
    assert failures(model, forgotten, args=args) == failures(model, forgotten, args=args, modes=(False, True)) != {}


def test_infinite_outputs_are_compared_by_their_place() -> None:
    def masked(m: Net, x: Tensor) -> Tensor:
        y = m.b(torch.tanh(m.a(x)))
        return torch.cat([y, torch.full_like(y, float("-inf"))], -1)

    model = Net(masked, a=nn.Linear(6, 4), b=nn.Linear(4, 3))
    assert failures(model, RIGHT[0]) == {}
    assert failures(model, WRONG["another axis for the bias"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    model = mlp()
    model.a.bias.data[1] = value
    with pytest.raises(Error, match=r"parameter a.bias has values that are NaN or infinite"):
        check_finite(model)


@pytest.mark.parametrize("size", range(2, 12))
def test_derangements_leave_nothing_in_place(size: int) -> None:
    for seed in range(20):
        order = derangement(size, seed)
        assert sorted(order) == list(range(size))
        assert not (order == np.arange(size)).any()


def test_redrawing_gives_every_parameter_weight_and_keeps_variances_positive() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    for p in model.parameters():
        nn.init.zeros_(p)
    redraw(model, 0)
    assert all((p != 0).all() and p.unique().numel() == p.numel() for p in model.parameters())
    assert (model[1].running_var > 0).all()
    first = copy.deepcopy(model.state_dict())
    redraw(model, 0)
    assert all(torch.equal(a, b) for a, b in zip(first.values(), model.state_dict().values(), strict=True))


def test_a_frozen_batch_norm_is_redrawn() -> None:
    model = nn.Module()
    model.register_buffer("norm_weight", torch.zeros(4))
    model.norm = nn.Module()
    for name in ("weight", "bias"):
        model.norm.register_buffer(name, torch.zeros(4))
    redraw(model, 0)
    assert [bool(buffer.any()) for buffer in model.buffers()] == [False, True, True]


def test_only_modules_without_weights_are_quietened() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout()).train()
    quiet(model)
    assert [module.training for module in model] == [True, False]


# -- sizes ---------------------------------------------------------------------------------------------------


def recorded(model: nn.Module) -> Analysis:
    names = {name for name, _ in model.named_parameters()}
    return analyse([capture(model, Example((X,)))], lambda attr: 0, names)


def narrow(width: int, out: int = 3) -> Graph:
    net = Net(lambda m, x: m.b(torch.tanh(m.a(x))), a=nn.Linear(6, width), b=nn.Linear(width, out))
    return capture(net, Example((X,)))


def hidden_of(found: Analysis) -> int:
    return next(found.terms.leaves(found.tensor("a.bias")[0])).id


def test_a_reduced_network_of_the_right_sizes_is_accepted() -> None:
    found = recorded(mlp())
    assert compare(found, Plan(), narrow(2), Choice({hidden_of(found): 2})) is None


@pytest.mark.parametrize(
    ("graph", "text"),
    [
        (lambda: narrow(3), "[2, 3] and not [2, 2] from linear in a (tests/proofs/test_units.py:"),
        (lambda: capture(mlp(torch.relu), Example((X,))), "[2, 4] and not [2, 2]"),
        (lambda: capture(mlp(lambda x: torch.tanh(x) + 1), Example((X,))), "4 operations instead of 3"),
    ],
)
def test_a_difference_is_told_with_its_place(graph: Callable[[], Graph], text: str) -> None:
    found = recorded(mlp())
    mismatch = compare(found, Plan(), graph(), Choice({hidden_of(found): 2}))
    assert mismatch is not None
    assert text in mismatch.text


def test_another_operation_of_the_same_size_is_a_difference() -> None:
    found = recorded(mlp())
    mismatch = compare(found, Plan(), capture(mlp(torch.relu), Example((X,))), FULL)
    assert mismatch is not None
    assert mismatch.text.startswith("relu runs in place of tanh")


def test_an_output_of_another_size_is_a_difference_even_if_all_operations_agree() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    found = recorded(model)
    first, last = (call.out.id for call in found.graphs[0].calls)
    stage = Stage("blocks", "", ("0", "1"), (1, 2), skips={"1": {0: Skip(1, 2, ((last, first),))}})
    cut = nn.Sequential(nn.Linear(6, 4), model[1])
    cut.forward = lambda x: cut[0](x)
    mismatch = compare(found, Plan(stages=(stage,)), capture(cut, Example((X,))), Choice(blocks={"blocks": (0,)}))
    assert mismatch is not None
    assert mismatch.text == "[2, 4] and not [2, 3] from the whole model"


def test_blame_is_narrowed_to_the_axis_and_the_stage() -> None:
    def run(choice: Choice, index: int) -> Graph:
        if choice.sizes.get(2, 9) < 9:
            raise ElastifyError("does not run", why="axis 2")
        return narrow(4) if "s" not in choice.blocks else narrow(3)

    found = recorded(mlp())
    plan = Plan(stages=(Stage("s", "", (), (1,)),))
    axes, stages = failing(found, plan, run, [Choice({1: 2, 2: 3, 3: 4}, {"s": ()})])
    assert axes == {2: "the smaller network does not run: axis 2"}
    assert list(stages) == ["s"]


def test_axes_that_fail_only_together_lose_one() -> None:
    def run(choice: Choice, index: int) -> Graph:
        if {1, 2} <= choice.sizes.keys():
            raise ElastifyError("does not run", why="1 with 2")
        return narrow(4)

    axes, stages = failing(recorded(mlp()), Plan(), run, [Choice({1: 2, 2: 3})])
    assert axes == {2: "the smaller network does not run: 1 with 2"}
    assert stages == {}


# -- both, in elastify ------------------------------------------------------------------------------------------


def test_rows_that_complex_numbers_are_cut_from_stay_even() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        left, turned = m.a(x).split([m.rank, 8], -1)
        turned = torch.view_as_complex(turned.unflatten(-1, (4, 2)))
        return m.b(left) + turned.real.sum(-1, keepdim=True)

    model = elastify(Net(forward, a=nn.Linear(6, 16), b=nn.Linear(8, 3), rank=8).eval(), X)
    widths = {cost(model, space(model).sample(seed)).macs // 6 for seed in range(40)}  # 6 inputs, 3 outputs
    assert widths == {cost(model, {"hidden": n}).macs // 6 for n in (2, 4, 6, 8)}


def test_masks_drawn_by_numpy_and_python_are_the_same_in_every_run() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        if m.training:
            y = torch.where(torch.tensor(np.random.rand(2, 1) < random.random()), m.mask, y)  # noqa: NPY002
        return m.b(y)

    model = Net(forward, a=nn.Linear(6, 10), b=nn.Linear(10, 3), mask=nn.Parameter(torch.randn(10)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        elastify(model, X)
    assert [axis.size for axis in space(model).axes] == [10]


def test_what_a_proof_rejects_is_reported_and_stays_whole() -> None:
    def stubborn(m: Net, x: Tensor) -> Tensor:
        y = torch.tanh(m.a(x))
        if len(y[0]) < 4:  # a Python number: nothing knows where it came from
            y = y.flip(-1)
        return m.b(y) + m.d(torch.tanh(m.c(x)))

    model = Net(stubborn, a=nn.Linear(6, 4), b=nn.Linear(4, 3), c=nn.Linear(6, 5), d=nn.Linear(5, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        elastify(model, X)
    texts = [str(w.message) for w in caught]
    assert len(texts) == 1
    assert texts[0].startswith("verification took 1 axes out of the search space:\n  ")
    assert "9 operations instead of 8" in texts[0]
    assert [axis.size for axis in space(model).axes] == [5]
    assert "9 operations instead of 8" in str(space(model))


def test_what_the_example_does_not_use_stays_whole_and_is_named() -> None:
    def masked(m: Net, x: Tensor) -> Tensor:
        return m.b(torch.tanh(m.a(x))) + m.d(torch.tanh(m.c(x))) * (x[:, :1] > 1e9)

    model = Net(masked, a=nn.Linear(6, 4), b=nn.Linear(4, 3), c=nn.Linear(6, 5), d=nn.Linear(5, 3))
    with pytest.warns(UserWarning, match=r"does not depend on 1 axes \(c.hidden\).*give example inputs"):
        elastify(model, X)
    assert [axis.size for axis in space(model).axes] == [4]
    assert "nothing is proven" in str(space(model))


def test_a_slice_that_an_operation_hands_back_is_still_a_parameter() -> None:
    """`weight.float()` is the weight itself, whatever part of it is active."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.gain = nn.Linear(6, 8), nn.Linear(8, 3), nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x) * self.gain.float())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [axis.size for axis in space(elastify(Net(), X)).axes] == [8]


# -- where values decide how many results there are ----------------------------------------------------------

MANY = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))


def picking(then: Callable[[Net, Tensor], Tensor]) -> nn.Module:
    """Keeps the rows that it likes."""
    torch.manual_seed(0)
    parts = {"a": nn.Linear(6, 16), "b": nn.Linear(16, 16), "c": nn.Linear(16, 3)}

    def forward(m: Net, x: Tensor) -> Tensor:
        h = torch.tanh(m.a(x))
        return m.c(then(m, h[h.sum(1) > 0]))

    return Net(forward, **parts)


def test_numbers_of_places_may_differ() -> None:
    with pytest.warns(UserWarning, match="depends on the values") as caught:
        model = elastify(picking(lambda m, rows: torch.tanh(m.b(rows))), MANY)
    assert not any("verification" in str(warning.message) for warning in caught)
    assert [(axis.name, axis.size) for axis in space(model).axes] == [("a.hidden", 16), ("b.hidden", 16)]


def test_rounds_of_a_loop_may_be_more_or_fewer() -> None:
    with pytest.warns(UserWarning, match="depends on the values") as caught:
        model = elastify(picking(lambda m, rows: torch.stack([torch.tanh(m.b(row)) for row in rows])), MANY)
    assert not any("verification" in str(warning.message) for warning in caught)
    assert [axis.size for axis in space(model).axes] == [16, 16]


def test_what_runs_otherwise_proves_nothing() -> None:
    def even(m: Net, rows: Tensor) -> Tensor:
        return torch.tanh(m.b(rows)) if len(rows.tolist()) % 2 else torch.relu(m.b(rows.flip(0)))

    with pytest.warns(UserWarning, match="the smaller network runs other operations"):
        model = elastify(picking(even), MANY)
    assert [axis.name for axis in space(model).axes] == ["b.hidden"]  # which does not change what is picked


def test_blocks_after_a_count_are_followed_where_the_same_operations_run() -> None:
    def residual(m: Net, x: Tensor) -> Tensor:
        return x + torch.tanh(m.fc(x))

    def picked(m: Net, x: Tensor) -> Tensor:
        h = torch.tanh(m.a(x))
        return m.c(m.blocks(h[h.sum(1) > 0]))

    torch.manual_seed(0)
    blocks = nn.Sequential(*(Net(residual, fc=nn.Linear(16, 16)) for _ in range(3)))
    with pytest.warns(UserWarning, match="depends on the values") as caught:
        model = elastify(Net(picked, a=nn.Linear(6, 16), blocks=blocks, c=nn.Linear(16, 3)), MANY)
    assert not any("verification" in str(warning.message) for warning in caught)
    assert [(stage.name, stage.choices) for stage in space(model).stages] == [("blocks", (1, 2, 3))]


def test_what_forward_computes_in_float32_is_proven_in_float64() -> None:
    x = torch.randn(4, dtype=torch.float64)
    with _Exact(True, nn.Module()):
        kept = (x.float(), x.to(torch.float32), x.softmax(-1, dtype=torch.float32), torch.zeros(2, dtype=torch.float32))
    assert {t.dtype for t in kept} == {torch.float64}
    with _Exact(False, nn.Module()):
        assert x.float().dtype == torch.float32
