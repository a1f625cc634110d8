"""What forward writes to buffers while a subnet is active.

A subnet sees its part of a buffer. Where the part is a view of the stored tensor, what is written to it in place is
stored. Often it is a copy: of four heads of three units, `[0 1 2 3 4 5 6 7 8 9 10 11]`, three heads of two units are
`[0 1 3 4 6 7]`, and no view has these six in a row. Then every question during a pass is answered with the same copy,
and when the pass ends it is put back to its places; the others stay as they are. So is a tensor that forward puts in
the place of the buffer (`self.ema = ...`): it is the part from then on, of a stored tensor of its own.

Some buffers are caches that grow with the inputs, a table with a row for each position. One that has grown while a
subnet is active is that subnet's: when another becomes active, the stored table is there again, and so are the whole
numbers that its module held, which tell how long it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from elastify._errors import ElastifyError
from elastify._rewrite.slices import Ruler, Slice


@dataclass(slots=True)
class Part:
    """What `cut` keeps of a stored tensor, and the versions of both when it was made; what forward has
    `assigned` is put back in any case."""

    stored: Tensor
    cut: Slice
    value: Tensor
    versions: tuple[int, int]
    assigned: bool = False

    @staticmethod
    def of(stored: Tensor, cut: Slice, value: Tensor, *, assigned: bool = False) -> Part:
        """The part as it is now."""
        return Part(stored, cut, value, (_version(stored), _version(value)), assigned)

    def is_of(self, stored: Tensor) -> bool:
        """Whether it is still a part of this tensor: a view, or a copy since which nobody else has changed that."""
        if self.is_view or is_dynamo_compiling():
            return self.stored is stored
        return self.stored is stored and _version(stored) == self.versions[0]

    @property
    def is_view(self) -> bool:
        """Whether what is written to it is stored already."""
        return not self.cut.copies and not self.assigned

    def put_back(self, *, silently: bool) -> None:
        """Write what has changed to its places; what `silently` changes through `.data` has no other version."""
        changed = self.assigned or is_dynamo_compiling() or _version(self.value) != self.versions[1]
        if (changed or silently) and not self.is_view and self.is_of(self.stored):
            self.cut.put(self.stored if changed else self.stored.data, self.value.detach())


@dataclass(slots=True)
class Grown:
    """A buffer of a module, `stored` for all choices, in whose place forward puts one of another size."""

    module: nn.Module
    local: str
    stored: Tensor | None


@dataclass
class Buffers:
    """What one active choice has of the buffers that it shares with the others, by canonical name; as an object with
    ordinary attributes, which a capture puts back to what they were.

    `numbers` are the whole numbers of modules whose buffers may grow, as they were when the choice became active.
    """

    parts: dict[str, Part] = field(default_factory=dict)
    grown: dict[str, Grown] = field(default_factory=dict)
    numbers: list[tuple[nn.Module, dict[str, int]]] = field(default_factory=list)

    def remember(self, modules: Iterable[nn.Module]) -> None:
        """Note the whole numbers of these modules."""
        self.numbers = [(m, {k: v for k, v in vars(m).items() if type(v) is int}) for m in modules]

    def seen(self, name: str, stored: Tensor, cut: Slice, written: frozenset[str]) -> Tensor:
        """The part of a buffer that a subnet sees; `written` are those that forward is known to write."""
        part = self.parts.get(name)
        if part is not None and part.is_of(stored):
            return part.value
        value = cut(stored)
        if name in written or (cut.copies and not is_dynamo_compiling() and not value.is_inference()):
            self.parts[name] = Part.of(stored, cut, value)
        return value

    def put_back(self, written: frozenset[str]) -> None:
        """Store what the pass has written."""
        with torch.no_grad():
            for name, part in self.parts.items():
                part.put_back(silently=name in written)
        self.parts.clear()

    def shrink(self) -> None:
        """Let buffers that have grown, and the numbers beside them, be again what they were."""
        modules = {id(one.module) for one in self.grown.values()}
        for one in self.grown.values():
            one.module._buffers[one.local] = one.stored
        for module, numbers in self.numbers:
            if id(module) in modules:
                vars(module).update(numbers)
        self.grown.clear()

    def assign(
        self,
        place: Grown,
        name: str,
        value: Any,
        cut: Slice | None,
        sizes: list[int | None],
        register: Callable[[Tensor], None],
    ) -> None:
        """Forward puts `value` in the place of a buffer, of which the subnet has `cut` (if there is one now); `sizes`
        are those that it must have, None where it can grow. `register` makes a tensor the buffer."""
        fits = isinstance(value, Tensor) and len(sizes) == value.dim()
        same = fits and name not in self.grown
        if same and cut is not None and place.stored is not None and tuple(value.shape) == cut.shape:
            stored = place.stored.detach().clone()  # what was there is as it was, also for a graph that has kept it
            register(stored)
            self.parts[name] = Part.of(stored, cut, value, assigned=True)
        else:
            given = value.shape if fits else sizes
            free = [n if size is None else size for size, n in zip(sizes, given, strict=True)]
            check_replaced(place.module, place.local, value, free)
            self.parts.pop(name, None)
            self.grown.setdefault(name, place)
            register(value)


def check_replaced(module: nn.Module, local: str, value: Any, shape: Sequence[int | None]) -> None:
    """Refuse to put anything but a tensor of a shape in the place of a buffer."""
    if not isinstance(value, Tensor) or list(value.shape) != list(shape):
        what = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise not_replaced(module, local, f"it must have shape {list(shape)} there, and would be {what}")


def not_replaced(module: nn.Module, local: str, why: str) -> ElastifyError:
    """The error for a buffer that cannot be replaced now."""
    return ElastifyError(
        f"{local!r} cannot be replaced while a subnet is active",
        where=type(module).__name__,
        why=why,
        fix="activate(model, None), then change it",
    )


def remembered(tables: Iterable[tuple[dict[str, Any], Iterable[str]]]) -> Callable[[], None]:
    """What puts the tensors of these names in these tables back to what they are now.

    >>> model = nn.BatchNorm1d(2)
    >>> put_back = remembered([(model._buffers, list(model._buffers))])
    >>> _ = model(torch.randn(4, 2))
    >>> put_back()
    >>> model.running_mean
    tensor([0., 0.])
    """
    places = [(table, name, table[name]) for table, names in tables for name in names]
    values = [None if tensor is None else tensor.detach().clone() for _, _, tensor in places]

    def put_back() -> None:
        with torch.no_grad():
            for (table, name, tensor), value in zip(places, values, strict=True):
                table[name] = tensor  # forward may have put another one there
                if tensor is not None:
                    tensor.copy_(value)

    return put_back


def growing_sizes(rulers: Iterable[Ruler], sizes: Mapping[int, int], axes: Collection[int]) -> list[int | None]:
    """Active sizes of the dimensions that have an elastic axis; None for the others.

    >>> from elastify._ir import Axis
    >>> growing_sizes([Ruler(Axis(0, 4)), Ruler(Axis(1, 6))], {0: 3}, {0})
    [3, None]
    """
    return [None if ruler.ids.isdisjoint(axes) else ruler.size(sizes) for ruler in rulers]


def _version(tensor: Tensor) -> int:
    """How often a tensor has been changed in place; not known of what is compiled."""
    return -1 if is_dynamo_compiling() or tensor.is_inference() else tensor._version
