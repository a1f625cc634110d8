"""torchvision: image networks at 224 pixels unless they were built for another size; clips for video networks, lists
of pictures for detectors.

Its own operators, known to torch by qualified names, have rules like all others, under the names given here.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from elastify._adapters._noise import noise

OPERATORS = {f"torchvision::{name}": name for name in ("nms", "roi_align", "roi_pool")}


def example_inputs(model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    home = next(cls.__module__ for cls in type(model).__mro__ if cls.__module__.startswith("torchvision."))
    if not home.startswith("torchvision.models."):
        return None
    if ".detection" in home:  # what is not a detector there is one of its parts
        resize: Any = getattr(model, "transform", None)
        if resize is None:
            return None
        size = int(resize.min_size[-1])
        return ([noise(3, size, size), noise(3, size, size)],), {}
    if ".optical_flow" in home:
        return (noise(2, 3, 128, 128), noise(2, 3, 128, 128)), {}
    stem = next((m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))), None)
    channels = stem.in_channels if stem is not None else 3
    if isinstance(stem, nn.Conv3d):
        position = getattr(model, "pos_encoding", None)
        frames = getattr(position, "temporal_size", 8) * stem.stride[0]
        space = getattr(position, "spatial_size", None)
        size = [n * s for n, s in zip(space, stem.stride[1:], strict=True)] if space else [112, 112]
        return (noise(2, channels, max(frames, 16), *size),), {}
    side = getattr(model, "image_size", 299 if home.endswith(".inception") else 224)
    return (noise(2, channels, int(side), int(side)),), {}
