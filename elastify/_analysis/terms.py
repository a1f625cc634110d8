"""Inferring layouts by unification.

Every dimension starts as a term: a leaf of known size and unknown structure. Operations state facts, "these two
dimensions are the same", and `unify` makes them true as in a type checker: equal leaves are merged, a leaf
meeting a product or concat takes over its structure, two products (two concats) are refined to their common
factors (boundaries), and a product meeting a concat is split along its first factor. Where no common
refinement exists both sides are frozen: they keep their size, which is always right and never useful.

Facts only add up, so their order does not matter. Every merge and every freeze is logged with its reason, and
`reasons` tells what made an axis what it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

from elastify._ir import Axis, Concat, Layout, Product, axes_of

_MAX_COPIES = 64  # a product is written out as copies of its tail only while that stays readable


class Clash(NamedTuple):
    """A reason to freeze two dimensions: a fact says that they are the same, and they cannot be."""

    why: Any

    def __str__(self) -> str:
        return f"the structures of two dimensions do not fit: {self.why}"


class Term:
    """A dimension under inference: a leaf, or a "product" or "concat" of terms. Use `Terms.find` before reading.

    `frozen` is the reason why it must keep its size, of which the text is shown, and None where it may move.
    """

    __slots__ = ("frozen", "id", "kind", "link", "parts", "size")

    def __init__(self, ident: int, size: int, kind: str = "leaf", parts: tuple[Term, ...] = ()) -> None:
        self.id, self.size, self.kind, self.parts = ident, size, kind, parts
        self.link: Term | None = None
        self.frozen: Any = None

    def __repr__(self) -> str:
        inner = f"({', '.join(map(repr, self.parts))})" if self.parts else f"#{self.id}"
        return f"{self.kind}{inner}:{self.size}{'!' if self.frozen else ''}"


class Terms:
    """The store of all terms of one analysis.

    >>> terms = Terms()
    >>> qkv, heads = terms.leaf(36), terms.leaf(3)
    >>> terms.unify(qkv, terms.product([terms.leaf(3), heads, terms.leaf(4)]), "reshape")
    >>> [part.size for part in terms.resolve(qkv).parts]
    [3, 3, 4]
    """

    def __init__(self) -> None:
        self._all: list[Term] = []
        self.log: list[tuple[int, Any]] = []
        self._resolved: dict[int, Layout] = {}  # of representatives; emptied whenever two terms are linked

    # -- making terms ------------------------------------------------------------------------------------

    def leaf(self, size: int, frozen: Any = None) -> Term:
        """A fresh dimension of `size`; `frozen` gives the reason why it must stay so."""
        term = Term(len(self._all), int(size))
        term.frozen = frozen
        self._all.append(term)
        return term

    def _compound(self, kind: str, parts: list[Term]) -> Term:
        size = prod(p.size for p in parts) if kind == "product" else sum(p.size for p in parts)
        term = Term(len(self._all), size, kind, tuple(parts))
        self._all.append(term)
        return term

    def product(self, parts: Iterable[Term]) -> Term:
        """Row-major product, flat, without factors of size 1."""
        flat = [part for part in self._flat("product", parts) if part.size != 1]
        if not flat:
            return self.leaf(1)
        return flat[0] if len(flat) == 1 else self._compound("product", flat)

    def concat(self, parts: Iterable[Term]) -> Term:
        """Concatenation, flat."""
        flat = list(self._flat("concat", parts))
        if not flat:
            return self.leaf(0)
        return flat[0] if len(flat) == 1 else self._compound("concat", flat)

    def _flat(self, kind: str, parts: Iterable[Term]) -> Iterator[Term]:
        for part in parts:
            part = self.find(part)
            if part.kind == kind:
                yield from self._flat(kind, part.parts)
            elif part.size:
                yield part

    def find(self, term: Term) -> Term:
        """The representative of a term."""
        root = term
        while root.link is not None:
            root = root.link
        while term.link is not None:
            term.link, term = root, term.link
        return root

    def leaves(self, term: Term) -> Iterator[Term]:
        """Leaves of a term from left to right, repeats included."""
        term = self.find(term)
        if term.kind == "leaf":
            yield term
        else:
            for part in term.parts:
                yield from self.leaves(part)

    def units(self, terms: Iterable[Term]) -> set[int]:
        """Ids of the leaves of dimensions; those that are the same dimension are read once."""
        roots = {root.id: root for root in map(self.find, terms)}
        return {leaf.id for root in roots.values() for leaf in self.leaves(root)}

    def is_frozen(self, term: Term) -> bool:
        """Whether no unit of the dimension may be left out."""
        return all(leaf.frozen is not None or leaf.size == 1 for leaf in self.leaves(term))

    # -- stating facts -----------------------------------------------------------------------------------

    def freeze(self, term: Term, why: Any) -> None:
        """The dimension keeps all its units."""
        for leaf in self.leaves(term):
            if leaf.frozen is None:
                leaf.frozen = why

    def unify(self, a: Term, b: Term, why: Any) -> None:
        """The two dimensions have the same units in the same order."""
        a, b = self.find(a), self.find(b)
        if a is b:
            return
        if a.size != b.size:
            return self._clash(a, b, why)
        if a.kind == "leaf" or b.kind == "leaf":
            return self._bind(a, b, why) if a.kind == "leaf" else self._bind(b, a, why)
        if a.kind == b.kind == "product":
            fits = self._align_products(a, b, why)
        elif a.kind == b.kind:
            fits = self._align_concats(a, b, why)
        else:
            fits = self._distribute(a, b, why) if a.kind == "product" else self._distribute(b, a, why)
        if not fits:
            return self._clash(a, b, why)
        a, b = self.find(a), self.find(b)
        if a is not b:
            a.link = b
            self._resolved.clear()

    def fits(self, a: Term, b: Term) -> bool:
        """Whether unifying would find a common refinement at the first level (leaves always fit)."""
        a, b = self.find(a), self.find(b)
        if a.kind == b.kind == "product":
            left, right = self._flat("product", a.parts), self._flat("product", b.parts)
            return _refinable([t.size for t in left], [t.size for t in right])
        return a.size == b.size

    def _clash(self, a: Term, b: Term, why: Any) -> None:
        reason = Clash(why)
        self.freeze(a, reason)
        self.freeze(b, reason)

    def _bind(self, leaf: Term, other: Term, why: Any) -> None:
        self.log.append((leaf.id, why))
        if leaf.frozen is not None:
            self.freeze(other, leaf.frozen)
        elif other.kind == "leaf":
            leaf.frozen = other.frozen
        leaf.link = other
        self._resolved.clear()

    def _align_products(self, a: Term, b: Term, why: Any) -> bool:
        left, right = [*self._flat("product", a.parts)], [*self._flat("product", b.parts)]
        if not _refinable([t.size for t in left], [t.size for t in right]):
            return False
        while left and right:
            x, y = left[0], right[0]
            if x.size == y.size:
                self.unify(x, y, why)
                del left[0], right[0]
            elif max(x.size, y.size) % min(x.size, y.size):
                return False  # refining one factor has refined another, where it does not fit
            elif x.size < y.size:
                rest = self.leaf(y.size // x.size)
                self.unify(y, self.product([x, rest]), why)
                left, right = left[1:], [rest, *right[1:]]
            else:
                rest = self.leaf(x.size // y.size)
                self.unify(x, self.product([y, rest]), why)
                left, right = [rest, *left[1:]], right[1:]
            left, right = [*self._flat("product", left)], [*self._flat("product", right)]
            left, right = [t for t in left if t.size > 1], [t for t in right if t.size > 1]
        return True

    def _align_concats(self, a: Term, b: Term, why: Any) -> bool:
        left, right = deque(self._flat("concat", a.parts)), deque(self._flat("concat", b.parts))
        while left and right:
            x, y = self.find(left.popleft()), self.find(right.popleft())
            if x.size == y.size:
                self.unify(x, y, why)
                continue
            short, long, queue = (x, y, right) if x.size < y.size else (y, x, left)
            rest = self.leaf(long.size - short.size)
            self.unify(long, self.concat([short, rest]), why)
            queue.appendleft(rest)
        return True

    def _distribute(self, product: Term, concat: Term, why: Any) -> bool:
        """Product(f, tail) = Concat(c…): split f where the boundaries of c fall between copies of the tail."""
        first, *rest = self._flat("product", product.parts)
        tail = self.product(rest)
        groups: list[tuple[int, list[Term]]] = []
        group: list[Term] = []
        for part in self._flat("concat", concat.parts):
            group.append(part)
            filled = sum(p.size for p in group)
            if filled % tail.size == 0:
                groups.append((filled // tail.size, group))
                group = []
        copies = sum(n for n, members in groups if len(members) > 1)
        if group or copies > _MAX_COPIES:
            return False
        heads: list[Term] = []
        facts: list[tuple[Term, Term]] = []
        for n, members in groups:
            head = [self.leaf(n)] if len(members) == 1 else [self.leaf(1) for _ in range(n)]
            heads += head
            facts.append((self.concat(members), self.concat([self.product([h, tail]) for h in head])))
        if len(heads) > 1:
            self.unify(first, self.concat(heads), why)
        for whole, parts in facts:
            if len(heads) > 1 or self.find(whole) is not self.find(concat):
                self.unify(whole, parts, why)
        return len(heads) > 1

    # -- reading the result ------------------------------------------------------------------------------

    def resolve(self, term: Term) -> Layout:
        """The immutable layout of a term, in normal form."""
        term = self.find(term)
        found = self._resolved.get(term.id)
        if found is None:
            found = self._resolved[term.id] = self._layout(term)
        return found

    def _layout(self, term: Term) -> Layout:
        if term.kind == "leaf":
            return Axis(term.id, term.size)
        parts = [self.resolve(part) for part in self._flat(term.kind, term.parts)]
        if term.kind == "product":
            parts = [part for part in parts if part.size != 1]
        if len(parts) == 1:
            return parts[0]
        return Product(tuple(parts)) if term.kind == "product" else Concat(tuple(parts))

    def reasons(self) -> dict[int, list[Any]]:
        """Why dimensions became one, by the id of each axis that took part, in the order of the facts."""
        found: dict[int, dict[Any, None]] = {}
        for ident, why in self.log:
            for axis in axes_of(self.resolve(self._all[ident])):
                found.setdefault(axis.id, {})[why] = None
        return {ident: list(whys) for ident, whys in found.items()}

    def by_id(self, ident: int) -> Term:
        """The representative of the term that was made as number `ident`."""
        return self.find(self._all[ident])


def _refinable(left: list[int], right: list[int]) -> bool:
    """Whether two mixed radices have a common refinement: their partial products form a divisibility chain."""
    ends = {1}
    for sizes in (left, right):
        total = 1
        for size in sizes:
            total *= size
            ends.add(total)
    chain = sorted(ends)
    return all(b % a == 0 for a, b in pairwise(chain))
