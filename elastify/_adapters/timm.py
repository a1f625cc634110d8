"""timm: the pretrained configuration says the input size; the model itself may have been built for another.

Models describe themselves by numbers: how wide the classifier's input is, how many channels each of the features has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from elastify._adapters._noise import noise
from elastify._ir import Attr


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


def sums(model: Any) -> dict[Attr, tuple[str, ...]]:
    """Numbers that are how wide the input of the classifier is: of the weights of these names, together."""
    found = model.get_classifier() if hasattr(model, "get_classifier") else None
    found = found[0] if isinstance(found, tuple) else found  # one for each head, of the same input
    paths = {id(module): path for path, module in model.named_modules()}
    inside = found.modules() if isinstance(found, nn.Module) else ()
    parts = [module for module in inside if isinstance(module, (nn.Linear, nn.Conv2d))]
    weights = tuple(f"{paths[id(part)]}.weight" for part in parts if id(part) in paths)
    return {Attr("", name): weights for name in ("num_features", "head_hidden_size") if weights}


def channels(model: Any) -> dict[Attr, int]:
    """Numbers that say how many channels the features of a model have."""
    info = getattr(model, "feature_info", None)
    entries = info if isinstance(info, list) and hasattr(model, "forward_intermediates") else []
    return {
        Attr("", "feature_info", (i, "num_chs")): entry["num_chs"]
        for i, entry in enumerate(entries)
        if isinstance(entry, dict) and isinstance(entry.get("num_chs"), int)
    }


def channels_given(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Attr, int]:
    """What these numbers are, as the features themselves have it."""
    with torch.no_grad():
        found = model.forward_intermediates(*args, **kwargs, intermediates_only=True)
    told = channels(model)
    pairs = zip(told, found, strict=True) if len(told) == len(found) else ()
    return {attr: int(feature.shape[1]) for attr, feature in pairs if isinstance(feature, Tensor)}
