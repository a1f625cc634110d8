"""Numbers that no dimension of a run shows, and that should still be right in a smaller model.

`num_features`, `feature_info[2]["num_chs"]`, `config.intermediate_size`: most are never read by forward, a few are only
computed with (`operands`), so no run shows where they belong. They are matched, and only where the match is
unmistakable. The name must speak of a size; the value must be that of a layout in the closest place that has any.
These places are asked one after the other:

1. the attributes of the same name that forward does read, in the modules inside;
2. what goes in and out of the number's own module, then what its own operations compute with;
3. what goes in and out of the modules in it, then everything inside.

Take `self.num_features = 64` in a backbone that returns 64 channels and also has 64 hidden units somewhere: the
output is asked before the inside is, and has one layout of size 64, so the number follows that.

An object that several modules may hold, such as a `config`, speaks of everything inside at once. Heads and the sizes
of heads are factors of products there. An entry of a dictionary that names a module describes that module's result.
What fits several layouts is listed as unclear, and follows them where they are equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from elastify._analysis import Analysis
from elastify._capture import resolve
from elastify._ir import Attr, Axis, Concat, Layout, ModuleCall, Product, Value, axes_of, exprs, values
from elastify._plan.described import OTHERS, SIZES, Described, Number, joined, within
from elastify._plan.flow import calls_by_module
from elastify._plan.operands import arguments, attributes, operands

_FACTORS = (
    ("queries", re.compile(r"key_value_groups$")),
    ("groups", re.compile(r"(key_value|kv)_heads$|n_head_kv$")),
    ("head_dim", re.compile(r"head_(dim|size|chs)|(dim|d)_head$|d_kv$|kv_channels$")),
    ("heads", re.compile(r"heads?_?\d*$|heads_")),
)
_INNER = re.compile(r"intermediate|ffn|inner|mlp|d_ff|feedforward")
_STREAM = re.compile(r"hidden_size|embd|embed|d_model")

Layouts = set[Layout]
Factors = dict[tuple[str, int], dict[Layout, list[str]]]
_Place = tuple[int, str, tuple[int | str, ...]]  # an object, and what of it


@dataclass(frozen=True, slots=True)
class Matched:
    """The layouts of numbers that no run has read, and those of others that could mean several."""

    sizes: Mapping[Attr, Layout]
    unclear: Mapping[Attr, tuple[Layout, ...]]


class Numbers:
    """Matches the numbers of a model with the layouts of its tensors, for one plan after the other."""

    def __init__(self, described: Described, analysis: Analysis) -> None:
        self.described, self.analysis = described, analysis
        self.places = _Places(described, analysis)
        given = [expr for graph in analysis.graphs for call in graph.calls for expr in exprs((call.args, call.kwargs))]
        compared = [expr for graph in analysis.graphs for guard in graph.guards for expr in guard.args]
        self.arguments = arguments(analysis)  # those that are no sizes (`dim`, `stride`) must stay
        self.operands = operands(analysis)
        self.used = frozenset(attributes((*given, *compared)))
        """Attributes that operations were given or that forward compares."""

    def match(
        self, known: Mapping[Attr, Layout], roles: Mapping[int, str], sums: Mapping[Attr, Sequence[str]]
    ) -> Matched:
        """The layouts of numbers. `known` are the attributes that runs have read, `roles` those of the elastic axes,
        `sums` the weights of which the model's library says that a number is the sum of their inputs."""
        factors = self.places.factors(roles)
        read: set[_Place] | None = None
        sizes: dict[Attr, Layout] = {}
        unclear: dict[Attr, tuple[Layout, ...]] = {}
        for shared in (False, True):  # what modules say of themselves helps to read what objects say of many
            inherited = _by_name({**sizes, **known})
            for number in self.described.numbers:
                if number.shared is not shared or not _is_a_size(number):
                    continue
                if shared and read is None:
                    plain = self.operands.keys() - self.arguments
                    read = {self.place(attr) for attr in {*known, *self.used} - plain}
                attr = number.attr  # what forward reads needs no match; what it compares of an object stays, too
                if self.place(attr) in read if read is not None else attr in known or attr in self.arguments:
                    continue
                layouts = next(filter(None, self.places.candidates(number, inherited, factors)), set())
                if len(layouts) != 1:
                    layouts = _sum_of(self.analysis, sums.get(attr, ()), number.value) or layouts
                layouts = _narrowed(layouts, number.name, roles)
                if not any(axis.id in roles for layout in layouts for axis in axes_of(layout)):
                    continue  # nothing that it could mean moves
                if len(layouts) == 1:
                    sizes[attr] = layouts.pop()
                else:
                    unclear[attr] = tuple(sorted(layouts, key=repr))
        return Matched(sizes, unclear)

    def place(self, attr: Attr) -> _Place:
        """Where an attribute is, for several paths may lead to one object."""
        return id(resolve(self.described.model, attr.owner)), attr.name, attr.index


