"""Integers and floats of modules that follow the active sizes.

`compile_setters` resolves every attribute of a plan once, to the dictionary that holds it, the ruler that measures it
and its original value; `Setters.apply` then writes the values that differ from what is there, in microseconds.
Numbers inside tuples, lists and dicts are written by rebuilding the tuple or updating the list or dict in place.

Most numbers are a size. A scale is a power of one, and stays the original to the last bit at the full size. A number
that fits several layouts follows them while they are equal: with `dim` 64 and layouts of 64 and 64, sizes of 32 and 32
make it 32, sizes of 32 and 48 leave it at 64. What torch.nn modules show of their tensors (`in_features`) follows too.
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

Number = int | float
Convert = Callable[[int, Mapping[int, int], Collection[int]], Number]
"""From the size that a ruler measures, the sizes of axes, and axes that only blocks left out have, to the number."""


@dataclass(slots=True)
class Setter:
    """One attribute: the size that `ruler` measures, `convert`ed where it is not that size itself."""

    attr: Attr
    where: MutableMapping[str, Any]
    original: Number
    ruler: Ruler
    convert: Convert | None = None


class Setters:
    """All the attributes of one model that follow its sizes."""

    def __init__(self, setters: list[Setter]) -> None:
        self._setters = setters
        self._rulers = list(dict.fromkeys(setter.ruler for setter in setters))
        place = {ruler: i for i, ruler in enumerate(self._rulers)}
        # position of the ruler and conversion; whether nested, where, name and index: read in tight loops
        self._sources = [(place[s.ruler], s.convert) for s in setters]
        self._places = [(bool(s.attr.index), s.where, s.attr.name, s.attr.index) for s in setters]
        self._originals = [s.original for s in setters]

    def apply(self, sizes: Mapping[int, int], left_out: Collection[int] = ()) -> None:
        """Give every attribute the value that belongs to `sizes`; no sizes restore the originals.

        `left_out` are axes that only blocks have which are left out.
        """
        values = self._originals
        if sizes:
            measured = [ruler.size(sizes) for ruler in self._rulers]
            values = [convert(measured[i], sizes, left_out) if convert else measured[i] for i, convert in self._sources]
        for (nested, where, name, index), value in zip(self._places, values, strict=True):
            if nested:
                if get_in(where[name], index) != value:
                    where[name] = put_in(where[name], index, value)
            elif where[name] != value or not sizes:
                where[name] = value

    def changed(self) -> Iterator[tuple[Attr, Number]]:
        """Attributes that differ from their originals now."""
        for setter in self._setters:
            value = get_in(setter.where[setter.attr.name], setter.attr.index)
            if value != setter.original:
                yield setter.attr, value


def compile_setters(
    root: nn.Module, plan: Plan, ruler: Callable[[Layout], Ruler], originals: dict[Attr, Number]
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


def _original(root: nn.Module, attr: Attr, originals: dict[Attr, Number]) -> tuple[MutableMapping[str, Any], Number]:
    """The dictionary that holds an attribute, and what it was at first."""
    where = holder(resolve(root, attr.owner), attr.name)
    if attr not in originals:
        try:
            originals[attr] = get_in(where[attr.name], attr.index)
        except (AttributeError, KeyError, IndexError, TypeError):
            raise ElastifyError(f"the model has no attribute {attr}", why="the plan is of another model") from None
    return where, originals[attr]


def _if_equal(rulers: list[Ruler], original: Number) -> Convert:
    """The size that all rulers measure of what is there, else the original."""

    def convert(_: int, sizes: Mapping[int, int], left_out: Collection[int]) -> Number:
        found = {ruler.size(sizes) for ruler in rulers if ruler.ids.isdisjoint(left_out)}
        return found.pop() if len(found) == 1 else original

    return convert


def _scale(full: int, power: float, original: float) -> Convert:
    """The size to a power; of a scale that was something else at the full size, the same share of it."""
    exact = original == full**power  # what a fresh model would compute, to the last bit

    def convert(size: int, _: Mapping[int, int], __: Collection[int]) -> float:
        if size == full:
            return original
        return size**power if exact else original * (size / full) ** power

    return convert


def _nn_setters(
    plan: Plan, ruler: Callable[[Layout], Ruler], originals: dict[Attr, Number], root: nn.Module
) -> Iterator[Setter]:
    """What torch.nn modules show of the tensors of the plan."""
    owners: dict[str, None] = {}
    for tensor in (*plan.tensors, *plan.aliases):
        # "a.weight" is shown by a; so are "a.parametrizations.weight.original" and, in attention, "a.out_proj.weight"
        path = tensor.rpartition(".")[0]
        paths = (path, tensor.partition(".parametrizations.")[0], path.rpartition(".")[0])
        owners.update((plan.first_name(owner), None) for owner in paths if owner != tensor)
    for owner in owners:
        module = resolve(root, owner)
        if not isinstance(module, nn.Module):
            continue
        for name, source in nn_sources(module).items():
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
    """The layouts of a tensor that a module calls by this name, however it is stored; none where all of it stays."""
    for spelling in spellings(tensor):
        name = f"{owner}.{spelling}" if owner else spelling
        found = plan.tensors.get(plan.aliases.get(name, name))
        if found is not None:
            return found
    return ()


def _shown(factor: int | Ruler, over: int) -> Convert:
    """The size times a factor, divided by a number: `in_channels` of a grouped convolution."""

    def convert(size: int, sizes: Mapping[int, int], _: Collection[int]) -> int:
        return size * (factor if isinstance(factor, int) else factor.size(sizes)) // over

    return convert
