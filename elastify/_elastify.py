"""`elastify`: the pipeline in one place.

Record the model's runs, infer layouts, plan, prove the units, prove the sizes, install the plan. An axis or stage that
a proof rejects is taken out of the plan and reported; then the proofs run again on what is left. Whatever goes
wrong, the model is as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import nn

from elastify import _adapters
from elastify._adapters import Run
from elastify._analysis import Analysis, Terms, analyse
from elastify._capture import (
    Example,
    attribute_value,
    capture,
    capture_all,
    describe,
    parameter_names,
    uncollected,
    wrapped,
    written,
)
from elastify._errors import ElastifyError
from elastify._ir import Graph, Plan
from elastify._plan import Options, Planner, check_patterns
from elastify._proofs import Batch, Outputs, find_batch, follow_measured, list_unseen, prove_sizes, prove_units
from elastify._rewrite import emptied, install, is_elastic, watch
from elastify._space import STATE, CostModel, SearchSpace, State
from elastify._verbs import example_for

Model = TypeVar("Model", bound=nn.Module)


def elastify(
    model: Model,
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    freeze: Sequence[str] = (),
    choices: Mapping[str, Sequence[int | float]] | None = None,
    min_ratio: float | Mapping[str, float] = 0.25,
    multiple_of: int | None = None,
    depth: bool = True,
    keep_outputs: bool = True,
    verify: bool = True,
    batch: Mapping[str | int, int | None] | None = None,
) -> Model:
    """Make a model elastic in place: every channel dimension and repeated block that can shrink becomes an axis.

    >>> import torch
    >>> from elastify import space
    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> space(model).axes[0].name, space(model).axes[0].choices[:3]
    ('hidden', (16, 24, 32))

    The model stays the same object, an instance of its class, with the same `state_dict` keys and the same function.

    `example_inputs` (a tensor, a tuple, or a dict) and `example_kwargs` are what `forward` is called with; for timm,
    torchvision and Hugging Face models, and for extracted ones, they can be left out. `freeze` lists globs of module
    paths or axis names that stay as they are. `choices` maps globs of axis names to legal sizes (int) or ratios
    (float). `min_ratio` is the smallest share of an axis or a depth (rounded up), or a mapping of globs to shares.
    `multiple_of` is the step between sizes: None means 8 for axes of 64 units and more and 1 otherwise. `depth=False`
    keeps all blocks. `keep_outputs=False` lets the output dimensions of the model move. `verify=False` skips the
    proofs, and what cannot be counted is an error at the first `cost` then; of a model on the meta device only sizes
    can be proven. Which dimensions count samples is read from the record, or found out by a small run, and
    `print(space(model))` says it; where none does, one call is one sample. `batch={"mask": None, "h0": 1}` tells it by
    names or positions of inputs.

    Raises ElastifyError where the model does not run on the inputs, nothing in it is elastic, or an argument is wrong.
    """
    build(
        model,
        example_inputs,
        example_kwargs=example_kwargs,
        keep_outputs=keep_outputs,
        verify=verify,
        batch=batch,
        freeze=tuple([freeze] if isinstance(freeze, str) or not isinstance(freeze, Iterable) else freeze),
        choices=choices,
        min_ratio=min_ratio,
        multiple_of=multiple_of,
        depth=depth,
    )
    return model


@dataclass(frozen=True)
class Proofs:
    """Which proofs are made."""

    units: bool
    sizes: bool


@dataclass(frozen=True)
class Built:
    """What `elastify` knew while it worked; an elastic model does not keep it."""

    analysis: Analysis
    example: Example
    outputs: Outputs
    batch: Batch


def build(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    keep_outputs: bool = True,
    verify: bool = True,
    units: bool = True,
    batch: Mapping[str | int, int | None] | None = None,
    **asked: Any,
) -> Built:
    """Make a model elastic (see `elastify`); `asked` are the fields of `Options`. `units=False` proves sizes only."""
    if not isinstance(model, nn.Module):
        raise ElastifyError(f"elastify takes a torch.nn.Module, not a {type(model).__name__}")
    _check_plain(model)
    _refuse_compiled(model)
    if not isinstance(batch, (Mapping, type(None))):
        raise ElastifyError(
            f"batch is a {type(batch).__name__}", fix='batch={"mask": None, "h0": 1}, names to dimensions'
        )
    options = Options(**asked)
    example = example_for(model, example_inputs, example_kwargs)
    outputs = Outputs(_adapters.of(model).auxiliary_outputs, keep_outputs)
    # the proofs copy the model: what they leave behind is collected as ever
    with emptied(model, lambda: capture(model, example).caches), nullcontext() if verify else uncollected():
        return _make_elastic(model, example, options, outputs, Proofs(verify and units, verify), batch or {})


def _check_plain(model: nn.Module) -> None:
    inside = [path for path, part in model.named_modules() if is_elastic(part)]
    if inside:
        raise ElastifyError(
            f"this {type(model).__name__} {'holds a model that is' if inside[0] else 'is'} already elastic",
            where=inside[0],
            fix=f"use it as it is, or plain({written('model', inside[0])}) first",
        )
    if wrapped(model):
        kind, inner = type(model).__name__, written("model", wrapped(model))
        raise ElastifyError(
            f"this {kind} is a wrapper around a model, and is not made elastic",
            where=inner,
            fix=f"elastify({inner}, example_inputs), and wrap that",
        )


def _make_elastic(
    model: nn.Module,
    example: Example,
    options: Options,
    outputs: Outputs,
    proofs: Proofs,
    told: Mapping[str | int, int | None],
) -> Built:
    proofs = _possible_proofs(model, proofs)
    graphs = _record_runs(model, example)
    analysis = _infer_layouts(model, graphs, outputs)
    planner = Planner(model, analysis, options)
    plan = _plan_checked(planner)
    batch = find_batch(model, analysis, example, outputs, told)
    if proofs.units:
        plan = prove_units(planner, plan, example, outputs, batch)
    if proofs.sizes:
        plan = prove_sizes(planner, plan, example)
    _check_something_moves(planner, plan)
    plan = follow_measured(model, plan, example)
    if proofs.sizes:
        plan = list_unseen(planner, plan, example)
    known = _known(model, plan, analysis, example, batch, verified=proofs.units, asked=_asked(options, outputs))
    if proofs.sizes:
        known.costs.of()  # a model that cannot be counted is refused now, not when it is searched
    install(model, plan)
    watch(model)
    model.__dict__[STATE] = known
    _adapters.guard(model)
    return Built(analysis, example, outputs, batch)


def _refuse_compiled(model: nn.Module) -> None:
    """Scripted and quantised models have no Python, or no weights, that could be had in other sizes."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ElastifyError(
            "a scripted or traced model cannot be elastic",
            where=str(model.original_name),
            why="its forward is no Python any more, which could be recorded and run with other sizes",
            fix="elastify the model that it was made of; torch.jit.script(extract(model, config)) afterwards",
        )
    for path, module in model.named_modules():
        if "quantized" in type(module).__module__.split("."):
            raise ElastifyError(
                "a quantised model cannot be elastic",
                where=path,
                why=f"{type(module).__name__} has packed integers instead of weights",
                fix="elastify the model before it is quantised; quantise extract(model, config)",
            )


