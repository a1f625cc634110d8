"""The one error class of elastify.

Deep code raises short facts; the public boundary adds the context once. A message says what went wrong,
where, why, and what to do about it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any


class ElastifyError(Exception):
    """Anything elastify refuses to do.

    >>> print(ElastifyError("no budget", where="search", why="nothing was given", fix="pass budget_macs=..."))
    no budget
      where: search
      why:   nothing was given
      fix:   pass budget_macs=...
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        self.what, self.where, self.why, self.fix = what, where, why, fix
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("where: ", self.where), ("why:   ", self.why), ("fix:   ", self.fix)):
            if text:
                lines.append(f"  {label}{text}")
        return "\n".join(lines)


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """The whole number that an argument is, of Python, numpy or torch; ElastifyError for others and smaller ones.

    >>> whole_number("n", True, 1)
    Traceback (most recent call last):
    elastify._errors.ElastifyError: n=True is not a whole number of at least 1
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        raise ElastifyError(
            f"{name}={value!r} is not a whole number" + ("" if least is None else f" of at least {least}")
        )
    return number


def real_number(name: str, value: Any, fits: Callable[[float], bool], fix: str) -> float:
    """The number that an argument is, of Python, numpy or torch; ElastifyError with `fix` where it does not fit."""
    try:
        number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if math.isnan(number) or not fits(number):
        raise ElastifyError(f"{name}={value!r} is not {fix}")
    return number


def function(name: str, value: Any, fix: str) -> None:
    """Refuse an argument that cannot be called."""
    if not callable(value):
        raise ElastifyError(f"{name} is a {type(value).__name__}, not a function", fix=fix)
