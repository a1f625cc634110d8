"""Wider networks that compute the same: units are copied, and what was summed over one is shared by its copies.

A copy of a unit has the same value, wherever the layouts say that the axis runs. Every operation that sums over units
would count it twice, so there the copies divide the weight between them, in random shares, or they would learn the
same for ever. Whether that is all that hears of the units is found by running the new network: norms see the same
statistics if all units have equally many copies, attention scores do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from elastify._capture import Example
from elastify._deploy import copied, enlarged, own
from elastify._errors import ElastifyError
from elastify._ir import Axis, Layout, Plan, indices
from elastify._proofs import redraw
from elastify._rewrite import elastic_state
from elastify._verbs import activate, examples_for, space
from elastify.train._evaluate import alike, evaluating, float_tensors
from elastify.train._surgery.sort import owners, tensors_of


def grow(
    model: nn.Module,
    sizes: Mapping[str, float | int],
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> nn.Module:
    """A plain, larger model that computes what the elastic one does, to rounding.

    `sizes` maps globs of axis names to ratios (float) or sizes (int) of at least the full one. `example_inputs` and
    `example_kwargs` are as for `elastify`: copies with other weights run on them. `model` is not changed. Elastify the
    result, train it, and extract a smaller one: expand, then compress. (As Net2WiderNet, Chen et al., arXiv 1511.05641,
    which splits evenly and adds noise; here the shares are random and sum to one.)

    Raises ElastifyError, naming the axes, where copies of units change what the network computes.

    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    >>> large = grow(model, {"hidden": 1.5}, torch.randn(2, 4))
    >>> large[0].out_features, torch.allclose(large(torch.ones(1, 4)), model(torch.ones(1, 4)), atol=1e-5)
    (24, True)
    """
    activate(model, None)
    if elastic_state(model).transforms:
        raise ElastifyError(
            "a strategy has changed how this model computes its weights", where="grow", fix="extract it, then elastify"
        )
    examples = examples_for(model, example_inputs, example_kwargs)
    wanted = _wanted(space(model).plan, sizes)
    twin = copied(model)
    redraw(twin, seed)  # weights so small that nothing depends on them would prove nothing
    before = _run(twin, examples)
    if _equal(before, _grown(twin, wanted, seed), examples):
        return _grown(model, wanted, seed)
    names = {axis.id: axis.name for axis in space(model).axes}
    wrong = [names[i] for i, n in wanted.items() if not _equal(before, _grown(twin, {i: n}, seed), examples)]
    raise ElastifyError(
        f"growing {', '.join(wrong or map(names.__getitem__, wanted))} changes what the network computes",
        why="something other than a weighted sum depends on the number of units (a norm, attention scores)",
        fix="a whole multiple for axes that norms run over; leave out head_dim and axes of tied weights",
    )


def _wanted(plan: Plan, sizes: Mapping[str, float | int]) -> dict[int, int]:
    wanted: dict[int, int] = {}
    for glob, size in sizes.items():
        axes = [axis for axis in plan.axes if fnmatchcase(axis.name, glob)]
        if not axes:
            raise ElastifyError(f"no axis is called {glob!r}", where="grow", fix="print(space(model))")
        for axis in axes:
            wanted[axis.id] = size if isinstance(size, int) else round(size * axis.size)
            if wanted[axis.id] < axis.size:
                raise ElastifyError(f"{axis.name} has {axis.size} units already", where="grow", fix="a ratio above 1")
    return wanted


def _grown(model: nn.Module, wanted: Mapping[int, int], seed: int) -> nn.Module:
    plan, rng = space(model).plan, np.random.default_rng(seed)
    full = {axis.id: axis.size for axis in plan.axes}
    units = {ident: np.arange(size) % full[ident] for ident, size in wanted.items()}
    shares = {ident: _shares(copies, full[ident], rng) for ident, copies in units.items()}
    tensors, pairs = tensors_of(model), []
    for name, layouts in plan.tensors.items():
        value = tensors[name].detach()
        for dim, layout in enumerate(layouts):
            index = indices(layout, units)
            value = value.index_select(dim, torch.from_numpy(index).to(value.device))
            if (name, dim) in plan.summed:
                line = torch.from_numpy(_factors(layout, units, shares)).to(value)
                value = value * line.view([-1 if d == dim else 1 for d in range(value.dim())])
        pairs.append((tensors[name], own(value, tensors[name])))
    return enlarged(model, wanted, pairs)


def _shares(copies: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Of every new unit, its share of the old one that it copies; those of one unit sum to 1."""
    drawn = rng.uniform(0.5, 1.5, len(copies))
    return drawn / np.bincount(copies, drawn, size)[copies]


def _factors(layout: Layout, units: Mapping[int, np.ndarray], shares: Mapping[int, np.ndarray]) -> np.ndarray:
    """Of every position of a grown dimension, the product of the shares of the units that it belongs to."""
    grown = _resized(layout, units)
    line = np.ones(grown.size)
    for ident, part in shares.items():
        for unit in owners(grown, ident):
            line *= np.where(unit >= 0, part[unit], 1.0)
    return line


def _resized(layout: Layout, units: Mapping[int, np.ndarray]) -> Layout:
    if isinstance(layout, Axis):
        return Axis(layout.id, len(units[layout.id])) if layout.id in units else layout
    return type(layout)(tuple(_resized(part, units) for part in layout.parts))


def _equal(before: list[Tensor], made: nn.Module, examples: Sequence[Example]) -> bool:
    try:
        return alike(_run(made, examples), before)
    except (RuntimeError, ValueError, AssertionError, IndexError):  # of the network: its sizes do not fit
        return False


def _run(model: nn.Module, examples: Sequence[Example]) -> list[Tensor]:
    with evaluating(model), torch.random.fork_rng(devices=[]):
        return [tensor for example in examples for tensor in float_tensors(example(model))]
