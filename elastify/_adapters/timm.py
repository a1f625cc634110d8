"""timm: the pretrained configuration says the input size; the model itself may have been built for another."""

from __future__ import annotations

from typing import Any

from torch import nn

from elastify._adapters._noise import noise


def example_inputs(model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if not isinstance(config, dict) or len(config.get("input_size") or ()) != 3:
        return None
    channels, *size = (int(n) for n in config["input_size"])
    built = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if isinstance(built, (tuple, list)) and len(built) == 2:
        size = [int(n) for n in built]
    first = config.get("first_conv") or ""
    stem = dict(model.named_modules()).get(first if isinstance(first, str) else first[0])
    told = getattr(model, "in_chans", None)  # a stem may see pixels already folded into channels
    channels = told if isinstance(told, int) else int(getattr(stem, "in_channels", channels))
    return (noise(2, channels, *size),), {}
