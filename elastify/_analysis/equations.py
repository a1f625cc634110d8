"""Integer arguments that are expressions, and comparisons that the forward pass made.

`C // self.num_heads` must give `head_dim` in every subnet. Since equal sizes may always be made equal units (see
decisions/0002), an equation is solved by building the term that the expression describes and unifying: a
product for `*`, a concat for `+`, for `a // b` the `q` of `a = Product(b, q)`, for `a - b` the `r` of
`a = Concat(b, r)`; what both sides have in common is cancelled first. What has no such form freezes what it mentions.
Comparisons that held as equalities are equations too; the others become constraints on configurations, unless the
sizes at both ends of their ranges already prove them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil, floor, isfinite

from elastify._analysis.polynomials import build, cancelled, minus, over, polynomial
from elastify._analysis.rules import Equation, Facts, Why
from elastify._analysis.terms import Term
from elastify._ir import Attr, Dim, Expr, Guard, Op, evaluate, leaves

Lookup = Callable[[Attr], int]


class Solver:
    """States the equations of one graph; `lookup` gives the full value of an attribute."""

    def __init__(self, facts: Facts, lookup: Lookup) -> None:
        self.facts, self.lookup = facts, lookup

    def guards(self, guards: list[Guard]) -> list[Guard]:
        """Turn equalities into equations; return the comparisons that are left."""
        rest = []
        for guard in guards:
            if guard.fn == "int" and not self._settled(guard.args[0]):
                self.facts.why = Why("int", "", guard.source)
                for leaf in leaves(guard.args[0]):
                    self.facts.freeze(self._leaf(leaf), "int() turns its size into a number that cannot follow")
        for guard in dict.fromkeys(filter(None, map(_whole, guards))):
            equal = (guard.fn, guard.result) in {("eq", True), ("ne", False)}
            if not equal or any(_uses(arg, "mod") for arg in guard.args):
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
        for equation in sorted(equations, key=lambda equation: _uses(equation.expr, "sub")):  # last: see _rest
            if not (self.facts.terms.is_frozen(equation.term) and self._settled(equation.expr)):
                self.facts.why = equation.why
                self._solve(equation)

    def _solve(self, equation: Equation) -> None:
        terms, whole, part = self.facts.terms, self.term(equation.expr), equation.term
        if whole.size == part.size:
            left, right = (polynomial(terms, term) for term in (whole, part))
            if left == right:
                return
            short = cancelled(left, right)
            if short != (left, right) and all(short):
                whole, part = (build(terms, side) for side in short)
            for candidate in self._orders(whole):
                if terms.fits(candidate, part):
                    return self.facts.same(candidate, part)
        for leaf in leaves(equation.expr):
            self.facts.freeze(self._leaf(leaf), "its size enters a computation that cannot be solved")
        self.facts.freeze(equation.term, "its size is computed in a way that cannot be solved")

    def _orders(self, whole: Term) -> list[Term]:
        whole = self.facts.terms.find(whole)
        if whole.kind != "product":
            return [whole]
        return [whole, self.facts.terms.product(whole.parts[::-1])]

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
        if expr.fn == "mod" and self.size(expr) == 0 < self.size(expr.args[1]):
            self._quotient(*map(self.term, expr.args))
            return f.fixed(0, "no rest")
        if expr.fn == "sub" and self.size(expr) >= 0 and (rest := self._rest(*map(self.term, expr.args))) is not None:
            return rest
        for leaf in leaves(expr):
            f.freeze(self._leaf(leaf), f"its size enters a computation ({expr.fn}) that cannot be solved")
        return f.fixed(max(self.size(expr), 0), "a computed number")

    def _quotient(self, whole: Term, divisor: Term) -> Term:
        """`C // heads`: what is left of C without its factor heads, which comes first where none is to be seen."""
        f = self.facts
        found = over(*(polynomial(f.terms, term) for term in (whole, divisor)))
        if found is not None:
            return build(f.terms, found)
        quotient = f.leaf(whole.size // divisor.size)
        orders = (f.product(divisor, quotient), f.product(quotient, divisor))
        f.same(whole, next((order for order in orders if f.terms.fits(order, whole)), orders[0]))
        return quotient

    def _rest(self, whole: Term, part: Term) -> Term | None:
        """`C - hidden`: what C has besides hidden; a C without structure of its own becomes hidden and a rest."""
        f = self.facts
        found = minus(*(polynomial(f.terms, term) for term in (whole, part)))
        if found is not None:
            return build(f.terms, found)
        if f.terms.find(whole).kind != "leaf" or f.terms.is_frozen(whole):
            return None
        rest = f.leaf(whole.size - part.size)
        f.same(whole, f.concat([part, rest]))
        return rest

    def size(self, expr: Expr) -> int:
        """The value of an expression for the full network."""
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


_MIRROR = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}


def _whole(guard: Guard) -> Guard | None:
    """A comparison of whole numbers: n > 2.5 is n > 2. None where it says nothing about sizes."""
    if guard.fn in ("truth", "int", "float"):
        return None
    left, right = guard.args
    if not isinstance(left, float) and not isinstance(right, float):
        return guard
    fn, expr, bound = (guard.fn, left, right) if isinstance(right, float) else (_MIRROR[guard.fn], right, left)
    if not isinstance(bound, (int, float)) or not isfinite(bound) or (fn in ("eq", "ne") and bound != int(bound)):
        return None
    whole = ceil(bound) if fn in ("lt", "ge") else floor(bound)
    return replace(guard, fn=fn, args=(expr, whole))


def _uses(expr: Expr, fn: str) -> bool:
    return isinstance(expr, Op) and (expr.fn == fn or any(_uses(arg, fn) for arg in expr.args))
