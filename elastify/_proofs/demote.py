"""The two proofs of a plan, and what they take out of it.

An axis in which the network is not symmetric, or whose reduced network is not the predicted one, is a mistake of the
analysis: it stays whole, and there is a warning. (One that the example does not use stays whole, too, but there is
nothing wrong with it.) Whether blocks can go is told by the proof of sizes alone, for the code around them may count
them, choose them by number, or collect what some of them give. A row that fails is cut where something runs between
its blocks. What cannot be cut is tried by its first blocks, one fewer each time, down to the first number that fails:
what was proven is offered, of the first blocks only, and the reason is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from elastify._analysis import Analysis
from elastify._capture import Run, capture
from elastify._errors import ElastifyError
from elastify._ir import FULL, Choice, Graph, Layout, Plan, Stage
from elastify._plan import Planner
from elastify._proofs.samples import first_of_lists
from elastify._proofs.sizes import Capture, difference, failing
from elastify._proofs.units import UNPROVEN, failing_axes
from elastify._rewrite import as_extracted, install, remove, set_active
from elastify._space import SearchSpace, SubnetConfig

_ROUNDS = 6  # each takes something out of the plan
_TRIALS = 16  # numbers of blocks that are tried of one row


def prove_units(
    model: nn.Module,
    planner: Planner,
    plan: Plan,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    outputs: Callable[[Any], list[Tensor]],
    moving: Callable[[bool], list[tuple[Layout, ...]]],
) -> Plan:
    """Demote axes in which the network is not symmetric; in train mode too where only that uses some parameters."""
    modes = (False, True) if _only_in_training(model, planner.analysis) else (False,)
    fewer = _one_of_the_list(model, planner.analysis, args, kwargs)
    failed = failing_axes(model, plan, args, kwargs, outputs, modes=modes, layouts=moving, fewer=fewer)
    if failed:
        _warn([f"{a.name}: {failed[a.id]}" for a in plan.axes if failed.get(a.id, UNPROVEN) != UNPROVEN])
        idle = [axis.name for axis in plan.axes if failed.get(axis.id) == UNPROVEN]
        if idle:
            text = f"does not depend on {len(idle)} axes ({_few(idle, ', ')}): they are not proven and stay whole"
            fix = "give example inputs that use them"
            warnings.warn(f"what the model returns for the example {text}; {fix}", stacklevel=4)
        planner.exclude(failed)
        plan = planner.plan()
    return plan


def _one_of_the_list(model: nn.Module, analysis: Analysis, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The arguments with one sample of a list of them (pictures, for a detector) that meets the same weights as all."""
    graph = analysis.graphs[0]
    if analysis.samples < 2 or analysis.batch:
        return None
    fewer = first_of_lists((args, kwargs))
    try:
        found = capture(model, *fewer, fake=not graph.real)
    except ElastifyError:
        return None

    return fewer if found.used() == graph.used() else None


def _only_in_training(model: nn.Module, analysis: Analysis) -> bool:
    """Whether some parameter is used in training mode alone (a counter of batches is no parameter)."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    rest = parameters - analysis.graphs[0].used()
    return any(graph.used() & rest for graph in analysis.graphs if graph.training)


def prove_sizes(
    model: nn.Module,
    planner: Planner,
    plan: Plan,
    analysis: Analysis,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    writing: Run | None,
) -> Plan:
    """Demote axes and stages whose reduced networks are not what the plan says, until none is left.

    It is no surprise that some stages fail: they are listed in the space.
    """

    def run(choice: Choice, index: int) -> Graph:
        set_active(model, choice)
        try:
            with as_extracted(model, lists=index > 0):
                return capture(
                    model, args, kwargs, fake=not analysis.graphs[index].real, run=writing if index else None
                )
        finally:
            set_active(model, FULL)

    runs = [i for i, graph in enumerate(analysis.graphs) if not graph.training and not graph.apart]
    for _ in range(_ROUNDS):
        where = SearchSpace(plan)
        chosen = (where.min, _every_other(where), where.sample(0), where.sample(1))
        choices = [where.by_id(config) for config in chosen]
        choices.insert(0, Choice(blocks={stage.name: _fewest(stage) for stage in plan.stages}))
        axes, stages = failing(analysis, plan, run, choices)
        for index in runs[1:]:
            if not axes and not stages:
                axes, stages = failing(analysis, plan, run, choices[1:3], index)
        if not axes and not stages:
            return plan
        if axes:
            names = {axis.id: axis.name for axis in plan.axes}
            _warn([f"{names[i]}: {text}" for i, text in axes.items()])
        planner.exclude(axes)
        for stage in (stage for stage in plan.stages if stage.name in stages):
            text = stages[stage.name]
            if planner.depth.may_be_limited(stage.blocks):
                counts, text = _working(analysis, plan, run, runs, stage, text)
                planner.depth.limit(stage.blocks, counts, text)
            else:
                planner.depth.give_up(stage.blocks, text)
        remove(model)
        plan = planner.plan()
        install(model, plan)
    raise ElastifyError("the sizes of this model cannot be proven", fix="pass freeze=[...] for the modules named above")


def _working(
    analysis: Analysis, plan: Plan, run: Capture, runs: Sequence[int], stage: Stage, text: str
) -> tuple[tuple[int, ...], str]:
    """Numbers of first blocks of a stage that are proven to work, and why there are no others; `text` is what is
    wrong with some of its blocks."""
    fewer = stage.choices[-2::-1]
    counts: list[int] = []
    for count in fewer[:: -(-len(fewer) // _TRIALS)] if fewer else ():
        kept = Choice(blocks={stage.name: tuple(range(count))})
        found = next(filter(None, (difference(analysis, plan, run, kept, index) for index in runs)), "")
        if found:
            return tuple(counts), f"not the first {count}: {found}" if counts else text
        counts.append(count)
    return tuple(counts), f"not every selection: {text}"


def _every_other(where: SearchSpace) -> SubnetConfig:
    """Every other axis as small as it gets: sizes that were equal are not, so that none can stand for another."""
    return where.repair({axis.name: axis.choices[0] if i % 2 else axis.size for i, axis in enumerate(where.axes)})


def _fewest(stage: Stage) -> tuple[int, ...]:
    """The smallest legal number of blocks, as unlike its first blocks as may be."""
    full, least = len(stage.blocks), stage.choices[0]
    if stage.prefix:
        return tuple(range(least))
    count = next((n for n in stage.choices if 1 < n < full), least)
    return (0, *range(full - count + 1, full))


def _warn(lines: Sequence[str]) -> None:
    if lines:
        text = f"verification took {len(lines)} axes out of the search space:\n  {_few(lines, chr(10) + '  ')}"
        warnings.warn(text, stacklevel=4)


def _few(items: Sequence[str], between: str) -> str:
    more = [f"… and {len(items) - 8} more"] if len(items) > 8 else []
    return between.join([*items[:8], *more])
