"""Networks whose classes take their widths: a tree of nodes, built by its constructors at any numbers.

A part is a module class as people write them: `__init__` takes whole numbers and options, `LAYERS` says for each of its
layers which of the numbers its dimensions are made of (`units`). `@part` registers what it takes and gives, and from
what its own numbers are drawn. A `Node` is a part with the names of its numbers, `children` those that it runs.

`build` makes the network at some numbers. `smaller` is the tree without some of its nodes, each with the path that it
had, and `weights` are the tensors that the smaller network takes from the larger one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from .units import Units, cut, read, tensors_of

WIDTHS = (3, 4, 5, 6, 7, 8, 9, 10, 12)
HEADS, DIMS = (2, 3, 4), (5, 6, 8)  # never equal, so that an axis can be told from the other of its product


class Part(nn.Module):
    """`masked`: forward takes the mask, too. `LAYERS`: dimensions by layer; `"x.*"` has one for each child.
    `STATISTICS`: buffers that a configuration has for itself. `CACHES`: buffers that forward fills again."""

    masked: ClassVar[bool] = False
    LAYERS: ClassVar[Mapping[str, str]] = {}
    STATISTICS: ClassVar[tuple[str, ...]] = ()
    CACHES: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Kind:
    """A registered part. `own` are its numbers with what they are drawn from, `options` the rest that it takes; `out`
    is the width that it gives. It takes the numbers of its stream as `width` and, where it is `split`, `heads`.
    `children` is how many it has; `fixed` means that it runs at one size of its input alone."""

    made: type[Part]
    takes: tuple[str, ...]
    gives: str
    out: str
    own: Mapping[str, tuple[int, ...]]
    options: Mapping[str, tuple[Any, ...]]
    split: bool
    children: tuple[int, ...]
    fixed: bool


KINDS: dict[str, Kind] = {}
Class = TypeVar("Class", bound=type[Part])


def part(
    takes: str,
    gives: str = "",
    *,
    out: str = "width",
    options: Mapping[str, tuple[Any, ...]] | None = None,
    split: bool = False,
    children: tuple[int, ...] = (),
    fixed: bool = False,
    **own: tuple[int, ...],
) -> Callable[[Class], Class]:
    def register(made: Class) -> Class:
        KINDS[made.__name__] = Kind(made, tuple(takes.split()), gives, out, own, options or {}, split, children, fixed)
        return made

    return register


@dataclass(frozen=True)
class Node:
    """`numbers` are expressions of the names of the numbers of the network; `path` is where the full network has it."""

    kind: str
    numbers: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    children: tuple[Node, ...] = ()
    path: str = ""

    @property
    def part(self) -> type[Part]:
        return KINDS[self.kind].made

    def all(self) -> Iterator[Node]:
        yield self
        for child in self.children:
            yield from child.all()


def join(*names: str) -> str:
    return ".".join(filter(None, names))


def placed(node: Node, path: str = "") -> Node:
    """The tree with the paths of its nodes."""
    children = tuple(placed(child, join(path, "inner", str(i))) for i, child in enumerate(node.children))
    return replace(node, children=children, path=path)


def smaller(node: Node, without: Collection[str]) -> Node:
    """The tree without the nodes at some paths."""
    kept = tuple(smaller(child, without) for child in node.children if child.path not in without)
    return replace(node, children=kept)


def build(node: Node, numbers: Mapping[str, Units]) -> Part:
    """The network at the sizes that these numbers keep, by its constructors."""
    sizes = {local: len(read(text, numbers).kept) for local, text in node.numbers.items()}
    inner = [build(child, numbers) for child in node.children]
    return node.part(**sizes, **node.options, **({"inner": inner} if inner or KINDS[node.kind].children else {}))


def tensors(node: Node, model: nn.Module, path: str = "") -> Iterator[tuple[str, str, str, Mapping[str, str], bool]]:
    """For each tensor of `model`, which this tree made: its name, the name in the full network, its dimensions in the
    numbers of the node, these, and whether it is a statistic."""
    for name, text in _layers(node):
        layer, there = _get(model, name), name
        if name.rpartition(".")[2].isdigit():  # one for each child
            there = f"{name.rpartition('.')[0]}.{node.children[int(name.rpartition('.')[2])].path.rpartition('.')[2]}"
        if layer is None:
            continue
        for local, dims, statistic in tensors_of(layer, text):
            if local and _get(layer, local) is None:
                continue
            statistic = statistic or join(name, local) in node.part.STATISTICS
            yield join(path, name, local), join(node.path, there, local), dims, node.numbers, statistic
    for index, child in enumerate(node.children):
        inside = model.get_submodule(f"inner.{index}")
        yield from tensors(child, inside, join(path, "inner", str(index)))


def _layers(node: Node) -> Iterator[tuple[str, str]]:
    for name, text in node.part.LAYERS.items():
        if name.endswith("*"):
            yield from ((f"{name[:-1]}{index}", text) for index in range(len(node.children)))
        else:
            yield name, text


def _get(model: nn.Module | Tensor, name: str) -> Any:
    """What a dotted name stands for, or None."""
    found: Any = model
    for word in name.split("."):
        found = getattr(found, word, None)
    return found


def local_units(numbers: Mapping[str, str], units: Mapping[str, Units]) -> dict[str, Units]:
    return {local: read(text, units) for local, text in numbers.items()}


def weights(
    node: Node, model: nn.Module, units: Mapping[str, Units], source: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What `model`, built from this tree at `units`, takes from the tensors of the full network."""
    found = {}
    for name, there, dims, numbers, _ in tensors(node, model):
        found[name] = cut(source[there], dims, local_units(numbers, units))
    return found


def caches(node: Node) -> set[str]:
    """Names of buffers, in the full network, that forward fills again."""
    return {join(one.path, name) for one in node.all() for name in one.part.CACHES}
