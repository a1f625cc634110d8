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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from elastify import _adapters
from elastify._analysis import Analysis
from elastify._capture import Example, capture, parameter_names
from elastify._errors import ElastifyError
from elastify._ir import Choice, Graph, Plan, Stage
from elastify._plan import Planner
from elastify._proofs.batch import Batch
from elastify._proofs.outputs import Outputs
from elastify._proofs.samples import first_of_lists
from elastify._proofs.sizes import difference, failing
from elastify._proofs.units import UNPROVEN, Case, failing_axes
from elastify._rewrite import active_subnet, as_extracted, trial
from elastify._space import SearchSpace, SubnetConfig

_ROUNDS = 6  # each takes something out of the plan
_TRIALS = 16  # numbers of blocks that are tried of one row


def prove_units(
    planner: Planner, plan: Plan, examples: Sequence[Example], outputs: Outputs, batches: Sequence[Batch]
) -> Plan:
    """Demote axes in which the network is not symmetric for one of the examples; in train mode too where only that uses
    some parameters. `batches` tells what counts samples in each."""
    model, analysis = planner.model, planner.analysis
    modes = (False, True) if _only_in_training(model, analysis) else (False,)
    cases = []
    for number, (example, batch) in enumerate(zip(examples, batches, strict=True)):
        fewer = batch.resized(model, example, 1) if batch.axes else None
        if batch.count > 1 and fewer is None:
            fewer = _one_of_the_list(model, analysis.graphs[analysis.firsts[number]], example)
        cases.append(Case(example, fewer, partial(outputs.moving, analysis, example=number)))
    failed = failing_axes(model, plan, cases, outputs.tensors, modes=modes)
    if not failed:
        return plan
    _warn([f"{a.name}: {failed[a.id]}" for a in plan.axes if failed.get(a.id, UNPROVEN) != UNPROVEN])
    unproven = [axis.name for axis in plan.axes if failed.get(axis.id) == UNPROVEN]
    if unproven:
        text = f"does not depend on {len(unproven)} axes ({_few(unproven, ', ')}): they are not proven and stay whole"
        given = "example" if len(examples) == 1 else "examples"
        fix = "give example inputs that use them, or examples=[...]"
        warnings.warn(f"what the model returns for the {given} {text}; {fix}", stacklevel=5)
    planner.exclude(failed)
    return planner.plan()


def _one_of_the_list(model: nn.Module, graph: Graph, example: Example) -> Example | None:
    """The arguments with one sample of a list of them (pictures, for a detector) that meets the same weights as all."""
    fewer = first_of_lists(example)
    try:
        reduced = capture(model, fewer, fake=not graph.real)
    except ElastifyError:
        return None
    return fewer if reduced.used() == graph.used() else None


def _only_in_training(model: nn.Module, analysis: Analysis) -> bool:
    """Whether some parameter is used in training mode alone (a counter of batches is no parameter)."""
    rest = parameter_names(model).difference(*(analysis.graphs[first].used() for first in analysis.firsts))
    return any(graph.used() & rest for graph in analysis.graphs if graph.training)


def prove_sizes(planner: Planner, plan: Plan, examples: Sequence[Example]) -> Plan:
    """Demote axes and stages whose reduced networks are not what the plan says, until none is left.

    It is no surprise that some stages fail: they are listed in the space.
    """
    for _ in range(_ROUNDS):
        with trial(planner.model, plan):
            tests = _SizeTests(planner.model, planner.analysis, plan, examples)
            axes, stages = tests.failing()
            if not axes and not stages:
                return plan
            if axes:
                names = {axis.id: axis.name for axis in plan.axes}
                _warn([f"{names[i]}: {text}" for i, text in axes.items()])
            planner.exclude(axes)
            for stage in (stage for stage in plan.stages if stage.name in stages):
                _demote_stage(planner, tests, stage, stages[stage.name])
        plan = planner.plan()
    raise ElastifyError("the sizes of this model cannot be proven", fix="pass freeze=[...] for the modules named above")


