"""Shuffles, reshapes, joins and splits: what becomes of the units when dimensions are taken apart and put together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .construct import Construct, Fn, images, param, through

X = (2, 6)
MAP = (2, 3, 4, 4)


def shuffle(m: Fn, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    x = m.before(x).view(b, m.groups, c // m.groups, h, w).transpose(1, 2).reshape(b, c, h, w)
    return m.after(x)


def shuffle_halves(m: Fn, x: Tensor) -> Tensor:
    """ShuffleNet: one half passes, the other is convolved, then both are interleaved."""
    a, b = x.chunk(2, 1)
    x = torch.cat([a, m.branch(b)], 1)
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).flatten(1, 2)


def to_depth(m: Fn, x: Tensor) -> Tensor:
    x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
    return m.mix(x)


def to_depth_by_view(m: Fn, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, c * 4, h // 2, w // 2)
    return m.mix(x)


def columns(m: Fn, x: Tensor) -> Tensor:
    """A convolution as unfold and a matrix product."""
    b, _, h, w = x.shape
    return (m.weight.flatten(1) @ F.unfold(x, 3, padding=1)).view(b, -1, h, w)


def columns_by_unfold(m: Fn, x: Tensor) -> Tensor:
    """Patches by Tensor.unfold along both places, then linear."""
    x = x.unfold(2, 2, 2).unfold(3, 2, 2)
    x = x.permute(0, 2, 3, 1, 4, 5).flatten(3)
    return m.linear(x).permute(0, 3, 1, 2)


def folded(m: Fn, x: Tensor) -> Tensor:
    """Values of patches, weighted per place and folded back (outlook attention)."""
    b, c, h, w = x.shape
    v = F.unfold(m.v(x), 3, padding=1).view(b, m.heads, c // m.heads, 9, h * w)
    weights = m.weights(x).view(b, m.heads, 9, 9, h * w).softmax(2)
    out = torch.einsum("bhdkp,bhkqp->bhdqp", v, weights)
    return F.fold(out.reshape(b, c * 9, h * w), (h, w), 3, padding=1)


def dense(m: Fn, x: Tensor) -> Tensor:
    features = [x]
    for layer in m.layers:
        features.append(torch.relu(layer(torch.cat(features, 1))))
    return torch.cat(features, 1)


def tree(m: Fn, x: Tensor) -> Tensor:
    """DLA: a root joins what two children and the input say."""
    left = torch.relu(m.left(x))
    right = torch.relu(m.right(left))
    return torch.relu(m.root(torch.cat([right, left, x], 1)) + right)


def first_channels(m: Fn, x: Tensor) -> Tensor:
    """ReXNet: the input is added to the first channels of a wider result."""
    y = m.wide(x)
    return torch.cat([y[:, : m.c] + x, y[:, m.c :]], 1)


def first_channels_in_place(m: Fn, x: Tensor) -> Tensor:
    y = m.wide(x)
    y[:, : x.shape[1]] += x
    return y


def first_channels_padded(m: Fn, x: Tensor) -> Tensor:
    """Option A of ResNets: the input is padded by zeros."""
    y = m.wide(x)
    return y + F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))


def first_channels_joined(m: Fn, x: Tensor) -> Tensor:
    y = m.wide(x)
    return y + torch.cat([x, x.new_zeros(x.shape[0], y.shape[1] - x.shape[1], *x.shape[2:])], 1)


def by_index_list(m: Fn, x: Tensor) -> Tensor:
    return torch.cat([m.even(x[:, m.evens]), x[:, m.odds]], 1)


def by_index_buffer(m: Fn, x: Tensor) -> Tensor:
    return x.index_select(1, m.order)


def cross_stage(m: Fn, x: Tensor) -> Tensor:
    a, b = x.split(x.shape[1] // 2, 1)
    return m.join(torch.cat([a, torch.relu(m.branch(b))], 1))


def elan(m: Fn, x: Tensor) -> Tensor:
    """YOLO's C2f: a list that grows by what each block makes of its last entry."""
    y = list(m.enter(x).chunk(2, 1))
    y.extend(block(y[-1]) for block in m.blocks)
    return m.leave(torch.cat(y, 1))


def partial(m: Fn, x: Tensor) -> Tensor:
    """FasterNet: the first quarter is convolved, the rest passes."""
    a, b = torch.split(x, [m.part, m.c - m.part], 1)
    return torch.cat([m.conv(a), b], 1)


def cut_in_place(m: Fn, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, : m.part] = m.conv(x[:, : m.part])
    return y


def mixed_split(m: Fn, x: Tensor) -> Tensor:
    a, b, c = m.wide(x).tensor_split(3, 1)
    return a * b + c


def hadamard(m: Fn, x: Tensor) -> Tensor:
    """A matrix of the first channel alone gates the others."""
    return x * x[:, :1].sigmoid()


