"""Numbers that only code reads which no run has taken: a branch for longer inputs, attention that is not fused.

A module holds them in attributes, and in objects and dictionaries there. Where one stands says which modules it may
speak of: an attribute of its own module, or of what is around that where no run has called it; an entry of an object or
a dictionary of all modules from there on. The code of the model tells which words it reads, and where.

A whole number of such code that equals an elastic size of these modules may be this size, and may be anything. Where
its name does not say it (`numbers`), it stays, and is listed with the line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from elastify._capture import Code
from elastify._ir import Attr, axes_of, enclosing
from elastify._plan.described import COUNTS, Described, within
from elastify._plan.numbers import Numbers
from elastify._plan.operands import may_be_a_size


@dataclass(frozen=True, slots=True)
class Place:
    """Where a number stands in the module at `path`, of class `kind`; `shared` if in an object or dictionary there."""

    attr: Attr
    path: str
    kind: type
    shared: bool

    @property
    def word(self) -> str:
        """What code reads it by."""
        return str(self.attr.index[-1]) if self.attr.index else self.attr.name

    def read(self, code: Code) -> str:
        """The line that reads it, if one does, and what holds it."""
        if not self.shared:
            return code.line(self.kind, self.word)
        holder = self.attr.name if self.attr.index else self.attr.owner.rpartition(".")[2]
        return code.line(None, holder) and code.line(None, self.word)

    def modules(self, known: Collection[str]) -> list[str]:
        """The modules of which it may speak, of those that have run."""
        if self.shared:
            return [path for path in known if within(path, self.path)]
        return [path for path in (*reversed(enclosing(self.path)), "") if path in known][:1]


def held(described: Described) -> Iterator[tuple[Place, Any]]:
    """All that modules hold in attributes, in objects, in dictionaries and as buffers, with its place."""
    kinds = {path: type(module) for path, module in described.model.named_modules()}
    for path, owner, name, value in described.attributes:
        if type(value) is dict:
            for key, item in value.items():
                if type(key) is str:
                    yield Place(Attr(owner, name, (key,)), path, kinds[path], True), item
        yield Place(Attr(owner, name), path, kinds[path], owner != path), value
    for path, module in described.model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            yield Place(Attr(path, name), path, kinds[path], False), buffer


def unread_sizes(numbers: Numbers, code: Code, told: Collection[Attr], elastic: Collection[int]) -> dict[Attr, str]:
    """Whole numbers that may be elastic sizes and of which nothing else is `told`, with the line that reads them."""
    known, found = numbers.places.near, dict[Attr, str]()
    taken = {numbers.place(attr) for attr in {*told, *numbers.used}}
    for place, value in held(numbers.described):
        if type(value) is not int or not may_be_a_size(place.attr, value) or COUNTS.search(place.word):
            continue
        if numbers.place(place.attr) in taken:
            continue
        layouts = [numbers.places.of_size(known[path], value) for path in place.modules(known)]
        moving = any(axis.id in elastic for layout in set().union(*layouts) for axis in axes_of(layout))
        if moving and (line := place.read(code)):
            found[place.attr] = f"{value} may be a size, in a path that was not run ({line})"
    return found
