"""What a share of a dimension asks of its factors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastify._ir import Axis, Concat, Layout, Product, Shares

KV, Q, DIM, WIDTH, GATE = Axis(0, 2), Axis(1, 8), Axis(2, 64), Axis(3, 100), Axis(4, 10)
ROLES = {0: "heads", 1: "groups", 2: "head_dim", 3: "width", 4: "hidden"}


def dealt(share: float, *layouts: Layout, asked: tuple[int, ...] = (0, 1, 2, 3, 4)) -> dict[int, float]:
    sizes = {axis.id: axis.size for axis in (KV, Q, DIM, WIDTH, GATE)}
    return Shares(layouts, ROLES).deal(share, asked, {ident: 1 / size for ident, size in sizes.items()})


@pytest.mark.parametrize(
    ("share", "kv", "q"), [(1.0, 1.0, 1.0), (0.75, 0.75, 1.0), (0.5, 0.5, 1.0), (0.25, 0.25, 0.5), (0.125, 0.125, 0.25)]
)
def test_the_coarsest_takes_it_and_the_next_what_one_unit_cannot_give(share: float, kv: float, q: float) -> None:
    assert dealt(share, Product((KV, Q, DIM)), Product((KV, DIM)), WIDTH) == {0: kv, 1: q, 2: 1.0, 3: share, 4: share}


def test_the_order_in_memory_does_not_matter_where_roles_say_more() -> None:
    assert dealt(0.5, Product((DIM, KV))) == dealt(0.5, Product((KV, DIM)))


def test_units_of_heads_are_asked_only_where_nothing_else_is() -> None:
    assert dealt(0.5, Product((KV, DIM)), asked=(2,)) == {2: 0.5}
    assert dealt(0.5, DIM, WIDTH, asked=(2, 3)) == {2: 1.0, 3: 0.5}


def test_a_factor_that_is_not_asked_does_not_count() -> None:
    assert dealt(0.5, Product((Q, GATE)), asked=(4,)) == {4: 0.5}
    assert dealt(0.05, Product((Axis(9, 3), GATE)), asked=(4,)) == {4: 0.05}


def test_a_finer_factor_follows_its_product_where_it_stands_alone() -> None:
    assert dealt(0.5, Product((Q, GATE)), GATE)[4] == 1.0


def test_a_factor_of_two_products_is_asked_for_the_less_of_both() -> None:
    assert dealt(0.25, Product((KV, GATE)), Product((Q, GATE)))[4] == 1.0
    assert dealt(0.25, Product((KV, GATE)), Product((KV, WIDTH, GATE)))[4] == pytest.approx(1.0)


def test_parts_of_a_concatenation_are_factors_each() -> None:
    assert dealt(0.25, Product((Concat((KV, Q)), GATE))) == {0: 0.25, 1: 0.25, 2: 1.0, 3: 0.25, 4: 1.0}


def test_two_orders_of_the_same_factors_are_no_error() -> None:
    found = dealt(0.05, Product((WIDTH, GATE)), Product((GATE, WIDTH)))
    assert found[3] == 0.05
    assert found[4] == 1.0


@given(st.lists(st.permutations(range(5)).map(lambda p: tuple(p[:3])), max_size=6), st.floats(0.01, 1))
def test_every_share_is_between_what_is_asked_and_all(products: list[tuple[int, ...]], share: float) -> None:
    axes = (KV, Q, DIM, WIDTH, GATE)
    layouts = [Product(tuple(axes[i] for i in product)) for product in products]
    assert all(share <= found <= 1 for found in dealt(share, *layouts).values())