@dataclass(frozen=True)
class _SizeTests:
    """The reduced networks of one plan, recorded from the model that is elastic after it."""

    model: nn.Module
    analysis: Analysis
    plan: Plan
    examples: Sequence[Example]

    @property
    def runs(self) -> list[int]:
        """The records that are compared: those of evaluation mode."""
        return [i for i, graph in enumerate(self.analysis.graphs) if not graph.training and not graph.apart]

    def record(self, choice: Choice, index: int) -> Graph:
        """Run number `index` of a reduced network."""
        full = self.analysis.graphs[index]
        run = _adapters.of(self.model).run_with_caches(self.model) if full.other else None
        with active_subnet(self.model, choice), as_extracted(self.model, lists=full.other):
            return capture(self.model, self.examples[full.example], fake=not full.real, run=run)

    def failing(self) -> tuple[dict[int, str], dict[str, str]]:
        """Axes by id and stages by name, with what is wrong."""
        where = SearchSpace(replace(self.plan, axes=tuple(replace(axis, whole=False) for axis in self.plan.axes)))
        chosen = (where.min, _every_other(where), where.sample(0), where.sample(1))
        choices = [where.by_id(config) for config in chosen]
        choices.insert(0, Choice(blocks={stage.name: _fewest(stage) for stage in self.plan.stages}))
        choices += _one_missing(self.plan.stages)
        axes, stages = failing(self.analysis, self.plan, self.record, choices)
        for index in self.runs[1:]:
            if not axes and not stages:
                some = choices[1:3] if self.analysis.graphs[index].other else choices
                axes, stages = failing(self.analysis, self.plan, self.record, some, index)
        return axes, stages

    def working(self, stage: Stage, text: str) -> tuple[tuple[int, ...], str]:
        """Numbers of first blocks of a stage that are proven to work, and why there are no others; `text` is what is
        wrong with some of its blocks."""
        fewer = stage.choices[-2::-1]
        counts: list[int] = []
        for count in fewer[:: -(-len(fewer) // _TRIALS)] if fewer else ():
            kept = Choice(blocks={stage.name: tuple(range(count))})
            wrong = (difference(self.analysis, self.plan, self.record, kept, index) for index in self.runs)
            first = next(filter(None, wrong), "")
            if first:
                return tuple(counts), f"not the first {count}: {first}" if counts else text
            counts.append(count)
        return tuple(counts), f"not every selection: {text}"


def _demote_stage(planner: Planner, tests: _SizeTests, stage: Stage, text: str) -> None:
    """Offer the first blocks only, where some numbers of them work; else what lies beside the blocks stays, or all of
    the row, or it is cut."""
    if planner.depth.may_be_limited(stage.blocks):
        counts, text = tests.working(stage, text)
        beside = tests.plan.beside(stage.blocks)
        if beside and not counts:
            planner.depth.keep_beside(stage.blocks, beside, text)
        else:
            planner.depth.limit(stage.blocks, counts, text)
    else:
        planner.depth.give_up(stage.blocks, text)


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


def _one_missing(stages: Sequence[Stage]) -> list[Choice]:
    """Without one block each, where an example runs some blocks of a row and not others: code that takes every second
    block, or the first three, takes others then."""
    some = [stage for stage in stages if len(set(map(frozenset, stage.skips.values()))) > 1 and not stage.prefix]
    choices = []
    for number in range(1, max((len(stage.blocks) for stage in some), default=0)):
        rest = {stage.name: [i for i in range(len(stage.blocks)) if i != number] for stage in some}
        choices.append(Choice(blocks={name: tuple(kept) for name, kept in rest.items()}))
    return choices


def _warn(lines: Sequence[str]) -> None:
    if lines:
        text = f"verification took {len(lines)} axes out of the search space:\n  {_few(lines, chr(10) + '  ')}"
        warnings.warn(text, stacklevel=6)


def _few(items: Sequence[str], between: str) -> str:
    more = [f"… and {len(items) - 8} more"] if len(items) > 8 else []
    return between.join([*items[:8], *more])
