"""The networks that are masked in the literature: pairs of 3x3 convolutions with pooling, then three linear layers."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

CHANNELS = {"conv2": (64,), "conv4": (64, 128), "conv6": (64, 128, 256)}


def conv_net(name: str, example: Tensor, scale: float = 1.0, classes: int = 10) -> nn.Sequential:
    """Conv2, Conv4 or Conv6 for images like the example [n, channels, height, width]; no biases, no norms.

    `scale` multiplies all widths but that of the images and the classes.
    """
    layers: list[nn.Module] = []
    widths = [example.shape[1], *(max(1, round(scale * width)) for width in CHANNELS[name])]
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.ReLU()]
        layers += [nn.Conv2d(after, after, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2)]
    layers.append(nn.Flatten())
    with torch.no_grad():
        size = nn.Sequential(*layers)(example[:1]).shape[1]
    hidden = max(1, round(scale * 256))
    layers += [nn.Linear(size, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, hidden, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, classes, bias=False))
