"""Branches of which the recorded runs took one side, as text for a person.

A run shows what forward does for one example. Another length (`if x.shape[1] > 8`), other values (`if x.max() > 1`) or
an input that no example gives (`if mask is not None`) may lead elsewhere, and no proof has been there.
Comparisons of sizes are in the records. Those of sizes that the weights fix, or that have the same answer for any
input, are no branches. Nor is what one example answers with yes and another with no, in the same module: both sides
were run then, and proven. A module that asks several times in one run, and gets both answers, has shown neither side
of each question, so only whole runs count.
"""

from __future__ import annotations

import inspect

from torch import nn

from elastify._analysis import Analysis
from elastify._ir import Attr, Dim, Expr, Graph, Guard, Op, leaves

_SIGNS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%", "pow": "**"}
_Question = tuple[str, str, str]  # what is asked, in which module, and on which line
_Run = list[tuple[_Question, bool | None, str]]
"""What it asked, the answer (None: not yes or no), and both as text if another input may be answered otherwise."""


def branches(model: nn.Module, analysis: Analysis) -> tuple[str, ...]:
    """One line for each, with file and line."""
    runs = [_questions(analysis, index) for index in range(len(analysis.graphs))]
    proven = [run for run, graph in zip(runs, analysis.graphs, strict=True) if not graph.training and not graph.apart]
    yes, no = (set().union(*(_answered(run, answer) for run in proven)) for answer in (True, False))
    found = {text: None for run in runs for question, _, text in run if text and question not in yes & no}
    left_out = [_left_out(model, analysis.graphs[first]) for first in analysis.firsts]
    never = [name for name in left_out[0] if all(name in names for names in left_out)]
    if never:
        who = "the example does not give" if len(left_out) == 1 else "no example gives"
        found[f"inputs that {who}: {', '.join(never)}"] = None
    return tuple(found)


def _questions(analysis: Analysis, index: int) -> _Run:
    """What one run asked."""
    analysis.enter(index)
    graph, found = analysis.graphs[index], _Run()
    for guard in graph.guards:
        if guard.fn in _SIGNS and not guard.inside:
            left, right = (_text(arg, graph) for arg in guard.args)
            what, answer = f"{left} {_SIGNS[guard.fn]} {right}", bool(guard.result)
            text = f"{what} is {answer}: {guard.source}" if _may_differ(guard, analysis) else ""
            found.append(((what, guard.where, guard.source), answer, text))
    for (what, where, place), answers in graph.asked.items():
        found += [((what, where, place), answer, f"{what}: {place}") for answer in answers]
    return found


def _answered(run: _Run, answer: bool) -> set[_Question]:
    """The questions that a run answered so each time."""
    same, others = ({asked for asked, told, _ in run if (told is answer) is want} for want in (True, False))
    return same - others


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
