"""Unification: whatever is stated stays true for every choice of units, in whatever order it is stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastify._analysis.terms import Term, Terms
from elastify._ir.layout import Axis, Concat, Layout, Product, active_size, indices


@dataclass(frozen=True)
class Fact:
    """`whole` is the product or concat of `parts`, the same as the one part, or frozen (no parts)."""

    kind: str
    whole: int
    parts: tuple[int, ...] = ()


def state(sizes: Sequence[int], facts: Sequence[Fact]) -> tuple[Terms, list[Term]]:
    terms = Terms()
    dims = [terms.leaf(size) for size in sizes]
    for fact in facts:
        parts = [dims[i] for i in fact.parts]
        if fact.kind == "frozen":
            terms.freeze(dims[fact.whole], "asked for")
        else:
            made = {"product": terms.product, "concat": terms.concat, "same": lambda p: p[0]}[fact.kind](parts)
            terms.unify(dims[fact.whole], made, fact.kind)
    return terms, dims


def assert_true(terms: Terms, dims: list[Term], facts: Sequence[Fact], seed: int) -> None:
    """Every fact holds on index arrays, for a random choice of units of every free leaf."""
    rng = np.random.default_rng(seed)
    leaves = {leaf.id: leaf for dim in dims for leaf in terms.leaves(dim)}
    units = {
        ident: rng.permutation(leaf.size)[: rng.integers(1, leaf.size + 1)]
        for ident, leaf in leaves.items()
        if leaf.frozen is None and leaf.size > 1
    }
    for fact in facts:
        whole = indices(terms.resolve(dims[fact.whole]), units)
        parts = [terms.resolve(dims[i]) for i in fact.parts]
        if fact.kind == "frozen":
            assert len(whole) == dims[fact.whole].size
        elif fact.kind == "product":
            grid = np.arange(prod(part.size for part in parts)).reshape([part.size for part in parts])
            np.testing.assert_array_equal(whole, grid[np.ix_(*(indices(part, units) for part in parts))].reshape(-1))
        else:
            offsets = np.cumsum([0, *(part.size for part in parts)])
            pieces = [indices(part, units) + start for part, start in zip(parts, offsets, strict=False)]
            np.testing.assert_array_equal(whole, np.concatenate(pieces))


def shape_of(terms: Terms, dims: list[Term]) -> list[object]:
    """The resolved layouts with axes numbered by their first appearance, and which of them are frozen."""
    names: dict[int, int] = {}

    def named(layout: Layout) -> object:
        if isinstance(layout, Axis):
            frozen = terms.by_id(layout.id).frozen is not None
            return (names.setdefault(layout.id, len(names)), layout.size, frozen)
        return (type(layout).__name__, *map(named, layout.parts))

    return [named(terms.resolve(dim)) for dim in dims]


@st.composite
def consistent(draw: st.DrawFn) -> tuple[list[int], list[Fact]]:
    """Facts about a world that exists: layouts over a few true axes, each written on several dimensions."""
    sizes = draw(st.lists(st.sampled_from([2, 3, 4, 5]), min_size=2, max_size=4))
    groups = [[i] for i in range(len(sizes))]  # dimensions with the same true layout
    facts: list[Fact] = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["product", "concat", "same"]))
        if kind == "same":
            group = draw(st.sampled_from(groups))
            whole, parts = len(sizes), [draw(st.sampled_from(group))]
            group.append(whole)
        else:
            chosen = draw(st.lists(st.sampled_from(groups), min_size=2, max_size=3))
            whole, parts = len(sizes), [draw(st.sampled_from(group)) for group in chosen]
            groups.append([whole])
        size = (prod if kind == "product" else sum)(sizes[i] for i in parts)
        sizes.append(size)
        facts.append(Fact(kind, whole, tuple(parts)))
        if size > 400:
            break
    if draw(st.booleans()):
        facts.append(Fact("frozen", draw(st.integers(0, len(sizes) - 1))))
    return sizes, facts


@st.composite
def arbitrary(draw: st.DrawFn) -> tuple[list[int], list[Fact]]:
    """Facts that only agree in size: most such sets contradict themselves."""
    sizes = draw(st.lists(st.sampled_from([2, 2, 3, 4, 5, 6, 8, 12]), min_size=4, max_size=9))
    facts: list[Fact] = []
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["product", "concat", "same", "frozen"]))
        whole = draw(st.integers(0, len(sizes) - 1))
        if kind == "frozen":
            facts.append(Fact(kind, whole))
            continue
        count = 1 if kind == "same" else draw(st.integers(2, 3))
        parts = tuple(draw(st.integers(0, len(sizes) - 1)) for _ in range(count))
        size = (prod if kind == "product" else sum)(sizes[i] for i in parts)
        if size > 200:
            continue
        if sizes[whole] != size:  # a dimension of that size, or a new one
            found = [i for i, n in enumerate(sizes) if n == size]
            if found:
                whole = draw(st.sampled_from(found))
            else:
                sizes.append(size)
                whole = len(sizes) - 1
        facts.append(Fact(kind, whole, parts))
    return sizes, facts


@given(consistent(), st.integers(0, 999))
@settings(max_examples=150, deadline=None)
def test_true_facts_stay_true(world: tuple[list[int], list[Fact]], seed: int) -> None:
    terms, dims = state(*world)
    assert_true(terms, dims, world[1], seed)


@given(arbitrary(), st.integers(0, 999))
@settings(max_examples=250, deadline=None)
def test_contradictions_freeze_and_nothing_becomes_false(world: tuple[list[int], list[Fact]], seed: int) -> None:
    terms, dims = state(*world)
    assert_true(terms, dims, world[1], seed)


@given(consistent(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_order_of_facts_does_not_matter(world: tuple[list[int], list[Fact]], random: Random) -> None:
    sizes, facts = world
    shuffled = random.sample(facts, len(facts))
    assert shape_of(*state(sizes, facts)) == shape_of(*state(sizes, shuffled))


@given(arbitrary())
@settings(max_examples=60, deadline=None)
def test_sizes_never_change(world: tuple[list[int], list[Fact]]) -> None:
    terms, dims = state(*world)
    assert [terms.resolve(dim).size for dim in dims] == world[0]
    assert [active_size(terms.resolve(dim), {}) for dim in dims] == world[0]


@given(arbitrary())
@settings(max_examples=60, deadline=None)
def test_stating_a_fact_twice_changes_nothing(world: tuple[list[int], list[Fact]]) -> None:
    sizes, facts = world
    once = shape_of(*state(sizes, facts))
    assert shape_of(*state(sizes, [*facts, *(fact for fact in facts if fact.kind == "same")])) == once


# -- one by one ----------------------------------------------------------------------------------------------


def test_products_are_refined_to_their_common_factors() -> None:
    terms = Terms()
    a = [terms.leaf(6), terms.leaf(4)]
    b = [terms.leaf(2), terms.leaf(12)]
    terms.unify(terms.product(a), terms.product(b), "reshape")
    assert [part.size for part in terms.resolve(a[0]).parts] == [2, 3]
    assert [part.size for part in terms.resolve(b[1]).parts] == [3, 4]
    assert terms.resolve(a[0]).parts[1] == terms.resolve(b[1]).parts[0]


def test_concats_are_refined_to_their_common_boundaries() -> None:
    terms = Terms()
    a, b = [terms.leaf(3), terms.leaf(5)], [terms.leaf(5), terms.leaf(3)]
    terms.unify(terms.concat(a), terms.concat(b), "cat")
    assert [part.size for part in terms.resolve(a[1]).parts] == [2, 3]
    assert terms.resolve(b[0]) == Concat((terms.resolve(a[0]), terms.resolve(a[1]).parts[0]))


def test_a_product_that_meets_a_concat_is_split_along_its_first_factor() -> None:
    terms = Terms()
    heads, dim, parts = terms.leaf(5), terms.leaf(4), [terms.leaf(8), terms.leaf(12)]
    terms.unify(terms.product([heads, dim]), terms.concat(parts), "split")
    assert [part.size for part in terms.resolve(heads).parts] == [2, 3]
    assert terms.resolve(parts[0]) == Product((terms.resolve(heads).parts[0], terms.resolve(dim)))


def test_radices_without_a_common_refinement_freeze_both_sides_with_the_reason() -> None:
    terms = Terms()
    a, b = [terms.leaf(2), terms.leaf(3)], [terms.leaf(3), terms.leaf(2)]
    terms.unify(terms.product(a), terms.product(b), "reshape at net.py:3")
    assert all(terms.is_frozen(term) for term in (*a, *b))
    assert str(a[0].frozen) == "the structures of two dimensions do not fit: reshape at net.py:3"


def test_a_factor_that_occurs_twice_is_refined_in_both_places_or_freezes() -> None:
    """6 x 4 = 2 x 6 x 2 with one 6: it would be 2 x 3, and then 3 x 4 is not 2 x 3 x 2."""
    terms = Terms()
    six, four, two, last = (terms.leaf(n) for n in (6, 4, 2, 2))
    terms.unify(terms.product([six, four]), terms.product([two, six, last]), "reshape")
    assert all(terms.is_frozen(term) for term in (six, four, two, last))


def test_different_sizes_freeze_both() -> None:
    terms = Terms()
    a, b = terms.leaf(2), terms.leaf(3)
    terms.unify(a, b, "add")
    assert terms.is_frozen(a)
    assert terms.is_frozen(b)


def test_freezing_reaches_what_is_refined_later() -> None:
    terms = Terms()
    whole, parts = terms.leaf(6), [terms.leaf(2), terms.leaf(3)]
    terms.freeze(whole, "the interface")
    terms.unify(whole, terms.product(parts), "reshape")
    assert [terms.find(part).frozen for part in parts] == ["the interface"] * 2


def test_freezing_one_part_leaves_the_others_free() -> None:
    terms = Terms()
    whole, parts = terms.leaf(6), [terms.leaf(2), terms.leaf(3)]
    terms.unify(whole, terms.product(parts), "reshape")
    terms.freeze(parts[0], "a literal")
    assert not terms.is_frozen(whole)
    assert terms.find(parts[1]).frozen is None


@pytest.mark.parametrize(("kind", "neutral"), [("product", 1), ("concat", 0)])
def test_neutral_parts_are_dropped(kind: str, neutral: int) -> None:
    terms = Terms()
    leaf = terms.leaf(4)
    make = getattr(terms, kind)
    assert make([leaf, terms.leaf(neutral)]) is leaf
    assert make([]).size == neutral


def test_compounds_are_flat() -> None:
    terms = Terms()
    a, b, c = (terms.leaf(n) for n in (2, 3, 4))
    assert terms.resolve(terms.product([terms.product([a, b]), c])) == Product((Axis(0, 2), Axis(1, 3), Axis(2, 4)))
    assert len(terms.resolve(terms.concat([a, terms.concat([b, c])])).parts) == 3


def test_every_merge_is_logged_with_its_reason() -> None:
    terms = Terms()
    a, b = terms.leaf(4), terms.leaf(4)
    terms.unify(a, b, "linear in fc (net.py:3)")
    terms.unify(b, terms.product([terms.leaf(2), terms.leaf(2)]), "reshape in attn (net.py:9)")
    assert len(terms.reasons()) == 2
    assert all(why == ["linear in fc (net.py:3)", "reshape in attn (net.py:9)"] for why in terms.reasons().values())


def test_a_term_prints_its_structure() -> None:
    terms = Terms()
    term = terms.product([terms.leaf(2, "why"), terms.leaf(3)])
    assert repr(term) == "product(leaf#0:2!, leaf#1:3):6"
