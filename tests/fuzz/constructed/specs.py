"""Random networks that a constructor can make again at other numbers: from a seed, the tree of their parts.

A stem, two to six parts, a head. `Stream` is what the next part takes: its kind of tensor and its width, in the names
of the numbers of the network. Where parts are to split the width into heads, it is a product from the stem on, and one
such part comes first. Containers get parts that give what they take. What does not run, or would be wider than
`WIDEST`, is drawn again.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor, nn

from . import parts_attention, parts_buffers, parts_dense, parts_numbers, parts_places, parts_rows  # noqa: F401
from .nodes import DIMS, HEADS, KINDS, WIDTHS, Kind, Node, build, placed
from .units import Units, read

WIDEST = 48
PLACES = {"bc": (), "btc": (1,), "bct": (2,), "bchw": (2, 3)}
STEMS = {"LinearStem": "x", "IdsStem": "ids", "VectorStem": "vector", "ImageStem": "image", "SignalStem": "signal"}
ROWS = [name for name, kind in KINDS.items() if kind.children and name != "Net"]
LEAVES = [name for name, kind in KINDS.items() if not kind.children and name not in STEMS and kind.gives != "end"]


@dataclass(frozen=True)
class Stream:
    kind: str
    width: str
    heads: str = ""


@dataclass(frozen=True)
class Spec:
    """A tree at its full numbers, and what it is called with; `resizes` is False where it takes one length alone."""

    root: Node
    numbers: Mapping[str, int]
    given: str
    masked: bool
    resizes: bool

    def full(self) -> dict[str, Units]:
        return self.units({})

    def units(self, kept: Mapping[str, int]) -> dict[str, Units]:
        """All numbers, some of them smaller."""
        return {name: Units.first(kept.get(name, size), size) for name, size in self.numbers.items()}

    def example(self, seed: int, *, batch: int = 3, places: int = 6) -> tuple[Tensor, ...]:
        """Inputs at a batch and a length (height and width); a mask where the network takes one."""
        rng = torch.Generator().manual_seed(seed)
        shapes = {"x": (places, 5), "vector": (5,), "image": (3, places, 4), "signal": (3, places)}
        if self.given == "ids":
            x = torch.randint(0, 13, (batch, places), generator=rng)
        else:
            x = torch.randn(batch, *shapes[self.given], generator=rng, dtype=torch.float64)
        if not self.masked:
            return (x,)
        return x, torch.randn(places, places, generator=rng, dtype=torch.float64)


class _Maker:
    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.numbers: dict[str, int] = {}
        self.masks, self.resizes, self.split = False, True, False

    def number(self, name: str, choices: tuple[int, ...]) -> str:
        """A new number of the network, called after what it is."""
        full = f"{name}{len(self.numbers)}"
        self.numbers[full] = self.rng.choice(choices)
        return full

    def stem(self) -> tuple[Node, Stream, str]:
        name = self.rng.choice([*STEMS, "LinearStem", "ImageStem"])
        kind = KINDS[name]
        heads = self.number("heads", HEADS) if self.rng.random() < 0.4 and kind.gives != "bc" else ""
        width = f"{heads}*{self.number('dim', DIMS)}" if heads else self.number("width", WIDTHS)
        return Node(name, {"out": width}), Stream(kind.gives, width, heads), STEMS[name]

    def leaf(
        self, stream: Stream, *, residual: bool = False, split: bool = False, plain: bool = False
    ) -> tuple[Node, Stream]:
        """A part for a stream. `residual`: it gives what it takes. `split`: it splits the width. `plain`: no mask."""
        found = []
        for name in LEAVES:
            kind = KINDS[name]
            fits = stream.kind in kind.takes and (not kind.split or stream.heads) and (kind.split or not split)
            if fits and not (residual and (kind.gives or kind.out != "width" or kind.fixed)):
                found.append(name)
        name = self.rng.choice(found)
        return self.filled(name, KINDS[name], stream, plain)

    def filled(
        self, name: str, kind: Kind, stream: Stream, plain: bool, children: tuple[Node, ...] = ()
    ) -> tuple[Node, Stream]:
        """A part of this kind with numbers and options of its own, and what it gives."""
        numbers = {"width": stream.width} | ({"heads": stream.heads} if kind.split else {})
        for local, choices in kind.own.items():
            local, used = local.removesuffix("_size"), {self.numbers.get(number) for number in numbers.values()}
            numbers[local] = self.number(local, tuple(size for size in choices if size not in used))
        options = {key: self.rng.choice(choices) for key, choices in kind.options.items()}
        if "dims" in options:
            options["dims"] = PLACES[stream.kind]
        if "dim" in options:
            options["dim"] = 1 if stream.kind in ("bct", "bchw") else -1
        if "masked" in options:
            options["masked"] = options["masked"] and self.masks and not plain
        self.resizes &= not kind.fixed
        width = stream.width if kind.out == "width" else _substituted(kind.out, numbers)
        heads = stream.heads if kind.out == "width" else ""
        return Node(name, numbers, options, children), Stream(kind.gives or stream.kind, width, heads)

    def row(self, stream: Stream, nested: int = 0) -> tuple[Node, Stream]:
        """A part that holds others, each of which gives what it takes."""
        name = self.rng.choice([name for name in ROWS if stream.kind in KINDS[name].takes])
        kind, children, plain = KINDS[name], [], name == "Chain"
        alike = self.rng.random() < 0.5  # blocks of one kind, as networks mostly have
        wanted = self.rng.choice(kind.children)
        while len(children) < wanted:
            if nested < 1 and self.rng.random() < 0.15 and not plain:
                children.append(self.row_that_keeps(stream, nested + 1))
            elif alike and children and not KINDS[children[-1].kind].children:
                again, _ = self.filled(children[-1].kind, KINDS[children[-1].kind], stream, plain)
                children.append(Node(again.kind, again.numbers, children[-1].options))
            else:
                children.append(self.leaf(stream, residual=True, plain=plain)[0])
        return self.filled(name, kind, stream, plain, tuple(children))

    def row_that_keeps(self, stream: Stream, nested: int) -> Node:
        while True:
            node, out = self.row(stream, nested)
            if out.width == stream.width:
                return node

    def make(self, parts: int) -> Spec:
        stem, stream, given = self.stem()
        self.masks = given == "x" and self.rng.random() < 0.5
        nodes, split = [stem], bool(stream.heads)
        for _ in range(parts):
            node, after = self.leaf(stream, split=True) if split else self.any(stream)
            split = False
            if len(read(after.width, {k: Units.of(v) for k, v in self.numbers.items()}).kept) <= WIDEST:
                nodes.append(node)
                stream = after
        head = Node("Head", {"width": stream.width}, {"dims": PLACES[stream.kind]})
        root = placed(Node("Net", {}, {}, (*nodes, head)))
        used = {word for node in root.all() for text in node.numbers.values() for word in _names(text)}
        numbers = {name: size for name, size in self.numbers.items() if name in used}
        masked = any(node.options.get("masked") for node in root.all())
        return Spec(root, numbers, given, masked, self.resizes)

    def any(self, stream: Stream) -> tuple[Node, Stream]:
        return self.row(stream) if self.rng.random() < 0.3 else self.leaf(stream)


def _names(text: str) -> list[str]:
    return re.findall(r"[a-z_]+\d*", text)


def _substituted(text: str, numbers: Mapping[str, str]) -> str:
    """An expression of the numbers of a part in those of the network."""
    words = text.split(" ")
    return " ".join(f"({numbers[word]})" if word in numbers else word for word in words)


def make(seed: int) -> tuple[Spec, nn.Module]:
    """A spec that runs in both modes, and its network with drawn weights; it says where only one size runs."""
    for attempt in range(100):
        maker = _Maker(seed * 1000 + attempt)
        spec = maker.make(maker.rng.randint(2, 6))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            model = build(spec.root, spec.full()).double()
            draw(model, seed)
        if _runs(model, spec.example(seed)):
            resizes = spec.resizes and _runs(model, spec.example(seed, places=8))
            return replace(spec, resizes=resizes), model
    raise AssertionError(f"no network of seed {seed} runs")


def _runs(model: nn.Module, example: tuple[Tensor, ...]) -> bool:
    """Whether a copy runs, and learns, without leaving the range of numbers."""
    model = copy.deepcopy(model)
    try:
        outs = [_evaluated(model, example), model.train()(*example), _evaluated(model, example)]
        outs[1].sum().backward()
    except (RuntimeError, IndexError):  # of places that do not fit
        return False
    return all(bool(out.isfinite().all()) and float(out.detach().abs().max()) < 1e4 for out in outs)


def _evaluated(model: nn.Module, example: tuple[Tensor, ...]) -> Tensor:
    """The output in evaluation mode, without gradients: the fused layers of torch may give others then, even NaN."""
    with torch.no_grad():
        return model.eval()(*example)


def draw(model: nn.Module, seed: int) -> None:
    """Weights of both signs everywhere, buffers between 0.5 and 1.5: what is zero or one would hide differences."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        fan = parameter[0].numel() if parameter.dim() > 1 else 4
        parameter.normal_(0, fan**-0.5, generator=rng)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5, generator=rng)
