"""What a rule may do: name the dimensions of values, equate them, freeze them.

A rule is a function `rule(f, out, *args, **kwargs)` with the arguments of the operation itself, tensors being
`Value`s, and `out` what the operation returned. It states facts through `f` and never sees the model:

    f.dims(x)               the terms of a tensor's dimensions
    f.same(a, b)            the same units in the same order
    f.freeze(t, reason)     the dimension keeps its size
    f.require(n, t)         the integer argument `n` must equal the size of `t` in every subnet
    f.give(out, terms)      the dimensions of a result

`require` is where provenance pays: a number that came from an attribute or a shape follows the dimension,
a literal in the source freezes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from elastify._analysis.terms import Term, Terms
from elastify._ir import Attr, Dim, Expr, Guard, Int, Op, RecordedCall, Value, exprs, leaves, values


@dataclass(frozen=True, slots=True)
class Why:
    """Where a fact comes from: an operation in a module at a source line, and a short text."""

    op: str
    where: str = ""
    source: str = ""
    text: str = ""

    def __str__(self) -> str:
        place = f"{self.op} in {self.where or 'the model'}" + (f" ({self.source})" if self.source else "")
        return f"{self.text}: {place}" if self.text else place


@dataclass(frozen=True, slots=True)
class Equation:
    """`expr` must equal the size of `term`."""

    expr: Expr
    term: Term
    why: Why


@dataclass(frozen=True, slots=True)
class Cut:
    """The dimension `whole` was cut at numbers made of the `sizes` of tensors."""

    whole: Term
    sizes: tuple[Term, ...]
    why: Why


class Facts:
    """The facts gathered from the calls of one model (all its captured graphs share one store of terms)."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.attributes: dict[Attr, Term] = {}
        self.equations: list[Equation] = []
        self.guards: list[Guard] = []
        self.makers: dict[int, RecordedCall] = {}  # by the id of what a call made
        self.spread: set[tuple[int, int]] = set()  # (value id, dimension) along which a value repeats one entry
        self.summed: Counter[tuple[int, int]] = Counter()  # how many calls sum over (value id, dimension)
        self.counted: list[Term] = []  # dimensions whose sizes the data decide
        self.cuts: list[Cut] = []  # of dimensions, at sizes of tensors
        self.unknown: dict[str, Why] = {}
        self._dims: dict[int, list[Term]] = {}
        self._values: list[Value] = []
        self.why = Why("input")

    # -- one graph after another -------------------------------------------------------------------------

    def start(self, graph_values: list[Value], known: dict[int, list[Term]]) -> None:
        """Begin a graph: its values, and the terms of those that an earlier graph shares (parameters)."""
        self._dims, self._values = dict(known), graph_values
        self.guards, self.spread, self.makers, self.summed = [], set(), {}, Counter()

    def finish(self) -> dict[int, list[Term]]:
        """Terms of every value of the graph."""
        return self._dims

    def at(self, call: RecordedCall) -> None:
        """Facts stated from now on come from this call."""
        self.why = Why(call.op, call.where, call.source)
        self.makers.update((value.id, call) for value in call.outputs())

    def because(self, text: str) -> Why:
        """The current place with a reason."""
        return Why(self.why.op, self.why.where, self.why.source, text)

    # -- what rules use ----------------------------------------------------------------------------------

    def dims(self, value: Value) -> list[Term]:
        """Terms of a value's dimensions (fresh leaves where nothing is known yet)."""
        terms = self._dims.get(value.id)
        if terms is None:
            terms = self._dims[value.id] = [self.terms.leaf(n) for n in value.shape]
        return terms

    def give(self, out: Any, terms: Sequence[Term]) -> None:
        """State the dimensions of a result; sizes must be right or the rule is wrong for this call."""
        (value,) = values(out)
        if tuple(term.size for term in terms) != tuple(value.shape):
            raise ValueError(f"rule gives {[t.size for t in terms]} for a result of shape {list(value.shape)}")
        known = self._dims.get(value.id)
        if known is None:
            self._dims[value.id] = list(terms)
        else:
            self.all_same(known, terms)

    def sums(self, value: Value, dim: int) -> None:
        """The operation sums over a dimension: what it multiplies with 0 there is as good as gone."""
        self.summed[value.id, dim] += 1

    def same(self, a: Term, b: Term) -> None:
        self.terms.unify(a, b, self.why)

    def all_same(self, a: Iterable[Term], b: Iterable[Term]) -> None:
        for x, y in zip(a, b, strict=True):
            self.same(x, y)

    def freeze(self, term: Term, reason: str) -> None:
        self.terms.freeze(term, self.because(reason))

    def leaf(self, size: int) -> Term:
        return self.terms.leaf(size)

    def fixed(self, size: int, reason: str = "made by the operation") -> Term:
        """A fresh dimension that never changes (a spatial size, a count)."""
        return self.terms.leaf(size, self.because(reason))

    def count(self, size: int) -> Term:
        """A fresh dimension of as many entries as the data say, perhaps others in another run."""
        self.counted.append(self.fixed(size, "the data decide how many there are"))
        return self.counted[-1]

    def product(self, *parts: Term) -> Term:
        return self.terms.product(parts)

    def concat(self, parts: Iterable[Term]) -> Term:
        return self.terms.concat(parts)

    def require(self, number: Any, term: Term) -> None:
        """The integer argument `number` must equal the size of `term` in every subnet."""
        if term.size == 1 and not isinstance(number, Int):
            return
        if not isinstance(number, Int):
            return self.freeze(term, f"the number {int(number)} is written in the source")
        self.equate(number.expr, term)

    def cut(self, term: Term, *numbers: Any) -> None:
        """The dimension is cut at these numbers, which may be sizes of tensors."""
        dims = [leaf for expr in exprs(numbers) for leaf in leaves(expr) if isinstance(leaf, Dim)]
        if dims:
            self.cuts.append(Cut(term, tuple(self.size_of(dim, 0) for dim in dims), self.why))

    def multiple(self, value: Value, dim: int, number: int) -> None:
        """The size of a dimension must be a multiple of `number` in every subnet."""
        if number > 1:
            self.holds("eq", Op("mod", (self.size(value, dim), number)), 0)

    def holds(self, comparison: str, *sizes: Expr) -> None:
        """A comparison of sizes ("gt", "eq", ...) must hold in every subnet."""
        self.guards.append(Guard(comparison, sizes, True, self.why.source))

    def size(self, value: Value, dim: int) -> Dim:
        """The size of a dimension, for `holds`."""
        return Dim(value.id, dim % len(value.shape))

    def equate(self, expr: Expr, term: Term) -> None:
        """An expression must equal the size of a term; what cannot be stated at once is kept for later."""
        if isinstance(expr, Op):
            self.equations.append(Equation(expr, term, self.why))
        elif isinstance(expr, (int, float)):
            self.freeze(term, f"the number {expr} is written in the source")
        elif isinstance(expr, Dim) and "leaf" not in {self.terms.find(t).kind for t in (self.size_of(expr, 0), term)}:
            self.equations.append(Equation(expr, term, self.why))  # of sizes only: their units may lie in other orders
        else:
            self.same(self.size_of(expr, term.size), term)

    def size_of(self, leaf: Attr | Dim, size: int) -> Term:
        """The term whose size an attribute or a tensor dimension is."""
        if isinstance(leaf, Dim):
            return self.dims(self._values[leaf.value])[leaf.dim]
        return self.attributes.setdefault(leaf, self.terms.leaf(size))

    def broadcast(self, groups: Sequence[Sequence[Term]]) -> list[Term]:
        """Align dimension lists at the right as PyTorch broadcasts; sizes above 1 are unified."""
        result: list[Term] = []
        for i in range(1, max(map(len, groups), default=0) + 1):
            column = [group[-i] for group in groups if len(group) >= i]
            wide = [term for term in column if term.size != 1] or column[:1]
            for other in wide[1:]:
                self.same(wide[0], other)
            result.insert(0, wide[0])
        return result


def flat_sizes(sizes: Sequence[Any]) -> list[Any]:
    """`view(2, 3)` and `view((2, 3))` mean the same."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        return list(sizes[0])
    return list(sizes)
