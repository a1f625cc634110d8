"""Trained networks of different sizes, stitched: the front of a smaller one, a layer, the back of a larger one.

Every anchor is a row of pieces. All of them, with the stitching layers between, stand in one `Sequential`, in an order
in which every way through is a subset of the row: anchor, layers to the next one, next anchor, and so on. Which way is
taken is one elastic axis, with its ways sorted by MACs. A layer between piece i of one anchor and the nearest place of
the next is the least-squares map between what both compute there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from elastify._capture import capture
from elastify._cost import METRICS, Cost, CostModel
from elastify._elastic import STATE, State, activate
from elastify._errors import ElastifyError
from elastify._plan import ElasticAxis, Plan
from elastify._planner import STATISTICS
from elastify._rewrite import install, record
from elastify._space import SearchSpace

Way = tuple[int, ...]


def stitch(
    models: Sequence[nn.Module],
    inputs: Tensor,
    *,
    parts: Callable[[nn.Module], Sequence[nn.Module]] | None = None,
    nearest: int = 1,
) -> nn.Sequential:
    """One elastic `Sequential` of copies of trained anchors, in which a way through two of them can be chosen.

    `models` compute the same thing, the smallest first. `parts(model)` gives the pieces of one, each with a tensor in
    and out, that run one after the other (None: the children of a Sequential, and of those in it). `inputs` are about
    100 samples: layers begin as the least-squares solution on them. A piece is stitched to the `nearest` places of the
    next anchor, in relative depth, where tensors differ in channels only (dimension 1 of images, else the last).

    The axis `stitch` orders the ways by MACs, the largest anchor last; ways costlier than it are left out. `activate`,
    `cost`, `search`, `extract` and `save` work as ever, and so do strategies: `Sorted(model, n, draws=1)` trains one
    random way a step, as the paper does (Pan et al., SN-Net, arXiv 2302.06586).

    >>> from elastify import space
    >>> def net(n):
    ...     return nn.Sequential(nn.Linear(4, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 3))
    >>> model = stitch([net(8), net(16)], torch.randn(100, 4))
    >>> space(model).axes[0].name, space(model).axes[0].size
    ('stitch', 4)
    """
    if len(models) < 2 or nearest < 1:
        raise ElastifyError("stitching takes two models or more, and at least one nearest place", where="stitch")
    anchors = [[copy.deepcopy(piece) for piece in (parts or _parts)(model)] for model in models]
    traces = [_trace(pieces, inputs) for pieces in anchors]
    if len({trace[-1].shape for trace in traces}) > 1:
        raise ElastifyError("the models give outputs of different shapes", where="stitch")
    row: list[nn.Module] = list(anchors[0])
    ways: list[Way] = [tuple(range(len(row)))]
    for (before, after), (front, back) in zip(pairwise(anchors), pairwise(traces), strict=True):
        pairs = list(_pairs(front, back, nearest))
        first, own = len(row) - len(before), len(row) + len(pairs)
        for number, (i, j) in enumerate(pairs):
            ways.append((*range(first, first + i + 1), len(row) + number, *range(own + j, own + len(after))))
        row += [least_squares(front[i], back[j - 1]) for i, j in pairs]
        row += after
        ways.append(tuple(range(own, own + len(after))))
    return _elastic(nn.Sequential(*row), ways, inputs[:1], ways[-1])


def _parts(model: nn.Module) -> list[nn.Module]:
    if not isinstance(model, nn.Sequential):
        raise ElastifyError(
            f"how does this {type(model).__name__} come apart?",
            where="stitch",
            why="only a Sequential is known to be a row of pieces",
            fix="parts=lambda model: [stem, *model.blocks, head]",
        )
    nested = [_parts(child) if isinstance(child, nn.Sequential) else [child] for child in model]
    return [piece for pieces in nested for piece in pieces]


def _trace(pieces: Sequence[nn.Module], x: Any) -> list[Tensor]:
    """What every piece gives, in evaluation mode; the modes are as before."""
    modes = [(module, module.training) for piece in pieces for module in piece.modules()]
    found = []
    with torch.no_grad():
        for piece in pieces:
            x = piece.eval()(x)
            if not isinstance(x, Tensor):
                raise ElastifyError(f"a piece gives a {type(x).__name__}", where=type(piece).__name__, why="no tensor")
            found.append(x)
    for module, mode in modes:
        module.training = mode
    return found


def _pairs(front: list[Tensor], back: list[Tensor], nearest: int) -> list[tuple[int, int]]:
    """(last piece of the front, first piece of the back) of all stitches."""
    found = []
    for i, given in enumerate(front[:-1]):
        wanted = (i + 1) / len(front) * len(back)
        places = [j for j in range(1, len(back)) if _frame(given) == _frame(back[j - 1])]
        found += [(i, j) for j in sorted(sorted(places, key=lambda j: abs(j - wanted))[:nearest])]
    return found


def _frame(x: Tensor) -> tuple[int, ...]:
    """All sizes but that of the channels, with the number of dimensions."""
    channels = 1 if x.dim() == 4 else x.dim() - 1
    return tuple(-1 if dim == channels else size for dim, size in enumerate(x.shape))


def least_squares(given: Tensor, wanted: Tensor) -> nn.Module:
    """The linear map, with a bias, that comes nearest."""
    image = given.dim() == 4
    a, b = (x.movedim(1, -1) if image else x for x in (given, wanted))
    a, b = a.reshape(-1, a.shape[-1]).double(), b.reshape(-1, b.shape[-1]).double()
    found = torch.linalg.pinv(torch.cat([a, a.new_ones(len(a), 1)], 1)) @ b
    layer = nn.Conv2d(a.shape[1], b.shape[1], 1) if image else nn.Linear(a.shape[1], b.shape[1])
    with torch.no_grad():
        layer.weight.copy_(found[:-1].T.reshape(layer.weight.shape))
        assert layer.bias is not None
        layer.bias.copy_(found[-1])
    return layer.to(given.device, given.dtype)


class _Ways(CostModel):
    """Exact costs of the ways: sums over their pieces, each counted on one sample."""

    def __init__(self, costs: Cost) -> None:
        self._costs = costs

    def __call__(self, encoded: Any) -> Cost:
        rows = np.asarray(encoded)[:, 0] - 1
        return Cost(*(getattr(self._costs, metric)[rows] for metric in METRICS))

    def of(self, config: Any = None) -> Cost:
        return self._costs[-1 if config is None else config.sizes["stitch"] - 1]


def _elastic(model: nn.Sequential, ways: list[Way], x: Tensor, largest: Way) -> nn.Sequential:
    pieces: dict[int, tuple[int, ...]] = {}
    for way in ways:
        for number, value in zip(way, [x, *_trace([model[n] for n in way], x)], strict=False):
            if number not in pieces:
                graph = capture(model[number], (value,), {})
                names = [name for name, _ in model[number].named_parameters()]
                counted = CostModel(graph, {}, Plan(), parameters=names).of()
                pieces[number] = tuple(getattr(counted, metric) for metric in METRICS)
    sums = {way: tuple(map(sum, zip(*(pieces[n] for n in way), strict=True))) for way in ways}
    kept = sorted((way for way in ways if sums[way] < sums[largest] or way == largest), key=sums.__getitem__)
    used = sorted(set().union(*kept))
    model, size = nn.Sequential(*(model[number] for number in used)), len(kept)
    axis = ElasticAxis(0, "stitch", size, tuple(range(1, size + 1)), "stitch")
    statistics = frozenset(n for n, _ in model.named_buffers() if n.rpartition(".")[2] in STATISTICS)
    paths = {"": (0, tuple(tuple(map(used.index, way)) for way in kept))}
    install(model, Plan((axis,), statistics=statistics, paths=paths))
    table = np.array([sums[way] for way in kept], np.int64)
    costs = _Ways(Cost(*table.T))
    plan = record(model).plan
    where = SearchSpace(plan, verified=True, title="stitched", example={"input": tuple(x.shape[1:])}, cost=costs)
    model.__dict__[STATE] = State(where, costs)
    activate(model, None)
    return model
