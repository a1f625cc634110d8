"""The algebra against brute force: programs on real arrays, run whole and run on what is kept.

A program reshapes, permutes, joins, cuts, repeats and adds arrays, and states for every step what the step implies.
Whatever units of the free axes are then kept, and in whatever order, the program on the smaller inputs must give
the smaller results: slices commute with programs. Worlds are the opposite: layouts are known, facts about them are
stated in many ways, and inference has to find them all, in any order, without freezing anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastify._analysis.terms import Term, Terms
from elastify._ir.layout import active_size, indices

Array = np.ndarray
Size = Callable[[Term], int]
Step = Callable[[list[Array], Size], Array]
LARGEST = 400


@dataclass
class Program:
    """Inputs, steps that make one more array each, and the terms of the dimensions of all arrays."""

    rng: Random
    terms: Terms = field(default_factory=Terms)
    arrays: list[Array] = field(default_factory=list)
    dims: list[list[Term]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    inputs: int = 0

    def add_input(self) -> None:
        shape = [self.rng.choice([2, 3, 4, 6]) for _ in range(self.rng.choice([1, 2, 3]))]
        self.arrays.append(np.array([self.rng.randrange(1000) for _ in range(prod(shape))]).reshape(shape))
        self.dims.append([self.terms.leaf(n) for n in shape])
        self.inputs += 1

    def add(self, step: Step, dims: list[Term]) -> None:
        made = step(self.arrays, lambda term: term.size)
        if made.size <= LARGEST and made.ndim <= 5:
            assert made.shape == tuple(term.size for term in dims)
            self.arrays.append(made)
            self.dims.append(dims)
            self.steps.append(step)

    def pick(self) -> int:
        return self.rng.randrange(max(0, len(self.arrays) - 4), len(self.arrays))

    def step(self, names: tuple[str, ...]) -> None:
        getattr(self, self.rng.choice(names))(self.pick())

    def same(self, a: Term, b: Term) -> None:
        self.terms.unify(a, b, "step")

    # -- steps -------------------------------------------------------------------------------------------

    def permute(self, i: int) -> None:
        order = self.rng.sample(range(self.arrays[i].ndim), self.arrays[i].ndim)
        self.add(lambda arrays, _: arrays[i].transpose(order), [self.dims[i][k] for k in order])

    def merge(self, i: int) -> None:
        dims = self.dims[i]
        if len(dims) < 2:
            return
        at = self.rng.randrange(len(dims) - 1)

        def run(arrays: list[Array], _: Size) -> Array:
            shape = list(arrays[i].shape)
            return arrays[i].reshape([*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]])

        self.add(run, [*dims[:at], self.terms.product(dims[at : at + 2]), *dims[at + 2 :]])

    def unflatten(self, i: int) -> None:
        dims, at = self.dims[i], self.rng.randrange(len(self.dims[i]))
        factors = [f for f in range(2, dims[at].size) if dims[at].size % f == 0]
        if not factors or len(dims) > 4:
            return
        first = self.rng.choice(factors)
        parts = [self.terms.leaf(first), self.terms.leaf(dims[at].size // first)]
        self.same(dims[at], self.terms.product(parts))

        def run(arrays: list[Array], size: Size) -> Array:
            shape = arrays[i].shape
            return arrays[i].reshape([*shape[:at], size(parts[0]), size(parts[1]), *shape[at + 1 :]])

        self.add(run, [*dims[:at], *parts, *dims[at + 1 :]])

    def cut(self, i: int) -> None:
        dims, at = self.dims[i], self.rng.randrange(len(self.dims[i]))
        if dims[at].size < 2:
            return
        place, tail = self.rng.randrange(1, dims[at].size), self.rng.random() < 0.5
        parts = [self.terms.leaf(place), self.terms.leaf(dims[at].size - place)]
        self.same(dims[at], self.terms.concat(parts))

        def run(arrays: list[Array], size: Size) -> Array:
            first, second = np.split(arrays[i], [size(parts[0])], axis=at)
            return second if tail else first

        self.add(run, [*dims[:at], parts[tail], *dims[at + 1 :]])

    def join(self, i: int) -> None:
        j, at = self.pick(), self.rng.randrange(len(self.dims[i]))
        a, b = self.dims[i], self.dims[j]
        if len(a) != len(b) or any(x.size != y.size for k, (x, y) in enumerate(zip(a, b, strict=True)) if k != at):
            return
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            if k != at:
                self.same(x, y)
        whole = self.terms.concat([a[at], b[at]])
        self.add(lambda arrays, _: np.concatenate([arrays[i], arrays[j]], at), [*a[:at], whole, *a[at + 1 :]])

    def repeat(self, i: int) -> None:
        dims, at, times = self.dims[i], self.rng.randrange(len(self.dims[i])), self.rng.choice([2, 3])
        fixed, every = self.terms.leaf(times, "a number in the source"), self.rng.random() < 0.5
        parts = [dims[at], fixed] if every else [fixed, dims[at]]

        def run(arrays: list[Array], _: Size) -> Array:
            if every:
                return arrays[i].repeat(times, axis=at)
            return np.concatenate([arrays[i]] * times, axis=at)

        self.add(run, [*dims[:at], self.terms.product(parts), *dims[at + 1 :]])

    def plus(self, i: int) -> None:
        found = [j for j, array in enumerate(self.arrays) if array.shape == self.arrays[i].shape]
        j = self.rng.choice(found)
        for x, y in zip(self.dims[i], self.dims[j], strict=True):
            self.same(x, y)
        self.add(lambda arrays, _: arrays[i] + 3 * arrays[j], self.dims[i])

    def outer(self, i: int) -> None:
        j = self.pick()
        self.add(lambda arrays, _: np.multiply.outer(arrays[i], arrays[j]), [*self.dims[i], *self.dims[j]])

    def total(self, i: int) -> None:
        at = self.rng.randrange(len(self.dims[i]))
        if len(self.dims[i]) > 1:
            self.add(lambda arrays, _: arrays[i].sum(at), [d for k, d in enumerate(self.dims[i]) if k != at])

    def contract(self, i: int) -> None:
        j = self.pick()
        a, b = self.dims[i], self.dims[j]
        if a[-1].size == b[0].size and len(a) + len(b) > 2:
            self.same(a[-1], b[0])
            self.add(lambda arrays, _: np.tensordot(arrays[i], arrays[j], 1), [*a[:-1], *b[1:]])

    # -- what is tested ----------------------------------------------------------------------------------

    def free(self) -> dict[int, int]:
        """Sizes of the leaves that nothing froze."""
        found = {leaf.id: leaf for dims in self.dims for dim in dims for leaf in self.terms.leaves(dim)}
        return {ident: leaf.size for ident, leaf in found.items() if leaf.frozen is None and leaf.size > 1}

    def kept(self, number: int, units: dict[int, Array]) -> Array:
        found = self.arrays[number]
        for axis, dim in enumerate(self.dims[number]):
            found = found.take(indices(self.terms.resolve(dim), units), axis)
        return found

    def check(self, units: dict[int, Array]) -> None:
        sizes = {ident: len(chosen) for ident, chosen in units.items()}
        arrays = [self.kept(i, units) for i in range(self.inputs)]
        for step in self.steps:
            arrays.append(step(arrays, lambda term: active_size(self.terms.resolve(term), sizes)))
        for number, array in enumerate(arrays):
            np.testing.assert_array_equal(array, self.kept(number, units))


VIEWS = ("permute", "merge", "merge", "unflatten", "unflatten", "cut", "join", "repeat", "plus", "plus", "outer")
SUMS = ("total", "contract", "contract")


def program(seed: int, steps: int, names: tuple[str, ...]) -> Program:
    made = Program(Random(seed))
    for _ in range(2):
        made.add_input()
    for _ in range(steps):
        made.step(names)
    return made


def chosen(free: dict[int, int], seed: int, *, all_of_them: bool) -> dict[int, Array]:
    rng = np.random.default_rng(seed)
    return {i: rng.permutation(n)[: n if all_of_them else rng.integers(1, n + 1)] for i, n in free.items()}


@given(st.integers(0, 10**9), st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_programs_commute_with_slices(seed: int, steps: int) -> None:
    made = program(seed, steps, VIEWS)
    for draw in range(3):
        made.check(chosen(made.free(), draw, all_of_them=False))


@given(st.integers(0, 10**9), st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_programs_with_sums_commute_with_permutations(seed: int, steps: int) -> None:
    made = program(seed, steps, VIEWS + SUMS)
    for draw in range(3):
        made.check(chosen(made.free(), draw, all_of_them=True))


def test_programs_leave_something_free() -> None:
    """The tests above would pass if everything froze: most programs of eight steps must keep free axes."""
    free = [len(program(seed, 8, VIEWS).free()) for seed in range(200)]
    assert sum(count > 0 for count in free) > 150


# -- known worlds ----------------------------------------------------------------------------------------------


@dataclass
class World:
    """Dimensions over true axes, and true facts about them: `whole` is a product or concat of `parts`."""

    sizes: list[int]
    facts: list[tuple[str, int, tuple[int, ...]]]
    truth: list[int]  # the dimensions that are axes


def world(seed: int, *, nested: bool) -> World:
    """Chains of axes, and every way of bracketing them, as dimensions of their own."""
    rng = Random(seed)
    sizes: list[int] = []
    facts: list[tuple[str, int, tuple[int, ...]]] = []
    axes = []
    for _ in range(rng.choice([1, 2])):
        kind = rng.choice(["product", "concat"])
        chain = []
        for _ in range(rng.choice([2, 3, 4])):
            sizes.append(rng.choice([2, 3, 4, 5]))
            chain.append(len(sizes) - 1)
        axes += chain
        if nested and kind == "product":  # the first factor is a concat: the product can be written part by part
            sizes.append(sizes[chain[0]] + sizes[chain[1]])
            facts.append(("concat", len(sizes) - 1, (chain[0], chain[1])))
            chain = [len(sizes) - 1, *chain[2:]]
        total = (prod if kind == "product" else sum)(sizes[i] for i in chain)
        sizes.append(total)
        whole = len(sizes) - 1
        facts.append((kind, whole, tuple(chain)))
        for _ in range(rng.choice([1, 2, 3])):
            parts, rest = [], list(chain)
            while rest:
                count = rng.randint(1, len(rest))
                group, rest = rest[:count], rest[count:]
                if len(group) > 1:
                    sizes.append((prod if kind == "product" else sum)(sizes[i] for i in group))
                    facts.append((kind, len(sizes) - 1, tuple(group)))
                    group = [len(sizes) - 1]
                parts += group
            if len(parts) > 1:
                facts.append((kind, whole, tuple(parts)))
    return World(sizes, facts, axes)


def infer(made: World, order: list[int]) -> tuple[Terms, list[Term]]:
    terms = Terms()
    dims = [terms.leaf(size) for size in made.sizes]
    for number in order:
        kind, whole, parts = made.facts[number]
        make = terms.product if kind == "product" else terms.concat
        terms.unify(dims[whole], make([dims[i] for i in parts]), kind)
    return terms, dims


@pytest.mark.parametrize("nested", [False, True])
@given(seed=st.integers(0, 10**9), random=st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_a_world_is_found_whole_in_any_order(nested: bool, seed: int, random: Random) -> None:
    made = world(seed, nested=nested)
    plain, shuffled = list(range(len(made.facts))), random.sample(range(len(made.facts)), len(made.facts))
    for order in (plain, shuffled):
        terms, dims = infer(made, order)
        assert [leaf for dim in dims for leaf in terms.leaves(dim) if leaf.frozen is not None] == []
        found = {terms.find(dims[i]).id for i in made.truth}
        assert len(found) == len(made.truth), "two axes were made one"
        assert all(terms.find(dims[i]).kind == "leaf" for i in made.truth), "an axis was split"
        for kind, whole, parts in made.facts:
            make = terms.product if kind == "product" else terms.concat
            assert terms.resolve(dims[whole]) == terms.resolve(make([dims[i] for i in parts]))
