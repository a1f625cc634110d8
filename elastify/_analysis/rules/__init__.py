"""One rule per operation, in one table keyed by canonical name; `apply` states the facts of one call.

An operation without a rule, or a call that its rule does not fit, freezes every dimension it touches and is
reported: it never passes silently.
"""

from __future__ import annotations

from dataclasses import replace

from elastify._analysis.facts import Equation, Facts, Why
from elastify._analysis.rules import (
    contractions,
    creation,
    elementwise,
    indexing,
    matrices,
    norms,
    recurrence,
    signals,
    views,
)
from elastify._analysis.rules.contractions import contraction
from elastify._analysis.rules.ops import OPS, Contraction, Dims, Op, labelled, names, operation, rule, without_out
from elastify._ir import RecordedCall, values

__all__ = [
    "OPS",
    "Contraction",
    "Dims",
    "Equation",
    "Facts",
    "Op",
    "Why",
    "apply",
    "contraction",
    "labelled",
    "names",
    "operation",
    "rule",
    "without_out",
]

_FAMILIES = (contractions, creation, elementwise, indexing, matrices, norms, recurrence, signals, views)


def apply(facts: Facts, call: RecordedCall) -> None:
    """State what a call implies about the layouts of its tensors."""
    facts.at(call)
    name, given = without_out(call)
    rule = operation(name).rule
    if rule is None:
        return freeze_all(facts, call, "no rule for this operation")
    try:
        facts.why = replace(facts.why, op=name)
        rule(facts, call.out, *call.args, **given)
        if name != call.op:  # what was there before is overwritten, size for size
            for old, new in zip(values(call.kwargs["out"]), call.outputs(), strict=True):
                facts.all_same(facts.dims(old), facts.dims(new))
    except (AttributeError, TypeError, ValueError, LookupError, StopIteration) as error:
        freeze_all(facts, call, f"a form of the operation that its rule does not cover ({error})")


def freeze_all(facts: Facts, call: RecordedCall, reason: str) -> None:
    """Keep every dimension that the call reads or makes as it is, and remember that it was not understood."""
    facts.unknown.setdefault(call.op, facts.because(reason))
    for value in (*call.inputs(), *call.outputs()):
        for term in facts.dims(value):
            facts.freeze(term, reason)
