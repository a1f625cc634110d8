"""A residual network of equal blocks: one width for all of them, and any number of them can be left out."""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """x + a branch of two 3x3 convolutions with norms; tensors are [batch, width, height, width of the image]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.GroupNorm(width, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(width, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class ResidualNet(nn.Module):
    """A stem that divides height and width by 4, `depth` blocks, and a head: images to logits [batch, classes].

    Norms measure each channel of each image by itself (the last one all channels together), so a channel is normed
    in the same way at every width, and a subnet has no statistics of its own to keep.
    """

    def __init__(self, channels: int, width: int, depth: int, classes: int = 10) -> None:
        super().__init__()
        first = nn.Conv2d(channels, width, 5, stride=2, padding=2), nn.GroupNorm(width, width)
        self.stem = nn.Sequential(*first, nn.ReLU(), nn.MaxPool2d(2))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        last = nn.GroupNorm(1, width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
        self.head = nn.Sequential(*last)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))
