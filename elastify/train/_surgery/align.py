"""Two networks of one architecture, brought into the same order of units by optimal transport, then averaged.

Units have no order of their own: two trained networks may have learnt the same ones in different places. Axis by axis,
units of one are matched with those of the other at the least total squared distance between their weights, in all the
tensors that the axis runs through. Between equal numbers of units of equal mass the optimal plan is a permutation,
which goes through the layouts of the elastic model's plan and changes no function. Distances along one axis depend on
the order along others: a first round looks at what makes units only, more rounds at everything, until nothing moves.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from elastify._errors import ElastifyError
from elastify._ir import ElasticAxis, Layout
from elastify._rewrite import elastic_state, is_elastic
from elastify._verbs import activate, space
from elastify.train._surgery.sort import owners, permute_tensors, tensors_of

_ROUNDS = 20


def align(model: nn.Module, other: nn.Module) -> dict[str, Tensor]:
    """Reorder the units of `other`, in place, to match those of the elastic `model`; it computes the same as before.

    `other` has the architecture of `model`, elastic or not. Returns per axis the former positions in their new order.
    Needs POT (`pip install elastify[fuse]`). (Singh & Jaggi, OT fusion, arXiv 1910.05653: weights as features, exact
    transport, uniform masses.)

    >>> from elastify import elastify
    >>> from elastify.train import sort_channels
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    >>> other = copy.deepcopy(model)
    >>> order = sort_channels(other)
    >>> orders = align(model, other)
    >>> torch.equal(model[0].weight, other[0].weight)
    True
    """
    plan = space(model).plan
    activate(model, None)
    if is_elastic(other):
        activate(other, None)
    ours, theirs = _tensors(model), _tensors(other)
    different = [name for name in ours if name not in theirs or theirs[name].shape != ours[name].shape]
    if different or len(ours) != len(theirs):
        raise ElastifyError(
            "the two models have different architectures",
            where="align",
            why=f"{(different or sorted(theirs.keys() - ours.keys()))[0]} is not the same in both",
            fix="align copies of one model, trained apart",
        )
    current = {name: theirs[name].detach().double().clone() for name in plan.tensors}
    orders = {axis.id: np.arange(axis.size) for axis in plan.axes}
    for number in range(_ROUNDS):
        moved = False
        for axis in plan.axes:
            places = [place for place in axis.members if number or place not in plan.summed] or list(axis.members)
            order = _match(plan.tensors, axis, places, ours, current)
            if (order != np.arange(axis.size)).any():
                moved = True
                orders[axis.id] = orders[axis.id][order]
                permute_tensors(current, {name: plan.tensors[name] for name, _ in axis.members}, {axis.id: order})
        if number and not moved:
            break
    layouts = {**plan.tensors, **(elastic_state(other).extras if is_elastic(other) else {})}
    permute_tensors(tensors_of(other), layouts, orders)
    if is_elastic(other):
        elastic_state(other).statistics.clear()
        activate(other, None)
    return {axis.name: torch.from_numpy(orders[axis.id]) for axis in plan.axes}


def fuse(model: nn.Module, other: nn.Module, share: float = 0.5) -> nn.Module:
    """A copy of the elastic `model` with the average of its tensors and those of `other`, which is aligned first.

    `share` is that of `other`. Neither model is changed. Integer buffers are those of `model`.

    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    >>> torch.equal(fuse(model, copy.deepcopy(model))[0].weight, model[0].weight)
    True
    """
    if not 0 <= share <= 1:
        raise ElastifyError(f"share={share} is not in [0, 1]", where="fuse")
    made, aligned = copy.deepcopy(model), copy.deepcopy(other)
    align(made, aligned)
    theirs = tensors_of(aligned)
    with torch.no_grad():
        for name, tensor in {id(t): (n, t) for n, t in tensors_of(made).items()}.values():
            if tensor.is_floating_point():
                tensor.lerp_(theirs[name].to(tensor), share)
    return made


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    extras = elastic_state(model).extras if is_elastic(model) else {}
    return {name: tensor for name, tensor in tensors_of(model).items() if name not in extras}


def _match(
    layouts: Mapping[str, tuple[Layout, ...]],
    axis: ElasticAxis,
    places: list[tuple[str, int]],
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
) -> np.ndarray:
    """For every unit of ours, the unit of theirs that the optimal transport brings to it."""
    try:
        import ot
    except ImportError:
        raise ElastifyError("optimal transport needs POT", fix='pip install "elastify[fuse]"') from None
    cost = torch.zeros(axis.size, axis.size, dtype=torch.float64)
    for name, dim in places:
        for units in owners(layouts[name][dim], axis.id):
            a, b = (_features(tensor[name].detach().double(), dim, units, axis.size) for tensor in (ours, theirs))
            cost += torch.cdist(a, b).square().cpu()
    mass = np.full(axis.size, 1 / axis.size)
    partners = ot.emd(mass, mass, cost.numpy(), numItermax=10_000_000).argmax(1)
    if len(set(partners.tolist())) != axis.size:
        raise ElastifyError("the transport plan is not a permutation", where=axis.name, why="ot.emd did not converge")
    return partners


def _features(tensor: Tensor, dim: int, units: np.ndarray, size: int) -> Tensor:
    """One line of weights per unit, whose positions along `dim` are those where `units` names it."""
    at = np.argsort(units, kind="stable")[np.count_nonzero(units < 0) :]
    return tensor.movedim(dim, 0)[torch.from_numpy(at)].reshape(size, -1)
