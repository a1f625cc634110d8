"""Numbers that forward never reads, and that should still be right in a smaller model.

`num_features`, `feature_info[2]["num_chs"]`, `config.intermediate_size`: no run shows where they belong, so they are
matched, and only where the match is unmistakable. The name must speak of a size; the value must be that of a layout in
the closest place that has any: the attributes of the same name in the modules inside, then what goes in and out of
its own module, then of the modules in it, then everything inside (an object that several modules may hold, such as a
`config`, speaks of that at once). Heads and the sizes of heads are factors of products there. An entry of a dictionary
that names a module describes that module's result. What fits several layouts is listed, and follows where they are
equal. A number of layers follows the closest elastic rows of blocks of that length.
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
from elastify._capture import resolve
from elastify._ir import Attr, Axis, Concat, Expr, Guard, Layout, Product, Stage, Value, axes_of, exprs, leaves, values
from elastify._plan.nn_numbers import nn_sources

_SIZES = re.compile(
    r"(^|_)(features?|channels?|chs|chans?|dims?|widths?|planes|filters|units|embed|embd|d_model|d_ff|d_kv|d_head|d_inner"
    r"|inner|(hidden|embedding|intermediate|head|ffn)_sizes?|heads?|groups?|num_groups)(_|\d|$)"
)
_OTHERS = re.compile(
    r"(^|_)(ends?|idx|index|indices|ids?|offsets?|stages?|max|min|kernel|stride|patch|image|window)(_|$)"
    r"|token|vocab|position|label"
)
_FACTORS = (
    ("groups", re.compile(r"(key_value|kv)_heads$|n_head_kv$")),
    ("head_dim", re.compile(r"head_(dim|size|chs)|(dim|d)_head$|d_kv$|kv_channels$")),
    ("heads", re.compile(r"heads?_?\d*$|heads_")),
)
_INNER = re.compile(r"intermediate|ffn|inner|mlp|d_ff|feedforward")
_STREAM = re.compile(r"hidden_size|embd|embed|d_model")
_COUNTS = re.compile(r"(^|_)(depths?|layers?|blocks?)(_|$)")
_OWN = frozenset(nn.Module().__dict__)
_FOREIGN = frozenset({"torch", "numpy", "logging", "threading", "functools", "builtins"})
_TEXTS = frozenset({bool, float, str, type(None)})  # what holds no number
_MAX_DEPTH, _MAX_ITEMS = 3, 256


@dataclass(frozen=True, slots=True)
class Number:
    """An integer that describes the module at `path`. `name` is the closest that speaks of a size, `beside` are the
    texts in the same dictionary. Its owner is another than `path` where an object holds it."""

    attr: Attr
    path: str
    name: str
    value: int
    beside: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether an object holds it, which may describe many modules at once."""
        return self.attr.owner != self.path


