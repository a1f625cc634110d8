"""Every rule states the truth about a real call of its operation, and every rule has a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elastify._analysis.analyse import analyse
from elastify._analysis.apart import kept_apart
from elastify._analysis.rules import OPS, Facts, apply
from elastify._analysis.rules.ops import Op, names
from elastify._analysis.terms import Terms
from elastify._capture.examples import Example
from elastify._capture.session import capture
from elastify._ir.graph import RecordedCall, Value
from elastify._ir.layout import Layout, axes_of, indices, mentions
from elastify._ir.plan import Plan
from elastify._space.cost import CostModel
from elastify.testing.oracle import oracle_macs

from . import samples_contractions, samples_elementwise, samples_indexing, samples_norms, samples_signals, samples_views
from .harness import Sample, Wrapped, check, flat

SAMPLES = [
    *samples_contractions.SAMPLES,
    *samples_elementwise.SAMPLES,
    *samples_indexing.SAMPLES,
    *samples_norms.SAMPLES,
    *samples_signals.SAMPLES,
    *samples_views.SAMPLES,
]
DEVICES = ("cpu", "cuda")  # cannot be run everywhere
UNRECORDED = names(lambda op: op.same) - {"clone", "detach"}  # a call of these is no new value


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_rule(sample: Sample) -> None:
    check(sample)


def test_every_rule_has_a_sample() -> None:
    assert set(OPS) - {sample.op for sample in SAMPLES} == {*DEVICES, *UNRECORDED}


def of(fact: Callable[[Op], Any]) -> list[Sample]:
    """Samples of the operations of which a fact of the table holds, with the same numbers each time."""
    return [sample for sample in SAMPLES if sample.exact and fact(OPS[sample.op])]


# Of the other tensor of `type_as` only the type matters.
BY_PLACE = [sample for sample in of(lambda op: op.elementwise) if sample.op != "type_as"]


@pytest.mark.parametrize("sample", BY_PLACE, ids=str)
def test_an_element_wise_operation_sees_one_place_at_a_time(sample: Sample) -> None:
    """Shuffling all places of its tensors alike shuffles those of the result, whatever dimensions they lie in."""
    module = Wrapped(sample)
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in sample.tensors))
    given = [getattr(module, name).broadcast_to(shape).clone() for name in module.names]
    order = torch.randperm(given[0].numel(), generator=torch.Generator().manual_seed(0))

    def shuffled(tensor: Tensor) -> Tensor:
        return tensor.flatten()[order].reshape(shape)

    before, after = (list(flat(sample.call(module, *tensors))) for tensors in (given, map(shuffled, given)))
    assert all(torch.allclose(shuffled(a), b, equal_nan=True) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("sample", of(lambda op: op.unary), ids=str)
def test_a_function_of_one_tensor_keeps_its_type(sample: Sample) -> None:
    for kind in (torch.float32, torch.float64):
        x = torch.rand(2, 3, dtype=kind)
        assert OPS[sample.op].elementwise
        assert sample.call(None, x).dtype == kind


@pytest.mark.parametrize("sample", of(lambda op: op.view or op.same), ids=str)
def test_a_view_has_the_numbers_of_its_first_tensor(sample: Sample) -> None:
    module, view = Wrapped(sample), OPS[sample.op].view
    source, numbers = module.t0.flatten().tolist(), [n for made in flat(module()) for n in made.flatten().tolist()]
    assert set(numbers) <= set(source)
    assert view == "part" or set(numbers) == set(source)
    assert view in ("part", "repeated") or len(numbers) == len(source)


@pytest.mark.parametrize("sample", of(lambda op: op.keeps and not op.drops), ids=str)
def test_what_keeps_its_first_tensor_has_its_shape(sample: Sample) -> None:
    module = Wrapped(sample)
    assert next(flat(module())).shape == module.t0.shape


@pytest.mark.parametrize("sample", of(lambda op: op.multiplies), ids=str)
def test_macs_are_those_of_the_kernels(sample: Sample) -> None:
    module = Wrapped(sample).eval()
    graph = capture(module, Example())
    assert CostModel(graph, {}, Plan()).of().macs == oracle_macs(module)


@pytest.mark.parametrize("sample", of(lambda op: True), ids=str)
def test_what_a_record_says_stays_apart_does(sample: Sample) -> None:
    """Other numbers for one entry of an axis move that entry of the results alone, where the record says so."""
    module = Wrapped(sample).eval()
    analysis = analyse([graph := capture(module, Example())], lambda attr: getattr(module, attr.name), (), lambda _: ())
    operands = [graph.tensors[name] for name in module.names]
    before, drawn = list(flat(module())), {name: getattr(module, name) for name in module.names}
    other = torch.Generator().manual_seed(4)
    for axis in {axis for value in operands for layout in analysis.layouts(value) for axis in axes_of(layout)}:
        if axis.size == 1 or not kept_apart(analysis, {axis.id}, operands, graph.outputs):
            continue
        for name, value, kind in zip(module.names, operands, sample.tensors, strict=True):
            own = entries(drawn[name], analysis.layouts(value), axis.id)
            setattr(module, name, torch.where(own, kind.draw(other), drawn[name]))
        for value, old, new in zip(graph.outputs, before, flat(module()), strict=True):
            own = entries(old, analysis.layouts(value), axis.id)
            assert ((old == new) | own | ((old != old) & (new != new))).all()


def entries(tensor: Tensor, layouts: Sequence[Layout], axis: int) -> Tensor:
    """Which places of a tensor belong to the second entry of an axis."""
    found = torch.zeros(tensor.shape, dtype=torch.bool)
    for dim, layout in enumerate(layouts):
        if mentions(layout, {axis}):
            found.index_fill_(dim, torch.from_numpy(indices(layout, {axis: np.array([1])})), True)
    return found


@pytest.mark.parametrize("op", sorted(names(lambda op: op.drops)))
def test_what_drops_does_nothing_in_evaluation_mode(op: str) -> None:
    x = torch.randn(2, 3, 4)
    assert torch.equal(getattr(torch, op)(x, 0.5, False), x)


@pytest.mark.parametrize("op", DEVICES)
def test_moving_to_another_device_keeps_the_units(op: str) -> None:
    facts, source, result = Facts(Terms()), Value(0, (2, 3)), Value(1, (2, 3))
    facts.start([source, result], {})
    apply(facts, RecordedCall(op, (source,), {}, result))
    assert facts.dims(result) == facts.dims(source)
    assert facts.unknown == {}


def test_an_operation_without_a_rule_freezes_what_it_touches_and_is_listed() -> None:
    facts, source, result = Facts(Terms()), Value(0, (2, 3)), Value(1, (3,))
    facts.start([source, result], {})
    apply(facts, RecordedCall("frobnicate", (source,), {}, result, "block.0", "net.py:7"))
    assert all(facts.terms.is_frozen(term) for value in (source, result) for term in facts.dims(value))
    assert str(facts.unknown["frobnicate"]) == "no rule for this operation: frobnicate in block.0 (net.py:7)"


def test_results_written_to_a_given_tensor_are_those_of_the_operation() -> None:
    facts, values = Facts(Terms()), [Value(i, (2, 3)) for i in range(4)]
    facts.start(values, {})
    a, b, old, new = values
    apply(facts, RecordedCall("add.out", (a, b), {"out": old}, new))
    assert facts.unknown == {}
    assert len({facts.terms.find(facts.dims(value)[1]).id for value in values}) == 1


def test_places_where_a_condition_holds_are_as_many_as_the_data_say() -> None:
    facts, condition, found = Facts(Terms()), Value(0, (2, 3), "bool"), Value(1, (4,), "int64")
    facts.start([condition, found], {})
    apply(facts, RecordedCall("where", (condition,), {}, (found,)))
    assert all(facts.terms.is_frozen(term) for value in (condition, found) for term in facts.dims(value))
    assert facts.counted == facts.dims(found)


@pytest.mark.parametrize("args", [(), ("text",), (Value(0, (2, 3)), None), (Value(0, (2, 3)), 99)])
def test_a_form_that_a_rule_does_not_cover_freezes_and_is_listed(args: tuple[object, ...]) -> None:
    facts, source, result = Facts(Terms()), Value(0, (2, 3)), Value(1, (3, 2))
    facts.start([source, result], {})
    apply(facts, RecordedCall("movedim", args, {}, result))
    assert all(facts.terms.is_frozen(term) for term in facts.dims(result))
    assert "a form of the operation that its rule does not cover" in str(facts.unknown["movedim"])
