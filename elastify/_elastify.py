"""`elastify`: the pipeline in one place.

Capture the model, analyse the graphs, plan, prove the units, rewrite, prove the sizes. An axis or stage that a
proof rejects is taken out of the plan and reported; then the proofs run again on what is left. Whatever goes
wrong, the model is as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from torch import Tensor, nn

from elastify import _adapters
from elastify._adapters import Library, Run
from elastify._analysis import Analysis, Terms, analyse
from elastify._capture import attribute_value, capture, capture_all, prepare_inputs, uncollected
from elastify._errors import ElastifyError
from elastify._ir import FULL, Attr, Choice, Graph, Layout, Plan, Value, active_size
from elastify._plan import Options, Planner, check_patterns
from elastify._proofs import prove_sizes, prove_units
from elastify._rewrite import emptied, install, is_elastic, remove, set_active
from elastify._space import STATE, CostModel, SearchSpace, State

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

    `example_inputs` (a tensor, a tuple, or a dict) and `example_kwargs` are what `forward` is called with; for
    timm, torchvision and Hugging Face models they can be left out. `freeze` lists globs of module paths or axis names
    that stay as they are. `choices` maps globs of axis names to legal sizes (int) or ratios (float). `min_ratio` is
    the smallest share of an axis or a depth (rounded up), or a mapping of globs to shares. `multiple_of` is the step
    between sizes: None means 8 for axes of 64 units and more and 1 otherwise. `depth=False` keeps all blocks.
    `keep_outputs=False` lets the output dimensions of the model move. `verify=False` skips the proofs, and what
    cannot be counted is an error at the first `cost` then; of a model on the meta device only sizes can be proven.

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
class Built:
    """What `elastify` knew while it worked; an elastic model does not keep it."""

    analysis: Analysis
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Callable[[Any], list[Tensor]]


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
    if isinstance(model, nn.Module) and is_elastic(model):
        raise ElastifyError(
            "this model is elastic already", fix="use it as it is, or copy.deepcopy the original before elastify"
        )
    if not isinstance(model, nn.Module):
        raise ElastifyError(f"elastify takes a torch.nn.Module, not a {type(model).__name__}")
    options = Options(**asked)
    args, kwargs = inputs_of(model, example_inputs, example_kwargs)
    # the proofs copy the model: what they leave behind is collected as ever
    with emptied(model, lambda: capture(model, args, kwargs).caches), nullcontext() if verify else uncollected():
        return _build(model, options, args, kwargs, keep_outputs, verify, units)


def _build(
    model: nn.Module,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    keep_outputs: bool,
    verify: bool,
    units: bool,
) -> Built:
    library = _adapters.of(model)
    writing = library.run_with_caches(model)
    graphs = capture_all(model, args, kwargs, writing)
    generating = library.run_of_its_own(model)
    if generating is not None:
        graphs += _with_more_parts(model, generating, graphs, args, kwargs, told=writing is not None)
    hidden = library.auxiliary_outputs
    interface = (lambda graph: _interface(graph, hidden)) if keep_outputs else (lambda graph: ())
    analysis = analyse(
        graphs,
        lambda attr: attribute_value(model, attr),
        {name for name, _ in model.named_parameters(remove_duplicate=False)},
        interface,
    )
    on_meta = verify and any(p.is_meta for p in (*model.parameters(), *model.buffers()))
    if on_meta:
        warnings.warn("the model has no weights (meta device): sizes are proven, units are not", stacklevel=2)
    planner = Planner(model, analysis, options)
    if options.choices or isinstance(options.min_ratio, Mapping) or options.freeze:
        without, frozen = (Planner(model, analysis, Options(freeze=freeze)).plan() for freeze in ((), options.freeze))
        names = [part.name for part in (*without.axes, *without.stages, *frozen.stages)]
        check_patterns(options, names, [path for path, _ in model.named_modules()])
    plan = planner.plan()
    _check_something_moves(model, plan, analysis, planner)

    def outputs(result: Any) -> list[Tensor]:
        return list(_tensors(result, hidden))

    verified = verify and units and not on_meta
    if verified:
        moving = (lambda _: []) if keep_outputs else (lambda training: _output_layouts(analysis, training, hidden))
        plan = prove_units(model, planner, plan, args, kwargs, outputs, moving)
    install(model, plan)
    try:
        if verify:
            plan = prove_sizes(model, planner, plan, analysis, args, kwargs, writing)
        _check_something_moves(model, plan, analysis, planner)
        plan = _measure(model, library, plan, args, kwargs)
        given = {**{f.name: getattr(options, f.name) for f in fields(options)}, "keep_outputs": keep_outputs}
        model.__dict__[STATE] = _state(model, plan, analysis, verified, given)
        if verify:
            model.__dict__[STATE].costs.of()  # a model that cannot be counted is refused now, not when it is searched
        _adapters.guard(model)
    except BaseException:
        remove(model)
        model.__dict__.pop(STATE, None)
        raise
    return Built(analysis, args, kwargs, outputs)


def _with_more_parts(
    model: nn.Module, run: Run, graphs: Sequence[Graph], args: tuple[Any, ...], kwargs: dict[str, Any], *, told: bool
) -> list[Graph]:
    """A record of what else the model is made for, if that may use parts that its forward does not, or make caches of
    which no run has `told`."""
    used = set[str]().union(*(graph.used() for graph in graphs))
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if (told and names <= used) or any(p.is_meta for p in model.parameters()):
        return []
    try:
        graph = capture(model, args, kwargs, fake=False, run=run)
    except ElastifyError as error:
        text = f"a run other than forward was not captured, what only it uses is not seen: {error.where}: {error.why}"
        warnings.warn(f"{text}; freeze=[...] keeps the modules whole that it needs whole", stacklevel=4)
        return []
    graph.apart = True
    return [graph]


def inputs_of(
    model: nn.Module, inputs: Any, kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments for forward: those given, with a batch above 1, or such as the model's library tells."""
    if inputs is None and not kwargs:
        found = _adapters.of(model).example_inputs(model)
        if found is None:
            raise ElastifyError(
                f"elastify needs example inputs for {type(model).__name__}",
                why=f"they are inferred for models of {_adapters.known()} only",
                fix="elastify(model, torch.randn(2, 3, 224, 224)); a tuple for several, or example_kwargs={...}",
            )
        inputs, kwargs = found
    return prepare_inputs(inputs, dict(kwargs or {}))


