"""Every rule states the truth about a real call of its operation, and every rule has a sample."""

from __future__ import annotations

import pytest

from elastify._analysis.rules import RULES, Facts, apply
from elastify._analysis.terms import Terms
from elastify._ir.graph import Call, Value

from . import samples_contractions, samples_elementwise, samples_indexing, samples_norms, samples_signals, samples_views
from .harness import Sample, check

SAMPLES = [
    *samples_contractions.SAMPLES,
    *samples_elementwise.SAMPLES,
    *samples_indexing.SAMPLES,
    *samples_norms.SAMPLES,
    *samples_signals.SAMPLES,
    *samples_views.SAMPLES,
]
DEVICES = ("cpu", "cuda")  # cannot be run everywhere


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_rule(sample: Sample) -> None:
    check(sample)


def test_every_rule_has_a_sample() -> None:
    assert sorted(set(RULES) - {sample.op for sample in SAMPLES}) == sorted(DEVICES)


@pytest.mark.parametrize("op", DEVICES)
def test_moving_to_another_device_keeps_the_units(op: str) -> None:
    facts, source, result = Facts(Terms()), Value(0, (2, 3)), Value(1, (2, 3))
    facts.start([source, result], {})
    apply(facts, Call(op, (source,), {}, result))
    assert facts.dims(result) == facts.dims(source)
    assert facts.unknown == {}


def test_an_operation_without_a_rule_freezes_what_it_touches_and_is_listed() -> None:
    facts, source, result = Facts(Terms()), Value(0, (2, 3)), Value(1, (3,))
    facts.start([source, result], {})
    apply(facts, Call("frobnicate", (source,), {}, result, "block.0", "net.py:7"))
    assert all(facts.terms.is_frozen(term) for value in (source, result) for term in facts.dims(value))
    assert str(facts.unknown["frobnicate"]) == "no rule for this operation: frobnicate in block.0 (net.py:7)"


def test_results_written_to_a_given_tensor_are_those_of_the_operation() -> None:
    facts, values = Facts(Terms()), [Value(i, (2, 3)) for i in range(4)]
    facts.start(values, {})
    a, b, old, new = values
    apply(facts, Call("add.out", (a, b), {"out": old}, new))
    assert facts.unknown == {}
    assert len({facts.terms.find(facts.dims(value)[1]).id for value in values}) == 1


def test_places_where_a_condition_holds_are_as_many_as_the_data_say() -> None:
    facts, condition, found = Facts(Terms()), Value(0, (2, 3), "bool"), Value(1, (4,), "int64")
    facts.start([condition, found], {})
    apply(facts, Call("where", (condition,), {}, (found,)))
    assert all(facts.terms.is_frozen(term) for value in (condition, found) for term in facts.dims(value))
    assert facts.counted == facts.dims(found)


@pytest.mark.parametrize("args", [(), ("text",), (Value(0, (2, 3)), None), (Value(0, (2, 3)), 99)])
def test_a_form_that_a_rule_does_not_cover_freezes_and_is_listed(args: tuple[object, ...]) -> None:
    facts, source, result = Facts(Terms()), Value(0, (2, 3)), Value(1, (3, 2))
    facts.start([source, result], {})
    apply(facts, Call("movedim", args, {}, result))
    assert all(facts.terms.is_frozen(term) for term in facts.dims(result))
    assert "a form of the operation that its rule does not cover" in str(facts.unknown["movedim"])
