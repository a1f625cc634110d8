"""`elastify`, and what is done with the result: `space`, `cost`, `activate`, `extract`.

The pipeline in one place: capture the model, analyse the graphs, plan, prove the units, rewrite, prove the sizes. An
axis or stage that a proof rejects is taken out of the plan and reported; then the proofs run again on what is
left. Whatever goes wrong, the model is as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from elastify import _adapters
from elastify._analysis import Analysis, analyse
from elastify._capture import capture, capture_all, prepare_inputs
from elastify._config import SubnetConfig
from elastify._cost import Cost, CostModel, parse_budget
from elastify._errors import ElastifyError
from elastify._extract import materialise
from elastify._graph import Graph, Value, values
from elastify._plan import Plan
from elastify._planner import Options, Planner, attribute_value, check_patterns
from elastify._recapture import failing
from elastify._rewrite import install, is_elastic, remove, set_active
from elastify._search import Result, run_search
from elastify._space import SearchSpace
from elastify._verify import check_finite, failing_axes

Model = TypeVar("Model", bound=nn.Module)
_STATE = "_elastify_state"


@dataclass(frozen=True)
class State:
    """What is known of an elastic model besides its weights; copies of the model share it."""

    space: SearchSpace
    costs: CostModel
    analysis: Analysis
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Callable[[Any], list[Tensor]]

    def __deepcopy__(self, memo: dict[int, Any]) -> State:
        return self


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

    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> space(model).axes[0].name, space(model).axes[0].choices[:3]
    ('hidden', (16, 24, 32))

    The model stays the same object, an instance of its class, with the same `state_dict` keys and the same function.

    `example_inputs` (a tensor, a tuple, or a dict) and `example_kwargs` are what `forward` is called with; for
    timm, torchvision and Hugging Face models they can be left out. `freeze` lists globs of module paths or axis names
    that stay as they are. `choices` maps globs of axis names to legal sizes (int) or ratios (float). `min_ratio` is
    the smallest share of an axis or a depth (rounded up), or a mapping of globs to shares. `multiple_of` is the step
    between sizes: None means 8 for axes of 64 units and more and 1 otherwise. `depth=False` keeps all blocks.
    `keep_outputs=False` lets the output dimensions of the model move. `verify=False` skips the proofs.

    Raises ElastifyError where the model does not run on the inputs, nothing in it is elastic, or an argument is wrong.
    """
    if isinstance(model, nn.Module) and is_elastic(model):
        raise ElastifyError(
            "this model is elastic already", fix="use it as it is, or copy.deepcopy the original before elastify"
        )
    if not isinstance(model, nn.Module):
        raise ElastifyError(f"elastify takes a torch.nn.Module, not a {type(model).__name__}")
    args, kwargs = _inputs(model, example_inputs, example_kwargs)
    options = Options(tuple([freeze] if isinstance(freeze, str) else freeze), choices, min_ratio, multiple_of, depth)
    graphs = capture_all(model, args, kwargs)
    hidden = _adapters.auxiliary_outputs(model)
    interface = (lambda graph: _interface(graph, hidden)) if keep_outputs else (lambda graph: ())
    analysis = analyse(
        graphs,
        lambda attr: attribute_value(model, attr),
        {name for name, _ in model.named_parameters(remove_duplicate=False)},
        interface,
    )
    on_meta = any(p.is_meta for p in (*model.parameters(), *model.buffers()))
    if verify and on_meta:
        warnings.warn("the model has no weights (meta device), so nothing was verified", stacklevel=2)
    planner = Planner(model, analysis, options)
    plan = planner.plan()
    _check_something_moves(model, plan, analysis, planner)

    def outputs(result: Any) -> list[Tensor]:
        return list(_tensors(result, hidden))

    verified = verify and not on_meta
    if verified:
        plan = _prove_units(model, planner, plan, args, kwargs, outputs)
    install(model, plan)
    try:
        if verified:
            plan = _prove_sizes(model, planner, plan, analysis, args, kwargs)
        _check_something_moves(model, plan, analysis, planner)
        model.__dict__[_STATE] = _state(model, plan, analysis, args, kwargs, outputs, verified)
        if choices or isinstance(min_ratio, Mapping) or freeze:
            full = Planner(model, analysis, Options()).plan()
            names = [axis.name for axis in (*full.axes, *full.stages)]
            check_patterns(options, names, [path for path, _ in model.named_modules()])
    except BaseException:
        remove(model)
        model.__dict__.pop(_STATE, None)
        raise
    return model


def space(model: nn.Module) -> SearchSpace:
    """The search space of an elastic model; printing it shows axes, stages and what is frozen and why."""
    return state(model).space


