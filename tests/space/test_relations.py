"""Relations between sizes: counting, sampling and repair against brute force on random plans."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastify._errors import ElastifyError
from elastify._ir.ints import Op
from elastify._ir.layout import Axis, Concat, Product
from elastify._ir.plan import Constraint, ElasticAxis, Plan, Stage
from elastify._space.relations import _TABLE_LIMIT
from elastify._space.space import SearchSpace


def brute(plan: Plan) -> set[tuple[int, ...]]:
    """Every legal row, found by trying all, as (sizes, depths) with canonical sizes in skipped blocks."""
    space = SearchSpace(plan)
    legal = set()
    for row in product(*(axis.choices for axis in plan.axes)):
        if holds(plan, row):
            for depths in product(*(stage.choices for stage in plan.stages)):
                legal.add(tuple(space.rows.normalise(np.array([row + depths]))[0].tolist()))
    return legal


def holds(plan: Plan, row: tuple[int, ...]) -> bool:
    """Legality by plain Python arithmetic, one row at a time."""
    sizes = {axis.id: size for axis, size in zip(plan.axes, row, strict=False)}

    def size(layout):
        if isinstance(layout, Axis):
            return sizes.get(layout.id, layout.size)
        parts = [size(part) for part in layout.parts]
        return sum(parts) if isinstance(layout, Concat) else int(np.prod(parts))

    def value(expr):
        if isinstance(expr, int):
            return expr
        if not isinstance(expr, Op):
            return size(expr)
        a, b = map(value, expr.args)
        return {"add": a + b, "mul": a * b, "sub": a - b, "mod": a % b if b else 0, "floordiv": a // b if b else 0}[
            expr.fn
        ]

    for constraint in plan.constraints:
        args = [value(arg) for arg in constraint.args]
        results = {
            "eq": args[0] == args[-1],
            "ne": args[0] != args[-1],
            "le": args[0] <= args[-1],
            "truth": args[0] != 0,
        }
        if results[constraint.fn] != constraint.result:
            return False
    return True


@st.composite
def plans(draw) -> Plan:
    """Up to five axes, perhaps two with their product; constraints that the full network meets; perhaps a stage."""
    n = draw(st.integers(1, 4))
    sizes = [draw(st.sampled_from([2, 4, 6, 12])) for _ in range(n)]
    inside = [draw(st.sampled_from(["head", "layers.0", "layers.1", "layers.2"])) for _ in range(n)]
    axes = []
    for i, full in enumerate(sizes):
        smaller = draw(st.sets(st.integers(1, full), max_size=4))
        axes.append(
            ElasticAxis(i, f"{inside[i]}.a{i}", full, tuple(sorted(smaller | {full})), members=((f"{inside[i]}.w", 0),))
        )
    layouts = [Axis(i, full) for i, full in enumerate(sizes)]
    constraints = []
    if n >= 2 and draw(st.booleans()) and sizes[0] % sizes[1] == 0:
        full = sizes[0] // sizes[1]
        axes.append(ElasticAxis(n, "factor", full, tuple(range(1, full + 1))))
        constraints.append(Constraint("eq", (layouts[0], Product((layouts[1], Axis(n, full)))), True))
    for _ in range(draw(st.integers(0, 2))):
        a, b = (draw(st.sampled_from(layouts)) for _ in range(2))
        kind = draw(st.sampled_from(["divides", "equal", "less", "sum", "even"]))
        if kind == "divides" and a.size % b.size == 0:
            constraints.append(Constraint("eq", (Op("mod", (a, b)), 0), True, "net.py:1"))
        elif kind == "equal" and a.size == b.size:
            constraints.append(Constraint("ne", (a, b), False))
        elif kind == "less" and a.size <= b.size:
            constraints.append(Constraint("le", (a, Product((b, Axis(99, 2)))), True))
        elif kind == "sum":
            constraints.append(Constraint("le", (Concat((a, b)), a.size + b.size), True))
        elif kind == "even" and a.size * b.size % 4 == 0:
            constraints.append(Constraint("truth", (Op("mod", (Op("mul", (a, b)), 4)),), False))
    stages = ()
    if draw(st.booleans()):
        stages = (Stage("layers", "layers", ("layers.0", "layers.1", "layers.2"), (1, 2, 3)),)
    return Plan(tuple(axes), stages, constraints=tuple(constraints))


@settings(max_examples=150, deadline=None)
@given(plans(), st.integers(0, 2**32 - 1))
def test_everything_is_legal_and_counted_on_random_plans(plan, seed):
    space, legal = SearchSpace(plan), brute(plan)
    assert space.size.exact
    assert space.size == len(legal)
    for number in range(5):
        config = space.sample(seed + number)
        assert tuple(space.encode(config)[0].tolist()) in legal
        assert space.decode(space.encode(config)[0]) == config == space.check(config) == space.normalise(config)
    for ratio in (0.01, 0.3, 0.5, 0.77, 1.0):
        assert tuple(space.encode(space.config(ratio))[0].tolist()) in legal
    for config in (space.min, space.max, *space.nested(4)):
        assert tuple(space.encode(config)[0].tolist()) in legal
    assert space.max == space.config(None) == space.config(1.0) == space.config({}) == space.nested(1)[0]


@settings(max_examples=100, deadline=None)
@given(plans(), st.data())
def test_repair_is_nearest_and_below_where_possible(plan, data):
    plan = Plan(plan.axes, (), constraints=plan.constraints)
    target = {axis.name: data.draw(st.integers(1, axis.size), label=axis.name) for axis in plan.axes}
    space = SearchSpace(plan)
    found = space.repair(target).sizes
    rows = [row for row in product(*(axis.choices for axis in plan.axes)) if holds(plan, row)]
    by_name = [{axis.name: size for axis, size in zip(plan.axes, row, strict=True)} for row in rows]

    def above(sizes):
        return sum(sizes[name] > target[name] for name in target)

    assert above(found) == min(map(above, by_name))
    if above(found) == 0:
        gap = {id(s): sum(np.log(target[name] / s[name]) for name in target) for s in by_name if above(s) == 0}
        assert sum(np.log(target[name] / found[name]) for name in target) <= min(gap.values()) + 0.05


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(2, 7))
def test_nested_rows_never_shrink(plan, n):
    space = SearchSpace(plan)
    rows = space.rows.nested(n)
    assert len(rows) == n
    assert (np.diff(rows, axis=0) >= 0).all()
    assert (rows[0] == space.rows.least).all()
    assert (rows[-1] == space.rows.full).all()
    assert all(holds(plan, tuple(row.tolist())) for row in rows)


def loose_plan() -> Plan:
    """A relation over so many axes that no table is made."""
    axes = tuple(ElasticAxis(i, f"a{i}", 16, tuple(range(4, 17))) for i in range(6))
    total = Concat(tuple(Axis(i, 16) for i in range(6)))
    plan = Plan(axes, constraints=(Constraint("eq", (Op("mod", (total, 4)), 0), True, "net.py:9"),))
    assert _TABLE_LIMIT < 13**6
    return plan


def test_relations_too_large_for_a_table_are_still_kept():
    plan = loose_plan()
    space = SearchSpace(plan)
    assert not space.size.exact
    assert space.size == 13**6
    assert str(space.size) == "<= 4,826,809"
    for number in range(30):
        assert holds(plan, tuple(space.sample(number).sizes.values()))
        wish = {f"a{i}": 4 + (7 * i + number) % 13 for i in range(6)}
        assert holds(plan, tuple(space.repair(wish).sizes.values()))
    rows = space.rows.nested(5)
    assert all(holds(plan, tuple(row.tolist())) for row in rows)
    assert (np.diff(rows, axis=0) >= 0).all()


def test_a_plan_that_contradicts_itself_is_refused():
    axes = (ElasticAxis(0, "a", 8, (4, 8)),)
    with pytest.raises(ElastifyError, match="breaks a relation of its own plan"):
        SearchSpace(Plan(axes, constraints=(Constraint("le", (Axis(0, 8), 5), True),))).size  # noqa: B018


def test_a_relation_over_one_axis_shortens_its_choices():
    axes = (ElasticAxis(0, "norm.groups_of", 12, tuple(range(3, 13))),)
    space = SearchSpace(Plan(axes, constraints=(Constraint("eq", (Op("mod", (Axis(0, 12), 4)), 0), True),)))
    assert space.size == 3
    assert space.config(0.5).sizes == {"norm.groups_of": 8}
    with pytest.raises(ElastifyError, match="6 is not a legal size") as error:
        space.config({"norm.groups_of": 6})
    assert error.value.fix == "legal: 4, 8, 12"
