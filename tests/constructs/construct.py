"""A construct, and what elastify must make of it.

A `Construct` is one way in which people write networks, as small as it gets. `elastic` says for dimensions of
parameters which axes run through them: their sizes, with the role where it is clear, as in
`{"qkv.weight[0]": "heads 4, head_dim 8"}`. `frozen` says which dimensions must stay as they are, with a piece of the
reason that is reported. `smallest` is the largest share of the MACs that the smallest configuration may have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from elastify import SearchSpace
from elastify.testing import check_model


@dataclass(frozen=True)
class Construct:
    name: str
    net: Callable[[], nn.Module]
    inputs: Any
    elastic: Mapping[str, str] = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)
    smallest: float = 1.0
    stages: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name.replace(" ", "_")


class Fn(nn.Module):
    """Parts, and a function of itself and the inputs as forward."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = [forward]
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function[0](self, *args, **kwargs)


def param(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(5)))


def through(op: Callable[..., Any], width: int = 12, out: int | None = None, **parts: Any) -> Callable[[], nn.Module]:
    """Linear to `width`, `op` of the net and that, Linear to 10, Linear: inputs end in 6 channels."""

    def forward(m: Fn, x: Tensor) -> Tensor:
        return m.last(torch.relu(m.next(op(m, torch.tanh(m.first(x))))))

    def make() -> nn.Module:
        made = {name: part() if callable(part) else part for name, part in parts.items()}
        first, then = nn.Linear(6, width), nn.Linear(width if out is None else out, 10)
        return Fn(forward, first=first, next=then, last=nn.Linear(10, 3), **made)

    return make


def images(op: Callable[..., Any], width: int = 12, out: int | None = None, **parts: Any) -> Callable[[], nn.Module]:
    """The same for images of 3 channels, with 1 x 1 convolutions."""

    def forward(m: Fn, x: Tensor) -> Tensor:
        return m.last(torch.relu(m.next(op(m, torch.tanh(m.first(x))))))

    def make() -> nn.Module:
        made = {name: part() if callable(part) else part for name, part in parts.items()}
        first, then = nn.Conv2d(3, width, 1), nn.Conv2d(width if out is None else out, 10, 1)
        return Fn(forward, first=first, next=then, last=nn.Conv2d(10, 4, 1), **made)

    return make


def example(inputs: Any) -> tuple[Any, dict[str, Any]]:
    """(inputs, keyword inputs): shapes become tensors, in nested tuples, lists and dicts."""
    generator = torch.Generator().manual_seed(1)

    def draw(item: Any) -> Any:
        if isinstance(item, tuple) and item and all(isinstance(n, int) for n in item):
            return torch.randn(item, generator=generator)
        if isinstance(item, (tuple, list)):
            return type(item)(draw(x) for x in item)
        return {key: draw(x) for key, x in item.items()} if isinstance(item, dict) else item

    if isinstance(inputs, dict):
        return None, draw(inputs)
    return draw(inputs), {}


def axes_at(found: SearchSpace, place: str) -> list[tuple[str, int]]:
    """Role and size of the axes that run through `tensor[dim]`."""
    tensor, _, dim = place.removesuffix("]").rpartition("[")
    return [(axis.role, axis.size) for axis in found.axes if (tensor, int(dim)) in axis.members]


def fits(wanted: str, got: list[tuple[str, int]]) -> bool:
    """Whether the axes are those of a `Construct.elastic`; a role counts where one is given."""
    parts = [part.split() for part in wanted.split(", ")]
    return len(parts) == len(got) and all(
        int(part[-1]) == size and (len(part) == 1 or part[0] == role)
        for part, (role, size) in zip(parts, got, strict=True)
    )


def check(construct: Construct) -> None:
    """Raise AssertionError where the construct is not what it says, or fails the full check."""
    args, kwargs = example(construct.inputs)
    net = construct.net()
    options = {"configurations": 4, "costs": 2, **construct.options}
    report = check_model(net, args, example_kwargs=kwargs, **options)
    report.assert_passed()
    found = report.space
    assert found is not None
    assert found.verified, "nothing was verified"
    known = {name for name, _ in net.named_parameters()} | {name for name, _ in net.named_buffers()}
    for place in (*construct.elastic, *construct.frozen):
        assert place.rpartition("[")[0] in known, f"{place}: the tensors are {sorted(known)}"
    reasons = {f"{dim.tensor}[{dim.dim}]": dim.reason for dim in found.plan.frozen}
    for place, axes in construct.elastic.items():
        got = axes_at(found, place)
        assert fits(axes, got), f"{place} has the axes {got or reasons.get(place)}, not {axes}"
    for place, reason in construct.frozen.items():
        assert place in reasons, f"{place} is elastic"
        assert reason in reasons[place], f"{place} is frozen because {reasons[place]}"
    stages = tuple(stage.container for stage in found.stages)
    assert stages == construct.stages, f"elastic depth in {stages}"
    assert report.smallest_macs <= construct.smallest, f"the smallest has {report.smallest_macs:.0%} of the MACs"
