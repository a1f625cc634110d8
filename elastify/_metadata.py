"""Numbers that forward never reads, and that should still be right in a smaller model.

`num_features`, `embed_dim`, `feature_info[2]["num_chs"]`: no run shows where they belong, so they are matched, and
only where the match is unmistakable. An integer whose name speaks of a size follows a layout if that is the only
one of its size in the closest place that has any: the attributes of the same name in the modules inside, then what goes
in and out of its own module, then of the modules in it, then everything inside. An entry of a dictionary that
names a module describes that module's result. A number of layers follows the only row of blocks of that length. What
fits several is listed, and follows where they are equal; where they are not it is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from elastify._analysis import Analysis
from elastify._attributes import nn_sources
from elastify._graph import Value, values
from elastify._ints import Attr, exprs, leaves
from elastify._layout import Axis, Concat, Layout, axes_of
from elastify._plan import Stage

_SIZES = re.compile(
    r"(^|_)(features?|channels?|chs|chans?|dims?|widths?|planes|filters|units|hidden_sizes?|embed|embedding_size|d_model"
    r"|d_ff|d_inner|inner|intermediate_size|heads?|groups?|num_groups)(_|\d|$)"
)
_PLACES = re.compile(r"(^|_)(ends?|idx|index|indices|ids?|offsets?|stages?)(_|$)")
_HEADS, _HEAD_SIZES = re.compile(r"heads?(_|\d|$)"), re.compile(r"dims?|size|features|hidden|channels|chs")
_COUNTS = re.compile(r"(^|_)(depths?|layers?|blocks?)(_|$)")
_OWN = frozenset(nn.Module().__dict__)
_FOREIGN = frozenset({"torch", "numpy", "logging", "threading", "functools", "builtins"})
_MAX_DEPTH, _MAX_ITEMS = 3, 256


@dataclass(frozen=True, slots=True)
class Number:
    """An integer that the module at `path` owns. `name` is the closest that speaks of a size, `beside` are the texts
    in the same dictionary."""

    attr: Attr
    path: str
    name: str
    value: int
    beside: tuple[str, ...] = ()


def numbers(model: nn.Module) -> Iterator[Number]:
    """Every integer that modules hold, also in lists, dictionaries and plain objects; a shared object comes once.

    Not those of a `config`: they describe many modules at once, and are told when a subnet is extracted.
    """
    seen: set[int] = set()
    for path, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            for name, value in vars(module).items():
                if (
                    name not in _OWN
                    and name != "config"
                    and not name.startswith("_elastify")
                    and name not in nn_sources(module)
                ):
                    yield from _inside(value, path, path, name, (), (), seen)


def named_modules(model: nn.Module) -> set[str]:
    """Modules that entries of dictionaries name, as `feature_info` does."""
    return {f"{number.path}.{text}" if number.path else text for number in numbers(model) for text in number.beside}


def _inside(
    value: Any, path: str, owner: str, name: str, index: tuple[int | str, ...], beside: tuple[str, ...], seen: set[int]
) -> Iterator[Number]:
    if type(value) is int:
        words = [name, *(step for step in index if isinstance(step, str))][::-1]
        words = words[:1] if beside else words  # the fields of a record are told by their own names
        telling = next((word for word in words if _SIZES.search(word)), words[0])
        yield Number(Attr(owner, name, index), path, telling, value, beside)
    elif len(index) > _MAX_DEPTH or isinstance(value, (str, bytes, nn.Module, torch.Tensor, type)):
        return
    elif isinstance(value, (tuple, list, dict)):
        if id(value) not in seen and len(value) <= _MAX_ITEMS:
            seen.add(id(value))
            items = list(value.items() if isinstance(value, dict) else enumerate(value))
            texts = tuple(item for _, item in items if isinstance(item, str)) if isinstance(value, dict) else ()
            for key, item in items:
                if isinstance(key, (int, str)):
                    yield from _inside(item, path, owner, name, (*index, key), texts, seen)
    elif not index and id(value) not in seen and type(value).__module__.partition(".")[0] not in _FOREIGN:
        seen.add(id(value))
        own = getattr(value, "__dict__", None)
        for key, item in list(own.items()) if type(own) is dict else ():
            yield from _inside(item, path, f"{owner}.{name}" if owner else name, key, (), (), seen)


@dataclass
class Metadata:
    """What follows from the layouts of a model for the numbers that no run has read.

    `known` are the attributes that runs have read, `heads` the tensors of every axis of heads. `sizes` maps the others
    to their layouts, `unclear` those that could mean several to all of these.
    """

    model: nn.Module
    analysis: Analysis
    known: Mapping[Attr, Layout]
    elastic: set[int]
    heads: Mapping[int, Sequence[str]]
    sums: Mapping[Attr, Sequence[str]]
    sizes: dict[Attr, Layout] = field(default_factory=dict)
    unclear: dict[Attr, tuple[Layout, ...]] = field(default_factory=dict)

    def match(self) -> Metadata:
        """Fill `sizes` and `unclear`."""
        for number in numbers(self.model):
            if (
                number.attr in self.known
                or number.attr in self.arguments
                or number.value < 2
                or not _SIZES.search(number.name)
                or _PLACES.search(number.name)
            ):
                continue
            found = next(filter(None, self.candidates(number)), set())
            if len(found) != 1:
                found = self.together(number) or found
            if len(found) > 1:  # units times a fixed number (the pixels of a patch) are meant if nothing else can be
                found = {layout for layout in found if isinstance(layout, Axis) or self.moves(layout)} or found
            moving = {layout for layout in found if any(axis.id in self.elastic for axis in axes_of(layout))}
            if moving and len(found) == 1:
                self.sizes[number.attr] = found.pop()
            elif moving:
                self.unclear[number.attr] = tuple(sorted(found, key=repr))
        return self

    def together(self, number: Number) -> set[Layout]:
        """The inputs of weights of which the model's library says that the number is their sum."""
        names = [name for name in self.sums.get(number.attr, ()) if name in self.analysis.graphs[0].tensors]
        parts = tuple(self.analysis.terms.resolve(self.analysis.tensor(name)[1]) for name in names)
        whole = Concat(parts) if len(parts) > 1 else next(iter(parts), None)
        return {whole} if whole is not None and whole.size == number.value else set()

    def moves(self, layout: Layout) -> bool:
        """Whether all parts of a layout are elastic."""
        return all(axis.id in self.elastic for axis in axes_of(layout))

    def candidates(self, number: Number) -> Iterator[set[Layout]]:
        """Layouts of the size of a number, from the closest place to the widest."""
        path, name, size = number.path, number.name, number.value
        named = [self.join(path, text) for text in number.beside]
        named = [module for module in named if module in self.calls]
        if named or (number.beside and len(number.attr.index) > 1):  # entries of a list are told by what they name
            yield from (self.of_size(self.results(module), size) for module in named)
            return
        yield self.inherited.get((path, name, size), set())
        if _HEADS.search(name) and not _HEAD_SIZES.search(name):
            below = {axis for axis, members in self.heads.items() if any(_within(m, path) for m in members)}
            yield {layout for axis in below if (layout := Axis(axis, size)) in self.axes}
            return
        if "group" in name:  # as many as channels, or nothing that can be known
            yield self.of_size(self.passing(path), size)
            return
        own = self.calls.get(path, [])
        if name.startswith(("in_", "input")):
            yield self.of_size([v for call in own for v in values((call.args, call.kwargs))], size)
        elif name.startswith("out"):
            yield self.of_size(self.results(path), size)
        yield self.of_size(self.passing(path), size)
        yield self.of_size(self.inside.get(path, []), size)
        children = [self.join(path, child) for child, _ in self.model.get_submodule(path).named_children()]
        yield self.of_size([v for child in children for v in self.passing(child)], size)
        yield self.of_size([v for where, made in self.inside.items() if _within(where, path) for v in made], size)

    def join(self, path: str, name: str) -> str:
        return f"{path}.{name}" if path else name

    @cached_property
    def arguments(self) -> set[Attr]:
        """Attributes that operations were given: those that are no sizes (`dim`, `stride`) must stay."""
        given = (
            expr for graph in self.analysis.graphs for call in graph.calls for expr in exprs((call.args, call.kwargs))
        )
        return {leaf for expr in given for leaf in leaves(expr) if isinstance(leaf, Attr)}

    @cached_property
    def calls(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for call in self.analysis.graphs[0].modules:
            found.setdefault(call.path, []).append(call)
        return found

    @cached_property
    def inside(self) -> dict[str, list[Value]]:
        """Tensors that the own operations of a module take and make, by module."""
        found: dict[str, list[Value]] = {}
        for call in self.analysis.graphs[0].calls:
            found.setdefault(call.where, []).extend([*call.inputs(), *call.outputs()])
        return found

    @cached_property
    def axes(self) -> set[Layout]:
        layouts = (layout for sizes in self.layouts.values() for found in sizes.values() for layout in found)
        return {axis for layout in layouts for axis in axes_of(layout)}

    @cached_property
    def layouts(self) -> dict[int, dict[int, set[Layout]]]:
        """Layouts of the dimensions of every tensor, by size."""
        terms, found = self.analysis.terms, {}
        for ident, dims in self.analysis.dims[0].items():
            sizes = found.setdefault(ident, {})
            for term in dims:
                layout = terms.resolve(term)
                if all(axis.id in self.units for axis in axes_of(layout)):
                    sizes.setdefault(layout.size, set()).add(layout)
        return found

    @cached_property
    def units(self) -> set[int]:
        """Axes that tensors of the model have: the others are places, of which a size does not speak."""
        terms = self.analysis.terms
        own = [term for name in self.analysis.graphs[0].tensors for term in self.analysis.tensor(name)]
        return {axis.id for term in own for axis in axes_of(terms.resolve(term))}

    @cached_property
    def inherited(self) -> dict[tuple[str, str, int], set[Layout]]:
        """Layouts of attributes that runs have read, by their names and sizes and every module around them."""
        found: dict[tuple[str, str, int], set[Layout]] = {}
        for attr, layout in self.known.items():
            parts = attr.owner.split(".") if attr.owner else []
            for depth in range(len(parts) + 1):
                found.setdefault((".".join(parts[:depth]), attr.name, layout.size), set()).add(layout)
        return found

    def results(self, path: str) -> list[Value]:
        return [value for call in self.calls.get(path, ()) for value in values(call.out)]

    def passing(self, path: str) -> list[Value]:
        """Tensors that go in and out of a module."""
        return [v for call in self.calls.get(path, ()) for v in values((call.args, call.kwargs, call.out))]

    def of_size(self, found: Iterable[Value], size: int) -> set[Layout]:
        layouts: set[Layout] = set()
        for value in {value.id: value for value in found}.values():
            layouts |= self.layouts.get(value.id, {}).get(size, set())
        return layouts


def counts(model: nn.Module, stages: Sequence[Stage], known: Iterable[Attr]) -> dict[Attr, str]:
    """Numbers of layers, with the container of which each gives the length."""
    lengths = {
        path: len(module._modules)
        for path, module in model.named_modules()
        if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    }
    elastic = {stage.container for stage in stages if not stage.aside}
    used, found = set(known), {}
    for number in numbers(model) if elastic else ():
        if _COUNTS.search(number.name) and number.attr not in used and not number.beside:
            same = [path for path, n in lengths.items() if n == number.value and _within(path, number.path)]
            same = [path for path in same if path.rpartition(".")[0] == number.path] or same  # the closest place
            if len(same) == 1 and same[0] in elastic:
                found[number.attr] = same[0]
    return found


def _within(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")
