"""Rules against the real operations.

A `Sample` is one call of one operation on tensors of distinct prime sizes and mixed signs. The call is captured and
analysed with nothing held as interface, so that all that is frozen was frozen by rules. Then, for every
axis that is left free, the inputs are permuted by their layouts and the operation is run: its outputs must be the
first outputs permuted by their layouts. Halving every free axis (and the attributes that follow it) must
give outputs of the sizes of their layouts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from elastify._analysis.analyse import Analysis, analyse
from elastify._capture.examples import Example
from elastify._capture.paths import get_in, put_in
from elastify._capture.session import capture
from elastify._ir.graph import Graph, Value
from elastify._ir.layout import Layout, active_size, axes_of, indices


@dataclass(frozen=True)
class T:
    """A tensor of a sample: normal numbers, or integers below `below`, or truth values."""

    shape: tuple[int, ...]
    below: int = 0
    kind: torch.dtype = torch.float64

    def draw(self, generator: torch.Generator) -> Tensor:
        if self.kind is torch.bool:
            return torch.rand(self.shape, generator=generator) < 0.5
        if self.below:
            return torch.randint(self.below, self.shape, generator=generator)
        return torch.randn(self.shape, generator=generator, dtype=torch.float64).to(self.kind)


@dataclass(frozen=True)
class Sample:
    """`call(module, *tensors)`; `free` are the sizes of the axes that the rule must leave free.

    `attributes` are integers of the module, so that sizes can come from somewhere. `exact` is False for random
    operations, where only sizes can be compared.
    """

    op: str
    call: Callable[..., Any]
    tensors: tuple[T, ...]
    free: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    exact: bool = True

    def __str__(self) -> str:
        return self.op


class Wrapped(nn.Module):
    """The call as a network: float tensors are parameters, the others buffers."""

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.function = [sample.call]
        self.names = [f"t{i}" for i in range(len(sample.tensors))]
        for name, tensor in zip(self.names, sample.tensors, strict=True):
            self.register_buffer(name, tensor.draw(generator))
        for name, value in sample.attributes.items():
            setattr(self, name, value)

    def forward(self) -> Any:
        return self.function[0](self, *(getattr(self, name) for name in self.names))


def check(sample: Sample) -> None:
    """Raise AssertionError with the first thing that the rule got wrong."""
    module = Wrapped(sample).eval()
    graph = capture(module, Example())
    ops = [call.op for call in graph.calls]
    assert sample.op in ops, f"recorded as {ops}"
    analysis = analyse([graph], lambda attr: get_in(getattr(module, attr.name), attr.index), (), lambda _: ())
    assert not analysis.facts.unknown, {op: str(why) for op, why in analysis.facts.unknown.items()}
    operands = [graph.tensors[name] for name in module.names]
    layouts = {value.id: layouts_of(analysis, value) for value in [*operands, *graph.outputs]}
    free = free_axes(analysis, [*operands, *graph.outputs])
    assert tuple(sorted(free.values())) == tuple(sorted(sample.free)), f"free axes {sorted(free.values())}"
    before = list(flat(module()))
    inputs = {name: getattr(module, name).clone() for name in module.names}
    for axis, size in free.items():
        order = {axis: np.roll(np.arange(size), -1)}
        move(module, inputs, graph, layouts, order)
        after = list(flat(module()))
        for value, old, new in zip(graph.outputs, before, after, strict=True):
            expected = taken(old, layouts[value.id], order)
            assert new.shape == expected.shape, f"shape {list(new.shape)}"
            assert not sample.exact or close(new, expected), f"not symmetric in the axis of size {size}"
    sizes = {axis: max(2, (size + 1) // 2) for axis, size in free.items()}  # 1 would broadcast
    move(module, inputs, graph, layouts, {axis: np.arange(n) for axis, n in sizes.items()})
    set_attributes(module, analysis, sizes)
    for value, out in zip(graph.outputs, flat(module()), strict=True):
        expected = [active_size(layout, sizes) for layout in layouts[value.id]]
        assert list(out.shape) == expected, f"{list(out.shape)} and not {expected} when all axes are halved"


def layouts_of(analysis: Analysis, value: Value) -> list[Layout]:
    return [analysis.terms.resolve(term) for term in analysis.dims[0][value.id]]


def free_axes(analysis: Analysis, wanted: list[Value]) -> dict[int, int]:
    terms = [term for value in wanted for term in analysis.dims[0][value.id]]
    leaves = [leaf for term in terms for leaf in analysis.terms.leaves(term)]
    return {leaf.id: leaf.size for leaf in leaves if leaf.frozen is None and leaf.size > 1}


def move(
    module: Wrapped, inputs: dict[str, Tensor], graph: Graph, layouts: dict[int, list[Layout]], units: dict[int, Any]
) -> None:
    """Permute or cut the tensors of the module, from what they were at first."""
    for name in module.names:
        setattr(module, name, taken(inputs[name], layouts[graph.tensors[name].id], units))


def taken(tensor: Tensor, layouts: list[Layout], units: dict[int, np.ndarray]) -> Tensor:
    for dim, layout in enumerate(layouts):
        if any(axis.id in units for axis in axes_of(layout)):
            tensor = tensor.index_select(dim, torch.from_numpy(indices(layout, units)))
    return tensor


def set_attributes(module: Wrapped, analysis: Analysis, sizes: dict[int, int]) -> None:
    for attr, term in analysis.facts.attributes.items():
        size = active_size(analysis.terms.resolve(term), sizes)
        setattr(module, attr.name, put_in(getattr(module, attr.name), attr.index, size))


def flat(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from flat(item)


def close(a: Tensor, b: Tensor) -> bool:
    if a.dtype.is_floating_point or a.dtype.is_complex:
        tolerance = 1e-2 if a.dtype in (torch.float16, torch.bfloat16) else 1e-5 if a.dtype == torch.float32 else 1e-9
        return torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    return torch.equal(a, b)