def _interface(graph: Graph, hidden: frozenset[str]) -> Iterable[Value]:
    return list(graph.results(hidden)) if graph.modules else graph.outputs


def _tensors(result: Any, hidden: frozenset[str]) -> Iterable[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, Mapping):
        for key, item in result.items():
            if key not in hidden:
                yield from _tensors(item, hidden)
    elif isinstance(result, (tuple, list)):
        for item in result:
            yield from _tensors(item, hidden)
    elif hasattr(result, "__dataclass_fields__"):
        for name in result.__dataclass_fields__:
            if name not in hidden:
                yield from _tensors(getattr(result, name), hidden)


def _check_something_moves(model: nn.Module, plan: Plan, analysis: Analysis, planner: Planner) -> None:
    if plan.axes or plan.stages:
        return
    reasons = list(dict.fromkeys(dim.reason for dim in plan.frozen))[:4]
    raise ElastifyError(
        f"nothing in this {type(model).__name__} is elastic",
        why="; ".join(reasons) or "it has no parameter with a dimension that could shrink",
        fix="see the reasons; freeze, min_ratio, choices and keep_outputs=False change what may move",
    )


def _output_layouts(analysis: Analysis, training: bool, hidden: frozenset[str]) -> list[tuple[Layout, ...]]:
    index = next(i for i, graph in enumerate(analysis.graphs) if graph.training is training)
    found = _interface(analysis.graphs[index], hidden)
    return [tuple(map(analysis.terms.resolve, analysis.dims[index][value.id])) for value in found]


def _measure(model: nn.Module, library: Library, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
    """The plan with numbers that describe what other methods give: they follow what these give in a few subnets."""
    asked = {attr: n for attr, n in library.measurable(model).items() if n > 1 and attr not in plan.matched}
    layouts = {layout for found in plan.tensors.values() for layout in found}
    fits = {attr: sorted((layout for layout in layouts if layout.size == n), key=repr) for attr, n in asked.items()}
    fits = {attr: found for attr, found in fits.items() if found}
    where, told = SearchSpace(plan), dict[Attr, int]()
    for number in range(4):
        if not fits or (number > 1 and all(len(found) < 2 for found in fits.values())):
            break  # two subnets at least, more while several layouts fit
        sizes = where.by_id(where.sample(number)).sizes
        set_active(model, Choice(sizes))
        try:
            told.clear()
            capture(model, args, kwargs, run=lambda *given: told.update(library.measured(*given)))
        except ElastifyError:
            told.clear()  # it does not run in a subnet
        finally:
            set_active(model, FULL)
        fits = {a: [fit for fit in found if active_size(fit, sizes) == told.get(a)] for a, found in fits.items()}
        fits = {attr: found for attr, found in fits.items() if found}
    found = {attr: rest[0] for attr, rest in fits.items()}
    if not found:
        return plan
    remove(model)
    plan = replace(
        plan,
        attributes={**plan.attributes, **found},
        matched=plan.matched | found.keys(),
        unclear={attr: rest for attr, rest in plan.unclear.items() if attr not in found},
    )
    install(model, plan)
    return plan


def _reasons(plan: Plan, terms: Terms) -> dict[str, tuple[str, ...]]:
    """Why the dimensions of each axis belong together, by axis name; axes share the texts that they have in common."""
    texts: dict[Any, str] = {}
    found = terms.reasons()
    return {axis.name: tuple(texts.setdefault(why, str(why)) for why in found.get(axis.id, ())) for axis in plan.axes}


def _batched(analysis: Analysis, value: Value) -> bool:
    """Whether the first dimension of an input counts samples."""
    dims = analysis.dims[0][value.id]
    return bool(dims) and analysis.terms.find(dims[0]).id in analysis.batch


def _state(model: nn.Module, plan: Plan, analysis: Analysis, verified: bool, asked: Mapping[str, Any]) -> State:
    graph, terms = analysis.graphs[0], analysis.terms
    layouts = {ident: tuple(map(terms.resolve, dims)) for ident, dims in analysis.dims[0].items()}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    rows = {"batch": analysis.batch, "counted": analysis.counted(), "samples": analysis.samples}
    costs = CostModel(graph, layouts, plan, **rows, parameters=parameters)
    found = SearchSpace(
        plan,
        verified=verified,
        title=type(model).__name__,
        example={v.name: v.shape[_batched(analysis, v) :] for v in graph.inputs},
        cost=costs,
        reasons=_reasons(plan, terms),
        asked=asked,
    )
    return State(found, costs)
