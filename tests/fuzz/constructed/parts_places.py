"""Parts with channels second, and the ways between images, signals, tokens and vectors."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .nodes import HEADS, WIDTHS, Part, part

PLACES = "bchw bct"
NORMS = {"norm": ("batch", "none", "plain")}


def conv(dims: int) -> type[nn.Conv1d] | type[nn.Conv2d]:
    return nn.Conv2d if dims == 2 else nn.Conv1d


def batch_norm(dims: int) -> type[nn.BatchNorm1d] | type[nn.BatchNorm2d]:
    return nn.BatchNorm2d if dims == 2 else nn.BatchNorm1d


@part(PLACES, out="out", out_size=WIDTHS, options={**NORMS, "dims": ((),)})
class ConvBlock(Part):
    LAYERS: ClassVar = {"conv": "out, width", "bn": "out"}

    def __init__(self, width: int, out: int, norm: str, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = conv(len(dims))(width, out, 3, padding=1, bias=norm == "none")
        self.bn = batch_norm(len(dims))(out, affine=norm == "batch") if norm != "none" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


@part(PLACES, a=WIDTHS, b=WIDTHS, options={"dims": ((),)})
class Bottleneck(Part):
    LAYERS: ClassVar = {
        "one": "a, width", "two": "b, a", "three": "width, b", "bn1": "a", "bn2": "b", "bn3": "width",
    }  # fmt: skip

    def __init__(self, width: int, a: int, b: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        c, bn = conv(len(dims)), batch_norm(len(dims))
        self.one, self.two, self.three = c(width, a, 1), c(a, b, 3, padding=1), c(b, width, 1)
        self.bn1, self.bn2, self.bn3 = bn(a), bn(b), bn(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.one(x)))
        y = F.relu(self.bn2(self.two(y)))
        return F.relu(x + self.bn3(self.three(y)))


@part(PLACES, hidden=WIDTHS, rank=(2, 3, 4), options={"dims": ((),)})
class Inverted(Part):
    """A depthwise convolution with squeeze and excitation between two of 1x1."""

    LAYERS: ClassVar = {
        "up": "hidden, width", "deep": "hidden, 1", "bn": "hidden", "squeeze": "rank, hidden", "excite": "hidden, rank",
        "down": "width, hidden",
    }  # fmt: skip

    def __init__(self, width: int, hidden: int, rank: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        c, self.dims = conv(len(dims)), dims
        self.up, self.deep = c(width, hidden, 1), c(hidden, hidden, 3, padding=1, groups=hidden)
        self.bn, self.down = batch_norm(len(dims))(hidden), c(hidden, width, 1)
        self.squeeze, self.excite = c(hidden, rank, 1), c(rank, hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.bn(self.deep(F.silu(self.up(x)))))
        gate = self.excite(F.relu(self.squeeze(y.mean(self.dims, keepdim=True))))
        return x + self.down(y * torch.sigmoid(gate))


@part(PLACES, rank=(2, 3, 4), options={"dims": ((),)})
class Squeeze(Part):
    LAYERS: ClassVar = {"one": "rank, width", "two": "width, rank"}

    def __init__(self, width: int, rank: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.one, self.two, self.dims = nn.Linear(width, rank), nn.Linear(rank, width), len(dims)

    def forward(self, x: Tensor) -> Tensor:
        b, c = x.shape[:2]
        y = F.adaptive_avg_pool2d(x, 1) if self.dims == 2 else F.adaptive_avg_pool1d(x, 1)
        y = torch.sigmoid(self.two(torch.relu(self.one(y.view(b, c)))))
        return x * y.reshape(b, c, *[1] * self.dims)


@part(PLACES, groups=HEADS, a=(5, 6), b=(5, 6, 8), options={"dims": ((),)})
class Grouped(Part):
    LAYERS: ClassVar = {"one": "groups*a, width", "two": "groups*b, a", "norm": "groups*b", "three": "width, groups*b"}

    def __init__(self, width: int, groups: int, a: int, b: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        c, self.groups = conv(len(dims)), groups
        self.one, self.three = c(width, groups * a, 1), c(groups * b, width, 1)
        self.two = c(groups * a, groups * b, 3, padding=1, groups=groups)
        self.norm = nn.GroupNorm(groups, groups * b)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.three(self.mixed(F.relu(self.norm(self.two(F.relu(self.one(x)))))))

    def mixed(self, x: Tensor) -> Tensor:
        return x


@part(PLACES, groups=HEADS, a=(5, 6), b=(5, 6, 8), options={"dims": ((),)})
class Mixed(Grouped):
    """The channels of the groups are dealt out."""

    LAYERS: ClassVar = {"one": "groups*a, width", "two": "groups*b, a", "norm": "groups*b", "three": "width, b*groups"}

    def mixed(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), self.groups, x.size(1) // self.groups, *x.shape[2:]).transpose(1, 2).flatten(1, 2)


@part(PLACES, split=True)
class GroupedNorm(Part):
    LAYERS: ClassVar = {"norm": "width"}

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(heads, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(x))


@part(PLACES, options={"dims": ((),), "affine": (True, False)})
class OneGroup(Part):
    """A norm over all channels, or one for each."""

    LAYERS: ClassVar = {"norm": "width"}

    def __init__(self, width: int, dims: tuple[int, ...], affine: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1 if affine else width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(x))


@part(PLACES, out="b + width", a=WIDTHS, b=WIDTHS, options={"dims": ((),)})
class DownUp(Part):
    """Half the places and back, joined with what was there."""

    LAYERS: ClassVar = {"down": "a, width", "up": "a, b"}

    def __init__(self, width: int, a: int, b: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.down = conv(len(dims))(width, a, 2, stride=2)
        self.up = (nn.ConvTranspose2d if len(dims) == 2 else nn.ConvTranspose1d)(a, b, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.up(F.gelu(self.down(x))), x], dim=1)


@part(PLACES, out="a", a=WIDTHS, b=WIDTHS, options={"dims": ((),)})
class TransposedTwo(Part):
    LAYERS: ClassVar = {"one": "b, width", "two": "b, a"}

    def __init__(self, width: int, a: int, b: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.one = conv(len(dims))(width, b, 3, padding=1)
        self.two = (nn.ConvTranspose2d if len(dims) == 2 else nn.ConvTranspose1d)(b, a, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.leaky_relu(self.one(x)))


@part("bchw", out="out", out_size=(3, 4, 5))
class Shuffled(Part):
    """Channels become places."""

    LAYERS: ClassVar = {"conv": "out*4, width"}

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out * 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pixel_shuffle(self.conv(x), 2), 2)


@part(PLACES, out="width + grow", grow=WIDTHS, options={"dims": ((),)})
class Dense(Part):
    LAYERS: ClassVar = {"norm": "width", "conv": "grow, width"}

    def __init__(self, width: int, grow: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.norm, self.conv = batch_norm(len(dims))(width), conv(len(dims))(width, grow, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


@part(PLACES, out="half + b", half=WIDTHS, b=WIDTHS, options={"dims": ((),)})
class Halves(Part):
    """One half of the channels goes on as it is."""

    LAYERS: ClassVar = {"inp": "half + half, width", "conv": "b, half"}

    def __init__(self, width: int, half: int, b: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.inp, self.conv = conv(len(dims))(width, 2 * half, 1), conv(len(dims))(half, b, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.inp(x).chunk(2, dim=1)
        return torch.cat((a, F.relu(self.conv(b))), dim=1)


@part("bchw", "btc", options={"style": ("flatten", "rearranged")})
class ToTokens(Part):
    def __init__(self, width: int, style: str) -> None:
        super().__init__()
        self.style = style

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "flatten":
            return x.flatten(2).transpose(1, 2)
        b, c, h, w = x.shape
        return x.permute(0, 2, 3, 1).reshape(b, h * w, c)


@part("btc", "bct")
class ToSignal(Part):
    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


@part("bct", "btc")
class FromSignal(ToSignal):
    pass


@part(PLACES, "bc", options={"dims": ((),)})
class PooledPlaces(Part):
    def __init__(self, width: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims)


@part("bchw", "bc", out="out", out_size=WIDTHS)
class Corners(Part):
    """Four places of each channel, flattened."""

    LAYERS: ClassVar = {"fc": "out, width*4"}

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(2), nn.Linear(width * 4, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(x), 1))


@part("btc", "bc", out="out", out_size=WIDTHS)
class Flattened(Part):
    """All tokens of one length, with the channels inside."""

    LAYERS: ClassVar = {"fc": "out, 6*width"}

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.width, self.fc = width, nn.Linear(6 * width, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x[:, -6:].reshape(-1, 6 * self.width))