class Described:
    """What the modules of a model hold, read once: all attributes, and the numbers among them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.attributes = list(_held(model))

    @cached_property
    def numbers(self) -> list[Number]:
        """Every integer that may be a size or a count, also in lists, dictionaries and objects; what is shared once."""
        seen: set[int] = set()
        return [
            n for path, owner, name, value in self.attributes for n in _inside(value, path, owner, name, (), (), seen)
        ]

    @cached_property
    def named_modules(self) -> set[str]:
        """Modules that entries of dictionaries name, as `feature_info` does."""
        return {f"{n.path}.{text}" if n.path else text for n in self.numbers for text in n.beside}


def _held(model: nn.Module) -> Iterator[tuple[str, str, str, Any]]:
    """(module, owner, name, value) of all attributes of modules, then of the objects in these, and so on: an object
    in another one that a module holds as well describes that module."""
    level = []
    for path, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            told = nn_sources(module)
            level += [
                (path, path, name, value)
                for name, value in vars(module).items()
                if not (type(value) in _TEXTS or name in _OWN or name in told or name.startswith("_elastify"))
            ]
    seen: set[int] = set()
    while level:
        yield from level
        inner: list[tuple[str, str, str, Any]] = []
        for path, owner, name, value in level:
            own = getattr(value, "__dict__", None) if type(value) is not int and _is_plain_object(value) else None
            if type(own) is dict and id(value) not in seen:
                seen.add(id(value))
                where = f"{owner}.{name}" if owner else name
                inner += [(path, where, key, item) for key, item in own.items()]
        level = inner


def _is_plain_object(value: Any) -> bool:
    return (
        not isinstance(value, (str, bytes, tuple, list, dict, nn.Module, torch.Tensor, type))
        and type(value).__module__.partition(".")[0] not in _FOREIGN
    )


def _inside(
    value: Any, path: str, owner: str, name: str, index: tuple[int | str, ...], beside: tuple[str, ...], seen: set[int]
) -> Iterator[Number]:
    if type(value) is int:
        words = [name, *(step for step in index if isinstance(step, str))][::-1]
        words = words[:1] if beside else words  # the fields of a record are told by their own names
        telling = next((word for word in words if _SIZES.search(word)), words[0])
        if beside or _SIZES.search(telling) or _COUNTS.search(telling):
            yield Number(Attr(owner, name, index), path, telling, value, beside)
    elif isinstance(value, (tuple, list, dict)) and len(index) <= _MAX_DEPTH and len(value) <= _MAX_ITEMS:
        items = list(value.items() if isinstance(value, dict) else enumerate(value)) if id(value) not in seen else []
        seen.add(id(value))
        texts = tuple(item for _, item in items if isinstance(item, str)) if isinstance(value, dict) else ()
        for key, item in items:
            if isinstance(key, (int, str)):
                yield from _inside(item, path, owner, name, (*index, key), texts, seen)


@dataclass
class Metadata:
    """What follows from the layouts of a model for the numbers that no run has read.

    `known` are the attributes that runs have read, `roles` those of the elastic axes, `sums` the weights whose inputs a
    number counts. `sizes` maps the others to their layouts, `unclear` those that could mean several to all of these.
    """

    described: Described
    analysis: Analysis
    known: Mapping[Attr, Layout]
    roles: Mapping[int, str]
    sums: Mapping[Attr, Sequence[str]]
    sizes: dict[Attr, Layout] = field(default_factory=dict)
    unclear: dict[Attr, tuple[Layout, ...]] = field(default_factory=dict)

    def match(self) -> Metadata:
        """Fill `sizes` and `unclear`; what modules say of themselves helps to read what objects say of many."""
        for number in sorted(self.described.numbers, key=lambda number: number.shared):
            name = number.name
            if number.value < 2 or not _SIZES.search(name) or _OTHERS.search(name) or self.is_used(number):
                continue
            found = next(filter(None, self.candidates(number)), set())
            if len(found) != 1:
                found = self.together(number) or found
            if len(found) > 1:  # units times a fixed number (the pixels of a patch) are meant if nothing else can be
                found = {layout for layout in found if isinstance(layout, Axis) or self.moves(layout)} or found
            if len(found) > 1 and (_INNER.search(name) or _STREAM.search(name)):
                stream = not _INNER.search(name)
                found = {layout for layout in found if self.streams(layout) is stream} or found
            moving = {layout for layout in found if any(axis.id in self.roles for axis in axes_of(layout))}
            if moving and len(found) == 1:
                self.sizes[number.attr] = found.pop()
            elif moving:
                self.unclear[number.attr] = tuple(sorted(found, key=repr))
        return self

    def is_used(self, number: Number) -> bool:
        """Whether forward reads a number, by whatever path; what it compares of an object stays, too."""
        if not number.shared:
            return number.attr in self.known or number.attr in self.arguments
        attr = number.attr
        return (id(resolve(self.described.model, attr.owner)), attr.name, attr.index) in self.read

    def together(self, number: Number) -> set[Layout]:
        """The inputs of weights of which the model's library says that the number is their sum."""
        names = [name for name in self.sums.get(number.attr, ()) if name in self.analysis.graphs[0].tensors]
        parts = tuple(self.analysis.terms.resolve(self.analysis.tensor(name)[1]) for name in names)
        whole = Concat(parts) if len(parts) > 1 else next(iter(parts), None)
        return {whole} if whole is not None and whole.size == number.value else set()

    def moves(self, layout: Layout) -> bool:
        """Whether all parts of a layout are elastic."""
        return all(axis.id in self.roles for axis in axes_of(layout))

    def streams(self, layout: Layout) -> bool:
        """Whether a layout is of the stream that runs through several blocks."""
        return any(self.roles.get(axis.id) == "width" for axis in axes_of(layout))

    def candidates(self, number: Number) -> Iterator[set[Layout]]:
        """Layouts of the size of a number, from the closest place to the widest."""
        path, name, size = number.path, number.name, number.value
        named = [self.join(path, text) for text in number.beside]
        named = [module for module in named if module in self.calls]
        if named or (number.beside and len(number.attr.index) > 1):  # entries of a list are told by what they name
            yield from (self.of_size(self.results(module), size) for module in named)
            return
        yield (self.inherited_by_all if number.shared else self.inherited).get((path, name, size), set())
        kind = next((kind for kind, pattern in _FACTORS if pattern.search(name)), "")
        if kind:
            found = self.factors.get((kind, size), {})
            yield {layout for layout, tensors in found.items() if any(_within(tensor, path) for tensor in tensors)}
            return
        if "group" in name:  # as many as channels, or nothing that can be known
            yield self.of_size(self.passing(path), size)
            return
        if not number.shared:
            own = self.calls.get(path, [])
            if name.startswith(("in_", "input")):
                yield self.of_size([v for call in own for v in values((call.args, call.kwargs))], size)
            elif name.startswith("out"):
                yield self.of_size(self.results(path), size)
            yield self.of_size(self.passing(path), size)
            yield self.of_size(self.inside.get(path, []), size)
            children = [
                self.join(path, child) for child, _ in self.described.model.get_submodule(path).named_children()
            ]
            yield self.of_size([v for child in children for v in self.passing(child)], size)
        yield self.of_size([v for where, made in self.inside.items() if _within(where, path) for v in made], size)

    def join(self, path: str, name: str) -> str:
        return f"{path}.{name}" if path else name

    @cached_property
    def arguments(self) -> set[Attr]:
        """Attributes that operations were given: those that are no sizes (`dim`, `stride`) must stay."""
        return _attributes(
            expr for graph in self.analysis.graphs for call in graph.calls for expr in exprs((call.args, call.kwargs))
        )

    @cached_property
    def used(self) -> frozenset[Attr]:
        """Attributes that operations were given or that forward compares."""
        guards = (guard for graph in self.analysis.graphs for guard in graph.guards)
        return frozenset(self.arguments | _attributes(expr for guard in guards for expr in guard.args))

    @cached_property
    def read(self) -> set[tuple[int, str, tuple[int | str, ...]]]:
        """Attributes that forward computes with or compares, by the objects that hold them."""
        owners = ((resolve(self.described.model, attr.owner), attr) for attr in {*self.known, *self.used})
        return {(id(owner), attr.name, attr.index) for owner, attr in owners}

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
    def factors(self) -> dict[tuple[str, int], dict[Layout, list[str]]]:
        """Heads, groups of heads and units of heads, by kind and size, with the tensors that have them."""
        found: dict[tuple[str, int], dict[Layout, list[str]]] = {}

        def put(kind: str, layout: Layout) -> None:
            found.setdefault((kind, layout.size), {}).setdefault(layout, []).append(name)

        for name in self.analysis.graphs[0].tensors:
            for term in self.analysis.tensor(name):
                for layout in _pieces(self.analysis.terms.resolve(term)):
                    if isinstance(layout, Product):
                        *outer, last = layout.parts
                        put("head_dim", last)
                        put("groups", outer[0])
                        for start in range(len(outer)):
                            for stop in range(start + 1, len(outer) + 1):
                                put("heads", outer[start] if stop == start + 1 else Product(tuple(outer[start:stop])))
                    elif isinstance(layout, Axis) and layout.id in self.roles:
                        put(self.roles[layout.id], layout)
        return found

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
        return _by_name(self.known)

    @cached_property
    def inherited_by_all(self) -> dict[tuple[str, str, int], set[Layout]]:
        """The same, with those that modules show."""
        return _by_name({**self.sizes, **self.known})

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