def _possible_proofs(model: nn.Module, proofs: Proofs) -> Proofs:
    """The proofs that the weights allow."""
    if not proofs.sizes or not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        return proofs
    warnings.warn("the model has no weights (meta device): sizes are proven, units are not", stacklevel=5)
    return Proofs(units=False, sizes=True)


def _record_runs(model: nn.Module, example: Example) -> list[Graph]:
    """Records of an evaluation run, of a training run where that differs, and of what else the model is made for."""
    library = _adapters.of(model)
    with_caches, other = library.run_with_caches(model), library.run_of_its_own(model)
    graphs = capture_all(model, example, with_caches)
    if other is not None:
        graphs += _record_other_run(model, other, graphs, example, told=with_caches is not None)
    return graphs


def _record_other_run(
    model: nn.Module, run: Run, graphs: Sequence[Graph], example: Example, *, told: bool
) -> list[Graph]:
    """A record of what else the model is made for, if that may use parts that its forward does not, or make caches of
    which no run has `told`."""
    used = set[str]().union(*(graph.used() for graph in graphs))
    if (told and parameter_names(model) <= used) or any(p.is_meta for p in model.parameters()):
        return []
    try:
        graph = capture(model, example, fake=False, run=run)
    except ElastifyError as error:
        text = f"a run other than forward was not captured, what only it uses is not seen: {error.where}: {error.why}"
        warnings.warn(f"{text}; freeze=[...] keeps the modules whole that it needs whole", stacklevel=6)
        return []
    graph.apart = True
    return [graph]


