"""Sizes that are computed: what they say about layouts, and what is left for configurations to obey."""

from __future__ import annotations

from typing import Any

import pytest

from elastify._analysis.equations import Solver
from elastify._analysis.rules import Facts, Why
from elastify._analysis.terms import Terms
from elastify._ir.graph import Value
from elastify._ir.ints import Attr, Dim, Guard, Int, Op
from elastify._ir.layout import Axis, Concat, Product
from elastify._ir.plan import Constraint
from elastify._plan.constraints import constraints

HEADS, DIM, WIDTH, PART = (Attr("", name) for name in ("num_heads", "head_dim", "width", "part"))
VALUES = {HEADS: 3, DIM: 4, WIDTH: 12, PART: 5}


class World:
    """One value of shape [2, 12, 4], attributes, and a solver over them."""

    def __init__(self) -> None:
        self.facts = Facts(Terms())
        self.value = Value(0, (2, 12, 4))
        self.facts.start([self.value], {})
        self.facts.why = Why("view", "attn", "net.py:3")
        self.solver = Solver(self.facts, VALUES.__getitem__)

    def term(self, leaf: Attr | Dim) -> Any:
        return self.facts.size_of(leaf, 0 if isinstance(leaf, Dim) else VALUES[leaf])

    def layout(self, leaf: Attr | Dim) -> Any:
        return self.facts.terms.resolve(self.term(leaf))

    def frozen(self, leaf: Attr | Dim) -> bool:
        return self.facts.terms.is_frozen(self.term(leaf))


@pytest.fixture
def world() -> World:
    return World()


def test_a_quotient_makes_a_product(world: World) -> None:
    """C // num_heads == head_dim, the commonest computation of all."""
    world.facts.equate(Op("floordiv", (Dim(0, 1), HEADS)), world.term(DIM))
    world.solver.solve()
    assert world.layout(Dim(0, 1)) == Product((world.layout(HEADS), world.layout(DIM)))
    assert not world.frozen(Dim(0, 1))


def test_a_quotient_finds_its_divisor_wherever_it_stands(world: World) -> None:
    """Heads that vary fastest: C is Product(head_dim, heads), and C // heads still is head_dim."""
    world.facts.same(world.term(WIDTH), world.facts.product(world.term(DIM), world.term(HEADS)))
    world.facts.equate(Op("floordiv", (WIDTH, HEADS)), world.term(Dim(0, 2)))
    world.solver.solve()
    assert world.layout(Dim(0, 2)) == world.layout(DIM)
    assert not world.frozen(WIDTH)


def test_a_product_and_a_sum_of_sizes(world: World) -> None:
    world.facts.equate(Op("mul", (HEADS, DIM)), world.term(Dim(0, 1)))
    world.facts.equate(Op("add", (Op("mul", (2, DIM)), DIM)), world.term(WIDTH))
    world.solver.solve()
    assert world.layout(Dim(0, 1)) == Product((world.layout(HEADS), world.layout(DIM)))
    assert isinstance(world.layout(WIDTH), Concat | Product)
    assert not world.frozen(WIDTH)


def test_a_difference_is_what_is_left_of_a_concat(world: World) -> None:
    """split(x, [hidden, C - hidden]), after which C is made of the two."""
    facts, rest = world.facts, world.facts.leaf(9)
    facts.same(world.term(Dim(0, 1)), facts.concat([world.term(HEADS), rest]))
    facts.equate(Op("sub", (Dim(0, 1), HEADS)), rest)
    world.solver.solve()
    assert world.layout(Dim(0, 1)) == Concat((world.layout(HEADS), facts.terms.resolve(rest)))
    assert not world.frozen(HEADS)
    assert not facts.terms.is_frozen(rest)


def test_a_difference_is_what_a_part_leaves(world: World) -> None:
    """split(x, [part, width - part]): what follows the part, or what else a known sum has, in whatever order."""
    first, second = world.facts.leaf(5), world.facts.leaf(7)
    world.facts.equate(PART, first)
    world.facts.equate(Op("sub", (WIDTH, PART)), second)
    world.solver.solve()
    assert world.layout(WIDTH) == Concat((world.layout(PART), world.facts.terms.resolve(second)))
    world.facts.same(world.term(Dim(0, 1)), world.facts.concat([second, first]))
    world.facts.equate(Op("sub", (Dim(0, 1), PART)), rest := world.facts.leaf(7))
    world.solver.solve()
    assert world.facts.terms.resolve(rest) == world.facts.terms.resolve(second)
    assert not world.frozen(PART)
    assert not world.frozen(Dim(0, 1))