def cost(model: nn.Module, config: Any = None) -> Cost:
    """Exact cost per sample of a configuration (None: the active one is not asked, the full network is meant).

    A `SubnetConfig`, a mapping of globs or a ratio gives numbers; a list of those, or an array from
    `space(model).encode`, gives arrays. MACs are multiply-accumulates; activations count elements.
    """
    known = state(model)
    if isinstance(config, np.ndarray):
        return known.costs(config)
    if isinstance(config, (list, tuple)):
        return known.costs(known.space.encode([known.space.config(item) for item in config]))
    return known.costs.of(None if config is None else known.space.config(config))


class activate:  # noqa: N801 - reads as a function: activate(model, config), or with activate(model, config): ...
    """Make one subnet the active one: at once, and until the end of the `with` block if there is one.

    `config` is a SubnetConfig, a mapping of globs to ratios or sizes, or one ratio; None is the full network.

    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> with activate(model, 0.5):
    ...     model[0].weight.shape
    torch.Size([32, 4])
    >>> model[0].weight.shape
    torch.Size([64, 4])
    """

    def __init__(self, model: nn.Module, config: Any = None) -> None:
        known = state(model)
        self._model, self._before = model, active_config(model)
        self.config = known.space.max if config is None else known.space.config(config)
        _switch(model, self.config)

    def __enter__(self) -> SubnetConfig:
        return self.config

    def __exit__(self, *error: Any) -> None:
        _switch(self._model, self._before)


def extract(model: nn.Module, config: Any = None) -> nn.Module:
    """A plain model of the original class with the weights of one subnet, on memory of its own.

    `config` as for `activate`; None takes the subnet that is active now.
    """
    known = state(model)
    chosen = active_config(model) if config is None else known.space.config(config)
    return materialise(model, *_ids(known.space, chosen))


def search(
    model: nn.Module,
    budget_macs: float | str | None = None,
    budget_params: float | str | None = None,
    budget_bytes: float | str | None = None,
    *,
    evaluate: Callable[[nn.Module], float] | None = None,
    direction: str = "maximize",
    n_trials: int = 200,
    population: int = 32,
    seed: int = 0,
    study: Any = None,
    timeout: float | None = None,
    progress: bool = True,
) -> Result:
    """The best subnet within a budget, extracted: `result.model`, with `.config`, `.cost`, `.score`, `.pareto`, `.history`.

    Budgets are per sample, as numbers or with a suffix ("350M", "1.2G"); several must all hold. `evaluate(model)`
    is called with each candidate active and returns a score; None returns the largest nested subnet. The algorithm
    is NSGA-II from Optuna (`pip install elastify[search]`), over score and the first budget given; every candidate
    is repaired into the budget before it is evaluated. `study` names a file with which a search can be resumed.

    Raises ElastifyError for an impossible budget, naming the smallest cost that can be reached.

    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> search(model, budget_macs=250).model[0]
    Linear(in_features=4, out_features=32, bias=True)
    """
    known = state(model)
    full = known.costs.of()
    asked = {"macs": budget_macs, "params": budget_params, "bytes": budget_bytes}
    budgets = {name: parse_budget(value, getattr(full, name)) for name, value in asked.items() if value is not None}

    def score(config: SubnetConfig) -> float:
        with activate(model, config):
            return float(evaluate(model))  # type: ignore[misc] - only called where it is not None

    result = run_search(
        known.space,
        known.costs,
        budgets,
        score if evaluate else None,
        direction=direction,
        n_trials=n_trials,
        population=population,
        seed=seed,
        study=study,
        timeout=timeout,
        progress=progress,
    )
    return replace(result, model=extract(model, result.config))


def state(model: nn.Module) -> State:
    """What elastify knows of a model; an error for a plain one."""
    known = model.__dict__.get(_STATE) if isinstance(model, nn.Module) else None
    if known is None:
        raise ElastifyError(
            f"this {type(model).__name__} is not elastic", fix="model = elastify(model, example_inputs)"
        )
    return known


def active_config(model: nn.Module) -> SubnetConfig:
    """The configuration that is active now."""
    known = state(model)
    active = model.__dict__["_elastify"].active
    if active is None:
        return known.space.max
    names = {axis.id: axis.name for axis in known.space.axes}
    sizes = {name: active.sizes.get(ident, None) for ident, name in names.items()}
    full = {axis.name: axis.size for axis in known.space.axes}
    depths = {stage.name: active.blocks.get(stage.name, tuple(range(len(stage.blocks)))) for stage in known.space.stages}
    return SubnetConfig.of(
        {name: full[name] if size is None else size for name, size in sizes.items()}, depths, space=known.space.fingerprint
    )


