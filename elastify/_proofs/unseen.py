"""Numbers that forward computes with in ways that nobody is told of.

Python asks an integer nothing when a float is divided by it, and neither do `math.log`, numpy or `str`. So no record
shows where the `n` of `2.0 / self.n` goes. Whole numbers that may be sizes, because something elastic is as large, and
that no record explains are therefore doubled, all at once, and the model is recorded again. Where the
new record says something else, halves of them are tried, until it is known which are used. These stay what they are,
which may or may not be meant, and are listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from elastify._capture import Example, capture, read, write
from elastify._errors import ElastifyError
from elastify._ir import Attr, Graph, Plan
from elastify._plan import Planner, arguments, attributes, elastic_sizes, may_be_a_size

_ADDRESS = re.compile(r"\b0x[0-9a-f]+")


def list_unseen(planner: Planner, plan: Plan, example: Example) -> Plan:
    """The plan with what stays though forward computes with it, unseen."""
    found: dict[Attr, str] = {}
    _find(planner.model, example, planner.graph, list(_doubtful(planner, plan)), found)
    return replace(plan, staying={**plan.staying, **found}) if found else plan


def _doubtful(planner: Planner, plan: Plan) -> Iterator[Attr]:
    """Whole numbers as large as something elastic, of which nothing is known."""
    sizes = elastic_sizes(plan.axes, plan.tensors)
    guards = [guard for graph in planner.analysis.graphs for guard in graph.guards]
    lost = attributes(expr for guard in guards if guard.fn == "int" for expr in guard.args)  # no record follows these
    met = attributes(expr for guard in guards if guard.fn != "int" for expr in guard.args) | arguments(planner.analysis)
    known = {*plan.attributes, *plan.unclear, *plan.counts, *plan.caches, *(plan.used - (lost - met))}
    for _, owner, name, value in planner.described.attributes:
        attr = Attr(owner, name)
        if type(value) is int and value in sizes and attr not in known and may_be_a_size(attr, value):
            yield attr


def _find(model: nn.Module, example: Example, graph: Graph, attrs: Sequence[Attr], found: dict[Attr, str]) -> None:
    """Which of these numbers change the record, with the first place where it does."""
    place = _difference(model, example, graph, attrs) if attrs else ""
    if not place:
        return
    if len(attrs) == 1:
        found[attrs[0]] = place
        return
    for half in (attrs[: len(attrs) // 2], attrs[len(attrs) // 2 :]):
        _find(model, example, graph, half, found)


def _difference(model: nn.Module, example: Example, graph: Graph, attrs: Sequence[Attr]) -> str:
    """Where a run with larger numbers is another one; "" where it is the same."""
    with _larger(model, attrs):
        try:
            other = capture(model, example)
        except ElastifyError as error:
            return f"forward does not run with another number: {error.why or error.what}"
    for ours, theirs in zip(graph.calls, other.calls, strict=False):
        if _said((ours.op, ours.args, ours.kwargs)) != _said((theirs.op, theirs.args, theirs.kwargs)):
            return f"{theirs.op} in {theirs.where or 'the model'} ({theirs.source})"
    return "" if len(graph.calls) == len(other.calls) else "other operations run"


@contextmanager
def _larger(model: nn.Module, attrs: Sequence[Attr]) -> Iterator[None]:
    before: Mapping[Attr, int] = {attr: read(model, attr) for attr in attrs}
    try:
        for attr, value in before.items():
            write(model, attr, 2 * value + 1)
        yield
    finally:
        for attr, value in before.items():
            write(model, attr, value)


def _said(call: object) -> str:
    return _ADDRESS.sub("", repr(call))
