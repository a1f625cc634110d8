"""Branches of which the recorded runs took one side, as text for a person.

A run shows what forward does for the example. Another length (`if x.shape[1] > 8`), other values (`if x.max() > 1`) or
an input that the example leaves out (`if mask is not None`) may lead elsewhere, and no proof has been there.
Comparisons of sizes are in the records. Those of sizes that the weights fix, or that have the same answer for any
input, are no branches.
"""

from __future__ import annotations

import inspect

from torch import nn

from elastify._analysis import Analysis
from elastify._ir import Attr, Dim, Expr, Graph, Guard, Op, leaves

_SIGNS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%", "pow": "**"}


def branches(model: nn.Module, analysis: Analysis) -> tuple[str, ...]:
    """One line for each, with file and line."""
    found: dict[str, None] = {}
    for index, graph in enumerate(analysis.graphs):
        analysis.enter(index)
        for guard in graph.guards:
            if guard.fn in _SIGNS and not guard.inside and _may_differ(guard, analysis):
                left, right = (_text(arg, graph) for arg in guard.args)
                found[f"{left} {_SIGNS[guard.fn]} {right} is {bool(guard.result)}: {guard.source}"] = None
        found.update((f"{what}: {place}", None) for what, places in graph.asked.items() for place in places)
    left_out = _left_out(model, analysis.graphs[0])
    if left_out:
        found[f"inputs that the example does not give: {', '.join(left_out)}"] = None
    return tuple(found)


def _may_differ(guard: Guard, analysis: Analysis) -> bool:
    """Whether the comparison may be answered otherwise for an input of another size."""
    terms = analysis.terms
    sizes = [analysis.facts.size_of(leaf, 0) for arg in guard.args for leaf in leaves(arg) if isinstance(leaf, Dim)]
    if all(isinstance(arg, Dim) for arg in guard.args) and terms.resolve(sizes[0]) == terms.resolve(sizes[1]):
        return False
    frozen = (size for size in sizes if terms.is_frozen(size))
    return any(leaf.id not in analysis.fixed for size in frozen for leaf in terms.leaves(size))


def _text(expr: Expr, graph: Graph) -> str:
    if isinstance(expr, Op):
        return f" {_ARITHMETIC.get(expr.fn, expr.fn)} ".join(_text(arg, graph) for arg in expr.args)
    if isinstance(expr, Dim):
        name = graph.values[expr.value].name
        return f"{name}.shape[{expr.dim}]" if name else f"shape[{expr.dim}]"
    return str(expr) if isinstance(expr, Attr) else repr(expr)


def _left_out(model: nn.Module, graph: Graph) -> list[str]:
    """Parameters of forward that are None for the example, and need not be."""
    root = next(iter(graph.roots), None)
    signature = inspect.signature(model.forward)
    if root is None:
        return []
    given = signature.bind_partial(*root.args, **root.kwargs).arguments
    return [n for n, p in signature.parameters.items() if p.default is None and given.get(n) is None]
