"""Layouts: sizes and index sets against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastify._ir.layout import Axis, Concat, Layout, Product, active_size, axes_of, indices

AXES = [Axis(i, size) for i, size in enumerate((2, 3, 4, 5))]
LAYOUTS = st.recursive(
    st.sampled_from(AXES),
    lambda inner: (
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Product(tuple(parts)))
        | st.lists(inner, min_size=2, max_size=3).map(lambda parts: Concat(tuple(parts)))
    ),
    max_leaves=4,
)
UNITS = st.fixed_dictionaries(
    {}, optional={axis.id: st.lists(st.integers(0, axis.size - 1), min_size=1, unique=True) for axis in AXES}
)


def positions(layout: Layout, chosen: dict[int, list[int]]) -> np.ndarray:
    """By brute force: which positions of arange(size) survive, in order, by building the dimension itself."""
    if isinstance(layout, Axis):
        return np.array(chosen.get(layout.id, range(layout.size)))
    if isinstance(layout, Concat):
        whole, found, start = np.arange(layout.size), [], 0
        for part in layout.parts:
            found.append(whole[start : start + part.size][positions(part, chosen)])
            start += part.size
        return np.concatenate(found)
    grid = np.arange(layout.size).reshape([part.size for part in layout.parts])
    for dim, part in enumerate(layout.parts):
        grid = grid.take(positions(part, chosen), axis=dim)
    return grid.reshape(-1)


@given(LAYOUTS, UNITS)
@settings(max_examples=100, deadline=None)
def test_indices_are_those_of_reshape_and_concatenate(layout: Layout, units: dict[int, list[int]]) -> None:
    found = indices(layout, {ident: np.array(chosen) for ident, chosen in units.items()})
    np.testing.assert_array_equal(found, positions(layout, units))


@given(LAYOUTS, UNITS)
@settings(max_examples=100, deadline=None)
def test_the_size_counts_the_indices(layout: Layout, units: dict[int, list[int]]) -> None:
    sizes = {ident: len(chosen) for ident, chosen in units.items()}
    assert active_size(layout, sizes) == len(positions(layout, units))
    assert active_size(layout, {}) == layout.size


@given(LAYOUTS)
@settings(max_examples=50, deadline=None)
def test_a_permutation_of_all_axes_permutes_the_dimension(layout: Layout) -> None:
    orders = {axis.id: np.roll(np.arange(axis.size), 1) for axis in axes_of(layout)}
    assert sorted(indices(layout, orders)) == list(range(layout.size))


def test_sizes_may_be_arrays_of_configurations() -> None:
    qkv = Product((Axis(9, 3), Concat((AXES[1], AXES[2]))))
    np.testing.assert_array_equal(active_size(qkv, {1: np.array([1, 3]), 2: np.array([4, 2])}), [15, 15])


@pytest.mark.parametrize(
    ("layout", "units", "expected"),
    [
        (AXES[3], {3: [0, 2]}, [0, 2]),
        (Product((AXES[0], AXES[1])), {1: [0, 1]}, [0, 1, 3, 4]),
        (Product((AXES[0], AXES[1])), {0: [1]}, [3, 4, 5]),
        (Concat((AXES[1], AXES[1])), {1: [2, 0]}, [2, 0, 5, 3]),
        (Product((AXES[0], Concat((AXES[0], AXES[1])))), {1: [0]}, [0, 1, 2, 5, 6, 7]),
    ],
)
def test_examples(layout: Layout, units: dict[int, list[int]], expected: list[int]) -> None:
    assert indices(layout, {ident: np.array(chosen) for ident, chosen in units.items()}).tolist() == expected


def test_axes_come_from_left_to_right_with_repeats() -> None:
    layout = Concat((Product((AXES[2], AXES[0])), AXES[2]))
    assert [axis.id for axis in axes_of(layout)] == [2, 0, 2]