def _is_a_size(number: Number) -> bool:
    return number.value > 1 and bool(SIZES.search(number.name)) and not OTHERS.search(number.name)


def _narrowed(layouts: Layouts, name: str, roles: Mapping[int, str]) -> Layouts:
    """Of several layouts those that are more likely meant, if any are.

    Units times a fixed number (the pixels of a patch) are meant only if nothing else can be. A name that speaks of
    the inside of a block does not mean the stream that runs through all blocks, and the other way round.
    """
    if len(layouts) > 1:
        whole = {one for one in layouts if isinstance(one, Axis) or all(axis.id in roles for axis in axes_of(one))}
        layouts = whole or layouts
    if len(layouts) > 1 and (_INNER.search(name) or _STREAM.search(name)):
        stream = not _INNER.search(name)
        fitting = {one for one in layouts if any(roles.get(a.id) == "width" for a in axes_of(one)) is stream}
        layouts = fitting or layouts
    return layouts


def _sum_of(analysis: Analysis, weights: Sequence[str], size: int) -> Layouts:
    """The inputs of weights one after the other, if that is of the size."""
    names = [name for name in weights if name in analysis.graphs[0].tensors]
    parts = [analysis.terms.resolve(analysis.tensor(name)[1]) for name in names]
    if not parts:
        return set()
    whole = Concat(tuple(parts)) if len(parts) > 1 else parts[0]
    return {whole} if whole.size == size else set()


