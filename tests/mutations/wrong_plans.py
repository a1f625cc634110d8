"""Plans that lost or changed something: what the mutants make of a finished plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

from elastify._ir.graph import Value
from elastify._ir.layout import Axis, Layout
from elastify._ir.plan import Plan
from elastify._plan.skips import SkipFinder


def without_attribute(*names: str) -> Callable[[Plan], Plan]:
    return lambda plan: replace(plan, attributes={a: to for a, to in plan.attributes.items() if a.name not in names})


def without_tensor(name: str) -> Callable[[Plan], Plan]:
    return lambda plan: replace(plan, tensors={n: to for n, to in plan.tensors.items() if n != name})


def without_aliases(plan: Plan) -> Plan:
    return replace(plan, aliases={})


def relaid(name: str, change: Callable[[Layout], Layout]) -> Callable[[Plan], Plan]:
    """The layout of one tensor's first dimension is changed (while the plan still has it)."""

    def changed(plan: Plan) -> Plan:
        if name not in plan.tensors:
            return plan
        first, *rest = plan.tensors[name]
        return replace(plan, tensors={**plan.tensors, name: (change(first), *rest)})

    return changed


def reverse(layout: Layout) -> Layout:
    return layout if isinstance(layout, Axis) else type(layout)(layout.parts[::-1])


def twin(plan: Plan) -> Plan:
    """One axis too many: the last one's last member gets an axis of its own."""
    if not plan.axes or any(axis.id == 10**6 for axis in plan.axes):
        return plan
    axis = plan.axes[-1]
    name, dim = axis.members[-1]
    own = replace(axis, id=10**6, name="twin", members=((name, dim),))
    layouts = list(plan.tensors[name])
    layouts[dim] = renamed(layouts[dim], axis.id)
    return replace(plan, axes=(*plan.axes, own), tensors={**plan.tensors, name: tuple(layouts)})


def renamed(layout: Layout, ident: int) -> Layout:
    if isinstance(layout, Axis):
        return Axis(10**6, layout.size) if layout.id == ident else layout
    return type(layout)(tuple(renamed(part, ident) for part in layout.parts))


def attribute_of(name: str, other: str) -> Callable[[Plan], Plan]:
    """An attribute that follows another's dimension."""

    def changed(plan: Plan) -> Plan:
        found = {a.name: to for a, to in plan.attributes.items()}
        if other not in found:
            return plan
        return replace(
            plan, attributes={a: found[other] if a.name == name else to for a, to in plan.attributes.items()}
        )

    return changed


def alike_always(*_: Any) -> bool:
    return True


def fed_by_anything(self: SkipFinder, left_out: Collection[int], target: Value) -> Iterator[Value]:
    """Whatever a span is given may take the place of what it makes."""
    flow = self.flow
    for number in left_out:
        for value in flow.given[number]:
            if value.id not in flow.weights and flow.made.get(value.id, -1) not in left_out:
                yield value
