"""Legal sizes of one axis: from a smallest share and a step, or from an explicit list of sizes and ratios.

The full size is always legal. Fine roles (heads, groups, depth) go in steps of one; wide channel axes in steps
of eight, which is what fast kernels like.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, TypeGuard

from elastify._errors import ElastifyError

_FINE_ROLES = frozenset({"heads", "groups", "depth"})
_COARSE_FROM = 64
_COARSE_STEP = 8


def build_choices(
    size: int,
    role: str = "hidden",
    min_ratio: float = 0.25,
    multiple_of: int | None = None,
    explicit: Sequence[int | float] | None = None,
    *,
    name: str = "",
) -> tuple[int, ...]:
    """Legal sizes of an axis of `size` units in ascending order; the last is the full size.

    `min_ratio` rounds up. `multiple_of=None` means 8 for channel axes of 64 and more, else 1. `explicit` lists sizes
    (int) or ratios (float, rounded up to a whole unit) and replaces both; the full size is always added.

    >>> build_choices(80)
    (24, 32, 40, 48, 56, 64, 72, 80)
    >>> build_choices(6, "heads")
    (2, 3, 4, 5, 6)
    >>> build_choices(80, explicit=[0.3, 64])
    (24, 64, 80)
    """
    if explicit is not None:
        return tuple(sorted({explicit_size(value, size, name) for value in explicit} | {size}))
    min_ratio = smallest_share(min_ratio, name)
    if multiple_of is None:
        step = _COARSE_STEP if size >= _COARSE_FROM and role not in _FINE_ROLES else 1
    elif is_int(multiple_of) and multiple_of >= 1:
        step = 1 if role in _FINE_ROLES else int(multiple_of)
    else:
        raise ElastifyError(f"multiple_of must be a whole number of at least 1, not {multiple_of!r}", where=name)
    smallest = -(-ceil_ratio(min_ratio, size) // step) * step
    return (*range(smallest, size, step), size)


def smallest_share(value: Any, name: str) -> float:
    """A `min_ratio` that is one; ElastifyError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= 1:
        raise ElastifyError(f"min_ratio must be above 0 and at most 1, not {value!r}", where=name)
    return float(value)


def ceil_ratio(ratio: float, size: int) -> int:
    """`ratio * size` rounded up to at least one unit, blind to the last bits of a float (0.1 * 30 is 3).

    >>> ceil_ratio(0.1, 30), ceil_ratio(0.26, 4)
    (3, 2)
    """
    return max(1, math.ceil(float(ratio) * size - 1e-9 * size))


def explicit_size(value: Any, size: int, name: str) -> int:
    """A size, or a share rounded up; ElastifyError for what is neither."""
    if is_int(value):
        if not 1 <= value <= size:
            raise ElastifyError(
                f"{value} is not a possible size", where=name, why=f"the axis has {size} units", fix=f"use 1 to {size}"
            )
        return int(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        if not 0 < float(value) <= 1:
            raise ElastifyError(
                f"{value!r} is not a possible ratio",
                where=name,
                why="a float is a share of the full size",
                fix="use a float above 0 and at most 1, or an int for a number of units",
            )
        return ceil_ratio(float(value), size)
    raise ElastifyError(
        f"{value!r} is neither a size nor a ratio", where=name, fix="choices={'pattern': [64, 128, 0.75]}"
    )


def is_int(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number (numpy's too, but no bool)."""
    return isinstance(value, Integral) and not isinstance(value, bool)