class _Places:
    """Where a model has layouts of some size: in what its modules take, give and compute with."""

    def __init__(self, described: Described, analysis: Analysis) -> None:
        self.model, self.analysis = described.model, analysis
        self.runs = [(analysis.graphs[first], analysis.dims[first]) for first in analysis.firsts]
        self.calls: dict[str, list[ModuleCall]] = {}  # of every module in the first run that has it
        for graph, _ in self.runs:
            self.calls = {**calls_by_module(graph), **self.calls}

    def candidates(
        self, number: Number, inherited: Mapping[tuple[str, str, int], Layouts], factors: Factors
    ) -> Iterator[Layouts]:
        """Layouts of the size of a number, from the closest place to the widest; `inherited` are those of attributes
        by module, name and size."""
        path, name, size = number.path, number.name, number.value
        named = [joined(path, text) for text in number.beside]
        named = [module for module in named if module in self.calls]
        if named or (number.beside and len(number.attr.index) > 1):  # entries of a list are told by what they name
            yield from (self.of_size(self.results(module), size) for module in named)
            return
        yield inherited.get((path, name, size), set())
        kind = next((kind for kind, pattern in _FACTORS if pattern.search(name)), "")
        if kind:
            tensors = factors.get((kind, size), {})
            yield {layout for layout, names in tensors.items() if any(within(tensor, path) for tensor in names)}
        elif "group" in name:  # as many as channels, or nothing that can be known
            yield self.of_size(self.passing(path), size)
        else:
            if not number.shared:
                yield from self.around(path, name, size)
            everything = [value for where, own in self.inside.items() if within(where, path) for value in own]
            yield self.of_size(everything, size)

    def around(self, path: str, name: str, size: int) -> Iterator[Layouts]:
        """Layouts in the places near to a module, the closest first."""
        if name.startswith(("in_", "input")):
            given = [value for call in self.calls.get(path, []) for value in values((call.args, call.kwargs))]
            yield self.of_size(given, size)
        elif name.startswith("out"):
            yield self.of_size(self.results(path), size)
        yield self.of_size(self.passing(path), size)
        yield self.of_size(self.inside.get(path, []), size)
        children = [joined(path, child) for child, _ in self.model.get_submodule(path).named_children()]
        yield self.of_size([value for child in children for value in self.passing(child)], size)

    def results(self, path: str) -> list[Value]:
        """Tensors that a module returns."""
        return [value for call in self.calls.get(path, ()) for value in values(call.out)]

    def passing(self, path: str) -> list[Value]:
        """Tensors that go in and out of a module."""
        return [v for call in self.calls.get(path, ()) for v in values((call.args, call.kwargs, call.out))]

    def of_size(self, tensors: Iterable[Value], size: int) -> Layouts:
        """Layouts of this size among the dimensions of tensors."""
        layouts: Layouts = set()
        for value in set(tensors):
            layouts |= self.layouts.get(value, {}).get(size, set())
        return layouts

    @cached_property
    def inside(self) -> dict[str, list[Value]]:
        """Tensors that the own operations of a module take and make, in the first run that has any, by module."""
        found: dict[str, list[Value]] = {}
        for graph, _ in self.runs:
            own: dict[str, list[Value]] = {}
            for call in graph.calls:
                own.setdefault(call.where, []).extend([*call.inputs(), *call.outputs()])
            found = {**own, **found}
        return found

    @cached_property
    def near(self) -> dict[str, list[Value]]:
        """Of every module that has run, what goes in and out, and what its own operations take and make."""
        return {path: [*self.passing(path), *self.inside.get(path, [])] for path in {*self.calls, *self.inside}}

    @cached_property
    def layouts(self) -> dict[Value, dict[int, Layouts]]:
        """Layouts of the dimensions of every tensor, by size: those of units that some weight has, for a size does not
        speak of places."""
        terms, found = self.analysis.terms, {}
        units = {axis.id for layout, _ in self.dimensions.values() for axis in axes_of(layout)}
        of_units: dict[int, bool] = {}
        for value, dims in ((graph.values[ident], dims) for graph, own in self.runs for ident, dims in own.items()):
            sizes = found.setdefault(value, {})
            for term in map(terms.find, dims):
                if term.id not in of_units:
                    of_units[term.id] = all(axis.id in units for axis in axes_of(terms.resolve(term)))
                if of_units[term.id]:
                    sizes.setdefault(term.size, set()).add(terms.resolve(term))
        return found

    @cached_property
    def dimensions(self) -> dict[int, tuple[Layout, list[str]]]:
        """The layouts that dimensions of weights have, with the names of those weights."""
        terms, found = self.analysis.terms, {}
        for name in self.runs[0][0].tensors:
            for term in map(terms.find, self.analysis.tensor(name)):
                found.setdefault(term.id, (terms.resolve(term), []))[1].append(name)
        return found

    def factors(self, roles: Mapping[int, str]) -> Factors:
        """Heads, groups of heads and units of heads, by kind and size, with the tensors that have them."""
        found: Factors = {}
        for layout, names in self.dimensions.values():
            for kind, factor in _kinds(layout, roles):
                found.setdefault((kind, factor.size), {}).setdefault(factor, []).extend(names)
        return found


def _kinds(dimension: Layout, roles: Mapping[int, str]) -> Iterator[tuple[str, Layout]]:
    """What the factors of a dimension may be: of a product the last is the units of a head, the first may be groups,
    one between them how many share a group, and any consecutive ones but the last are heads."""
    for layout in _pieces(dimension):
        if isinstance(layout, Product):
            *outer, last = layout.parts
            yield "head_dim", last
            yield "groups", outer[0]
            if len(outer) == 2:
                yield "queries", outer[1]
            for start in range(len(outer)):
                for stop in range(start + 1, len(outer) + 1):
                    yield "heads", outer[start] if stop == start + 1 else Product(tuple(outer[start:stop]))
        elif isinstance(layout, Axis) and layout.id in roles:
            yield roles[layout.id], layout


def _by_name(attributes: Mapping[Attr, Layout]) -> dict[tuple[str, str, int], Layouts]:
    """Layouts of attributes, by every module around them, by their names and sizes."""
    found: dict[tuple[str, str, int], Layouts] = {}
    for attr, layout in attributes.items():
        parts = attr.owner.split(".") if attr.owner else []
        for depth in range(len(parts) + 1):
            found.setdefault((".".join(parts[:depth]), attr.name, layout.size), set()).add(layout)
    return found


def _pieces(layout: Layout) -> Iterator[Layout]:
    """A layout and, of a concat, its parts."""
    yield layout
    if isinstance(layout, Concat):
        for part in layout.parts:
            yield from _pieces(part)
