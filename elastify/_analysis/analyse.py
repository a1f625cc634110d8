"""From records of runs to layouts: one pass of rules over every call, then the equations.

All graphs of a model share one store of terms and the terms of its parameters and buffers. Inputs, outputs
and constants from outside are interface: their dimensions are frozen. A parameter that no graph uses freezes its
module, because what cannot be seen cannot be proven.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from elastify._analysis.equations import Lookup, Solver
from elastify._analysis.rules import Facts, Why, apply
from elastify._analysis.terms import Term, Terms
from elastify._ir import Graph, Guard, Layout, Value, values


@dataclass(slots=True)
class Analysis:
    """Terms of every tensor of every graph, and the comparisons that no equation covers. Those axes in `fixed` have as
    many units for every input.
    """

    facts: Facts
    graphs: list[Graph]
    dims: list[dict[int, list[Term]]]
    guards: list[list[Guard]]
    summed: frozenset[tuple[str, int]] = frozenset()
    fixed: frozenset[int] = frozenset()

    @property
    def terms(self) -> Terms:
        return self.facts.terms

    def layouts(self, value: Value, index: int = 0) -> tuple[Layout, ...]:
        """The layouts of the dimensions of a value of graph `index`; none where nothing is known of it."""
        return tuple(map(self.terms.resolve, self.dims[index].get(value.id, ())))

    def tensor(self, name: str) -> list[Term]:
        """Terms of the dimensions of a parameter or buffer."""
        return self.dims[0][self.graphs[0].tensors[name].id]

    @property
    def firsts(self) -> list[int]:
        """Of each example, the number of its first graph: the run in evaluation mode."""
        examples = [graph.example for graph in self.graphs]
        return [examples.index(number) for number in range(max(examples) + 1)]

    def counted(self) -> frozenset[int]:
        """Ids of the axes whose sizes the data decide."""
        return frozenset(self.terms.units(self.facts.counted))

    def enter(self, index: int) -> Facts:
        """The facts with graph `index` current, so that `Dim` expressions mean its values."""
        self.facts.start(self.graphs[index].values, self.dims[index])
        return self.facts


def analyse(
    graphs: list[Graph],
    lookup: Lookup,
    parameters: Collection[str],
    interface: Callable[[Graph], Iterable[Value]] = lambda graph: graph.outputs,
) -> Analysis:
    """Layouts from captured graphs.

    `lookup` gives attribute values, `parameters` the names of the tensors that are parameters, `interface` the outputs
    that must not move.
    """
    facts = Facts(Terms())
    shared: dict[str, list[Term]] = {}
    dims: list[dict[int, list[Term]]] = []
    guards: list[list[Guard]] = []
    used: set[str] = set()
    needed: set[str] = set()
    summed: set[tuple[str, int]] = set()
    others: set[tuple[str, int]] = set()
    for graph in graphs:
        known = {v.id: shared.setdefault(n, [facts.leaf(s) for s in v.shape]) for n, v in graph.tensors.items()}
        facts.start(graph.values, known)
        facts.why = Why("input")
        for value in (*graph.inputs, *graph.constants):
            for term in facts.dims(value):
                facts.freeze(term, "the model's interface" if value.name else "a tensor from outside the model")
        for value in graph.uncut:
            facts.why = Why(value.name)
            for term in facts.dims(value):
                facts.freeze(term, "a sparse tensor is not cut")
        for call in graph.calls:
            apply(facts, call)
        facts.why = Why("assigned to a buffer")
        for name, value in graph.assigned.items():
            facts.all_same(shared[name], facts.dims(value))
        facts.why = Why("output")
        for value in interface(graph):
            for term in facts.dims(value):
                facts.freeze(term, "the model's interface")
        solver = Solver(facts, lookup)
        guards.append(solver.guards([*graph.guards, *facts.guards]))
        solver.solve()
        by_id = {v.id: n for n, v in graph.tensors.items()}
        here = {by_id[v.id] for call in graph.calls for v in values((call.args, call.kwargs)) if v.id in by_id}
        for term in (term for name in here - used if graph.apart for term in shared[name]):
            facts.freeze(term, "used by a run other than forward")
        used |= here
        needed |= {by_id[ident] for ident in _needed(graph) if ident in by_id}
        uses = Counter(ident for call in graph.calls for ident in {value.id for value in call.inputs()})
        for ident, name in by_id.items():
            for dim in range(len(known[ident])):
                times = facts.summed[ident, dim]
                (summed if times and times == uses[ident] else others if uses[ident] else set()).add((name, dim))
        dims.append(facts.finish())
    fixed = _freeze_places(facts, shared)
    _freeze_idle(facts, {name: shared[name] for name in used}, needed)
    _freeze_unseen(facts, graphs[0], dims[0], used, parameters)
    return Analysis(facts, graphs, dims, guards, frozenset(summed - others), fixed)


def _needed(graph: Graph) -> set[int]:
    """Ids of the values on which the outputs depend; what is changed in place may be a view, and counts in any case."""
    needed = {value.id for value in graph.outputs}
    everything = not needed
    for call in reversed(graph.calls):
        if everything or call.inplace or any(value.id in needed for value in call.outputs()):
            needed |= {value.id for value in call.inputs()}
    return needed


def _freeze_places(facts: Facts, tensors: Mapping[str, list[Term]]) -> frozenset[int]:
    """What is cut at the length of an input (`positions[: x.shape[1]]`) has a unit for each place: another length uses
    others. Sizes that weights have, too, are the same for every input: the ids of their axes are returned."""
    terms = facts.terms
    cut = {terms.find(one.whole).id for one in facts.cuts}
    whole = (term for dims in tensors.values() for term in dims if terms.find(term).id not in cut)
    fixed = frozenset(terms.units(whole))
    for one in facts.cuts:
        sizes = [size for size in one.sizes if terms.is_frozen(size)]
        if any(leaf.id not in fixed for size in sizes for leaf in terms.leaves(size)):
            facts.why = one.why
            reason = "cut at the size of an input, so that its units are positions"
            facts.freeze(one.whole, reason)
            terms.find(one.whole).frozen = facts.because(reason)  # the piece that is used has another reason
    return fixed


def _freeze_idle(facts: Facts, tensors: Mapping[str, list[Term]], needed: Collection[str]) -> None:
    """Units that only tensors have on which no output depends cannot be proven (an unused pooler's)."""
    terms = facts.terms
    proven = terms.units(term for name in needed for term in tensors.get(name, ()))
    for name, dims in tensors.items():
        for ident in terms.units(dims) - proven if name not in needed else ():
            facts.why = Why("computed", name.rpartition(".")[0])
            facts.freeze(terms.by_id(ident), "no output depends on it")


def _freeze_unseen(
    facts: Facts, graph: Graph, dims: dict[int, list[Term]], used: set[str], parameters: Collection[str]
) -> None:
    seen_ids = {graph.tensors[name].id for name in used}
    modules = {n.rpartition(".")[0] for n in parameters if graph.tensors[n].id not in seen_ids}
    for name, value in graph.tensors.items():
        if name.rpartition(".")[0] in modules:
            facts.why = Why("unused", name.rpartition(".")[0])
            for term in dims[value.id]:
                facts.freeze(term, "its module has a parameter that no captured run used")
