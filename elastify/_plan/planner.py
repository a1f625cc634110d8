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
from elastify._analysis import Analysis, Term
from elastify._capture import attribute_value, resolve
from elastify._ir import (
    Attr,
    Axis,
    Constraint,
    Dim,
    ElasticAxis,
    FrozenDim,
    Graph,
    Layout,
    Plan,
    Product,
    axes_of,
    enclosing,
)
from elastify._plan.constraints import constraints
from elastify._plan.depth import Run
from elastify._plan.naming import Draft, name_axes
from elastify._plan.numbers import Described, Metadata, counts
from elastify._plan.options import Options
from elastify._plan.stages import Stages

_SCALED = frozenset("mul div scaled_dot_product_attention baddbmm matmul pow".split())
_LINEAR_MAPS = frozenset("linear conv1d conv2d conv3d".split())
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

    def plan(self) -> Plan:
        drafts = self.drafts(self.depth.runs(None))  # names do not depend on what is frozen
        names = name_axes(drafts)
        axes = self.axes(drafts, names)
        elastic = {axis.id for axis in axes}
        read = self.attributes()
        roles = {axis.id: axis.role for axis in axes}
        metadata = Metadata(self.described, self.analysis, read, roles, _adapters.sums(self.model)).match()
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
        drafts = self.drafts(self.depth.candidates(None))
        names = name_axes(drafts)
        moving = frozenset(axis.id for axis in self.axes(drafts, names))
        return [*(name for name, _ in names.values()), *self.depth.names(None), *self.depth.names(moving)]

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

    def drafts(self, runs: Sequence[Run]) -> list[Draft]:
        """Elastic leaves with their members, in the order in which the model owns them."""
        terms = self.analysis.terms
        parameters = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        drafts: dict[int, Draft] = {}
        real: set[int] = set()
        for name in self.canonical.values():
            for dim, term in enumerate(self.analysis.tensor(name)):
                place = name, dim  # one for all axes: a dense network has a hundred through each tensor
                for leaf in dict.fromkeys(terms.leaves(term)):
                    if leaf.frozen is None and leaf.size > 1 and leaf.id not in self.excluded:
                        draft = drafts.setdefault(leaf.id, Draft(leaf.id, leaf.size))
                        draft.members.append(place)
                        if name in parameters:
                            real.add(leaf.id)
        for attr, term in self.analysis.facts.attributes.items():
            inner = {leaf.id for leaf in terms.leaves(term)}  # one axis, perhaps several times (rotary halves)
            if len(inner) == 1 and terms.find(term).kind != "product" and inner <= set(drafts):
                drafts[inner.pop()].attributes.add(attr.name)
        self._mark(drafts, runs)
        self._find_makers(drafts)
        return [draft for draft in drafts.values() if draft.id in real]

    def _find_makers(self, drafts: Mapping[int, Draft]) -> None:
        """Modules that have an axis in a result and in no tensor that they were given, but for their weights."""
        terms, dims = self.analysis.terms, self.analysis.dims[0]
        within = {ident: {leaf.id for term in found for leaf in terms.leaves(term)} for ident, found in dims.items()}
        owned = {value.id for value in self.graph.tensors.values()}
        others = set[int]()
        for call in self.graph.calls:
            if call.op not in _LINEAR_MAPS:
                others.update(*(within.get(value.id, ()) for value in (*call.inputs(), *call.outputs())))
            given = [within.get(value.id, set()) for value in call.inputs() if value.id not in owned]
            made = set[int]().union(*(within.get(value.id, ()) for value in call.outputs())).difference(*given)
            for ident in made & drafts.keys():
                if call.where not in drafts[ident].made:
                    drafts[ident].made.append(call.where)
        for draft in drafts.values():
            owners = {tensor.rpartition(".")[0] for tensor, _ in draft.members}
            draft.between = draft.id not in others and len(draft.members) == len(owners) == 2 and len(draft.made) == 1

    def _mark(self, drafts: dict[int, Draft], runs: Sequence[Run]) -> None:
        for name in self.canonical.values():
            for layout in self.layouts(name):
                for part in _products(layout):
                    moving = [f for f in part.parts if any(axis.id in drafts for axis in axes_of(f))]
                    outer = {f.id for f in moving[:-1] if isinstance(f, Axis)}
                    for axis in axes_of(moving[-1]) if moving else ():
                        if axis.id in drafts and outer:
                            drafts[axis.id].inside |= outer - {axis.id}
                            for ident in (*outer, axis.id):
                                drafts[ident].factor = True
        blocks = {block for run in runs for block in run.blocks}
        for draft in drafts.values():
            touched = {path for tensor, _ in draft.members for path in enclosing(tensor)} & blocks
            draft.spans_blocks = len(touched) > 1

    def axes(self, drafts: Sequence[Draft], names: Mapping[int, tuple[str, str]]) -> tuple[ElasticAxis, ...]:
        options, axes = self.options, []
        for draft in drafts:
            name, role = names[draft.id]
            owners = [tensor.rpartition(".")[0] for tensor, _ in draft.members]
            asked = options.frozen_by(name, *owners)
            if asked is not None:
                self.kept[draft.id] = f"frozen as asked by {asked!r}"
                continue
            choices = options.sizes(name, draft.size, role)
            if len(choices) > 1:
                axes.append(ElasticAxis(draft.id, name, draft.size, choices, role, tuple(draft.members)))
            else:
                chosen = options.explicit(name)
                self.kept[draft.id] = "no smaller size is asked for" if chosen else "too small to shrink"
        return tuple(axes)

    # -- what follows the axes ---------------------------------------------------------------------------

    def attributes(self) -> dict[Attr, Layout]:
        terms = self.analysis.terms
        found = {attr: terms.resolve(term) for attr, term in self.analysis.facts.attributes.items()}
        twins = [(_adapters.twin(resolve(self.model, attr.owner), attr), layout) for attr, layout in found.items()]
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
                if call.op in _SCALED:
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


def _products(layout: Layout) -> list[Product]:
    if isinstance(layout, Axis):
        return []
    inner = [product for part in layout.parts for product in _products(part)]
    return [layout, *inner] if isinstance(layout, Product) else inner
