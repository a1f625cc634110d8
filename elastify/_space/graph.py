"""A search space as a graph of networkx: what a size runs through, and what ties sizes together.

Nodes are axes, stages, tensors and relations, called `kind:name`. An edge couples an axis to a tensor that it runs
through, with the dimensions and the operations in or around the tensor's module that made the coupling; a stage to the
tensors in its blocks; a relation to the axes whose sizes it compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import networkx as nx

from elastify._ir import enclosing
from elastify._space.relation_text import size_text

if TYPE_CHECKING:
    from elastify._space.space import SearchSpace

_PLACE = re.compile(r" in (?P<module>\S+)(?: \(.*\))?$")


def space_graph(space: SearchSpace) -> nx.Graph:
    """The graph of a search space (see `SearchSpace.graph`)."""
    graph, plan = nx.Graph(name=space.title), space.plan
    names = {axis.id: axis.name for axis in plan.axes}
    for tensor, layouts in plan.tensors.items():
        texts = tuple(size_text(layout, names).removeprefix("(").removesuffix(")") for layout in layouts)
        sizes = tuple(layout.size for layout in layouts)
        graph.add_node(f"tensor:{tensor}", kind="tensor", name=tensor, shape=sizes, layout=texts, frozen={})
    for dim in plan.frozen:
        if (node := f"tensor:{dim.tensor}") in graph:
            graph.nodes[node]["frozen"][dim.dim] = dim.reason
    for axis in plan.axes:
        node, reasons = f"axis:{axis.name}", tuple(space.reasons.get(axis.name, ()))
        graph.add_node(
            node, kind="axis", name=axis.name, size=axis.size, choices=axis.choices, role=axis.role, reasons=reasons
        )
        by_module = _by_module(reasons)
        for tensor in dict.fromkeys(tensor for tensor, _ in axis.members):
            if f"tensor:{tensor}" not in graph:
                graph.add_node(f"tensor:{tensor}", kind="tensor", name=tensor, shape=(), layout=(), frozen={})
            dims = tuple(dim for name, dim in axis.members if name == tensor)
            summed = tuple(dim for dim in dims if (tensor, dim) in plan.summed)
            reasons = _near(tensor, by_module)
            graph.add_edge(node, f"tensor:{tensor}", kind="runs through", dims=dims, summed=summed, reasons=reasons)
    for stage in plan.stages:
        node = f"stage:{stage.name}"
        graph.add_node(node, kind="stage", name=stage.name, blocks=stage.blocks, choices=stage.choices)
        for number, block in enumerate(stage.blocks):
            own = {plan.first_name(path) for path in (block, *plan.beside((block,)))}
            for tensor in plan.tensors:
                if not own.isdisjoint(enclosing(plan.first_name(tensor))):
                    graph.add_edge(node, f"tensor:{tensor}", kind="block", block=number, reasons=())
    for relation in space.rows.relations.relations:
        node = f"relation:{relation.text}"
        graph.add_node(node, kind="relation", name=relation.text, source=relation.source)
        for column in relation.scope:
            axis = plan.axes[column].name
            graph.add_edge(node, f"axis:{axis}", kind="compares", reasons=(relation.source,) if relation.source else ())
    return graph


def _by_module(reasons: Sequence[str]) -> dict[str, list[str]]:
    """Reasons by the module in which the operation ran; "" is the model."""
    found: dict[str, list[str]] = {}
    for reason in reasons:
        place = _PLACE.search(reason)
        found.setdefault(place["module"] if place else "", []).append(reason)
    return found


def _near(tensor: str, by_module: Mapping[str, list[str]]) -> tuple[str, ...]:
    """The reasons in the module of a tensor; where it has none, in the nearest around it."""
    for module in (*reversed(enclosing(tensor)[:-1]), ""):
        if module in by_module:
            return tuple(by_module[module])
    return ()
