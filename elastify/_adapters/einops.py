"""einops: shapes are computed by a cached function, which would answer with the sizes of an earlier run.

It has no models, but layers that stand in them. These compute with one copy of their numbers, `_axes_lengths`, and are
copied and saved by another, `axes_lengths`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from elastify._adapters.library import Library
from elastify._ir import Attr


class Einops(Library, package="einops"):
    copies_follow = True

    def uncached(self) -> Iterator[tuple[Any, str, Any, Any]]:
        module = sys.modules.get("einops.einops")  # only where it has been imported
        cached = getattr(module, "_reconstruct_from_shape", None)
        plain = getattr(cached, "__wrapped__", None)
        if plain is not None:
            yield module, "_reconstruct_from_shape", cached, plain

    def twin(self, owner: Any, attr: Attr) -> Attr | None:
        if attr.name != "_axes_lengths" or len(attr.index) != 2:
            return None
        axis, _ = owner._axes_lengths[attr.index[0]]
        return Attr(attr.owner, "axes_lengths", (axis,))
