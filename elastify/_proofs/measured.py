"""Numbers that describe what methods other than forward give follow what these give in a few subnets.

A number of channels that a library keeps beside its backbone is not read by forward. Which layouts have its size is
known; which of them it means is told by running the method in subnets where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from elastify import _adapters
from elastify._capture import Example, capture
from elastify._errors import ElastifyError
from elastify._ir import Attr, Choice, Layout, Plan, active_size
from elastify._rewrite import active_subnet, trial
from elastify._space import SearchSpace

_SUBNETS = 4


def follow_measured(model: nn.Module, plan: Plan, example: Example) -> Plan:
    """The plan with the numbers that could be measured."""
    asked = {attr: n for attr, n in _adapters.of(model).measurable(model).items() if n > 1 and attr not in plan.matched}
    layouts = {layout for own in plan.tensors.values() for layout in own}
    fits = {attr: sorted((layout for layout in layouts if layout.size == n), key=repr) for attr, n in asked.items()}
    fits = {attr: own for attr, own in fits.items() if own}
    if fits:
        with trial(model, plan):
            fits = _fitting(model, plan, example, fits)
    matched = {attr: own[0] for attr, own in fits.items()}
    if not matched:
        return plan
    return replace(
        plan,
        attributes={**plan.attributes, **matched},
        matched=plan.matched | matched.keys(),
        unclear={attr: rest for attr, rest in plan.unclear.items() if attr not in matched},
    )


def _fitting(
    model: nn.Module, plan: Plan, example: Example, fits: dict[Attr, list[Layout]]
) -> dict[Attr, list[Layout]]:
    """The layouts that have the size of what is measured in two subnets at least, in more while several fit."""
    where = SearchSpace(plan)
    for number in range(_SUBNETS):
        if not fits or (number > 1 and all(len(own) < 2 for own in fits.values())):
            break
        sizes = where.by_id(where.sample(number)).sizes
        told = _measured(model, example, sizes)
        fits = {a: [fit for fit in own if active_size(fit, sizes) == told.get(a)] for a, own in fits.items()}
        fits = {attr: own for attr, own in fits.items() if own}
    return fits


def _measured(model: nn.Module, example: Example, sizes: Mapping[int, int]) -> dict[Attr, int]:
    """What the numbers are in a subnet; nothing where it does not run."""
    told, library = dict[Attr, int](), _adapters.of(model)
    with active_subnet(model, Choice(sizes)):
        try:
            capture(model, example, run=lambda *given: told.update(library.measured(*given)))
        except ElastifyError:
            return {}
    return told