def counts(
    described: Described, stages: Sequence[Stage], known: Iterable[Attr], guards: Iterable[Guard] = ()
) -> dict[Attr, tuple[str, ...]]:
    """Numbers of layers, and lists in shared objects with one entry per layer, with the containers that they follow.

    The closest elastic container of that many modules is meant, of several in one place the one that the name mentions
    (`decoder_layers`). A plain number of a shared object follows all that are left, which the longest of them decides.
    A number of a module that forward compares with every place in a container of its own, one after the other, is the
    place of a block, and counts those before it.
    """
    length = {s.container: len(resolve(described.model, s.container)._modules) for s in stages if not s.bypassed}
    words = {path: set(path.split(".")) for path in length}
    common = set.intersection(*words.values()) if len(words) > 1 else set()

    def fitting(path: str, name: str, many: int) -> tuple[str, ...]:
        found = [container for container, n in length.items() if n == many and _within(container, path)]
        found = [container for container in found if container.rpartition(".")[0] == path] or found
        named = [container for container in found if any(word in name for word in words[container] - common)]
        return tuple(named or found)

    used, found = set(known), {}
    for number in described.numbers if length else ():
        whole = number.shared and not number.attr.index
        speaks = _COUNTS.search(number.name) and not _OTHERS.search(number.name) and not number.beside
        if speaks and len(number.attr.index) < 2 and (whole or number.attr not in used):
            containers = fitting(number.path, number.name, number.value)
            if len(containers) == 1 or (containers and whole):
                found[number.attr] = containers
    compared: dict[Attr, set[int]] = {}
    for guard in guards if length else ():
        attr, place = guard.args if len(guard.args) == 2 else (None, None)
        if isinstance(attr, Attr) and not attr.index and type(place) is int:
            compared.setdefault(attr, set()).add(place)
    for attr, places in compared.items():
        own = [container for container in length if container.rpartition(".")[0] == attr.owner]
        own = [container for container in own if places.issuperset(range(length[container]))]
        if len(own) == 1:
            found.setdefault(attr, tuple(own))
    for path, owner, name, value in described.attributes if length else ():
        if owner != path and type(value) is list and not _OTHERS.search(name):
            containers = fitting(path, name, len(value))
            if containers:
                found[Attr(owner, name)] = containers
    return found


def _attributes(found: Iterable[Expr]) -> set[Attr]:
    return {leaf for expr in found for leaf in leaves(expr) if isinstance(leaf, Attr)}


def _by_name(attributes: Mapping[Attr, Layout]) -> dict[tuple[str, str, int], set[Layout]]:
    found: dict[tuple[str, str, int], set[Layout]] = {}
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


def _within(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")
