"""einops: shapes are computed by a cached function, which would answer with the sizes of an earlier run.

Its layers compute with one copy of their numbers, `_axes_lengths`, and are copied and saved by another, `axes_lengths`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from elastify._ir import Attr


def uncached() -> Iterator[tuple[Any, str, Any, Any]]:
    """(module, attribute, cached, uncached), where einops has been imported."""
    module = sys.modules.get("einops.einops")
    cached = getattr(module, "_reconstruct_from_shape", None)
    plain = getattr(cached, "__wrapped__", None)
    if plain is not None:
        yield module, "_reconstruct_from_shape", cached, plain


def twin(layer: Any, attr: Attr) -> Attr | None:
    """The number from which copies of a layer take one that it computes with."""
    if attr.name != "_axes_lengths" or len(attr.index) != 2 or type(layer).__module__.partition(".")[0] != "einops":
        return None
    axis, _ = layer._axes_lengths[attr.index[0]]
    return Attr(attr.owner, "axes_lengths", (axis,))
