"""`elastify` for tests of what the pass finds: every axis gets smaller, as if a pattern named it alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from elastify._elastify import build


def every_axis(model: nn.Module, *args: Any, **options: Any) -> Any:
    """The model, elastic in all its axes: also in those that leave a ratio to the coarser ones of their dimension."""
    build(model, *args, every_axis=True, **options)
    return model
