"""From an analysis to a plan: which axes are elastic, what they are called, what follows them.

An axis is a leaf of the analysis that nothing froze and that at least one parameter has. It gets a name (`uses`,
`naming`), and legal sizes (`options`, `choices`); what the user froze or what cannot get smaller stays. Everything
that the axes which are left reach goes into the plan: tensors to slice, integer attributes to set (`numbers`,
`layers`), float scales that are a root of a size (`scales`), blocks that may be left out (`stages`), comparisons that
must keep their answer (`constraints`). Whatever stays does so for a reason, which is part of the plan.

The proofs may refute axes and stages. They say so to the planner, and ask for another plan.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from torch import nn

from elastify import _adapters
from elastify._analysis import Analysis, Term
from elastify._capture import Code, attribute_value, parameter_names, resolve
from elastify._ir import Attr, Constraint, Dim, ElasticAxis, FrozenDim, Guard, Layout, Plan, Shares, mentions
from elastify._plan.branches import branches
from elastify._plan.buffers import written_buffers
from elastify._plan.constraints import constraints
from elastify._plan.described import Described
from elastify._plan.layers import count_layers
from elastify._plan.naming import Draft, former_names, name_axes
from elastify._plan.numbers import Numbers
from elastify._plan.operands import elastic_sizes, lone_sizes, may_be_a_size
from elastify._plan.options import Options
from elastify._plan.scales import find_scales
from elastify._plan.stages import Stages
from elastify._plan.unread import unread_sizes
from elastify._plan.uses import find_drafts


class Planner:
    """Makes the plans of one model; `depth` has its rows of blocks, and is told which of them the proofs refute."""

    def __init__(self, model: nn.Module, analysis: Analysis, options: Options) -> None:
        self.model, self.analysis, self.options = model, analysis, options
        self.graph = analysis.graphs[0]
        self.described = Described(model)
        self.numbers = Numbers(self.described, analysis)
        self.depth = Stages(self.described, analysis, options)
        self._excluded: dict[int, str] = {}
        self._canonical: dict[int, str] = {}  # the first name of every parameter and buffer, by value
        for name, value in self.graph.tensors.items():
            self._canonical.setdefault(value.id, name)

    def exclude(self, reasons: Mapping[int, str]) -> None:
        """These axes (by id) stay as they are from the next plan on: the proofs refute them."""
        self._excluded |= reasons

    def plan(self) -> Plan:
        """The plan of what is not refuted so far."""
        axes, kept = self._axes()
        elastic = {axis.id for axis in axes}
        moving = frozenset(elastic.union(self._excluded))
        read = self._attributes()
        sums = _adapters.of(self.model).sums(self.model)
        matched = self.numbers.match(read, {axis.id: axis.role for axis in axes}, sums)
        attributes = {a: layout for a, layout in {**read, **matched.sizes}.items() if mentions(layout, elastic)}
        read_and_elastic = {attr: layout for attr, layout in attributes.items() if attr in read}
        statistics, written = written_buffers(self.model, self.analysis.graphs)
        scales, unsure = find_scales(self.described, self.analysis, read_and_elastic, elastic, self._code)
        told = {*read, *matched.sizes, *matched.unclear}
        unread = unread_sizes(self.numbers, self._code, {*told, *self.numbers.operands}, elastic)
        stages, tensors = self.depth.stages(moving), self._tensors(elastic)
        return Plan(
            axes=axes,
            stages=stages,
            tensors=tensors,
            aliases=self._aliases(tensors),
            attributes=attributes,
            scales=scales,
            constraints=self._constraints(axes, matched.sizes),
            caches=tuple(dict.fromkeys(attr for graph in self.analysis.graphs for attr in graph.caches)),
            statistics=statistics,
            written=written,
            used=self.numbers.used,
            frozen=self._frozen(elastic, kept),
            rigid=self.depth.rigid_blocks(moving, {axis.id: axis.name for axis in axes}),
            matched=frozenset(matched.sizes),
            unclear=matched.unclear,
            staying={**unsure, **self._staying(told, elastic_sizes(axes, tensors)), **unread},
            branches=branches(self.model, self.analysis),
            summed=self.analysis.summed,
            counts=count_layers(self.described, stages, read, self._guards),
            twins=self._twins,
            alongside=self.depth.alongside(moving),
        )

    @cached_property
    def _code(self) -> Code:
        return Code(self.model)

    @cached_property
    def _guards(self) -> list[Guard]:
        """The comparisons of all runs."""
        return [guard for graph in self.analysis.graphs for guard in graph.guards]

    @cached_property
    def _twins(self) -> dict[str, str]:
        """Other paths of modules, with the first of each."""
        first: dict[nn.Module, str] = {}
        paths = (
            (path, first.setdefault(part, path)) for path, part in self.model.named_modules(remove_duplicate=False)
        )
        return {path: known for path, known in paths if path != known}

    @cached_property
    def _lone(self) -> dict[Attr, str]:
        return lone_sizes(self.analysis)

    def names(self) -> list[str]:
        """What patterns can name: the axes and rows of the model, whether the options keep them or not."""
        moving = frozenset(axis.id for axis in self._axes()[0])
        return [*(name for name, _ in self._names.values()), *self.depth.names(None), *self.depth.names(moving)]

    # -- axes --------------------------------------------------------------------------------------------

    @cached_property
    def _drafts(self) -> list[Draft]:
        return find_drafts(self.analysis, self._canonical.values(), parameter_names(self.model))

    @cached_property
    def _names(self) -> Mapping[int, tuple[str, str]]:
        """Names and roles of all axes, before anything is left out: they depend on the model alone."""
        return name_axes(self._drafts)

    def _axes(self) -> tuple[tuple[ElasticAxis, ...], dict[int, str]]:
        """The elastic axes, and why those are none that the options keep."""
        asked: list[ElasticAxis] = []
        kept: dict[int, str] = {}
        former = former_names(self._drafts, {ident: name for ident, (name, _) in self._names.items()})
        for draft in self._drafts:
            if draft.id in self._excluded:
                continue
            name, role = self._names[draft.id]
            pattern = self.options.frozen_by(name, *draft.owners())
            if pattern is not None:
                kept[draft.id] = f"frozen by the pattern {pattern!r}"
            elif draft.given:
                kept[draft.id] = "its units are those of a fixed table, nothing computes them"
            else:
                members, size = tuple(draft.members), draft.size
                asked.append(ElasticAxis(draft.id, name, size, (size,), role, members, former=former[draft.id]))
        sizes = self.options.sizes(asked, self._shares({axis.id: axis.role for axis in asked}))
        axes = []
        for axis in asked:
            alone = self.options.alone(axis.name, axis.size, axis.role)
            if len(sizes[axis.id]) > 1:
                axes.append(replace(axis, choices=sizes[axis.id]))
            elif len(alone) > 1:
                axes.append(replace(axis, choices=alone, whole=True))
            else:
                explicit = self.options.explicit(axis.name)
                kept[axis.id] = "no smaller size was asked for" if explicit else "too small to shrink"
        return tuple(axes), kept

    def _shares(self, roles: Mapping[int, str]) -> Shares:
        """What the dimensions of the parameters and buffers are products of."""
        terms = self.analysis.terms
        found = {terms.find(t).id: t for name in self._canonical.values() for t in self.analysis.tensor(name)}
        return Shares(map(terms.resolve, found.values()), roles)

    def _frozen(self, elastic: Collection[int], kept: Mapping[int, str]) -> tuple[FrozenDim, ...]:
        """Dimensions of weights that no elastic axis runs through, with reasons; `kept` are those of the options."""
        frozen, reasons = [], dict[int, str]()
        for name in self._canonical.values():
            for dim, term in enumerate(map(self.analysis.terms.find, self.analysis.tensor(name))):
                if term.id not in reasons:
                    reasons[term.id] = self._reason(term, elastic, kept) if term.size > 1 else ""
                if reasons[term.id]:
                    frozen.append(FrozenDim(name, dim, term.size, reasons[term.id]))
        return tuple(frozen)

    def _reason(self, term: Term, elastic: Collection[int], kept: Mapping[int, str]) -> str:
        """Why no axis runs through a dimension; "" where one does."""
        inside = list(self.analysis.terms.leaves(term))
        if any(leaf.id in elastic for leaf in inside):
            return ""
        for leaf in sorted([term, *inside], key=lambda leaf: -leaf.size):  # of three gates times hidden, hidden matters
            if leaf.id in self._excluded:
                return self._excluded[leaf.id]
            if leaf.frozen is not None:
                return str(leaf.frozen)
        return next((kept[leaf.id] for leaf in inside if leaf.id in kept), "no elastic axis runs through it")

    # -- what follows the axes ---------------------------------------------------------------------------

    def _tensors(self, elastic: Collection[int]) -> dict[str, tuple[Layout, ...]]:
        terms, moves = self.analysis.terms, dict[int, bool]()
        found = {}
        for name in self._canonical.values():
            dims = [terms.find(term) for term in self.analysis.tensor(name)]
            for term in dims:
                if term.id not in moves:
                    moves[term.id] = mentions(terms.resolve(term), elastic)
            if any(moves[term.id] for term in dims):
                found[name] = tuple(terms.resolve(term) for term in dims)
        return found

    def _aliases(self, affected: Collection[str]) -> dict[str, str]:
        """Other names of the tensors that are affected."""
        pairs = ((name, self._canonical[value.id]) for name, value in self.graph.tensors.items())
        return {name: first for name, first in pairs if name != first and first in affected}

    def _attributes(self) -> dict[Attr, Layout]:
        """Integer attributes that forward reads; the library of a module may know of a twin that must be equal."""
        attributes: dict[Attr, Layout] = {}
        twins: dict[Attr, Layout] = {}
        for attr, term in self.analysis.facts.attributes.items():
            attributes[attr] = self.analysis.terms.resolve(term)
            owner = resolve(self.model, attr.owner)
            twin = _adapters.of(owner).twin(owner, attr)
            if twin is not None:
                twins[twin] = attributes[attr]
        return {**attributes, **twins}

    def _staying(self, told: Collection[Attr], sizes: Collection[int]) -> dict[Attr, str]:
        """Numbers that forward computes with and of which nothing else is `told`, with the places."""
        found = {attr: place for attr, place in self.numbers.operands.items() if attr not in told}
        found |= {attr: why for attr, why in self._lone.items() if attribute_value(self.model, attr) in sizes}
        return {attr: place for attr, place in found.items() if may_be_a_size(attr, attribute_value(self.model, attr))}

    def _constraints(self, axes: Sequence[ElasticAxis], matched: Mapping[Attr, Layout]) -> tuple[Constraint, ...]:
        """What comparisons ask of sizes. Numbers that only comparisons read may be `matched`: they move then, too."""
        smallest = {axis.id: axis.choices[0] for axis in axes}
        found: dict[Constraint, None] = {}
        for index, guards in enumerate(self.analysis.guards):
            facts = self.analysis.enter(index)

            def layout(leaf: Attr | Dim) -> Layout | int:
                if isinstance(leaf, Attr) and leaf not in facts.attributes:  # noqa: B023 - used in this round only
                    return matched[leaf] if leaf in matched else attribute_value(self.model, leaf)
                return self.analysis.terms.resolve(facts.size_of(leaf, 0))  # noqa: B023

            found.update(dict.fromkeys(constraints(guards, layout, smallest)))
        return tuple(found)
