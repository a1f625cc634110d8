"""einops: shapes are computed by a cached function, which would answer with the sizes of an earlier run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any


def uncached() -> Iterator[tuple[Any, str, Any, Any]]:
    """(module, attribute, cached, uncached), where einops has been imported."""
    module = sys.modules.get("einops.einops")
    cached = getattr(module, "_reconstruct_from_shape", None)
    plain = getattr(cached, "__wrapped__", None)
    if plain is not None:
        yield module, "_reconstruct_from_shape", cached, plain
