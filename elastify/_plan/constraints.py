"""Comparisons of sizes that a configuration might answer differently than the full network did.

Each guard of a record compares two expressions of sizes. Interval arithmetic over the smallest and full size of every
axis proves most of them for the whole space; what is left becomes a constraint that legal configurations must keep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from elastify._ir import (
    Attr,
    Axis,
    Concat,
    Constraint,
    Dim,
    Expr,
    Guard,
    Layout,
    Op,
    Product,
    SizeExpr,
    active_size,
    mentions,
)


def constraints(
    guards: list[Guard], layout: Callable[[Attr | Dim], Layout | int], smallest: Mapping[int, int]
) -> list[Constraint]:
    """Comparisons that some configuration might answer differently; `smallest` gives the least size per axis."""

    def convert(expr: Expr) -> SizeExpr:
        if isinstance(expr, Op):
            return Op(expr.fn, tuple(convert(arg) for arg in expr.args))  # type: ignore[arg-type]
        return int(expr) if isinstance(expr, (int, float)) else layout(expr)

    found: dict[Constraint, None] = {}
    for guard in guards:
        args = tuple(convert(arg) for arg in guard.args)
        constraint = Constraint(guard.fn, args, guard.result, guard.source)
        if any(_mentions(arg, smallest) for arg in args) and not _proven(constraint, smallest):
            found[constraint] = None
    return list(found)


def _mentions(expr: SizeExpr, axes: Mapping[int, int]) -> bool:
    if isinstance(expr, Op):
        return any(_mentions(arg, axes) for arg in expr.args)  # type: ignore[arg-type]
    return not isinstance(expr, int) and mentions(expr, axes)


def _proven(constraint: Constraint, smallest: Mapping[int, int]) -> bool:
    if len(constraint.args) != 2:
        return False
    (a, b), (c, d) = (_interval(arg, smallest) for arg in constraint.args)
    always = {"lt": b < c, "le": b <= c, "gt": a > d, "ge": a >= d, "eq": a == b == c == d, "ne": b < c or a > d}
    never = {"lt": a >= d, "le": a > d, "gt": b <= c, "ge": b < c, "eq": b < c or a > d, "ne": a == b == c == d}
    return bool((always if constraint.result else never).get(constraint.fn, False))


def _interval(expr: SizeExpr, smallest: Mapping[int, int]) -> tuple[float, float]:
    if isinstance(expr, int):
        return expr, expr
    if not isinstance(expr, Op):
        return active_size(expr, smallest), expr.size
    bounds = [_interval(arg, smallest) for arg in expr.args]  # type: ignore[arg-type]
    if expr.fn == "neg":
        return -bounds[0][1], -bounds[0][0]
    (a, b), (c, d) = bounds[0], bounds[-1]
    if expr.fn == "add":
        return a + c, b + d
    if expr.fn == "sub":
        return a - d, b - c
    if expr.fn == "mul" and min(a, c) >= 0:
        return a * c, b * d
    if expr.fn == "floordiv" and min(a, c) > 0:
        return a // d, b // c
    if expr.fn == "mod" and c > 0:
        left, right = expr.args
        if _divides(right, left):  # type: ignore[arg-type]
            return 0, 0
        return 0, d - 1
    return float("-inf"), float("inf")


def _divides(divisor: SizeExpr, number: SizeExpr) -> bool:
    """Whether every size of `number` is a multiple of `divisor`: its factors are among the number's."""
    small, large = _monomial(divisor), _monomial(number)
    return small is not None and large is not None and not small - large


def _monomial(expr: SizeExpr) -> Counter[SizeExpr] | None:
    if isinstance(expr, Op):
        if expr.fn != "mul":
            return None
        parts = [_monomial(arg) for arg in expr.args]  # type: ignore[arg-type]
        return None if None in parts else sum(parts, Counter())  # type: ignore[arg-type]
    if isinstance(expr, Product):
        return Counter(expr.parts)
    if isinstance(expr, Concat) and len(set(expr.parts)) == 1:
        inner = _monomial(expr.parts[0])
        return None if inner is None else inner + Counter([len(expr.parts)])
    return Counter([expr]) if isinstance(expr, (Axis, Concat, int)) else None
