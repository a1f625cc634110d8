"""`elastify`: the pipeline in one place.

Record the model's runs, infer layouts, plan, prove the units, prove the sizes, install the plan. An axis or stage that
a proof rejects is taken out of the plan and reported; then the proofs run again on what is left. Whatever goes
wrong, the model is as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, TypeVar

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
    tensors_by_name,
    uncollected,
    wrapped,
    written,
)
from elastify._errors import ElastifyError
from elastify._ir import ExampleSpec, Graph, Plan
from elastify._plan import Options, Planner, check_patterns
from elastify._proofs import Outputs, follow_measured, prove_sizes, prove_units
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
    can be proven.

    Raises ElastifyError where the model does not run on the inputs, nothing in it is elastic, or an argument is wrong.
    """
    build(
        model,
        example_inputs,
        example_kwargs=example_kwargs,
        keep_outputs=keep_outputs,
        verify=verify,
        freeze=tuple([freeze] if isinstance(freeze, str) else freeze),
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


def build(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    keep_outputs: bool = True,
    verify: bool = True,
    units: bool = True,
    **asked: Any,
) -> Built:
    """Make a model elastic (see `elastify`); `asked` are the fields of `Options`. `units=False` proves sizes only."""
    if not isinstance(model, nn.Module):
        raise ElastifyError(f"elastify takes a torch.nn.Module, not a {type(model).__name__}")
    _check_plain(model)
    options = Options(**asked)
    example = example_for(model, example_inputs, example_kwargs)
    outputs = Outputs(_adapters.of(model).auxiliary_outputs, keep_outputs)
    # the proofs copy the model: what they leave behind is collected as ever
    with emptied(model, lambda: capture(model, example).caches), nullcontext() if verify else uncollected():
        return _make_elastic(model, example, options, outputs, Proofs(verify and units, verify))


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


def _make_elastic(model: nn.Module, example: Example, options: Options, outputs: Outputs, proofs: Proofs) -> Built:
    proofs = _possible_proofs(model, proofs)
    graphs = _record_runs(model, example)
    analysis = _infer_layouts(model, graphs, outputs)
    planner = Planner(model, analysis, options)
    plan = _plan_checked(planner)
    if proofs.units:
        plan = prove_units(planner, plan, example, outputs)
    if proofs.sizes:
        plan = prove_sizes(planner, plan, example)
    _check_something_moves(model, plan)
    plan = follow_measured(model, plan, example)
    known = _known(model, plan, analysis, example, verified=proofs.units, asked=_asked(options, outputs))
    if proofs.sizes:
        known.costs.of()  # a model that cannot be counted is refused now, not when it is searched
    install(model, plan)
    watch(model)
    model.__dict__[STATE] = known
    _adapters.guard(model)
    return Built(analysis, example, outputs)


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
    _check_something_moves(planner.model, plan)
    return plan


def _check_something_moves(model: nn.Module, plan: Plan) -> None:
    if plan.axes or plan.stages:
        return
    reasons = list(dict.fromkeys(dim.reason for dim in plan.frozen))[:4]
    raise ElastifyError(
        f"nothing in this {type(model).__name__} is elastic",
        why="; ".join(reasons) or "it has no parameter with a dimension that could shrink",
        fix="see the reasons; freeze, min_ratio, choices and keep_outputs=False change what may move",
    )


def _asked(options: Options, outputs: Outputs) -> dict[str, Any]:
    """The options as `elastify` was given them."""
    return {**{field.name: getattr(options, field.name) for field in fields(options)}, "keep_outputs": outputs.keep}


def _known(
    model: nn.Module, plan: Plan, analysis: Analysis, example: Example, *, verified: bool, asked: Mapping[str, Any]
) -> State:
    """What the model will know of itself: its search space, its costs, and what its example was like."""
    graph, terms = analysis.graphs[0], analysis.terms
    layouts = {ident: tuple(map(terms.resolve, dims)) for ident, dims in analysis.dims[0].items()}
    costs = CostModel(
        graph,
        layouts,
        plan,
        batch=analysis.batch,
        counted=analysis.counted(),
        samples=analysis.samples,
        parameters=parameter_names(model),
    )
    batch = _sample_dims(analysis)
    space = SearchSpace(
        plan,
        verified=verified,
        title=type(model).__name__,
        example={v.name: v.shape[0 in batch[v.name] :] for v in graph.inputs},
        cost=costs,
        reasons=_reasons(plan, terms),
        asked=asked,
    )
    return State(space, costs, _described(model, example, batch, analysis.samples))


def _sample_dims(analysis: Analysis) -> dict[str, tuple[int, ...]]:
    """Which dimensions of each input count samples."""
    terms = analysis.terms
    found = {}
    for value in analysis.graphs[0].inputs:
        ids = ({terms.find(term).id, *(leaf.id for leaf in terms.leaves(term))} for term in analysis.dims[0][value.id])
        found[value.name] = tuple(dim for dim, own in enumerate(ids) if not own.isdisjoint(analysis.batch))
    return found


def _described(
    model: nn.Module, example: Example, batch: Mapping[str, tuple[int, ...]], samples: int
) -> ExampleSpec | None:
    named = tensors_by_name(model, example)
    return describe(example, {id(tensor): batch.get(name, ()) for name, tensor in named.items()}, max(1, samples))


def _reasons(plan: Plan, terms: Terms) -> dict[str, tuple[str, ...]]:
    """Why the dimensions of each axis belong together, by axis name; axes share the texts that they have in common."""
    texts: dict[Any, str] = {}
    found = terms.reasons()
    return {axis.name: tuple(texts.setdefault(why, str(why)) for why in found.get(axis.id, ())) for axis in plan.axes}
