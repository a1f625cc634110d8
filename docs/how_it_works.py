"""elastify in miniature: record, unify, plan, prove, slice, extract, in one file that imports nothing but torch.

    python docs/how_it_works.py

Each part has a larger counterpart in the library, whose package stands in brackets. The library adds more rules,
arithmetic on integers, equations, depth, names and training. The network at the end has a gated unit, a residual
stream and a reshape into heads. A list of layer types would not tell which of its dimensions depend on each other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# -- 1. Integers that remember where they came from [_ir] -------------------------------------------------------


class Int(int):
    """An int that knows which attribute of the model it was read from."""

    name: str

    def __new__(cls, value: int, name: str) -> Int:
        self = super().__new__(cls, value)
        self.name = name
        return self


# -- 2. A record of one run [_capture] --------------------------------------------------------------------------


def tensors(*items: Any) -> Iterator[Tensor]:
    for item in items:
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (tuple, list)):
            yield from tensors(*item)


class Recorder(TorchFunctionMode):
    """Records every function that the forward pass calls, with the same argument objects."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...], Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(True for _ in tensors(out)):
            self.calls.append((getattr(func, "__name__", "").strip("_"), args, out))
        return out


def record(model: nn.Module, example: Tensor) -> list[tuple[str, tuple[Any, ...], Any]]:
    """Run the model once, its integer attributes replaced by ones that remember their names."""
    plain = dict(model.__dict__)
    recorder = Recorder()
    try:
        model.__dict__.update({k: Int(v, k) for k, v in plain.items() if type(v) is int})
        with torch.no_grad(), recorder:
            out = model(example)
    finally:
        model.__dict__.update(plain)
    return [*recorder.calls, ("output", (out,), None)]


# -- 3. Dimensions, inferred like types [_ir, _analysis] ---------------------------------------------------------


class Dim:
    """How a dimension is made: a leaf (interchangeable units), a row-major product, or a concatenation."""

    def __init__(self, size: int, kind: str = "leaf", parts: tuple[Dim, ...] = ()) -> None:
        self.size, self.kind, self.parts = size, kind, parts
        self.link: Dim | None = None  # union-find
        self.frozen = ""  # why it keeps its size


def find(dim: Dim) -> Dim:
    while dim.link is not None:
        dim = dim.link
    return dim


def product(*parts: Dim) -> Dim:
    return Dim(prod(p.size for p in parts), "product", parts)


def concat(*parts: Dim) -> Dim:
    return Dim(sum(p.size for p in parts), "concat", parts)


def leaves(dim: Dim) -> Iterator[Dim]:
    dim = find(dim)
    if dim.kind == "leaf":
        yield dim
    for part in dim.parts:
        yield from leaves(part)


def freeze(dim: Dim, why: str) -> None:
    for leaf in leaves(dim):
        leaf.frozen = leaf.frozen or why


def same(a: Dim, b: Dim) -> None:
    """State that two dimensions have the same units in the same order."""
    a, b = find(a), find(b)
    if a is b or a.size == b.size == 1:
        return
    if "leaf" in (a.kind, b.kind):
        leaf, other = (a, b) if a.kind == "leaf" else (b, a)
        if leaf.frozen:
            freeze(other, leaf.frozen)
        elif other.kind == "leaf":
            leaf.frozen = other.frozen
        leaf.link = other  # an unknown takes over the structure of what it meets
    elif a.kind == b.kind and [p.size for p in a.parts] == [p.size for p in b.parts]:
        for x, y in zip(a.parts, b.parts, strict=True):
            same(x, y)
    else:  # the library refines both to a common structure; freezing is always right
        freeze(a, "two structures do not fit")
        freeze(b, "two structures do not fit")


# -- 4. One rule per operation [_analysis/rules] -----------------------------------------------------------------


