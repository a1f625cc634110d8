"""Sizes as polynomials: what arithmetic on the sizes of terms comes to.

The size of a term is a sum of products of the sizes of its leaves; frozen leaves are numbers. `reshape(b, c, h, w)`
after a channel shuffle asks that `per * groups` be `groups * per`, and `C - hidden` where C is hidden and something
asks for the something: as polynomials both are plain to see, whatever the order of the units. Only sizes are compared
here; what an equation leaves open is unified by `equations`.
"""

from __future__ import annotations

from collections import Counter
from functools import reduce

from elastify._analysis.terms import Term, Terms

Polynomial = dict[tuple[int, ...], int]
"""Coefficients, all positive, by monomial: the sorted ids of its leaves."""


def polynomial(terms: Terms, term: Term) -> Polynomial:
    """The size of a term.

    >>> terms = Terms()
    >>> heads, dim, three = terms.leaf(4), terms.leaf(8), terms.leaf(3, "a literal")
    >>> polynomial(terms, terms.product([three, terms.concat([heads, dim])]))
    {(0,): 3, (1,): 3}
    """
    term = terms.find(term)
    if term.kind == "leaf":
        return {(): term.size} if term.frozen is not None or term.size < 2 else {(term.id,): 1}
    parts = [polynomial(terms, part) for part in term.parts]
    if term.kind == "product":
        return reduce(_times, parts)
    total: Counter[tuple[int, ...]] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def _times(a: Polynomial, b: Polynomial) -> Polynomial:
    total: Counter[tuple[int, ...]] = Counter()
    for left, m in a.items():
        for right, n in b.items():
            total[tuple(sorted(left + right))] += m * n
    return dict(total)


def minus(a: Polynomial, b: Polynomial) -> Polynomial | None:
    """a - b, or None where that has a negative coefficient."""
    rest = Counter(a)
    rest.subtract(b)
    return None if min(rest.values(), default=0) < 0 else {key: n for key, n in rest.items() if n}


def over(a: Polynomial, b: Polynomial) -> Polynomial | None:
    """a / b, or None where that leaves a rest."""
    result: Polynomial = {}
    lead, number = next(iter(b.items()))
    while a:
        key, n = next(iter(a.items()))
        factor = Counter(key)
        factor.subtract(lead)
        if min(factor.values(), default=0) < 0 or n % number:
            return None
        step = {tuple(sorted(factor.elements())): n // number}
        rest = minus(a, _times(step, b))
        if rest is None:
            return None
        result.update(step)
        a = rest
    return result


def cancelled(a: Polynomial, b: Polynomial) -> tuple[Polynomial, Polynomial]:
    """An equation between the two without the summands and the factors that both sides have."""
    both = {key: min(n, b[key]) for key, n in a.items() if key in b}
    a, b = minus(a, both) or {}, minus(b, both) or {}
    keys = [Counter(key) for key in (*a, *b)]
    if a and b and keys:
        shared = reduce(lambda x, y: x & y, keys)
        a, b = (_shortened(side, shared) for side in (a, b))
    return a, b


def _shortened(side: Polynomial, shared: Counter[int]) -> Polynomial:
    return {tuple(sorted((Counter(key) - shared).elements())): n for key, n in side.items()}


def build(terms: Terms, size: Polynomial) -> Term:
    """A term of that size."""
    return terms.concat(
        terms.product([terms.leaf(n, "a number of equal parts"), *map(terms.by_id, key)]) for key, n in size.items()
    )