def test_the_order_of_factors_does_not_matter_to_a_size(world: World) -> None:
    """reshape(b, c) after a channel shuffle: c is groups * per, and per * groups comes in."""
    facts, per = world.facts, world.facts.leaf(4)
    facts.same(world.term(Dim(0, 1)), facts.product(world.term(HEADS), per))
    facts.equate(Dim(0, 1), facts.product(per, world.term(HEADS)))
    world.solver.solve()
    assert world.layout(Dim(0, 1)) == Product((world.layout(HEADS), facts.terms.resolve(per)))
    assert not world.frozen(Dim(0, 1))


def test_what_both_sides_have_is_cancelled(world: World) -> None:
    """12 = 3 * 4 and head_dim times an unknown: the unknown is the heads."""
    facts, unknown = world.facts, world.facts.leaf(3)
    facts.equate(Op("mul", (DIM, HEADS)), facts.product(world.term(DIM), unknown))
    world.solver.solve()
    assert facts.terms.resolve(unknown) == world.layout(HEADS)


def test_quotients_in_any_order(world: World) -> None:
    """c // heads // 3 of a fused qkv of 3 * heads * head_dim."""
    facts, width = world.facts, Dim(1, 0)
    facts.start([world.value, Value(1, (36,))], {})
    facts.same(world.term(width), facts.product(facts.fixed(3), world.term(HEADS), world.term(DIM)))
    unknown = facts.leaf(4)
    facts.equate(Op("floordiv", (Op("floordiv", (width, HEADS)), 3)), unknown)
    world.solver.solve()
    assert facts.terms.resolve(unknown) == world.layout(DIM)


def test_a_difference_cuts_what_has_no_structure(world: World) -> None:
    world.facts.equate(Op("sub", (WIDTH, DIM)), world.facts.leaf(8))
    world.solver.solve()
    assert world.layout(WIDTH).parts[0] == world.layout(DIM)
    assert not world.frozen(WIDTH)


def test_a_rest_of_nothing_stays_nothing(world: World) -> None:
    """each * heads + rest of divmod(C, heads), where C is a multiple of the heads."""
    each, rest = Op("floordiv", (Dim(0, 1), HEADS)), Op("mod", (Dim(0, 1), HEADS))
    world.facts.equate(Op("add", (Op("mul", (each, HEADS)), rest)), unknown := world.facts.leaf(12))
    world.solver.solve()
    assert sorted(axis.size for axis in world.facts.terms.resolve(unknown).parts) == [3, 4]
    assert not world.facts.terms.is_frozen(unknown)


@pytest.mark.parametrize("fn", ["pow", "neg"])
def test_what_cannot_be_solved_freezes_all_that_it_mentions(world: World, fn: str) -> None:
    args = (Dim(0, 1),) if fn == "neg" else (Dim(0, 1), HEADS)
    world.facts.equate(Op(fn, args), world.facts.leaf(4))
    world.solver.solve()
    assert world.frozen(Dim(0, 1))
    why = str(world.term(Dim(0, 1)).frozen)
    assert "its size enters a computation" in why
    assert "net.py:3" in why


def test_a_quotient_with_a_rest_freezes(world: World) -> None:
    world.facts.equate(Op("floordiv", (Dim(0, 1), 5)), world.facts.leaf(2))
    world.solver.solve()
    assert world.frozen(Dim(0, 1))


def test_an_equation_between_fixed_sizes_says_nothing(world: World) -> None:
    for leaf in (Dim(0, 1), HEADS, DIM):
        world.facts.freeze(world.term(leaf), "the interface")
    world.facts.equate(Op("floordiv", (Dim(0, 1), HEADS)), world.term(DIM))
    world.solver.solve()
    assert isinstance(world.layout(Dim(0, 1)), Axis)


@pytest.mark.parametrize(("fn", "result"), [("eq", True), ("ne", False)])
def test_an_equality_that_held_is_an_equation(world: World, fn: str, result: bool) -> None:
    rest = world.solver.guards([Guard(fn, (Op("mul", (HEADS, DIM)), Dim(0, 1)), result, "net.py:7")])
    world.solver.solve()
    assert rest == []
    assert world.layout(Dim(0, 1)) == Product((world.layout(HEADS), world.layout(DIM)))


def test_an_equality_with_a_number_freezes(world: World) -> None:
    assert world.solver.guards([Guard("eq", (12, Dim(0, 1)), True, "net.py:7")]) == []
    assert world.frozen(Dim(0, 1))
    assert "compared with the number 12" in str(world.term(Dim(0, 1)).frozen)


@pytest.mark.parametrize(
    "guard",
    [
        Guard("eq", (Op("mod", (Dim(0, 1), HEADS)), 0), True, "net.py:7"),
        Guard("gt", (Dim(0, 1), DIM), True, "net.py:8"),
        Guard("eq", (Dim(0, 1), DIM), False, "net.py:9"),
    ],
)
def test_other_comparisons_are_left_and_freeze_nothing(world: World, guard: Guard) -> None:
    assert world.solver.guards([guard, guard]) == [guard]
    world.solver.solve()
    assert not world.frozen(Dim(0, 1))


