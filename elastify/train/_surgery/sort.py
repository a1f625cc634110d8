"""Sort the units of every elastic axis by importance, at no change of function.

A subnet keeps a prefix of the units of each axis, so the important ones should come first. An elastic axis is a
symmetry of the network: permuting its units in all the tensors that it runs through leaves the function as it was. A
unit scores the sum over all these tensors, wherever in a product or concatenation the axis stands in them. All axes
are sorted at once, tensor by tensor, through the index set that the layout of each dimension gives for the
permutations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from elastify._ir import Axis, Concat, Layout, Plan, axes_of, indices
from elastify._rewrite import elastic_state
from elastify._space import state
from elastify._verbs import activate
from elastify.train._surgery.importance import Importance, Lines, Loss, as_arrays, measure


def sort_channels(
    model: nn.Module,
    importance: str | Importance = "magnitude",
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    *,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Put the most important units of every axis first; the full network computes the same as before.

    A unit scores the sum over all tensors that its axis runs through. `importance` is one of

    - `"magnitude"`: squares of weights;
    - `"taylor"`: squares of weight times gradient, summed over `batches` (inputs, targets), for
      `loss(outputs, targets)` (Molchanov et al., arXiv 1906.10771);
    - `"activation"`: mean squares of what goes in and out of linear layers and convolutions, over `batches`;
    - `"scale"`: absolute scales of norms (Liu et al., network slimming, arXiv 1708.06519);
    - `"random"`: a control, from `seed`;
    - a function that gives scores of the same shape for a parameter.

    Axes of which taylor, activation or scale know nothing are sorted by magnitude. Data are run in eval mode. Returns,
    per axis name, the former positions in their new order. Statistics that `recalibrate` stored are forgotten.

    Call it before the optimizer is made: moments that an optimizer already holds would stay in the old order.
    The full network is active afterwards. (Cai et al., Once-for-all, arXiv 1908.09791, sort channels before training.)

    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    >>> order = sort_channels(model)["hidden"]
    >>> norms = model[0].weight.square().sum(1) + model[0].bias.square() + model[2].weight.square().sum(0)
    >>> len(order), bool((norms.diff() <= 0).all())
    (16, True)
    """
    plan = state(model).space.plan
    activate(model, None)
    scores, *others = (_scores(plan, lines) for lines in measure(model, plan, importance, batches, loss, seed))
    for fallback in others:
        scores = {ident: values if values.any() else fallback[ident] for ident, values in scores.items()}
    orders = {ident: np.argsort(-values, kind="stable") for ident, values in scores.items()}
    permute_units(model, orders)
    return {axis.name: torch.from_numpy(orders[axis.id]) for axis in plan.axes}


def permute_units(model: nn.Module, orders: Mapping[int, np.ndarray]) -> None:
    """Put the units of axes (by id) into another order in all tensors; the full network is active afterwards."""
    activate(model, None)
    elastic = elastic_state(model)
    permute_tensors(tensors_of(model), {**elastic.plan.tensors, **elastic.extras}, orders)
    elastic.statistics.clear()
    activate(model, None)  # what forward has cached is of the old order


def permute_tensors(
    tensors: Mapping[str, Tensor], layouts: Mapping[str, tuple[Layout, ...]], orders: Mapping[int, np.ndarray]
) -> None:
    """Put the units of axes (by id) into another order in the tensors of these layouts, in place."""
    with torch.no_grad():
        for name, dims in layouts.items():
            _permute(tensors[name], dims, orders)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, under every name that they have."""
    return dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])


def _permute(tensor: Tensor, layouts: tuple[Layout, ...], orders: Mapping[int, np.ndarray]) -> None:
    sorted_tensor = tensor
    for dim, layout in enumerate(layouts):
        if any(axis.id in orders for axis in axes_of(layout)):
            order = torch.from_numpy(indices(layout, orders)).to(tensor.device)
            sorted_tensor = sorted_tensor.index_select(dim, order)
    if sorted_tensor is not tensor:
        tensor.copy_(sorted_tensor)


def _scores(plan: Plan, lines: Lines) -> dict[int, np.ndarray]:
    """Importance of each unit of each elastic axis, from scores of positions."""
    scores = {axis.id: np.zeros(axis.size) for axis in plan.axes}
    for (name, dim), line in as_arrays(lines).items():
        layout = plan.tensors[name][dim]
        for ident in {axis.id for axis in axes_of(layout)} & scores.keys():
            for owner in owners(layout, ident):
                inside = owner >= 0
                np.add.at(scores[ident], owner[inside], line[inside])
    return scores


def owners(layout: Layout, ident: int) -> Iterator[np.ndarray]:
    """For each occurrence of an axis: the unit that every position of the dimension belongs to, -1 for none.

    >>> [owner.tolist() for owner in owners(Concat((Axis(0, 2), Axis(1, 3))), 1)]
    [[-1, -1, 0, 1, 2]]
    """
    if isinstance(layout, Axis):
        if layout.id == ident:
            yield np.arange(layout.size)
        return
    sizes = [part.size for part in layout.parts]
    for number, part in enumerate(layout.parts):
        for owner in owners(part, ident):
            if isinstance(layout, Concat):
                whole = np.full(sum(sizes), -1)
                start = sum(sizes[:number])
                whole[start : start + part.size] = owner
                yield whole
            else:
                shape = [1] * len(sizes)
                shape[number] = part.size
                yield np.broadcast_to(owner.reshape(shape), sizes).reshape(-1)
