"""Integer arguments that are expressions, and comparisons that the forward pass made.

`C // self.num_heads` must give `head_dim` in every subnet. Since equal sizes may always be made equal units (see
decisions/0002), an equation is solved by building the term that the expression describes and unifying: a
product for `*`, a concat for `+`, and for `a // b` the `q` of `a = Product(b, q)`. What has no such form freezes
what it mentions. Comparisons that held as equalities are equations too; the others become constraints on
configurations, unless the sizes at both ends of their ranges already prove them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil, floor, isfinite

from elastify._ints import Attr, Dim, Expr, Guard, Op, leaves
from elastify._layout import Layout, axes_of
from elastify._plan import Constraint, SizeExpr
from elastify._rules import Equation, Facts, Why
from elastify._terms import Term

Lookup = Callable[[Attr], int]


class Solver:
    """States the equations of one graph; `lookup` gives the full value of an attribute."""

    def __init__(self, facts: Facts, lookup: Lookup) -> None:
        self.facts, self.lookup = facts, lookup

    def guards(self, guards: list[Guard]) -> list[Guard]:
        """Turn equalities into equations; return the comparisons that are left."""
        rest = []
        for guard in dict.fromkeys(filter(None, map(_whole, guards))):
            equal = (guard.fn, guard.result) in {("eq", True), ("ne", False)}
            if not equal or any(_has_rest(arg) for arg in guard.args):
                rest.append(guard)
                continue
            left, right = guard.args
            self.facts.why = Why("comparison", "", guard.source)
            if isinstance(left, (int, float)):
                left, right = right, left
            if not isinstance(left, (int, float)) and self.size(left) > 1:
                self._equate(left, right)
        return rest

    def _equate(self, left: Attr | Dim | Op, right: Expr) -> None:
        if all(self._settled(side) for side in (left, right)):
            return
        if isinstance(right, (int, float)):
            for leaf in leaves(left):
                self.facts.freeze(self._leaf(leaf), f"compared with the number {right}")
        elif isinstance(left, Op) and not isinstance(right, Op):
            self.facts.equate(left, self._leaf(right))
        elif isinstance(left, Op):
            self.facts.equations.append(Equation(right, self.term(left), self.facts.why))
        else:
            self.facts.equate(right, self._leaf(left))

    def solve(self) -> None:
        """State all equations gathered so far."""
        equations, self.facts.equations = self.facts.equations, []
        for equation in equations:
            if not (self.facts.terms.is_frozen(equation.term) and self._settled(equation.expr)):
                self.facts.why = equation.why
                self._solve(equation)

    def _solve(self, equation: Equation) -> None:
        terms = self.facts.terms
        whole = self.term(equation.expr)
        if self._factors(whole) == self._factors(equation.term):
            return
        if whole.size == equation.term.size:
            for candidate in self._orders(whole):
                if terms.fits(candidate, equation.term):
                    return self.facts.same(candidate, equation.term)
        for leaf in leaves(equation.expr):
            self.facts.freeze(self._leaf(leaf), "its size enters a computation that cannot be solved")
        self.facts.freeze(equation.term, "its size is computed in a way that cannot be solved")

    def _orders(self, whole: Term) -> list[Term]:
        whole = self.facts.terms.find(whole)
        if whole.kind != "product":
            return [whole]
        return [whole, self.facts.terms.product(whole.parts[::-1])]

    def _factors(self, term: Term) -> Counter[int]:
        """Factors by identity, fixed ones by their size: equal counters are equal sizes in every subnet."""
        return Counter(map(_key, self._parts(term)))

    def _parts(self, term: Term, kind: str = "product") -> list[Term]:
        """Factors (or, for "concat", summands) of a term from left to right; n equal summands are n times one."""
        f, term = self.facts, self.facts.terms.find(term)
        parts = [f.terms.find(part) for part in term.parts]
        if kind == "product" and term.kind == "concat" and len({part.id for part in parts}) == 1:
            return [f.fixed(len(parts), "the number of equal parts"), *self._parts(parts[0])]
        if term.kind == kind:
            return [inner for part in parts for inner in self._parts(part, kind)]
        return [term] if term.size > 1 or kind == "concat" else []

    def _without(self, whole: Term, part: Term, kind: str) -> list[Term] | None:
        """The parts of `whole` that `part` does not have; None where it has others."""
        gone, left = Counter(map(_key, self._parts(part, kind))), []
        for piece in self._parts(whole, kind):
            if gone[_key(piece)]:
                gone[_key(piece)] -= 1
            else:
                left.append(piece)
        return None if +gone else left

    def term(self, expr: Expr) -> Term:
        """The term that an expression describes."""
        f = self.facts
        if isinstance(expr, (int, float)):
            return f.fixed(int(expr), f"the number {expr} is written in the source")
        if not isinstance(expr, Op):
            return self._leaf(expr)
        if expr.fn == "mul":
            return f.product(*map(self.term, expr.args))
        if expr.fn == "add" and all(self.size(arg) >= 0 for arg in expr.args):
            return f.concat(map(self.term, expr.args))
        if expr.fn == "floordiv" and self.size(expr.args[0]) % self.size(expr.args[1]) == 0:
            return self._quotient(*map(self.term, expr.args))
        if expr.fn == "sub" and 0 < self.size(expr.args[1]) < self.size(expr.args[0]):
            return self._difference(*map(self.term, expr.args))
        for leaf in leaves(expr):
            f.freeze(self._leaf(leaf), f"its size enters a computation ({expr.fn}) that cannot be solved")
        return f.fixed(max(self.size(expr), 0), "a computed number")

    def _quotient(self, number: Term, divisor: Term) -> Term:
        """What is left of the factors of `number`, wherever those of `divisor` stand; else a new factor."""
        left = self._without(number, divisor, "product")
        if left is not None:
            return self.facts.product(*left)
        rest = self.facts.leaf(number.size // divisor.size)
        orders = [self.facts.product(*order) for order in ((divisor, rest), (rest, divisor))]
        self.facts.same(number, next((order for order in orders if self.facts.terms.fits(order, number)), orders[0]))
        return rest

    def _difference(self, number: Term, part: Term) -> Term:
        """What is left of the summands of `number`, wherever those of `part` stand; else what follows that part."""
        left = self._without(number, part, "concat")
        if left is not None:
            return self.facts.concat(left)
        rest = self.facts.leaf(number.size - part.size)
        self.facts.same(number, self.facts.concat([part, rest]))
        return rest

    def size(self, expr: Expr) -> int:
        """The value of an expression for the full network."""
        from elastify._ints import evaluate

        return evaluate(expr, lambda leaf: self._leaf(leaf).size)

    def _leaf(self, leaf: Attr | Dim) -> Term:
        return self.facts.size_of(leaf, 0 if isinstance(leaf, Dim) else self.lookup(leaf))

    def _settled(self, expr: Expr) -> bool:
        """Whether nothing that the expression mentions can move."""
        return all(self._fixed(leaf) for leaf in leaves(expr))

    def _fixed(self, leaf: Attr | Dim) -> bool:
        if isinstance(leaf, Attr) and leaf not in self.facts.attributes:
            return True
        return self.facts.terms.is_frozen(self._leaf(leaf))


def _key(part: Term) -> int:
    return part.id if part.frozen is None else -part.size


_MIRROR = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}


def _whole(guard: Guard) -> Guard | None:
    """A comparison of whole numbers: n > 2.5 is n > 2. None where it says nothing about sizes."""
    if guard.fn == "truth":
        return None
    left, right = guard.args
    if not isinstance(left, float) and not isinstance(right, float):
        return guard
    fn, expr, bound = (guard.fn, left, right) if isinstance(right, float) else (_MIRROR[guard.fn], right, left)
    if not isinstance(bound, (int, float)) or not isfinite(bound) or (fn in ("eq", "ne") and bound != int(bound)):
        return None
    whole = ceil(bound) if fn in ("lt", "ge") else floor(bound)
    return replace(guard, fn=fn, args=(expr, whole))


def _has_rest(expr: Expr) -> bool:
    return isinstance(expr, Op) and (expr.fn == "mod" or any(_has_rest(arg) for arg in expr.args))


def constraints(
    guards: list[Guard], layout: Callable[[Attr | Dim], Layout], smallest: Mapping[int, int]
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
    return not isinstance(expr, int) and any(axis.id in axes for axis in axes_of(expr))


def _proven(constraint: Constraint, smallest: Mapping[int, int]) -> bool:
    if len(constraint.args) != 2:
        return False
    (a, b), (c, d) = (_interval(arg, smallest) for arg in constraint.args)
    always = {"lt": b < c, "le": b <= c, "gt": a > d, "ge": a >= d, "eq": a == b == c == d, "ne": b < c or a > d}
    never = {"lt": a >= d, "le": a > d, "gt": b <= c, "ge": b < c, "eq": b < c or a > d, "ne": a == b == c == d}
    return bool((always if constraint.result else never).get(constraint.fn, False))


def _interval(expr: SizeExpr, smallest: Mapping[int, int]) -> tuple[float, float]:
    from elastify._layout import active_size

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
    from elastify._layout import Axis, Concat, Product

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
