"""Trained networks of different sizes, stitched: the front of a smaller one, a layer, the back of a larger one.

Every anchor is a sequence of pieces. All of them, with the stitching layers between, stand in one `Sequential`, in an
order in which every way through is a subset of it: anchor, layers to the next one, next anchor, and so on. Which way is
taken is one elastic axis, with its ways sorted by MACs. A layer between piece i of one anchor and the nearest place of
the next is the least-squares map between what both compute there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from elastify._errors import ElastifyError
from elastify._rewrite import elastic_state
from elastify.train._surgery.ways import Way, choose_way, trace


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
        raise ElastifyError("stitching needs at least two models, and nearest of at least 1", where="stitch")
    anchors = [[copy.deepcopy(piece) for piece in (parts or _parts)(model)] for model in models]
    traces = [trace(pieces, inputs) for pieces in anchors]
    if len({given[-1].shape for given in traces}) > 1:
        raise ElastifyError("the models return outputs of different shapes", where="stitch")
    pieces: list[nn.Module] = list(anchors[0])
    ways: list[Way] = [tuple(range(len(pieces)))]
    for (before, after), (front, back) in zip(pairwise(anchors), pairwise(traces), strict=True):
        pairs = list(_pairs(front, back, nearest))
        first, own = len(pieces) - len(before), len(pieces) + len(pairs)
        for number, (i, j) in enumerate(pairs):
            ways.append((*range(first, first + i + 1), len(pieces) + number, *range(own + j, own + len(after))))
        pieces += [least_squares(front[i], back[j - 1]) for i, j in pairs]
        pieces += after
        ways.append(tuple(range(own, own + len(after))))
    model = choose_way(nn.Sequential(*pieces), ways, inputs[:1], ways[-1])
    _check_order(model, anchors)
    return model


def _check_order(model: nn.Sequential, anchors: Sequence[list[nn.Module]]) -> None:
    """Every anchor is a way, each costlier than the one before; ways are in the order of their costs."""
    pieces = dict(model._modules)
    kept = [[pieces[str(number)] for number in way] for way in elastic_state(model).plan.paths[""][1]]
    places = [kept.index(anchor) if anchor in kept else -1 for anchor in anchors]
    if -1 in places or places != sorted(places):
        raise ElastifyError(
            "the models do not become larger",
            where="stitch",
            why="ways lead from an anchor to the next, and none may cost as much as the last one",
            fix="models sorted by MACs, the smallest first, no two of the same size",
        )


def _parts(model: nn.Module) -> list[nn.Module]:
    if not isinstance(model, nn.Sequential):
        raise ElastifyError(
            f"this {type(model).__name__} cannot be split into pieces",
            where="stitch",
            why="only a Sequential says what its pieces are",
            fix="parts=lambda model: [stem, *model.blocks, head]",
        )
    nested = [_parts(child) if isinstance(child, nn.Sequential) else [child] for child in model]
    return [piece for pieces in nested for piece in pieces]


def _pairs(front: list[Tensor], back: list[Tensor], nearest: int) -> list[tuple[int, int]]:
    """(last piece of the front, first piece of the back) of all stitches."""
    pairs = []
    for i, given in enumerate(front[:-1]):
        wanted = (i + 1) / len(front) * len(back)
        places = [j for j in range(1, len(back)) if _frame(given) == _frame(back[j - 1])]
        pairs += [(i, j) for j in sorted(sorted(places, key=lambda j: abs(j - wanted))[:nearest])]
    return pairs


def _frame(x: Tensor) -> tuple[int, ...]:
    """All sizes but that of the channels, with the number of dimensions."""
    channels = 1 if x.dim() == 4 else x.dim() - 1
    return tuple(-1 if dim == channels else size for dim, size in enumerate(x.shape))


def least_squares(given: Tensor, wanted: Tensor) -> nn.Module:
    """The linear map, with a bias, that comes nearest."""
    image = given.dim() == 4
    a, b = (x.movedim(1, -1) if image else x for x in (given, wanted))
    a, b = a.reshape(-1, a.shape[-1]).double(), b.reshape(-1, b.shape[-1]).double()
    solution = torch.linalg.pinv(torch.cat([a, a.new_ones(len(a), 1)], 1)) @ b
    layer = nn.Conv2d(a.shape[1], b.shape[1], 1) if image else nn.Linear(a.shape[1], b.shape[1])
    with torch.no_grad():
        layer.weight.copy_(solution[:-1].T.reshape(layer.weight.shape))
        assert layer.bias is not None
        layer.bias.copy_(solution[-1])
    return layer.to(given.device, given.dtype)
