"""Whole numbers that meet tensors as operands, such as the `width` of `x.sum(-1) / self.width`.

No dimension shows what such a number is, for it sizes no tensor. Where its name and its value are
unmistakable it follows like a number that forward never reads (`numbers`). Any other stays as it is, which may or may
not be meant, and is listed with the line that computes with it. So is a number that sizes only what no weight meets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from elastify._analysis import Analysis, operation
from elastify._ir import Attr, ElasticAxis, Expr, Layout, Op, exprs, mentions
from elastify._plan.described import OTHERS


def operands(analysis: Analysis) -> dict[Attr, str]:
    """Integer attributes whose values forward computes with, by an operation or as a float, with the first place."""
    found: dict[Attr, str] = {}
    for graph in analysis.graphs:
        for call in graph.calls:
            if operation(call.op).operands:
                for attr in attributes(exprs((call.args, call.kwargs))):
                    found.setdefault(attr, f"{call.op} in {call.where or 'the model'} ({call.source})")
        for guard in graph.guards:
            for attr in attributes(guard.args) if guard.fn == "float" else ():
                found.setdefault(attr, f"made a float ({guard.source})")
    return found


def lone_sizes(analysis: Analysis) -> dict[Attr, str]:
    """Integer attributes that size a dimension which no weight and no input has, with the first place: of
    `torch.ones(self.width).sum()` only a number is left."""
    terms, graphs = analysis.terms, analysis.graphs
    known = [term for name in graphs[0].tensors for term in analysis.tensor(name)]
    known += [
        term for dims, graph in zip(analysis.dims, graphs, strict=True) for v in graph.inputs for term in dims[v.id]
    ]
    units = terms.units(known)
    lone = {attr for attr, term in analysis.facts.attributes.items() if units.isdisjoint(terms.units([term]))}
    found: dict[Attr, str] = {}
    for graph in graphs if lone else ():
        for call in graph.calls:
            for attr in lone & attributes(exprs((call.args, call.kwargs))):
                found.setdefault(attr, f"{call.op} in {call.where or 'the model'} ({call.source})")
    return found


def arguments(analysis: Analysis) -> set[Attr]:
    """Attributes that operations were given as anything else: those that are no sizes (`dim`, `stride`) must stay."""
    calls = (call for graph in analysis.graphs for call in graph.calls if not operation(call.op).operands)
    return attributes(expr for call in calls for expr in exprs((call.args, call.kwargs)))


def elastic_sizes(axes: Iterable[ElasticAxis], tensors: Mapping[str, Sequence[Layout]]) -> set[int]:
    """How large the elastic axes and the dimensions of weights with one are."""
    axes = tuple(axes)
    elastic = {axis.id for axis in axes}
    layouts = [layout for own in tensors.values() for layout in own if mentions(layout, elastic)]
    return {axis.size for axis in axes} | {layout.size for layout in layouts}


def may_be_a_size(attr: Attr, value: int) -> bool:
    """False for what is no size by its name, and for 0 and 1."""
    return value > 1 and not OTHERS.search(attr.name)


def attributes(found: Iterable[Expr]) -> set[Attr]:
    """The attributes in expressions, which have many parts in common."""
    attributes, stack, seen = set[Attr](), list(found), set[int]()
    while stack:
        expr = stack.pop()
        if isinstance(expr, Attr):
            attributes.add(expr)
        elif isinstance(expr, Op) and id(expr) not in seen:
            seen.add(id(expr))
            stack += expr.args
    return attributes