@pytest.mark.parametrize(
    ("fn", "bound", "expected"),
    [
        ("gt", 2.5, ("gt", 2)),
        ("ge", 2.5, ("ge", 3)),
        ("lt", 2.5, ("lt", 3)),
        ("le", 2.5, ("le", 2)),
        ("gt", 3.0, ("gt", 3)),
    ],
)
def test_comparisons_with_floats_become_comparisons_of_whole_numbers(
    world: World, fn: str, bound: float, expected: tuple[str, int]
) -> None:
    (left,) = world.solver.guards([Guard(fn, (Dim(0, 1), bound), True, "net.py:7")])
    assert (left.fn, left.args[1]) == expected
    mirrored = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}[fn]
    assert world.solver.guards([Guard(mirrored, (bound, Dim(0, 1)), True, "net.py:7")]) == [left]


@pytest.mark.parametrize("bound", [float("inf"), float("nan")])
def test_no_size_is_ever_beyond_the_finite(world: World, bound: float) -> None:
    assert world.solver.guards([Guard("lt", (Dim(0, 1), bound), True, "net.py:7")]) == []
    assert world.solver.guards([Guard("eq", (Dim(0, 1), 2.5), False, "net.py:7")]) == []
    assert world.solver.guards([Guard("truth", (Dim(0, 1),), True, "net.py:7")]) == []


A, B, F = Axis(1, 12), Axis(2, 6), Axis(3, 9)
LAYOUTS = {Dim(0, 1): A, Dim(0, 2): B, HEADS: F, WIDTH: Product((A, B)), DIM: Concat((B, B))}


def left(fn: str, args: tuple[Any, ...], result: bool, smallest: dict[int, int]) -> list[Constraint]:
    return constraints([Guard(fn, args, result, "net.py:7")], LAYOUTS.__getitem__, smallest)


@pytest.mark.parametrize(
    ("fn", "args", "result"),
    [
        ("gt", (Dim(0, 1), 2), True),
        ("ge", (Dim(0, 1), 3), True),
        ("lt", (Dim(0, 1), 13), True),
        ("le", (Dim(0, 1), 12), True),
        ("ne", (Dim(0, 1), 2), True),
        ("eq", (Dim(0, 1), 13), False),
        ("lt", (Dim(0, 1), 3), False),
        ("gt", (Op("add", (Dim(0, 1), Dim(0, 2))), 4), True),
        ("gt", (Op("mul", (Dim(0, 1), Dim(0, 2))), 5), True),
        ("gt", (Op("sub", (Dim(0, 1), Dim(0, 2))), -4), True),
        ("lt", (Op("neg", (Dim(0, 1),)), 0), True),
        ("le", (Op("floordiv", (Dim(0, 1), Dim(0, 2))), 6), True),
        ("eq", (Op("mod", (WIDTH, Dim(0, 2))), 0), True),
        ("eq", (Op("mod", (DIM, Dim(0, 2))), 0), True),
        ("lt", (Op("mod", (Dim(0, 1), Dim(0, 2))), 6), True),
        ("gt", (HEADS, 3), True),
    ],
)
def test_what_the_smallest_sizes_prove_is_no_constraint(fn: str, args: tuple[Any, ...], result: bool) -> None:
    assert left(fn, args, result, {1: 3, 2: 2}) == []


@pytest.mark.parametrize(
    ("fn", "args", "result"),
    [
        ("gt", (Dim(0, 1), 3), True),
        ("eq", (Dim(0, 1), 12), True),
        ("ne", (Dim(0, 1), 5), True),
        ("gt", (Dim(0, 1), Dim(0, 2)), True),
        ("eq", (Op("mod", (Dim(0, 1), Dim(0, 2))), 0), True),
        ("eq", (Op("mod", (Dim(0, 1), 4)), 0), True),
        ("gt", (Op("pow", (Dim(0, 1), 2)), 0), True),
    ],
)
def test_what_they_do_not_prove_is_one(fn: str, args: tuple[Any, ...], result: bool) -> None:
    (found,) = left(fn, args, result, {1: 3, 2: 2})
    assert (found.fn, found.result, found.source) == (fn, result, "net.py:7")


def test_provenance_integers_are_compared_by_their_expressions(world: World) -> None:
    heads = Int(3, HEADS)
    world.facts.require(heads * 4, world.term(Dim(0, 1)))
    world.solver.solve()
    assert world.layout(Dim(0, 1)).parts[0] == world.layout(HEADS)
    assert world.facts.terms.is_frozen(world.facts.terms.by_id(world.layout(Dim(0, 1)).parts[1].id))
