"""Blocks that can be left out, in the ways in which people write them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .code import INNER, Residual, X, blocks, drop_path
from .construct import Construct, Fn, images, param, through

UP = {"blocks.1.up.weight[0]": "20", **INNER}


class Dropping(nn.Module):
    """A residual branch that training leaves out at random."""

    def __init__(self) -> None:
        super().__init__()
        self.mid = nn.Linear(12, 12)

    forward = drop_path


class Caching(nn.Module):
    """Attention over all that it was given; keys and values are kept under the number of the layer."""

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.q, self.k, self.v = (nn.Linear(12, 12) for _ in range(3))

    def forward(self, x: Tensor, cache: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
        k, v = self.k(x), self.v(x)
        if self.layer_idx in cache:
            k, v = (torch.cat(pair, 1) for pair in zip(cache[self.layer_idx], (k, v), strict=True))
        cache[self.layer_idx] = k, v
        return x + (self.q(x) @ k.transpose(1, 2) * k.shape[-1] ** -0.5).softmax(-1) @ v


def with_caches(m: Fn, x: Tensor) -> Tensor:
    """Two tokens after the others, with what is kept of these."""
    cache: dict[int, tuple[Tensor, Tensor]] = {}
    parts = []
    for part in (x[:, :-2], x[:, -2:]):
        for layer in m.layers:
            part = layer(part, cache)
        parts.append(part)
    return torch.cat(parts, 1)


def one_after_the_other(m: Fn, x: Tensor) -> Tensor:
    cache: dict[int, tuple[Tensor, Tensor]] = {}
    for layer in m.layers:
        x = layer(x, cache)
    return x


class Crossing(nn.Module):
    """A block of a decoder: attends to what the encoder made."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.up, self.down = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(12, 20), nn.Linear(20, 12)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + (self.q(x) @ self.k(memory).transpose(1, 2)).softmax(-1) @ memory
        return x + self.down(torch.relu(self.up(x)))


def encoder_and_decoder(m: Fn, x: Tensor) -> Tensor:
    memory = x
    for block in m.encoder:
        memory = block(memory)
    for block in m.decoder:
        x = block(x, memory)
    return x


def staged() -> nn.Module:
    """Two stages with a convolution between them that halves the map."""

    def block(width: int) -> nn.Module:
        return Fn(lambda m, x: x + torch.tanh(m.conv(x)), conv=nn.Conv2d(width, width, 3, padding=1))

    def stage(width: int) -> nn.Module:
        return nn.Sequential(*(block(width) for _ in range(3)))

    return nn.Sequential(stage(12), nn.Conv2d(12, 20, 2, 2), stage(20), nn.Conv2d(20, 12, 1))


def counted(m: Fn, x: Tensor) -> Tensor:
    for number in range(m.depth):
        x = m.blocks[number](x)
    return x


def sliced(m: Fn, x: Tensor) -> Tensor:
    for block in m.blocks[: m.settings["num_layers"]]:
        x = block(x)
    return x


def by_attribute(m: Fn, x: Tensor) -> Tensor:
    for number in range(m.depth):
        x = getattr(m, f"block{number}")(x)
    return x


def zipped(m: Fn, x: Tensor) -> Tensor:
    for norm, block in zip(m.norms, m.blocks, strict=False):
        x = x + block(norm(x))
    return x


def between(m: Fn, x: Tensor) -> Tensor:
    """What runs between two blocks and not after the last."""
    for number, block in enumerate(m.blocks):
        x = block(x)
        if number < len(m.blocks) - 1:
            x = torch.tanh(x)
    return x


def placed(m: Fn, x: Tensor) -> Tensor:
    """A token joins the others before the block of a number that the module holds (ConViT)."""
    for number, block in enumerate(m.blocks):
        if number == m.place:
            x = torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1)
        x = block(x)
    return x


def picked(m: Fn, x: Tensor) -> Tensor:
    """The result of the second block counts as well: it and the first stay."""
    found = []
    for block in m.blocks:
        x = block(x)
        found.append(x)
    return x + torch.tanh(found[1])


def dense(m: Fn, x: Tensor) -> Tensor:
    """All results side by side: none can go."""
    found = [x]
    for block in m.blocks:
        found.append(block(found[-1]))
    return torch.cat(found, -1)


def linears(kind: Any) -> Any:
    return lambda: nn.ModuleList(kind() for _ in range(3))


CONSTRUCTS = [
    Construct(
        "blocks with drop path",
        through(lambda m, x: m.blocks(x), blocks=lambda: nn.Sequential(*(Dropping() for _ in range(3)))),
        X,
        INNER,
        stages=("blocks",),
    ),
    Construct(
        "caches per layer",
        through(one_after_the_other, layers=lambda: nn.ModuleList(Caching(i) for i in range(3))),
        (2, 5, 6),
        {"layers.2.q.weight[0]": "12", **INNER},
        stages=("layers",),
    ),
    Construct(
        "caches per layer, read",  # every layer runs twice: leaving it out would take both runs away
        through(with_caches, layers=lambda: nn.ModuleList(Caching(i) for i in range(3))),
        (2, 5, 6),
        {"layers.2.q.weight[0]": "12", **INNER},
    ),
    Construct(
        "blocks of an encoder and a decoder",
        through(encoder_and_decoder, encoder=blocks(), decoder=blocks(Crossing)),
        (2, 5, 6),
        {"encoder.1.up.weight[0]": "20", "decoder.1.q.weight[0]": "8", **INNER},
        stages=("decoder", "encoder"),
    ),
    Construct(
        "stages of different widths",
        images(lambda m, x: m.stages(x), stages=staged),
        (2, 3, 8, 8),
        {"stages.0.1.conv.weight[0]": "12", "stages.2.1.conv.weight[0]": "20"},
        stages=("stages.0", "stages.2"),
    ),
    Construct("blocks counted by an attribute", through(counted, blocks=blocks(), depth=3), X, UP, stages=("blocks",)),
    Construct(
        "blocks up to a number in a dict",
        through(sliced, blocks=blocks(), settings={"num_layers": 3}),
        X,
        UP,
        stages=("blocks",),
    ),
    Construct(
        "blocks in attributes with numbers",
        through(by_attribute, depth=3, **{f"block{i}": Residual for i in range(3)}),
        X,
        {"block1.up.weight[0]": "20", **INNER},
        stages=("",),
    ),
    Construct(
        "blocks and their norms in two lists",
        through(zipped, norms=linears(lambda: nn.LayerNorm(12)), blocks=linears(lambda: nn.Linear(12, 12))),
        X,
        {"blocks.1.weight[0]": "12", **INNER},
        stages=("blocks",),  # the norms go with them
    ),
    Construct("something between blocks", through(between, blocks=blocks()), X, UP, stages=("blocks",)),
    Construct(
        "a token that joins at a place",
        through(
            placed, blocks=lambda: nn.ModuleList(Residual() for _ in range(5)), place=3, token=lambda: param(1, 1, 12)
        ),
        (2, 5, 6),
        UP,
        stages=("blocks", "blocks"),
    ),
    Construct(
        "the result of a block picked by its number",
        through(picked, blocks=lambda: nn.ModuleList(Residual() for _ in range(4))),
        X,
        UP,
        stages=("blocks",),
    ),
    Construct("results of all blocks side by side", through(dense, out=48, blocks=blocks()), X, UP),
]
