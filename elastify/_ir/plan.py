"""What the analysis concludes and everything else obeys: the plan of a model.

A `Plan` is plain, frozen data about names, layouts and expressions. It mentions no module objects, so one
plan serves a model and all its copies. Which subnet is meant says a `Choice`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from elastify._ir.ints import Attr, Op
from elastify._ir.layout import Layout

SizeExpr = Layout | Op | int
"""An expression whose leaves are sizes of layouts (a tree of `Op`)."""


@dataclass(frozen=True, slots=True)
class ElasticAxis:
    """A family of coupled dimensions that may keep fewer units.

    `choices` are legal sizes in ascending order, the last is the full size. `members` lists the (tensor name,
    dimension) pairs that the axis runs through. `role` is one of heads, head_dim, groups, hidden, rank, width.
    `former` are the names that earlier versions gave (see `naming.FORMER`). One that stays `whole` keeps its full size
    unless a pattern names it: coarser axes take the shares of its dimensions (see `shares`).
    """

    id: int
    name: str
    size: int
    choices: tuple[int, ...]
    role: str = "hidden"
    members: tuple[tuple[str, int], ...] = ()
    former: tuple[str, ...] = ()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Constraint:
    """A comparison that the full network made: `fn(*args)` of the operator module must give `result` again."""

    fn: str
    args: tuple[SizeExpr, ...]
    result: bool | int
    source: str = ""


@dataclass(frozen=True, slots=True)
class Skip:
    """A block left out of a recorded run: calls `start:stop` are not made, and `instead` gives for each value that
    they passed on (by its number) the one that takes its place. `later` are calls of a second loop that are left out
    with it."""

    start: int
    stop: int
    instead: tuple[tuple[int, int], ...] = ()
    later: tuple[int, int] = (0, 0)

    def calls(self) -> list[int]:
        """Numbers of the calls that are left out."""
        return [*range(self.start, self.stop), *range(*self.later)]


@dataclass(frozen=True, slots=True)
class Stage:
    """Repeated blocks of which a prefix may be kept (`blocks` are module paths; the first always stays).

    `container` is the path of the module that holds them. `choices` are legal numbers of blocks. Where blocks are
    `bypassed`, one that is left out stays in its place and returns its input; others are removed from their container.
    `skips` tells of every block but the first what leaving it out does to the recorded runs in which it ran, by their
    numbers. `prefix` says why no others
    than the first blocks can be kept, in numbers that are all proven ("": any selection can be).
    """

    name: str
    container: str
    blocks: tuple[str, ...]
    choices: tuple[int, ...]
    bypassed: bool = False
    skips: Mapping[str, Mapping[int, Skip]] = field(default_factory=dict, compare=False)
    prefix: str = ""

    def allows(self, kept: Sequence[int]) -> bool:
        """Whether these blocks, by their indices, may be the ones that are kept."""
        ordered = list(kept) == sorted(set(kept)) and list(kept[:1]) == [0] and kept[-1] < len(self.blocks)
        return ordered and len(kept) in self.choices and not (self.prefix and kept[-1] >= len(kept))


@dataclass(frozen=True, slots=True)
class FrozenDim:
    """A parameter dimension that stays as it is: why, as one line with module path and source."""

    tensor: str
    dim: int
    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class RigidBlocks:
    """Blocks that all stay though they look as if they could go: why, as one line."""

    container: str
    blocks: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """`tensors` maps each affected parameter or buffer (canonical name) to the layout of each dimension.
    `aliases` maps other names of a shared tensor to the canonical one. `attributes` gives the layout whose
    active size an integer attribute must equal; `scales` the float attributes that equal size ** power.
    `caches` are attributes in which forward leaves tensors for later. Of the buffers that forward itself writes,
    `statistics` belong to a configuration (batch-norm running statistics), all others that it is known to write
    (`written`) are shared like weights. `used` are the integer attributes that forward computes with.
    `matched` are those of the `attributes` that no dimension shows, `unclear` others that fit several layouts and
    follow them while they are equal, `staying` those that tensors meet and that may be sizes but stay, with a place.
    `branches` are those of which the recorded runs took one side, as text.
    `counts` gives the containers whose blocks an integer counts, or a list describes.
    `paths` maps a container to an axis and, for each of its sizes from 1 on, the indices of the children that run.
    `summed` are (tensor name, dimension) that every operation on the tensor sums over: they take units in.
    `twins` gives the first path of modules under their other paths.
    `alongside` are modules and tensors that only rounds of some blocks use, though they lie elsewhere, with these
    blocks: they are gone where all of those are.
    """

    axes: tuple[ElasticAxis, ...] = ()
    stages: tuple[Stage, ...] = ()
    tensors: Mapping[str, tuple[Layout, ...]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[Attr, Layout] = field(default_factory=dict)
    scales: Mapping[Attr, tuple[Layout, float]] = field(default_factory=dict)
    constraints: tuple[Constraint, ...] = ()
    caches: tuple[Attr, ...] = ()
    statistics: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()
    used: frozenset[Attr] = frozenset()
    frozen: tuple[FrozenDim, ...] = ()
    rigid: tuple[RigidBlocks, ...] = ()
    matched: frozenset[Attr] = frozenset()
    unclear: Mapping[Attr, tuple[Layout, ...]] = field(default_factory=dict)
    staying: Mapping[Attr, str] = field(default_factory=dict)
    branches: tuple[str, ...] = ()
    counts: Mapping[Attr, tuple[str, ...]] = field(default_factory=dict)
    summed: frozenset[tuple[str, int]] = frozenset()
    paths: Mapping[str, tuple[int, tuple[tuple[int, ...], ...]]] = field(default_factory=dict)
    twins: Mapping[str, str] = field(default_factory=dict)
    alongside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def first_name(self, name: str) -> str:
        """The first name of a module or tensor: what lies in a module that has several, has as many.

        >>> Plan(twins={"encoder.net": "net"}).first_name("encoder.net.0.weight")
        'net.0.weight'
        """
        outer = name if self.twins else ""
        while outer:
            if outer in self.twins:
                return self.twins[outer] + name[len(outer) :]
            outer = outer.rpartition(".")[0]
        return name

    def beside(self, blocks: Collection[str]) -> tuple[str, ...]:
        """What goes with some of these blocks though it lies elsewhere."""
        return tuple(path for path, own in self.alongside.items() if not set(own).isdisjoint(blocks))

    def blocks_around(self) -> dict[int, set[tuple[int, int]]]:
        """By call of the first run, the blocks (stage, index) that take it along: it, or its round of a loop, is in
        them."""
        found: dict[int, set[tuple[int, int]]] = {}
        for number, stage in enumerate(self.stages):
            for block, path in enumerate(stage.blocks):
                skip = stage.skips.get(path, {}).get(0) if block else None
                for call in skip.calls() if skip else ():
                    found.setdefault(call, set()).add((number, block))
        return found
