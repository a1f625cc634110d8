"""The record of one run of a model: plain data, no torch.

A `Graph` lists the tensor operations of one forward pass in order. Tensors are `Value`s, numbered from 0 in
the order of their appearance; a `RecordedCall` is one operation with its arguments as they were passed (every tensor
replaced by its `Value`, every integer left as it was, so that an `Int` still carries its expression).
`ModuleCall`s say which slice of the calls ran inside which module, with the values that went in and out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from elastify._ir.ints import Attr, Guard
from elastify._ir.trees import inside


@dataclass(slots=True, eq=False)
class Value:
    """A tensor: `name` is that of the parameter, buffer or input it is, else empty."""

    id: int
    shape: tuple[int, ...]
    dtype: str = "float32"
    name: str = ""

    def __repr__(self) -> str:
        return f"%{self.id}{self.name and ':' + self.name}{list(self.shape)}"


@dataclass(slots=True, eq=False)
class RecordedCall:
    """One operation: `out` has the structure of what it returned, tensors replaced by values.

    `op` is the canonical lower-case name: a method, a functional and an operator of one meaning share it
    (`x + y`, `x.add(y)`, `torch.add(x, y)`: `add`). In-place forms lose their trailing underscore (`relu_` is
    `relu`) and are marked by `inplace`; the tensor changed in place is a new value from then on. ATen operations
    that ran behind the back of the recorder (scripted functions, vmap) are `unseen:aten.name`, calls with `out=`
    end in `.out`. `where` is the module path, `source` the file:line of the caller.
    """

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    where: str = ""
    source: str = ""
    inplace: bool = False
    _given: list[Value] | None = None  # both read once, when a record is complete
    _made: list[Value] | None = None

    def inputs(self) -> list[Value]:
        if self._given is None:
            self._given = [*values(self.args), *values(self.kwargs)]
        return self._given

    def outputs(self) -> list[Value]:
        if self._made is None:
            self._made = list(values(self.out))
        return self._made

    def __repr__(self) -> str:
        return f"{self.out} = {self.op}{self.args}{self.kwargs or ''} @{self.where} {self.source}"


@dataclass(slots=True, eq=False)
class ModuleCall:
    """One call of one module: `calls[start:stop]` of the graph ran inside it (submodules included)."""

    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    start: int
    stop: int


@dataclass(slots=True, eq=False)
class Graph:
    """One captured run. `tensors` maps every parameter and buffer name to its value; tied names share one.

    `constants` are tensors from outside: plain attributes, closure variables, results of functions that torch
    cannot see. `caches` are attributes in which forward left tensors, and numbers that tell how large these are;
    `assigned` are the values that it put in the place of buffers of the same shape, by their names. `asked` is what
    forward asked of tensors besides their sizes, each question (what, module path, line) with the answers (None: others
    than yes and no). `inputs` and `outputs` are flat; the root's
    `ModuleCall` (path "") has their structure. `uncut` are sparse tensors, of which no part can be taken. `training` is
    the mode of the run, `real` whether it had real tensors, `apart` whether it is one that the proofs do not repeat:
    what only it uses keeps its sizes. `example` is the number of the example that it ran, `other` whether it is more
    than one call of forward.
    """

    calls: list[RecordedCall] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    tensors: dict[str, Value] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    constants: list[Value] = field(default_factory=list)
    modules: list[ModuleCall] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    caches: list[Attr] = field(default_factory=list)
    uncut: list[Value] = field(default_factory=list)
    assigned: dict[str, Value] = field(default_factory=dict)
    asked: dict[tuple[str, str, str], set[bool | None]] = field(default_factory=dict)
    training: bool = False
    real: bool = False
    apart: bool = False
    example: int = 0
    other: bool = False

    def used(self) -> set[str]:
        """Names of the parameters and buffers that operations are given."""
        met = {value.id for call in self.calls for value in call.inputs()}
        return {name for name, value in self.tensors.items() if value.id in met}

    def results(self, hidden: Collection[str]) -> Iterator[Value]:
        """What the model returned, each time it was called, without the entries of dictionaries that are `hidden`."""
        for out in (call.out for call in self.roots):
            yield from values({k: v for k, v in out.items() if k not in hidden} if isinstance(out, dict) else out)

    @property
    def roots(self) -> list[ModuleCall]:
        """The calls of the model itself: one, but for a run that goes on with what another has left."""
        found: list[ModuleCall] = []
        for call in self.modules:
            if call.path == "" and (not found or call.start >= found[-1].stop):
                found.append(call)
        return found


def values(tree: Any) -> Iterator[Value]:
    """Every value inside nested tuples, lists, dicts and slices, in order."""
    return iter(inside(tree, Value))


@lru_cache(maxsize=1 << 14)
def enclosing(path: str) -> tuple[str, ...]:
    """A path and those of the modules around it.

    >>> enclosing("blocks.0.fc")
    ('blocks', 'blocks.0', 'blocks.0.fc')
    """
    names = path.split(".")
    return tuple(".".join(names[:i]) for i in range(1, len(names) + 1))
