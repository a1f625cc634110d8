"""Relations between sizes as text: expressions over layouts in the names of the axes, as Python would write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elastify._ir import Axis, Constraint, Op, Product

_SIGNS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_SIGNS |= {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%"}


def size_text(what: Any, names: Mapping[int, str]) -> str:
    """A constraint, expression or layout; `names` by axis id, other axes show as their size.

    >>> size_text(Constraint("eq", (Op("mod", (Axis(0, 96), Axis(1, 3))), 0), True), {0: "width", 1: "heads"})
    '(width % heads) == 0'
    """
    if isinstance(what, int):
        return str(what)
    if isinstance(what, Axis):
        return names.get(what.id, str(what.size))
    if isinstance(what, (Op, Constraint)):
        sign = _SIGNS.get(what.fn)
        args = [size_text(arg, names) for arg in what.args]
        text = f" {sign} ".join(args) if sign and len(args) == 2 else f"{what.fn}({', '.join(args)})"
        if isinstance(what, Constraint):
            return text if what.result is True else f"{text} is {what.result}"
        return f"({text})" if sign else text
    joiner = " * " if isinstance(what, Product) else " + "
    return f"({joiner.join(size_text(part, names) for part in what.parts)})"
