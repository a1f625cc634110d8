"""`graph`: one run of a model as a `torch.fx.GraphModule` that can be read, drawn, matched and run.

The run is recorded once more and written as nodes (`FxWriter`). A graph is one way through Python code, so it must be
clear of which inputs it holds: the run is written a second time with one sample more. Where both came out alike, number
by number, any number of samples may be given; where not, the first difference is told and the graph takes the sizes of
the example only. In either case an input of another kind is refused. The layouts of an elastic model are those of its
plan: the record is analysed again, and the axes of its weights lead to the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from elastify._analysis import analyse
from elastify._capture import (
    Example,
    FxWriter,
    attribute_value,
    capture,
    capture_fx,
    check_input,
    check_way,
    parameter_names,
    tensors_by_name,
)
from elastify._errors import ElastifyError
from elastify._ir import Axis, Concat, Graph, Layout, Product, axes_of
from elastify._rewrite import check_unchanged, elastic_state, filled, is_elastic
from elastify._space import size_text, state
from elastify._verbs.activation import active_config
from elastify._verbs.examples import example_for
from elastify._verbs.extraction import extract

_BATCH = -1


def graph(
    model: nn.Module, example_inputs: Any = None, *, example_kwargs: Mapping[str, Any] | None = None
) -> fx.GraphModule:
    """The operations of one run of a model in eval mode, as a graph of `torch.fx`.

    >>> net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    >>> view = graph(net, torch.zeros(2, 4))
    >>> [node.name for node in view.graph.nodes if node.op == "call_function" and "module" in node.meta]
    ['linear', 'relu', 'linear_1']
    >>> x = torch.randn(5, 4)
    >>> torch.equal(view(x), net(x))
    True

    Functions and methods are nodes as `forward` called them, weights are `get_attr` nodes (the model's own tensors),
    arguments are placeholders, and sizes that `forward` asked for are nodes, too. `node.meta` has `module` (the path),
    `source` (file:line), `shape`, `dtype`, `integers` (where each integer among the arguments came from), `tensor_meta`
    and, of an elastic model, `layout` (what each dimension is made of, in names of axes). Of an elastic model this is
    the network as it runs now: where a subnet is active, the graph is that of `extract(model, ...)`.

    It runs, bit-identical to the model in eval mode (with the fused path of `nn.TransformerEncoderLayer` off). Inputs
    of other sizes or types are refused, but for the number of samples: `meta["batch"]` is "" where it may be any, or
    says what keeps it. `meta["limits"]` lists what the graph leaves out. `meta["cannot_run"]` is "" or says why the
    graph can only be read; then calling it raises ElastifyError. Raises ElastifyError where the model does not run.
    """
    if is_elastic(model):
        check_unchanged(model)
    example = example_for(model, example_inputs, example_kwargs)
    source = (
        extract(model, active_config(model)) if is_elastic(model) and elastic_state(model).active is not None else model
    )
    recorded, writer = capture_fx(source, example)
    _hold_constants(source, writer, example)
    batch = writer.refused or _free_batch(source, writer, example, _one_more(model, example))
    if writer.refused:
        writer.refuse_to_run()
    for attr in recorded.caches:
        writer.limits[f"forward leaves tensors in {attr} for its next call, the graph does not"] = None
    owned = {id(tensor) for tensor in writer.owned.values()}
    for attr in filled(source, lambda: capture(source, example).caches, owned):
        writer.limits[f"what an earlier run has left in {attr} is a constant of the graph"] = None
    view = fx.GraphModule(writer.owned, writer.graph, type(source).__name__).eval()
    view.meta.update(batch=batch, limits=tuple(writer.limits), cannot_run=writer.refused)
    if is_elastic(model):
        _lay_out(view, source, recorded, model)
    return view


# -- of which inputs a graph holds -----------------------------------------------------------------------------


def _hold_constants(model: nn.Module, writer: FxWriter, example: Example) -> None:
    """Refuse a graph with a tensor from outside that is another one in every run."""
    if writer.foreign and not writer.refused:
        found = difference(writer, capture_fx(model, example)[1])
        if found:
            writer.refuse(f"two runs on the same inputs differ: {found}")


def _free_batch(model: nn.Module, writer: FxWriter, example: Example, more: Example | None) -> str:
    """Let the number of samples be any where a run with one more is the same; else say what is not."""
    try:
        other = None if more is None else capture_fx(model, more)[1]
        found = "no input has a batch" if other is None else other.refused or difference(writer, other)
    except ElastifyError as error:
        other, found = None, f"with another number of samples the model does not run: {error.why or error.what}"
    varies = [] if found or other is None else [a for a, b in _pairs(writer, other) if _differ(a, b)]
    for node, like in _pairs(writer, other or writer):
        if node.target is check_input and varies:
            tensor, name, shape, dtype = node.args
            free = tuple(n if n == m else None for n, m in zip(shape, like.args[2], strict=True))  # type: ignore[arg-type]
            node.args = tensor, name, free, dtype
        elif node.target is check_way and not any(size in varies for size in node.args[1]):  # type: ignore[union-attr]
            writer.graph.erase_node(node)  # decided by sizes that are checked
    writer.clean()
    return found


def _one_more(model: nn.Module, example: Example) -> Example | None:
    """The inputs with one sample more; None where nothing has a batch. An elastic model knows its dimensions that count
    samples; of a plain one they are those that begin as the first input does."""
    if is_elastic(model):
        dims = {id(t): state(model).batch.get(name, ()) for name, t in tensors_by_name(model, example).items()}
        counts = [tensor.shape[dim] for tensor in example.tensors() for dim in dims[id(tensor)]]
        return example.resized(dims, min(counts), min(counts) + 1) if counts else None
    found = list(example.tensors())
    first = next((t for t in found if t.ndim > 1), found[0] if found else None)
    if first is None or not first.ndim or not first.shape[0]:
        return None
    size = first.shape[0]

    def grown(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor[:1]]) if tensor.ndim and tensor.shape[0] == size else tensor

    return example.mapped(grown)


def _pairs(one: FxWriter, other: FxWriter) -> list[tuple[fx.Node, fx.Node]]:
    return list(zip(one.graph.nodes, other.graph.nodes, strict=False))


def _differ(one: fx.Node, other: fx.Node) -> bool:
    return any(one.meta.get(key) != other.meta.get(key) for key in ("shape", "val"))


def difference(one: FxWriter, other: FxWriter) -> str:
    """Where two runs part that were written; "" where they are one."""
    twin: dict[fx.Node, fx.Node] = {}
    for a, b in _pairs(one, other):
        twin[a] = b
        where = f"{a.name} at {a.meta.get('source', '')}"
        if a.op != b.op or a.target != b.target:
            return f"{where} is {b.name} there"
        if a.target is not check_input and map_arg((a.args, a.kwargs), twin.get) != (b.args, b.kwargs):
            return f"{where} has other arguments there"
        if a.op == "get_attr":
            mine, theirs = one.owned[str(a.target)], other.owned[str(b.target)]
            if mine is not theirs and not (mine.shape == theirs.shape and torch.equal(mine, theirs)):
                return f"{where} is another tensor there"
    longer = len(one.graph.nodes) - len(other.graph.nodes)
    return f"{abs(longer)} operations {'less' if longer > 0 else 'more'} there" if longer else ""


# -- layouts in names of axes ----------------------------------------------------------------------------------


def _full_names(model: nn.Module, source: nn.Module) -> dict[str, str]:
    """What the tensors of the network as it runs now are called in the elastic model."""
    if source is model:
        return {name: name for name in elastic_state(model).plan.tensors}
    elastic = elastic_state(model)

    def names(module: nn.Module) -> list[str]:
        both = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
        return [name for name, _ in both if module is source or not elastic.is_gone(name)]

    mine, theirs = names(source), names(model)
    return dict(zip(mine, theirs, strict=True)) if len(mine) == len(theirs) else {}


def _lay_out(view: fx.GraphModule, source: nn.Module, recorded: Graph, model: nn.Module) -> None:
    """Write what each dimension of each tensor is made of, by the plan of an elastic model, into the nodes."""
    plan, full = elastic_state(model).plan, _full_names(model, source)
    analysis = analyse(
        [recorded], lambda attr: attribute_value(source, attr), parameter_names(source), lambda graph: ()
    )
    resolve, known = analysis.terms.resolve, dict[int, Layout | None]()
    for name, planned in ((mine, plan.tensors[theirs]) for mine, theirs in full.items() if theirs in plan.tensors):
        for term, layout in zip(analysis.tensor(name), planned, strict=True):
            _match(resolve(term), layout, known)
    counting = [analysis.layouts(v)[dim] for v in recorded.inputs for dim in state(model).batch.get(v.name, ())]
    batch = frozenset(axis.id for layout in counting for axis in axes_of(layout))
    names = {**{axis.id: axis.name for axis in plan.axes}, _BATCH: "batch"}
    by_name = {value.name: value.id for value in recorded.inputs} | {n: v.id for n, v in recorded.tensors.items()}
    for node in view.graph.nodes:
        ident = node.meta.get("value", by_name.get(str(node.target)))
        dims = analysis.dims[0].get(ident) if ident is not None else None
        if dims is not None and "shape" in node.meta:
            parts = [_named(resolve(term), known, batch) for term in dims]
            node.meta["layout"] = tuple(size_text(part, names).removeprefix("(").removesuffix(")") for part in parts)


def _match(found: Layout, planned: Layout, known: dict[int, Layout | None]) -> None:
    """Which part of a planned layout each axis of a found one is; None where two places say different things."""
    if isinstance(found, Axis):
        known[found.id] = planned if known.get(found.id, planned) == planned else None
    elif type(found) is type(planned) and len(found.parts) == len(planned.parts):  # type: ignore[union-attr]
        for part, like in zip(found.parts, planned.parts, strict=True):  # type: ignore[union-attr]
            _match(part, like, known)


def _named(layout: Layout, known: Mapping[int, Layout | None], batch: frozenset[int]) -> Layout:
    """The layout in axes of the plan; fixed dimensions are axes that the plan does not name."""
    if isinstance(layout, Axis):
        if layout.id in batch:
            return Axis(_BATCH, layout.size)
        return known.get(layout.id) or Axis(_BATCH - 1, layout.size)
    parts = tuple(_named(part, known, batch) for part in layout.parts)
    return Concat(parts) if isinstance(layout, Concat) else Product(parts)
