"""Costs: forms of the counted ops against the kernels (the rules have a row for each), the closed form and budgets."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from elastify import cost, elastify, extract, space
from elastify._capture.examples import Example
from elastify._capture.session import capture
from elastify._errors import ElastifyError
from elastify._ir.graph import Graph, RecordedCall, Value
from elastify._ir.layout import Axis, Concat, Layout, Product
from elastify._ir.plan import ElasticAxis, Plan, Stage
from elastify._space.config import SubnetConfig
from elastify._space.cost import CostModel, parse_budget
from elastify._space.metrics import METRICS, Cost, Metric, human, itemsize
from elastify._space.state import state
from elastify.testing import check_model
from elastify.testing.oracle import oracle_macs


class Function(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function, *shapes):
        super().__init__()
        self.function = function
        self.inputs = tuple(torch.randn(shape) for shape in shapes)

    def forward(self, *tensors: Tensor):
        return self.function(*tensors)


class Cell(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        return self.cell(x)


def module(made, *shapes):
    made.inputs = tuple(torch.randn(shape) for shape in shapes)
    return made


def convolution(transposed):
    def function(x, w):
        return torch.convolution(x, w, None, [2], [1], [1], transposed, [0], 2)

    return function


def vf(name, *args):
    """A recurrent op as it is called for a packed sequence."""

    def function(data, h, *weights):
        sizes = torch.tensor([3, 2, 1])
        hx = (h, h) if name == "lstm" else h
        return getattr(torch, name)(data, sizes, hx, weights, False, 1, 0.0, False, False)[0]

    return function


def grouped():
    """Six rows, of which the first four are multiplied with one matrix, the others with another."""
    rows, matrices = torch.randn(6, 8, dtype=torch.bfloat16), torch.randn(2, 8, 16, dtype=torch.bfloat16)
    made = Function(lambda a, b: torch._grouped_mm(a, b, torch.tensor([4, 6], dtype=torch.int32)))
    made.inputs = (rows, matrices)
    return made


SAMPLES = {
    "linear": [
        lambda: module(nn.Linear(7, 5), (2, 3, 7)),
        lambda: module(nn.Linear(7, 5, bias=False), (7,)),
        lambda: Function(F.linear, (2, 3), (3,)),
    ],
    "matmul": [
        lambda: Function(torch.matmul, (2, 3, 4, 5), (5, 7)),
        lambda: Function(torch.matmul, (2, 1, 4, 5), (3, 5, 7)),
        lambda: Function(torch.matmul, (2, 4, 5), (5,)),
        lambda: Function(torch.matmul, (5,), (3, 5, 2)),
        lambda: Function(lambda a, b: a @ b, (4, 5), (5, 3)),
    ],
    "mm": [lambda: Function(torch.mm, (3, 4), (4, 5))],
    "bmm": [
        lambda: Function(torch.bmm, (2, 3, 4), (2, 4, 5)),
        lambda: module(nn.MultiheadAttention(8, 2, batch_first=True), (1, 5, 8), (1, 7, 8), (1, 7, 8)),
    ],
    "linalg_matmul": [lambda: Function(torch.linalg.matmul, (2, 3, 4), (4, 5))],
    "_grouped_mm": [grouped],
    "mv": [lambda: Function(torch.mv, (3, 4), (4,))],
    "dot": [lambda: Function(torch.dot, (4,), (4,))],
    "vdot": [lambda: Function(torch.vdot, (4,), (4,))],
    "inner": [lambda: Function(torch.inner, (2, 3, 4), (5, 4))],
    "addmm": [lambda: Function(torch.addmm, (5,), (3, 4), (4, 5))],
    "baddbmm": [lambda: Function(torch.baddbmm, (2, 3, 5), (2, 3, 4), (2, 4, 5))],
    "addmv": [lambda: Function(torch.addmv, (3,), (3, 4), (4,))],
    "addbmm": [lambda: Function(torch.addbmm, (3, 5), (2, 3, 4), (2, 4, 5))],
    "tensordot": [
        lambda: Function(lambda a, b: torch.tensordot(a, b, 2), (2, 3, 4), (3, 4, 5)),
        lambda: Function(lambda a, b: torch.tensordot(a, b, ([0, 2], [1, 0])), (2, 3, 4), (4, 2, 5)),
    ],
    "einsum": [
        lambda: Function(lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b), (2, 3, 4, 5), (2, 3, 6, 5)),
        lambda: Function(lambda a, b: torch.einsum("... i, i j -> ... j", a, b), (2, 3, 4), (4, 5)),
        lambda: Function(lambda a, b: torch.einsum("ij,jk", a, b), (3, 4), (4, 5)),
        lambda: Function(lambda a, b: torch.einsum("ijz,jk->ik", [a, b]), (3, 4, 9), (4, 5)),
        lambda: Function(lambda a, b: torch.einsum("i,j->ij", a, b), (3,), (4,)),
        lambda: Function(lambda a, b: torch.einsum("ab,bc->ac", a, b), (3, 1), (1, 4)),
        lambda: Function(lambda a, b: torch.einsum("ab,ab->", a, b), (3, 4), (3, 4)),
        lambda: Function(lambda a: torch.einsum("ab->b", a), (3, 4)),
        lambda: Function(
            lambda a, b, c, d: torch.einsum("ab,bc,cd,de->ae", a, b, c, d), (2, 3), (3, 5), (5, 7), (7, 11)
        ),
    ],
    "conv1d": [lambda: module(nn.Conv1d(4, 6, 3, stride=2, groups=2), (1, 4, 9))],
    "conv2d": [
        lambda: module(nn.Conv2d(3, 8, 3, padding=1), (1, 3, 9, 7)),
        lambda: module(nn.Conv2d(8, 8, 3, padding="same", groups=8), (1, 8, 6, 6)),
        lambda: module(nn.Conv2d(3, 8, 3), (3, 9, 7)),
    ],
    "conv3d": [lambda: module(nn.Conv3d(2, 4, 3, dilation=2), (1, 2, 7, 8, 9))],
    "conv_transpose1d": [lambda: module(nn.ConvTranspose1d(4, 6, 3, stride=2), (1, 4, 5))],
    "conv_transpose2d": [lambda: module(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (1, 4, 5, 6))],
    "conv_transpose3d": [lambda: module(nn.ConvTranspose3d(2, 3, 3), (1, 2, 3, 4, 5))],
    "convolution": [
        lambda: Function(convolution(False), (1, 4, 9), (6, 2, 3)),
        lambda: Function(convolution(True), (1, 4, 9), (4, 3, 3)),
    ],
    "scaled_dot_product_attention": [
        lambda: Function(F.scaled_dot_product_attention, (1, 3, 4, 5), (1, 3, 6, 5), (1, 3, 6, 7)),
        lambda: Function(
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
            (1, 6, 4, 5),
            (1, 2, 4, 5),
            (1, 2, 4, 5),
        ),
    ],
    "lstm": [
        lambda: module(nn.LSTM(5, 4, 2, bidirectional=True, batch_first=True), (1, 6, 5)),
        lambda: module(nn.LSTM(5, 4, 2, bidirectional=True, proj_size=3), (6, 1, 5)),
        lambda: module(nn.LSTM(5, 4, bias=False), (6, 5)),
        lambda: Function(vf("lstm"), (6, 5), (1, 3, 4), (16, 5), (16, 4)),
    ],
    "gru": [
        lambda: module(nn.GRU(5, 4, 2, bidirectional=True), (6, 2, 5)),
        lambda: Function(vf("gru"), (6, 5), (1, 3, 4), (12, 5), (12, 4)),
    ],
    "rnn_tanh": [lambda: module(nn.RNN(5, 4), (6, 1, 5))],
    "rnn_relu": [lambda: module(nn.RNN(5, 4, nonlinearity="relu"), (6, 1, 5))],
    "lstm_cell": [lambda: module(Cell(nn.LSTMCell(5, 4)), (3, 5))],
    "gru_cell": [lambda: module(Cell(nn.GRUCell(5, 4)), (3, 5))],
    "rnn_tanh_cell": [lambda: module(Cell(nn.RNNCell(5, 4)), (3, 5))],
    "rnn_relu_cell": [lambda: module(Cell(nn.RNNCell(5, 4, nonlinearity="relu")), (3, 5))],
    "bilinear": [lambda: module(nn.Bilinear(3, 4, 5), (2, 6, 3), (2, 6, 4))],
}
CASES = [pytest.param(op, make, id=f"{op}-{i}") for op, makes in SAMPLES.items() for i, make in enumerate(makes)]
FREE = {"einsum": (4, 5, 7)}


@pytest.mark.parametrize(("op", "make"), CASES)
def test_macs_are_those_of_the_kernels(op, make, request):
    model = make()
    graph = capture(model, Example(model.inputs))
    assert op in {call.op for call in graph.calls}
    macs = CostModel(graph, {}, Plan()).of().macs
    assert macs == oracle_macs(model, model.inputs)
    free = int(request.node.callspec.id.split("-")[-1]) in FREE.get(op, ())
    assert (macs == 0) == free


def test_operations_without_products_are_free():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Softmax(1))
    x = torch.randn(1, 3, 4, 4)
    cost = CostModel(capture(model, Example((x,))), {}, Plan(), parameters=dict(model.named_parameters())).of()
    assert cost == Cost(macs=0, params=6, bytes=4 * 12 + 8, activations=0)
    assert oracle_macs(model, (x,)) == 0


class Pictures(nn.Module):
    """Takes a list of pictures, without a batch, and puts them together."""

    def __init__(self, stack: bool) -> None:
        super().__init__()
        self.stack, self.conv, self.fc = stack, nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, pictures: list[torch.Tensor]) -> torch.Tensor:
        if self.stack:
            return self.fc(self.conv(torch.stack(pictures)).mean((2, 3)))
        return torch.stack([self.fc(self.conv(x).mean((1, 2))) for x in pictures])


@pytest.mark.parametrize("stack", [True, False])
def test_every_picture_of_a_list_is_a_sample(stack):
    model, sizes = Pictures(stack), [(3, 6, 8), (3, 6, 8)] if stack else [(3, 6, 8), (3, 5, 6), (3, 9, 4)]
    pictures = [torch.randn(size) for size in sizes]
    check_model(model, ([*pictures],), costs=2).assert_passed()
    found = elastify(model, ([*pictures],))
    assert cost(found).macs == sum(oracle_macs(Pictures(stack), ([x],)) for x in pictures) // len(pictures)
    assert space(found).example["pictures.0"] == (3, 6, 8)


def test_maps_in_a_list_have_a_batch():
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

        def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
            return self.fc(sum(self.conv(x).mean((2, 3)) for x in maps))

    maps = [torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4)]
    check_model(Pyramid(), (maps,), costs=2).assert_passed()
    assert cost(elastify(Pyramid(), (maps,))).macs == oracle_macs(Pyramid(), ([x[:1] for x in maps],))


def test_a_malformed_call_is_named():
    graph = Graph([RecordedCall("linear", (Value(0, (2, 3)),), {}, Value(1, (2, 3)), where="head", source="net.py:7")])
    with pytest.raises(ElastifyError, match="cannot count linear") as error:
        CostModel(graph, {}, Plan()).of()
    assert error.value.where == "head net.py:7"


# A toy by hand: two residual blocks of width W and own hidden sizes, head_dim tied, a concat, a tied table.
BATCH, TOKENS = Axis(90, 2), Axis(91, 5)
WIDTH, HIDDEN = Axis(0, 16), (Axis(1, 32), Axis(2, 32), Axis(3, 32))
AXES = (
    ElasticAxis(0, "width", 16, (4, 8, 16), "width"),
    *(ElasticAxis(1 + i, f"blocks.{i}.hidden", 32, tuple(range(8, 33)), "hidden") for i in range(3)),
)
TOY = Plan(axes=AXES, stages=(Stage("blocks", "blocks", ("blocks.0", "blocks.1", "blocks.2"), (1, 2, 3)),))


class Builder:
    """Makes graphs with layouts."""

    def __init__(self):
        self.graph, self.layouts = Graph(), {}

    def value(self, *layouts: Layout, name: str = "", dtype: str = "float32") -> Value:
        value = Value(len(self.layouts), tuple(layout.size for layout in layouts), dtype, name)
        self.layouts[value.id] = layouts
        if name:
            self.graph.tensors[name] = value
        return value

    def linear(self, x: Value, weight: Value, where: str) -> Value:
        out = self.value(*self.layouts[x.id][:-1], self.layouts[weight.id][0])
        self.graph.calls.append(RecordedCall("linear", (x, weight), {}, out, where))
        return out


def toy() -> CostModel:
    make = Builder()
    table = make.value(Axis(92, 100), WIDTH, name="table")
    make.graph.tensors["head.weight"] = table
    x = make.value(BATCH, TOKENS, WIDTH)
    for i, hidden in enumerate(HIDDEN):
        up = make.value(hidden, WIDTH, name=f"blocks.{i}.up.weight")
        down = make.value(WIDTH, hidden, name=f"blocks.{i}.down.weight")
        make.linear(make.linear(x, up, f"blocks.{i}.up"), down, f"blocks.{i}.down")
    both = make.value(WIDTH, Concat((WIDTH, HIDDEN[0])), name="join.weight", dtype="float16")
    shared = make.value(WIDTH, name="blocks.1.scale")
    make.graph.tensors["blocks.2.scale"] = shared
    make.value(Product((WIDTH, Axis(93, 3))), name="counter", dtype="int64")
    make.linear(make.value(BATCH, Concat((WIDTH, HIDDEN[0]))), both, "join")
    make.linear(make.value(BATCH, TOKENS, WIDTH), table, "head")
    parameters = set(make.graph.tensors) - {"counter"}
    return CostModel(make.graph, make.layouts, TOY, batch={BATCH.id}, parameters=parameters)


def by_hand(w: int, h: tuple[int, ...], kept: tuple[int, ...]) -> Cost:
    params = 100 * w + sum(2 * w * h[i] for i in kept) + w * (w + h[0]) + (w if {1, 2} & set(kept) else 0)
    return Cost(
        macs=sum(2 * 5 * w * h[i] for i in kept) + w * (w + h[0]) + 5 * 100 * w,
        params=params,
        bytes=4 * params - 2 * w * (w + h[0]) + 8 * 3 * w,
        activations=sum(5 * (h[i] + w) for i in kept) + w + 500,
    )


@given(
    w=st.integers(1, 16),
    h=st.tuples(*[st.integers(1, 32)] * 3),
    kept=st.sampled_from([(0,), (0, 1), (0, 2), (0, 1, 2)]),
)
def test_closed_form_of_a_toy(w, h, kept):
    model = toy()
    sizes = {"width": w} | {f"blocks.{i}.hidden": h[i] for i in range(3)}
    assert model.of(SubnetConfig.of(sizes, {"blocks": kept})) == by_hand(w, h, kept)
    if kept != (0, 2):
        assert model(np.array([[w, *h, len(kept)]] * 3))[1] == by_hand(w, h, kept)


def test_many_configurations_equal_one_at_a_time():
    rng, model = np.random.default_rng(0), toy()
    rows = np.column_stack([rng.integers(1, 17, 5000), rng.integers(1, 33, (5000, 3)), rng.integers(1, 4, 5000)])
    many = model(rows)
    for index in (0, 1, 2047, 2048, 4999):
        w, *h, depth = rows[index].tolist()
        assert many[index] == by_hand(w, tuple(h), tuple(range(depth)))
    assert many.macs.dtype == np.int64


def test_macs_by_module_sum_to_the_whole():
    model = toy()
    config = SubnetConfig.of({"width": 8, "blocks.1.hidden": 10}, {"blocks": (0, 1)})
    parts = model.by_module(config)
    assert sum(parts.values()) == model.of(config).macs
    assert parts["blocks.1.up"] == 5 * 8 * 10
    assert parts["blocks.2.up"] == 0


def test_size_one_contraction_is_free_like_the_kernel():
    make = Builder()
    heads = Axis(0, 16)
    left, right = make.value(Axis(90, 3), heads), make.value(heads, Axis(91, 5))
    make.graph.calls.append(
        RecordedCall("einsum", ("ah,hb->ab", left, right), {}, make.value(Axis(90, 3), Axis(91, 5)))
    )
    model = CostModel(make.graph, make.layouts, Plan(axes=AXES[:1]))
    assert model(np.array([[1], [2], [16]])).macs.tolist() == [0, 30, 240]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((2, 4), np.int64), "5 integer columns"),
        (np.ones((2, 5)), "5 integer columns"),
        (np.full((1, 5), 17), "above the full one"),
        (np.full((1, 5), -1), "negative"),
    ],
)
def test_encoded_arrays_are_checked(rows, message):
    with pytest.raises(ElastifyError) as error:
        toy()(rows)
    assert message in str(error.value)


def test_costs_may_be_asked_for_in_several_threads():
    costs = CostModel(Graph([]), {}, Plan())
    compiled = costs._compile
    costs._compile = lambda: (vars(costs).pop("_compile"), compiled())[1]  # another thread was ready meanwhile
    assert costs.of().macs == 0


def test_overflow_is_refused():
    make = Builder()
    wide = Axis(5, 2**31)
    make.linear(make.value(Axis(6, 8), wide), make.value(wide, wide), "big")
    with pytest.raises(ElastifyError, match="do not fit 64 bits"):
        CostModel(make.graph, make.layouts, Plan()).of()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (12, 12), (12.9, 12), (np.int64(7), 7), ("1.2G", 1_200_000_000), ("350M", 350_000_000), ("10k", 10_000),
        (" 3 K ", 3000), ("2T", 2 * 10**12), ("1e3", 1000), ("5MB", 5_000_000), ("1_000", 1000), ("0", 0),
        ("0.1G", 100_000_000),
    ],
)  # fmt: skip
def test_budgets_are_read(value, expected):
    assert parse_budget(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("12X", "unknown suffix 'X'"), ("3Gi", "unknown suffix 'Gi'"), ("5m", "unknown suffix 'm'"), (-1, "negative"),
        ("-2M", "negative"), (float("nan"), "not finite"), ("", "not a number"), ("G", "not a number"),
        (None, "not a number"), (True, "not a number"), ([1], "not a number"), ("50%", "not a number"),
        ("inf", "unknown suffix"),
    ],
)  # fmt: skip
def test_bad_budgets_are_refused(value, message):
    with pytest.raises(ElastifyError) as error:
        parse_budget(value)
    assert message in str(error.value)
    assert "1.2G" in str(error.value)


def test_percentages_need_the_full_cost():
    assert parse_budget("35%", full=2000) == 700


def test_numbers_for_people():
    assert [human(n) for n in (0, 999, 1000, 999_999, 1_254_321_098)] == ["0", "999", "1k", "1000k", "1.25G"]
    assert [itemsize(f"torch.{d}") for d in ("float64", "bfloat16", "float8_e4m3fn", "complex64", "bool")] == [
        8,
        2,
        1,
        8,
        1,
    ]


class Rounds(nn.Module):
    """A loop that runs a shared layer before each of its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = x + torch.tanh(self.shared(x))
            x = x + torch.tanh(block(x))
        return self.last(x)


def test_what_a_loop_runs_around_a_block_goes_with_it() -> None:
    x = torch.randn(1, 6)
    model = elastify(Rounds(), x)
    assert [stage.name for stage in space(model).stages] == ["blocks"]
    for depth in (1, 2, 3):
        config = space(model).config({"blocks": depth})
        assert cost(model, config).macs == 6 * 8 + depth * 2 * 64 + 8 * 3
        assert cost(model, config).macs == oracle_macs(extract(model, config), (x,))


def test_costs_have_a_field_for_every_metric() -> None:
    assert [field.name for field in fields(Cost)] == list(METRICS)
    assert repr(Cost(1200, 3, 4000, 5)) == "Cost(1.2k MACs, 3 parameters, 4kB, 5 activations)"


def test_another_metric_is_counted_for_every_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Metric("reads", " reads", lambda products, output: [output, output], lambda dtype, is_parameter: 3)
    monkeypatch.setitem(METRICS, "reads", reads)
    model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(2, 4))
    rows = space(model).encode([0.5, 1.0])
    values, known = state(model).costs.values(rows), cost(model, rows)
    assert values["reads"].tolist() == (3 * known.params + 2 * known.activations).tolist()
    assert values["macs"].tolist() == known.macs.tolist()
