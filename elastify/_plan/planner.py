"""From an analysis to a plan: which axes are elastic, what they are called, what follows them.

An axis is a leaf of the analysis that nothing froze and that at least one parameter has. Everything that such
an axis reaches goes into the plan: tensors to slice, integer attributes to set, float scales that are a root of a
size, blocks that may be left out, comparisons that must keep their answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

from elastify import _adapters
from elastify._analysis import Analysis, Term, operation
from elastify._capture import attribute_value, resolve
from elastify._ir import (
    Attr,
    Constraint,
    Dim,
    ElasticAxis,
    FrozenDim,
    Graph,
    Layout,
    Plan,
    axes_of,
)
from elastify._plan.constraints import constraints
from elastify._plan.naming import Draft, former_names, name_axes
from elastify._plan.numbers import Described, Metadata, counts
from elastify._plan.options import Options
from elastify._plan.stages import Stages
from elastify._plan.uses import find_drafts

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass
class Planner:
    """Builds the plan of one model; `excluded` axes, demoted by verification, stay as they are, with the reasons;
    `kept` has those of axes that the options keep."""

    model: nn.Module
    analysis: Analysis
    options: Options
    excluded: Mapping[int, str] = field(default_factory=dict)
    kept: dict[int, str] = field(default_factory=dict)

    @cached_property
    def described(self) -> Described:
        return Described(self.model)

    @cached_property
    def depth(self) -> Stages:
        return Stages(self.described, self.analysis, self.options)

    @cached_property
    def drafts(self) -> list[Draft]:
        parameters = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        return find_drafts(self.analysis, self.canonical.values(), parameters)

    @cached_property
    def named(self) -> Mapping[int, tuple[str, str]]:
        """Names and roles of axes, before anything is left out: they depend on the model alone."""
        return name_axes(self.drafts)

    def plan(self) -> Plan:
        axes = self.axes()
        elastic = {axis.id for axis in axes}
        read = self.attributes()
        roles = {axis.id: axis.role for axis in axes}
        sums = _adapters.of(self.model).sums(self.model)
        metadata = Metadata(self.described, self.analysis, read, roles, sums).match()
        attributes = {
            attr: layout
            for attr, layout in {**read, **metadata.sizes}.items()
            if any(axis.id in elastic for axis in axes_of(layout))
        }
        moving = frozenset(elastic.union(self.excluded))
        stages, tensors = self.depth.stages(moving), self.tensors(elastic)
        return Plan(
            axes=axes,
            stages=stages,
            tensors=tensors,
            aliases=self.aliases(tensors),
            attributes=attributes,
            scales=self.scales({a: layout for a, layout in attributes.items() if a in read}, elastic),
            constraints=self.constraints(axes, metadata.sizes),
            caches=tuple(dict.fromkeys(attr for graph in self.analysis.graphs for attr in graph.caches)),
            statistics=self.statistics(),
            used=metadata.used,
            frozen=self.frozen(elastic),
            rigid=self.depth.rigid_blocks(moving, {axis.id: axis.name for axis in axes}),
            matched=frozenset(metadata.sizes),
            unclear=metadata.unclear,
            summed=self.analysis.summed,
            counts=counts(self.described, stages, read, self.graph.guards),
        )

    def names(self) -> list[str]:
        """What patterns can name: the axes and rows of the model, whether the options keep them or not."""
        moving = frozenset(axis.id for axis in self.axes())
        return [*(name for name, _ in self.named.values()), *self.depth.names(None), *self.depth.names(moving)]

    # -- tensors -----------------------------------------------------------------------------------------

    @property
    def graph(self) -> Graph:
        return self.analysis.graphs[0]

    @cached_property
    def canonical(self) -> dict[int, str]:
        """The first name of every parameter and buffer, by value."""
        names: dict[int, str] = {}
        for name, value in self.graph.tensors.items():
            names.setdefault(value.id, name)
        return names

    def layouts(self, name: str) -> tuple[Layout, ...]:
        return tuple(self.analysis.terms.resolve(term) for term in self.analysis.tensor(name))

    def tensors(self, elastic: set[int]) -> dict[str, tuple[Layout, ...]]:
        found = {}
        for name in self.canonical.values():
            layouts = self.layouts(name)
            if any(axis.id in elastic for layout in layouts for axis in axes_of(layout)):
                found[name] = layouts
        return found

    def aliases(self, affected: Collection[str]) -> dict[str, str]:
        pairs = ((name, self.canonical[value.id]) for name, value in self.graph.tensors.items())
        return {name: first for name, first in pairs if name != first and first in affected}

    def statistics(self) -> frozenset[str]:
        return frozenset(n for n, _ in self.model.named_buffers() if n.rpartition(".")[2] in STATISTICS)

    # -- axes --------------------------------------------------------------------------------------------

    def axes(self) -> tuple[ElasticAxis, ...]:
        options, axes, drafts, names = self.options, [], self.drafts, self.named
        former = former_names(drafts, {ident: name for ident, (name, _) in names.items()})
        for draft in drafts:
            if draft.id in self.excluded:
                continue
            name, role = names[draft.id]
            asked = options.frozen_by(name, *draft.owners())
            if asked is not None:
                self.kept[draft.id] = f"frozen as asked by {asked!r}"
                continue
            choices = options.sizes(name, draft.size, role)
            if len(choices) > 1:
                members, old = tuple(draft.members), former[draft.id]
                axes.append(ElasticAxis(draft.id, name, draft.size, choices, role, members, former=old))
            else:
                chosen = options.explicit(name)
                self.kept[draft.id] = "no smaller size is asked for" if chosen else "too small to shrink"
        return tuple(axes)

    # -- what follows the axes ---------------------------------------------------------------------------

    def attributes(self) -> dict[Attr, Layout]:
        terms = self.analysis.terms
        found = {attr: terms.resolve(term) for attr, term in self.analysis.facts.attributes.items()}
        owners = {attr: resolve(self.model, attr.owner) for attr in found}
        twins = ((_adapters.of(owner).twin(owner, attr), found[attr]) for attr, owner in owners.items())
        return {**found, **{attr: layout for attr, layout in twins if attr is not None}}

    def scales(self, attributes: Mapping[Attr, Layout], elastic: set[int]) -> dict[Attr, tuple[Layout, float]]:
        """Float attributes used in a product that are a size to the power of one half, up or down."""
        found: dict[Attr, tuple[Layout, float]] = {}
        used = self._used_floats()
        owners = {p for p, floats in used.items() if floats & _floats(resolve(self.model, p)).keys()}
        sizes = self._sizes_by_module(elastic, owners)
        for attr, layout in attributes.items():
            sizes.setdefault(attr.owner, {}).setdefault(layout.size, {})[layout] = 2
        for path in sorted(owners):
            for value, name in _floats(self.model.get_submodule(path)).items():
                if value not in used[path]:
                    continue
                for power in (-0.5, 0.5):
                    size = round(value ** (1 / power))
                    if size > 1 and abs(size**power - value) < 1e-9 * value:
                        ranked = sizes.get(path, {}).get(size, {})
                        best = [layout for layout, rank in ranked.items() if rank == max(ranked.values())]
                        if len(best) == 1:
                            found[Attr(path, name)] = (best[0], power)
        return found

    def _used_floats(self) -> dict[str, set[float]]:
        used: dict[str, set[float]] = {}
        for graph in self.analysis.graphs:
            for call in graph.calls:
                if operation(call.op).scales:
                    numbers = (*call.args, *call.kwargs.values())
                    used.setdefault(call.where, set()).update(n for n in numbers if isinstance(n, float))
        return used

    def _sizes_by_module(self, elastic: set[int], owners: set[str]) -> dict[str, dict[int, dict[Layout, int]]]:
        """Elastic layouts of the dimensions that each module computes with, by size."""
        terms, sizes = self.analysis.terms, {}
        for index, graph in enumerate(self.analysis.graphs):
            for call in graph.calls:
                for value in call.inputs() if call.where in owners else ():
                    for term in self.analysis.dims[index].get(value.id, ())[-1:]:
                        layout = terms.resolve(term)
                        if any(axis.id in elastic for axis in axes_of(layout)):
                            sizes.setdefault(call.where, {}).setdefault(layout.size, {})[layout] = 1
        return sizes

    def constraints(self, axes: Sequence[ElasticAxis], matched: Mapping[Attr, Layout]) -> tuple[Constraint, ...]:
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

    def frozen(self, elastic: set[int]) -> tuple[FrozenDim, ...]:
        result = []
        for name in self.canonical.values():
            for dim, term in enumerate(self.analysis.tensor(name)):
                inside = list(self.analysis.terms.leaves(term))
                if term.size > 1 and inside and not any(leaf.id in elastic for leaf in inside):
                    result.append(FrozenDim(name, dim, term.size, self._reason(inside)))
        return tuple(result)

    def _reason(self, inside: Sequence[Term]) -> str:
        for leaf in sorted(inside, key=lambda leaf: -leaf.size):  # of three gates times hidden, hidden matters
            if leaf.id in self.excluded:
                return self.excluded[leaf.id]
            if leaf.frozen is not None:
                why = leaf.frozen
                return f"{why[0]}: {why[1]}" if isinstance(why, tuple) else str(why)
        return next((self.kept[leaf.id] for leaf in inside if leaf.id in self.kept), "of no weight that could shrink")


def _floats(module: nn.Module) -> dict[float, str]:
    """Positive float attributes of a module, by value."""
    return {value: name for name, value in vars(module).items() if type(value) is float and value > 0}
