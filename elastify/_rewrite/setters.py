"""Integers and floats of modules that follow the active sizes.

`compile_setters` resolves every attribute of a plan once, to the dictionary that holds it, the ruler that measures it
and its original value; `Setters.apply` then writes the values that differ from what is there, in microseconds.
Numbers inside tuples, lists and dicts are written by rebuilding the tuple or updating the list or dict in place.
`NN_ATTRIBUTES` says which numbers torch.nn modules show but never use (`in_features`); it is the only such list.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from elastify._capture import get_in, holder, put_in, resolve
from elastify._errors import ElastifyError
from elastify._ir import Attr, Layout, Plan
from elastify._plan import nn_sources, spellings
from elastify._rewrite.slices import Ruler

"""The first class that a module is an instance of counts."""


@dataclass(slots=True)
class Setter:
    """One attribute: the size that `ruler` measures, `convert`ed where it is not that size itself."""

    attr: Attr
    where: MutableMapping[str, Any]
    original: Any
    ruler: Ruler
    convert: Callable[[int, Mapping[int, int], Collection[int]], Any] | None = None


class Setters:
    """All the attributes of one model that follow its sizes."""

    def __init__(self, setters: list[Setter]) -> None:
        self.all = setters
        self.rulers = list(dict.fromkeys(setter.ruler for setter in setters))
        place = {ruler: i for i, ruler in enumerate(self.rulers)}
        # whether nested, where, name, index, original value, position of its ruler, conversion: read in one tight loop
        self._rows = [
            (bool(s.attr.index), s.where, s.attr.name, s.attr.index, s.original, place[s.ruler], s.convert)
            for s in setters
        ]

    def apply(self, sizes: Mapping[int, int], gone: Collection[int] = ()) -> None:
        """Give every attribute the value that belongs to `sizes`; no sizes restore the originals. `gone` are axes that
        only blocks have which are left out."""
        if sizes:
            measured = [ruler.size(sizes) for ruler in self.rulers]
            values = [row[6](measured[row[5]], sizes, gone) if row[6] else measured[row[5]] for row in self._rows]
        else:
            values = [row[4] for row in self._rows]
        for (nested, where, name, index, *_), value in zip(self._rows, values, strict=True):
            if nested:
                if get_in(where[name], index) != value:
                    where[name] = put_in(where[name], index, value)
            elif where[name] != value or not sizes:
                where[name] = value

    def changed(self) -> Iterator[tuple[Attr, int | float]]:
        """Attributes that differ from their originals now."""
        for setter in self.all:
            value = get_in(setter.where[setter.attr.name], setter.attr.index)
            if value != setter.original:
                yield setter.attr, value


def compile_setters(
    root: nn.Module, plan: Plan, ruler: Callable[[Layout], Ruler], originals: dict[Attr, Any]
) -> Setters:
    """Resolve the attributes of `plan` in `root`, and the numbers that torch.nn modules show of their tensors.

    `originals` is filled on first use and obeyed afterwards.
    """
    setters: list[Setter] = []
    for attr, layout in plan.attributes.items():
        measure = ruler(layout)
        where, original = _original(root, attr, originals)
        if isinstance(original, bool) or not isinstance(original, int) or original != measure.full:
            raise ElastifyError(f"attribute {attr} is {original!r}", why=f"the plan says that it is {measure.full}")
        setters.append(Setter(attr, where, original, measure))
    for attr, layouts in plan.unclear.items():
        where, original = _original(root, attr, originals)
        rulers = [ruler(layout) for layout in layouts]
        setters.append(Setter(attr, where, original, rulers[0], _if_equal(rulers, original)))
    for attr, (layout, power) in plan.scales.items():
        where, original = _original(root, attr, originals)
        measure = ruler(layout)
        setters.append(Setter(attr, where, original, measure, _scale(measure.full, power, original)))
    known = {setter.attr for setter in setters}
    return Setters([*setters, *(s for s in _nn_setters(plan, ruler, originals, root) if s.attr not in known)])


def _original(root: nn.Module, attr: Attr, originals: dict[Attr, Any]) -> tuple[MutableMapping[str, Any], Any]:
    where = holder(resolve(root, attr.owner), attr.name)
    if attr not in originals:
        try:
            originals[attr] = get_in(where[attr.name], attr.index)
        except (AttributeError, KeyError, IndexError, TypeError):
            raise ElastifyError(f"the model has no attribute {attr}", why="the plan is of another model") from None
    return where, originals[attr]


def _if_equal(rulers: list[Ruler], original: int) -> Callable[[int, Mapping[int, int], Collection[int]], int]:
    """The size that all rulers measure of what is there, else the original."""

    def convert(_: int, sizes: Mapping[int, int], gone: Collection[int]) -> int:
        found = {ruler.size(sizes) for ruler in rulers if ruler.ids.isdisjoint(gone)}
        return found.pop() if len(found) == 1 else original

    return convert


def _scale(full: int, power: float, original: float) -> Callable[[int, Mapping[int, int], Collection[int]], float]:
    exact = original == full**power  # what a fresh model would compute, to the last bit

    def convert(size: int, *_: Any) -> float:
        if size == full:
            return original
        return size**power if exact else original * (size / full) ** power

    return convert


def _nn_setters(
    plan: Plan, ruler: Callable[[Layout], Ruler], originals: dict[Attr, Any], root: nn.Module
) -> Iterator[Setter]:
    seen: set[str] = set()
    for tensor in (*plan.tensors, *plan.aliases):
        # "a.weight" is shown by a; so are "a.parametrizations.weight.original" and, in attention, "a.out_proj.weight"
        path = tensor.rpartition(".")[0]
        for owner in (path, tensor.partition(".parametrizations.")[0], path.rpartition(".")[0]):
            module = None if owner in seen or owner == tensor else resolve(root, owner)
            seen.add(owner)
            for name, source in nn_sources(module).items() if isinstance(module, nn.Module) else ():
                layouts = _layouts(plan, owner, source.tensor)
                if len(layouts) <= source.dim or type(module.__dict__.get(name)) is not int:
                    continue
                attr = Attr(owner, name)
                where, original = _original(root, attr, originals)
                times = plan.attributes.get(Attr(owner, source.times)) if source.times else None
                factor = ruler(times) if times is not None else int(where.get(source.times, 1))
                convert = None if factor == source.over == 1 else _shown(factor, source.over)
                yield Setter(attr, where, original, ruler(layouts[source.dim]), convert)


def _layouts(plan: Plan, owner: str, tensor: str) -> tuple[Layout, ...]:
    for spelling in spellings(tensor):
        name = f"{owner}.{spelling}" if owner else spelling
        found = plan.tensors.get(plan.aliases.get(name, name))
        if found is not None:
            return found
    return ()


def _shown(factor: int | Ruler, over: int) -> Callable[[int, Mapping[int, int], Collection[int]], int]:
    def convert(size: int, sizes: Mapping[int, int], _: Collection[int]) -> int:
        return size * (factor if isinstance(factor, int) else factor.size(sizes)) // over

    return convert