def einsum_reshape(m: Fn, x: Tensor) -> Tensor:
    """Monarch: block-diagonal products over both factors of the width."""
    b = x.shape[0]
    x = torch.einsum("bkq,kqp->bkp", x.view(b, m.outer, m.inner), m.left)
    return torch.einsum("bkp,pkl->bpl", x, m.right).reshape(b, -1)


def ends(m: Fn, x: Tensor) -> Tensor:
    """Everything but the last two units, whose places are written in the source."""
    return x[:, :-2]


W2 = {"groups": 3, "before": lambda: nn.Conv2d(18, 18, 1, groups=3), "after": lambda: nn.Conv2d(18, 18, 1, groups=3)}


def wider() -> nn.Module:
    return nn.Conv2d(12, 20, 1)


BOTH = {"first.weight[0]": "12", "wide.weight[0]": "12, 8"}

CONSTRUCTS = [
    Construct(
        "channel shuffle", images(shuffle, 18, **W2), MAP, {"before.weight[1]": "3, 2", "after.weight[0]": "3, 6"}
    ),
    Construct(
        "channel shuffle of halves",
        images(shuffle_halves, branch=lambda: nn.Conv2d(6, 6, 1)),
        MAP,
        {"first.weight[0]": "6", "branch.weight[0]": "6"},
    ),
    Construct(
        "channel shuffle layer",
        images(lambda m, x: m.after(m.shuffle(m.before(x))), 18, shuffle=lambda: nn.ChannelShuffle(3), **W2),
        MAP,
        {"after.weight[0]": "3, 6"},
    ),
    Construct(
        "pixel shuffle",
        images(lambda m, x: m.shuffle(x), 12, 3, shuffle=lambda: nn.PixelShuffle(2)),
        MAP,
        {"first.weight[0]": "3"},
    ),
    Construct(
        "pixel unshuffle",
        images(lambda m, x: m.shuffle(x), 5, 20, shuffle=lambda: nn.PixelUnshuffle(2)),
        MAP,
        {"first.weight[0]": "5", "next.weight[1]": "5"},
    ),
    Construct(
        "space to depth by strided slices",
        images(to_depth, mix=lambda: nn.Conv2d(48, 12, 1)),
        MAP,
        {"first.weight[0]": "12", "mix.weight[1]": "12"},
    ),
    Construct(
        "space to depth by view",
        images(to_depth_by_view, mix=lambda: nn.Conv2d(48, 12, 1)),
        MAP,
        {"first.weight[0]": "12", "mix.weight[1]": "12"},
    ),
    Construct(
        "im2col", images(columns, out=8, weight=lambda: param(8, 12, 3, 3)), MAP, {"weight[0]": "8", "weight[1]": "12"}
    ),
    Construct(
        "patches by unfold",
        images(columns_by_unfold, out=8, linear=lambda: nn.Linear(48, 8)),
        MAP,
        {"linear.weight[1]": "12", "linear.weight[0]": "8"},
    ),
    Construct(
        "unfold, weigh and fold",
        images(folded, v=lambda: nn.Conv2d(12, 12, 1), weights=lambda: nn.Conv2d(12, 3 * 81, 1), heads=3),
        MAP,
        {"v.weight[0]": "heads 3, head_dim 4", "weights.weight[0]": "heads 3"},
    ),
    Construct(
        "cat of the same tensor twice",
        through(lambda m, x: torch.cat([x, x], -1), out=24),
        X,
        {"first.weight[0]": "12", "next.weight[1]": "12"},
    ),
    Construct(
        "cat of a tensor and its negative",
        through(lambda m, x: torch.cat([x, -x], -1).relu(), out=24),
        X,
        {"next.weight[1]": "12"},
    ),
    Construct(
        "dense aggregation",
        images(dense, out=20, layers=lambda: nn.ModuleList([nn.Conv2d(12, 4, 1), nn.Conv2d(16, 4, 1)])),
        MAP,
        {"next.weight[1]": "12, 4, 4", "layers.1.weight[1]": "12, 4"},
    ),
    Construct(
        "tree aggregation",
        images(
            tree, left=lambda: nn.Conv2d(12, 8, 1), right=lambda: nn.Conv2d(8, 12, 1), root=lambda: nn.Conv2d(32, 12, 1)
        ),
        MAP,
        {"root.weight[1]": "12, 12, 8"},
    ),
    Construct("residual to the first channels", images(first_channels, out=20, wide=wider, c=12), MAP, BOTH),
    Construct(
        "residual to the first channels in place", images(first_channels_in_place, out=20, wide=wider), MAP, BOTH
    ),
    Construct("residual padded by zeros", images(first_channels_padded, out=20, wide=wider), MAP, BOTH),
    Construct("residual joined to zeros", images(first_channels_joined, out=20, wide=wider), MAP, BOTH),
    Construct(
        "split by a list of indices",
        through(by_index_list, even=lambda: nn.Linear(6, 6), evens=[0, 2, 4, 6, 8, 10], odds=[1, 3, 5, 7, 9, 11]),
        X,
        {"next.weight[0]": "10"},
        {"first.weight[0]": "picked by a list"},
    ),
    Construct(
        "split by an index buffer",
        through(by_index_buffer, order=lambda: torch.arange(12).flip(0)),
        X,
        {"next.weight[0]": "10"},
        {"first.weight[0]": "picked by an index tensor"},
    ),
    Construct(
        "cross stage",
        images(cross_stage, branch=lambda: nn.Conv2d(6, 6, 1), join=lambda: nn.Conv2d(12, 12, 1)),
        MAP,
        {"first.weight[0]": "6", "branch.weight[0]": "6", "join.weight[1]": "6, 6"},
    ),
    Construct(
        "growing list of parts",
        images(
            elan,
            enter=lambda: nn.Conv2d(12, 8, 1),
            leave=lambda: nn.Conv2d(16, 12, 1),
            blocks=lambda: nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2)),
        ),
        MAP,
        {"enter.weight[0]": "4", "leave.weight[1]": "4, 4, 4"},
        stages=(),
    ),
    Construct(
        "convolution of the first channels",
        images(partial, part=3, c=12, conv=lambda: nn.Conv2d(3, 3, 3, padding=1)),
        MAP,
        {"conv.weight[0]": "3", "first.weight[0]": "3, 9"},
    ),
    Construct(
        "convolution of the first channels in place",
        images(cut_in_place, part=3, conv=lambda: nn.Conv2d(3, 3, 3, padding=1)),
        MAP,
        {"conv.weight[0]": "3", "first.weight[0]": "3, 9"},
    ),
    Construct(
        "three parts multiplied", through(mixed_split, wide=lambda: nn.Linear(12, 36)), X, {"wide.weight[0]": "12"}
    ),
    Construct("broadcast of the first channel", through(hadamard), X, {"first.weight[0]": "11"}),
    Construct(
        "block-diagonal products",
        through(einsum_reshape, outer=3, inner=4, left=lambda: param(3, 4, 5), right=lambda: param(5, 3, 2), out=10),
        X,
        {"left[0]": "3", "left[1]": "4", "left[2]": "5", "first.weight[0]": "3, 4"},
    ),
    Construct("all but the last units", through(ends, out=10), X, {"first.weight[0]": "10"}),
    Construct(
        "cumulative sum over channels",
        through(lambda m, x: x.cumsum(-1)),
        X,
        {"next.weight[0]": "10"},
        {"first.weight[0]": "order of units"},
    ),
    Construct(
        "flip over channels",
        through(lambda m, x: x + x.flip(-1)),
        X,
        {"next.weight[0]": "10"},
        {"first.weight[0]": "order of units"},
    ),
    Construct(
        "roll over channels",
        through(lambda m, x: x + x.roll(1, -1)),
        X,
        {"next.weight[0]": "10"},
        {"first.weight[0]": "order of units"},
    ),
    Construct(
        "sort over channels",
        through(lambda m, x: x.sort(-1).values),
        X,
        {"next.weight[0]": "10"},
        {"first.weight[0]": "ranks units"},
    ),
    Construct(
        "maximum over groups (maxout)",
        through(lambda m, x: x.view(x.shape[0], -1, 2).amax(-1), out=6),
        X,
        {"first.weight[0]": "6"},
    ),
    Construct(
        "flattened map",
        images(lambda m, x: m.fc(x.flatten(1))[:, :, None, None], fc=lambda: nn.Linear(12 * 16, 12)),
        MAP,
        {"first.weight[0]": "12", "fc.weight[1]": "12"},
    ),
    Construct(
        "map made from a vector",
        lambda: Fn(
            lambda m, x: m.conv(torch.relu(m.fc(x)).view(x.shape[0], -1, 2, 2)),
            fc=nn.Linear(6, 32),
            conv=nn.ConvTranspose2d(8, 3, 2, 2),
        ),
        X,
        {"fc.weight[0]": "8", "conv.weight[0]": "8"},
    ),
    Construct(
        "map made from a vector by an attribute",
        lambda: Fn(
            lambda m, x: m.conv(torch.relu(m.fc(x)).view(-1, m.c, 2, 2)),
            fc=nn.Linear(6, 32),
            conv=nn.ConvTranspose2d(8, 3, 2, 2),
            c=8,
        ),
        X,
        {"fc.weight[0]": "8", "conv.weight[0]": "8"},
    ),
    Construct(
        "map made from a vector by a number",
        lambda: Fn(
            lambda m, x: m.last(torch.relu(m.conv(torch.relu(m.fc(x)).view(-1, 8, 2, 2)))),
            fc=nn.Linear(6, 32),
            conv=nn.ConvTranspose2d(8, 5, 2, 2),
            last=nn.Conv2d(5, 3, 1),
        ),
        X,
        {"conv.weight[1]": "5"},
        {"fc.weight[0]": "the number 8 is written in the source"},
    ),
]