def _ids(where: SearchSpace, config: SubnetConfig) -> tuple[dict[int, int], dict[str, tuple[int, ...]]]:
    ids = {axis.name: axis.id for axis in where.axes}
    return {ids[name]: size for name, size in config.sizes.items()}, dict(config.depths)


def _switch(model: nn.Module, config: SubnetConfig) -> None:
    set_active(model, *_ids(state(model).space, config))


def _inputs(model: nn.Module, inputs: Any, kwargs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if inputs is None and not kwargs:
        found = _adapters.infer_example_inputs(model)
        if found is None:
            raise ElastifyError(
                f"elastify needs example inputs for {type(model).__name__}",
                why="they are inferred for timm, torchvision and Hugging Face models only",
                fix="elastify(model, torch.randn(2, 3, 224, 224)), a tuple for several arguments, or example_kwargs={...}",
            )
        inputs, kwargs = found
    return prepare_inputs(inputs, dict(kwargs or {}))


def _interface(graph: Graph, hidden: frozenset[str]) -> Iterable[Value]:
    root = next((call for call in graph.modules if call.path == ""), None)
    out = root.out if root else graph.outputs
    if isinstance(out, dict):
        out = {key: item for key, item in out.items() if key not in hidden}
    return values(out)


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


def _prove_units(
    model: nn.Module, planner: Planner, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any],
    outputs: Callable[[Any], list[Tensor]],
) -> Plan:
    """Demote axes in which the network is not symmetric; in train mode too where only that uses some parameters."""
    check_finite(model)
    for training in (False, True) if _only_in_training(planner.analysis) else (False,):
        failed = failing_axes(model, plan, args, kwargs, outputs, training=training)
        if failed:
            _warn("axes", [f"{a.name}: {failed[a.id]}" for a in plan.axes if a.id in failed])
            planner.excluded = {**planner.excluded, **failed}
            plan = planner.plan()
    return plan


def _only_in_training(analysis: Analysis) -> bool:
    def used(graph: Graph) -> set[int]:
        own = {value.id for value in graph.tensors.values()}
        return {v.id for call in graph.calls for v in call.inputs()} & own

    by_name = [{n for n, v in g.tensors.items() if v.id in used(g)} for g in analysis.graphs]
    return bool(by_name[-1] - by_name[0])


def _prove_sizes(
    model: nn.Module, planner: Planner, plan: Plan, analysis: Analysis, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Plan:
    """Demote axes and stages whose reduced networks are not what the plan says, until none is left."""

    def run(sizes: Mapping[int, int], blocks: Mapping[str, tuple[int, ...]]) -> Graph:
        set_active(model, sizes, blocks)
        try:
            return capture(model, args, kwargs)
        finally:
            set_active(model, {}, {})

    for _ in range(4):
        where = SearchSpace(plan)
        configurations = [_ids(where, config) for config in (where.min, where.sample(0), where.sample(1))]
        axes, stages = failing(analysis, plan, run, configurations)
        if not axes and not stages:
            return plan
        names = {axis.id: axis.name for axis in plan.axes}
        _warn("axes and stages", [f"{names[i]}: {t}" for i, t in axes.items()] + [f"{n}: {t}" for n, t in stages.items()])
        containers = {stage.name: stage.container for stage in plan.stages}
        planner.excluded = {**planner.excluded, **axes}
        planner.excluded_runs |= {containers[name] for name in stages}
        remove(model)
        plan = planner.plan()
        install(model, plan)
    raise ElastifyError("the sizes of this model cannot be proven", fix="pass freeze=[...] for the modules named above")


def _warn(what: str, lines: Sequence[str]) -> None:
    shown = "\n  ".join(lines[:8]) + (f"\n  … and {len(lines) - 8} more" if len(lines) > 8 else "")
    warnings.warn(f"verification took {len(lines)} {what} out of the search space:\n  {shown}", stacklevel=4)


def _state(
    model: nn.Module, plan: Plan, analysis: Analysis, args: tuple[Any, ...], kwargs: dict[str, Any],
    outputs: Callable[[Any], list[Tensor]], verified: bool,
) -> State:
    graph, terms = analysis.graphs[0], analysis.terms
    layouts = {ident: tuple(map(terms.resolve, dims)) for ident, dims in analysis.dims[0].items()}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    costs = CostModel(graph, layouts, plan, batch=analysis.batch, parameters=parameters)
    batched = {v.name: tuple(v.shape[1:]) for v in graph.inputs}
    found = SearchSpace(plan, verified=verified, title=type(model).__name__, example=batched, cost=costs)
    return State(found, costs, analysis, args, kwargs, outputs)