class Facts:
    """The dimensions of every tensor, and of the attributes whose value is a size."""

    def __init__(self) -> None:
        self.of: dict[int, list[Dim]] = {}
        self.attributes: dict[str, Dim] = {}
        self.alive: list[Tensor] = []  # an id must not be used twice

    def dims(self, tensor: Tensor) -> list[Dim]:
        if id(tensor) not in self.of:
            self.alive.append(tensor)
            self.of[id(tensor)] = [Dim(n) for n in tensor.shape]
        return self.of[id(tensor)]

    def give(self, tensor: Tensor, dims: list[Dim]) -> None:
        for known, dim in zip(self.dims(tensor), dims, strict=True):
            same(known, dim)

    def require(self, number: int, dim: Dim) -> None:
        """An integer argument must be the size of `dim` in every smaller network."""
        if isinstance(number, Int):
            same(dim, self.attributes.setdefault(number.name, Dim(int(number))))
        elif number != -1:
            freeze(dim, f"the number {number} is written in the source")


def linear(f: Facts, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    rows, columns = f.dims(weight)
    same(columns, f.dims(x)[-1])
    same(rows, f.dims(bias)[0])
    f.give(out, [*f.dims(x)[:-1], rows])


def elementwise(f: Facts, out: Tensor, *operands: Any) -> None:
    for x in operands:
        if isinstance(x, Tensor):
            f.give(out, f.dims(x))


def chunk(f: Facts, out: tuple[Tensor, ...], x: Tensor, n: int, dim: int) -> None:
    part = Dim(out[0].shape[dim])
    same(f.dims(x)[dim], concat(*[part] * n))  # parts that must stay equal are one thing
    for piece in out:
        f.give(piece, [*f.dims(x)[:dim], part])


def unflatten(f: Facts, out: Tensor, x: Tensor, dim: int, sizes: tuple[int, ...]) -> None:
    parts = [Dim(int(n)) for n in out.shape[-len(sizes) :]]
    same(f.dims(x)[-1], product(*parts))
    f.give(out, [*f.dims(x)[:-1], *parts])
    for number, part in zip(sizes, parts, strict=True):
        f.require(number, part)


def flatten(f: Facts, out: Tensor, x: Tensor, start: int) -> None:
    f.give(out, [*f.dims(x)[:start], product(*f.dims(x)[start:])])


def softmax(f: Facts, out: Tensor, x: Tensor, dim: int) -> None:
    f.give(out, f.dims(x))  # symmetric in its units, whichever dimension it runs along


def cumsum(f: Facts, out: Tensor, x: Tensor, dim: int) -> None:
    freeze(f.dims(x)[dim], "the order of units matters")
    f.give(out, f.dims(x))


def output(f: Facts, out: None, x: Tensor) -> None:
    for dim in f.dims(x):
        freeze(dim, "the model's interface")


RULES: dict[str, Callable[..., None]] = {
    "linear": linear,
    "chunk": chunk,
    "unflatten": unflatten,
    "flatten": flatten,
    "softmax": softmax,
    "cumsum": cumsum,
    "output": output,
    **dict.fromkeys(("add", "mul", "sigmoid", "relu"), elementwise),
}


@dataclass(frozen=True)
class Plan:
    """The dimensions of every parameter, and of every attribute whose value is a size."""

    parameters: dict[str, list[Dim]]
    attributes: dict[str, Dim]


def analyse(model: nn.Module, example: Tensor) -> Plan:
    """Apply the rules to every call; an operation without a rule freezes everything that it touches."""
    facts = Facts()
    for dim in facts.dims(example):
        freeze(dim, "the model's interface")
    for name, args, out in record(model, example):
        if name in RULES:
            RULES[name](facts, out, *args)
        else:
            for tensor in tensors(args, out):
                for dim in facts.dims(tensor):
                    freeze(dim, f"no rule for {name}")
    return Plan({name: facts.dims(p) for name, p in model.named_parameters()}, facts.attributes)


# -- 5. From layouts everything follows [_plan, _proofs, _deploy, _space] ------------------------------------------

Units = dict[Dim, Tensor]
"""Which units of an axis, in which order: a prefix cuts, a permutation reorders."""


def positions(dim: Dim, units: Units) -> Tensor:
    """Indices along a dimension, by recursion over its layout."""
    dim = find(dim)
    if dim.kind == "leaf":
        return units.get(dim, torch.arange(dim.size))
    parts = [positions(part, units) for part in dim.parts]
    if dim.kind == "concat":
        starts = [sum(p.size for p in dim.parts[:i]) for i in range(len(parts))]
        return torch.cat([part + start for part, start in zip(parts, starts, strict=True)])
    found = parts[0]
    for part, inner in zip(dim.parts[1:], parts[1:], strict=True):
        found = (found[:, None] * part.size + inner).flatten()
    return found


def axes(plan: Plan) -> dict[Dim, list[str]]:
    """Leaves that nothing froze, with the parameter dimensions that they run through."""
    found: dict[Dim, list[str]] = {}
    for name, dims in plan.parameters.items():
        for number, dim in enumerate(dims):
            for leaf in dict.fromkeys(leaves(dim)):
                if not leaf.frozen:
                    found.setdefault(leaf, []).append(f"{name}[{number}]")
    return found


def take(model: nn.Module, plan: Plan, units: Units) -> nn.Module:
    """A plain copy that keeps the given units, in the given order."""
    taken = copy.deepcopy(model)
    for name, parameter in taken.named_parameters():
        for number, dim in enumerate(plan.parameters[name]):
            parameter.data = parameter.data.index_select(number, positions(dim, units))
    for name, dim in plan.attributes.items():
        setattr(taken, name, len(positions(dim, units)))
    return taken


def is_symmetric(model: nn.Module, plan: Plan, axis: Dim, example: Tensor) -> bool:
    """The proof of an axis: permuting its units in all tensors must not change the function."""
    model, example = copy.deepcopy(model).double(), example.double()
    moved = take(model, plan, {axis: torch.arange(axis.size).roll(1)})
    with torch.no_grad():
        return torch.allclose(model(example), moved(example), rtol=1e-9, atol=1e-9)


def parameters(plan: Plan, units: Units) -> int:
    """The cost of a subnet, from the layouts alone."""
    return sum(prod(len(positions(dim, units)) for dim in dims) for dims in plan.parameters.values())


# -- 6. A network -------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A residual stream with a gated unit, a reshape into heads, and a branch in which the order of units matters."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = 3, 4
        self.inlet, self.outlet = nn.Linear(6, 16), nn.Linear(16, 2)
        self.up, self.down = nn.Linear(16, 2 * 10), nn.Linear(10, 16)
        self.split, self.merge = nn.Linear(16, 3 * 4), nn.Linear(3 * 4, 16)
        self.rise, self.fall = nn.Linear(16, 5), nn.Linear(5, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inlet(x)
        value, gate = self.up(h).chunk(2, 1)
        h = h + self.down(value * torch.sigmoid(gate))
        shares = self.split(h).unflatten(1, (self.heads, self.head_dim)).softmax(2)
        h = h + self.merge(shares.flatten(1))
        h = h + self.fall(self.rise(h).cumsum(1))
        return self.outlet(h)


def main() -> None:
    torch.manual_seed(0)
    net, example = Net(), torch.randn(7, 6)
    plan = analyse(net, example)
    found = axes(plan)
    for axis, places in found.items():
        assert is_symmetric(net, plan, axis, example)
        print(f"an axis of {axis.size:2d} units runs through {', '.join(places)}")
    assert [axis.size for axis in found] == [16, 10, 3, 4]
    print(f"frozen: rise.weight[0], because {next(leaves(plan.parameters['rise.weight'][0])).frozen}")

    half = {axis: torch.arange((axis.size + 1) // 2) for axis in found}
    small = take(net, plan, half)
    assert small(example).shape == (7, 2)
    assert sum(p.numel() for p in small.parameters()) == parameters(plan, half)
    print(f"{parameters(plan, {})} parameters, {parameters(plan, half)} with half of every axis")
    print(f"heads {net.heads} -> {small.heads}, head_dim {net.head_dim} -> {small.head_dim}, and the same forward")

    # The proof finds what a rule forgets: if the bias is missing among its members, the hidden axis is no symmetry.
    hidden = next(axis for axis in found if axis.size == 10)
    plan.parameters["up.bias"] = [Dim(20)]
    assert not is_symmetric(net, plan, hidden, example)


if __name__ == "__main__":
    main()
