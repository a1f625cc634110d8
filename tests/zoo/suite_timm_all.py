"""Every architecture that timm registers, for the lighter check.

Each is built at the least image size at which it runs, found on the meta device, where shapes cost nothing. Weights are
made for networks of up to 50 million parameters; of larger ones only the shapes are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from zoo_entry import Entry, Made

_SIZES = (64, 96, 112, 128, 160, 192, 224, 256, 288, 384, 448, 512)
_MOST_PARAMETERS = 50_000_000
# What a network says to a size that it is not made for.
_REFUSALS = (RuntimeError, TypeError, ValueError, AssertionError, IndexError, ZeroDivisionError, NotImplementedError)


def light(name: str) -> Made:
    """The architecture at its least size, with weights where it is small."""
    for size, options in _candidates(name):
        model = _fits(name, size, options)
        if model is not None:
            if _is_meta(model) and sum(p.numel() for p in model.parameters()) <= _MOST_PARAMETERS:
                torch.manual_seed(0)
                model = _create(name, options)
            return model.eval(), (torch.randn(2, 3, size, size),), {}
    raise ValueError(f"{name} does not run at any size")


def _candidates(name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    default = config.input_size[-1] if config is not None else 224
    for size in (*(n for n in _SIZES if n < default), default):
        yield size, {"img_size": size}
        yield size, {}


def _create(name: str, options: dict[str, Any]) -> nn.Module:
    import timm

    return timm.create_model(name, **options)


def _is_meta(model: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def _fits(name: str, size: int, options: dict[str, Any]) -> nn.Module | None:
    """The model if it runs at this size with two places a side left at the end: attention over one is a constant."""
    device = "meta"
    try:
        with torch.device("meta"):
            model = _create(name, options)
    except (RuntimeError, NotImplementedError):  # it computes with its weights when it is built
        device = "cpu"
        try:
            model = _create(name, options)
        except _REFUSALS:
            return None
    except (TypeError, ValueError, AssertionError, IndexError, ZeroDivisionError):
        return None
    if size < 2 * max((info["reduction"] for info in getattr(model, "feature_info", ())), default=0):
        return None
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, 3, size, size, device=device))
    except _REFUSALS:
        return None
    return model


def _architectures() -> list[str]:
    import timm

    return timm.list_models()


TIMM_ALL = [Entry(f"timm:{name}", partial(light, name), light=True) for name in _architectures()]