def _infer_layouts(model: nn.Module, graphs: list[Graph], outputs: Outputs) -> Analysis:
    return analyse(graphs, lambda attr: attribute_value(model, attr), parameter_names(model), outputs.fixed)


def _plan_checked(planner: Planner) -> Plan:
    """The plan before any proof; every pattern that the user gave fits something, and something is elastic."""
    options = planner.options
    if options.choices or isinstance(options.min_ratio, Mapping) or options.freeze:
        check_patterns(options, planner.names(), [path for path, _ in planner.model.named_modules()])
    plan = planner.plan()
    _check_something_moves(planner, plan)
    return plan


def _check_something_moves(planner: Planner, plan: Plan) -> None:
    if plan.axes or plan.stages:
        return
    reasons = list(dict.fromkeys(dim.reason for dim in plan.frozen))[:4]
    if any(graph.real and graph.constants for graph in planner.analysis.graphs):
        reasons.insert(0, "forward goes on with tensors that torch has not made of others (of numpy, say)")
    raise ElastifyError(
        f"nothing in this {type(planner.model).__name__} is elastic",
        why="; ".join(reasons) or "it has no parameter with a dimension that could shrink",
        fix="see the reasons; freeze, min_ratio, choices and keep_outputs=False change what may move",
    )


def _asked(options: Options, outputs: Outputs) -> dict[str, Any]:
    """The options as `elastify` was given them."""
    return {**{field.name: getattr(options, field.name) for field in fields(options)}, "keep_outputs": outputs.keep}


def _known(
    model: nn.Module,
    plan: Plan,
    analysis: Analysis,
    example: Example,
    batch: Batch,
    *,
    verified: bool,
    asked: Mapping[str, Any],
) -> State:
    """What the model will know of itself: its search space, its costs, and what its example was like."""
    graph, terms = analysis.graphs[0], analysis.terms
    layouts = {ident: tuple(map(terms.resolve, dims)) for ident, dims in analysis.dims[0].items()}
    costs = CostModel(
        graph,
        layouts,
        plan,
        batch=batch.axes,
        counted=analysis.counted(),
        samples=batch.count,
        parameters=parameter_names(model),
    )
    space = SearchSpace(
        plan,
        verified=verified,
        title=type(model).__name__,
        example={value.name: batch.sample_shape(value) for value in graph.inputs},
        doubt=batch.doubt,
        cost=costs,
        reasons=_reasons(plan, terms),
        asked=asked,
    )
    return State(space, costs, describe(example, batch.by_tensor(model, example), batch.count), batch.dims)


def _reasons(plan: Plan, terms: Terms) -> dict[str, tuple[str, ...]]:
    """Why the dimensions of each axis belong together, by axis name; axes share the texts that they have in common."""
    texts: dict[Any, str] = {}
    found = terms.reasons()
    return {axis.name: tuple(texts.setdefault(why, str(why)) for why in found.get(axis.id, ())) for axis in plan.axes}
