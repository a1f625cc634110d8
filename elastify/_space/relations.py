"""Which sizes go together, as a small exact constraint solver.

The comparisons that the full network made become relations over the few axes they mention.
A relation over one axis shortens its list of choices; over more, it becomes a table of allowed combinations.
Axes linked by tables form components, and everything asked of a component (a legal assignment nearest to wishes,
a random one, how many there are) is answered by eliminating one axis after another: join the tables that
mention it, keep per combination of its neighbours the best (or the sum) over its choices, and read the
answer back in reverse order. Tables stay small because networks tie few sizes at a time. A relation whose
table would be too large has none: it is checked, repaired by trying, and its count is only a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from elastify._errors import ElastifyError
from elastify._ir import Constraint, Op, Plan, active_size, axes_of, evaluate, leaves
from elastify._space.relation_text import size_text

_TABLE_LIMIT = 1 << 18
_JOINT_LIMIT = 1 << 21


@dataclass(frozen=True, slots=True, eq=False)
class Relation:
    """A predicate over the sizes in some columns; `text` and `source` say where it comes from."""

    scope: tuple[int, ...]
    holds: Callable[[Mapping[int, Any]], Any]
    text: str
    source: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """An array with one dimension per axis of the (ascending) scope, indexed by choice."""

    scope: tuple[int, ...]
    values: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Join:
    """One elimination, planned: the arrays to add over a scope (a slot and how to index it there), which array
    dimension is the axis itself."""

    column: int
    scope: tuple[int, ...]
    inputs: tuple[tuple[int, tuple[Any, ...]], ...]
    dim: int


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """Axes that tables link, the order in which to eliminate them, and the joins which that takes.

    Slots of arrays: first the tables, then one cost per choice of each column, then the results of the joins.
    """

    columns: tuple[int, ...]
    tables: tuple[Table, ...]
    joins: tuple[Join, ...]
    last: tuple[int, ...]

    @classmethod
    def plan(cls, columns: tuple[int, ...], tables: Iterable[Table], order: Iterable[int]) -> Component:
        """Joins for an order of elimination; `last` are the slots that end as single numbers."""
        tables = tuple(tables)
        scopes = {slot: table.scope for slot, table in enumerate(tables)}
        scopes |= {len(tables) + i: (column,) for i, column in enumerate(columns)}
        joins: list[Join] = []
        for column in order:
            slots = [slot for slot, scope in scopes.items() if column in scope]
            scope = tuple(sorted(set().union(*(scopes[slot] for slot in slots))))
            inputs = tuple((slot, tuple(slice(None) if c in scopes[slot] else None for c in scope)) for slot in slots)
            joins.append(Join(column, scope, inputs, scope.index(column)))
            for slot in slots:
                del scopes[slot]
            scopes[len(tables) + len(columns) + len(joins) - 1] = tuple(c for c in scope if c != column)
        return cls(columns, tables, tuple(joins), tuple(scopes))


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A join carried out: costs of the best completions, and the sizes that the axis may take."""

    join: Join
    costs: np.ndarray
    domain: np.ndarray


class Relations:
    """The relations of a plan, compiled: `domains` are the legal sizes per column, then components and the
    relations without a table."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.column = {axis.id: column for column, axis in enumerate(plan.axes)}
        self.domains = [np.array(axis.choices, np.int64) for axis in plan.axes]
        self.relations = self._collect()
        tabled = self._tables()
        self.components = self._components(tabled)
        self.lone = tuple(sorted(set(range(len(plan.axes))) - {c for part in self.components for c in part.columns}))
        untabled = set(map(id, self.untabled))
        tight = [relation for relation in self.relations if len(relation.scope) > 1 and id(relation) not in untabled]
        self._inside = {
            part.columns: [relation for relation in tight if set(part.columns).issuperset(relation.scope)]
            for part in self.components
        }

    def _collect(self) -> list[Relation]:
        found: dict[Any, Relation] = {}
        names = {axis.id: axis.name for axis in self.plan.axes}
        for constraint in self.plan.constraints:
            key = (constraint.fn, constraint.args, constraint.result)
            columns = {self.column[i] for i in _ids(constraint) if i in self.column}
            if columns and key not in found:
                text = size_text(constraint, names)
                found[key] = Relation(tuple(sorted(columns)), _holds(constraint), text, constraint.source)
        full = [axis.size for axis in self.plan.axes]
        for relation in found.values():
            if not self.satisfied(relation, np.array([full], np.int64))[0]:
                raise ElastifyError("the full network breaks a relation of its own plan", why=relation.text)
        return list(found.values())

    def _tables(self) -> list[Table]:
        """Tables of the relations over several axes, after every choice that one of them rules out is dropped;
        `untabled` keeps those that would be too large."""
        self.untabled: list[Relation] = []
        tight = []
        for relation in sorted(self.relations, key=lambda r: len(r.scope)):
            if math.prod(len(self.domains[column]) for column in relation.scope) > _TABLE_LIMIT:
                self.untabled.append(relation)
            else:
                tight.append(relation)
                self._drop_unsupported(relation)
        dropped = True
        while dropped:
            dropped = False
            for relation in tight:
                dropped |= len(relation.scope) > 1 and self._drop_unsupported(relation)
        allowed = [(relation.scope, self._allowed(relation)) for relation in tight if len(relation.scope) > 1]
        return [Table(scope, np.where(array, 0.0, np.inf)) for scope, array in allowed if not array.all()]

    def _allowed(self, relation: Relation) -> np.ndarray:
        grid = np.meshgrid(*(self.domains[column] for column in relation.scope), indexing="ij")
        allowed = self.satisfied_columns(relation, dict(zip(relation.scope, grid, strict=True)))
        return np.broadcast_to(allowed, grid[0].shape)

    def _drop_unsupported(self, relation: Relation) -> bool:
        """Remove choices that no combination allows; whether there were any."""
        allowed, dropped = self._allowed(relation), False
        for dim, column in enumerate(relation.scope):
            supported = allowed.any(axis=tuple(other for other in range(allowed.ndim) if other != dim))
            if not supported.all():
                self.domains[column], dropped = self.domains[column][supported], True
                allowed = allowed.compress(supported, axis=dim)
        return dropped

    def _components(self, tables: list[Table]) -> list[Component]:
        parts: list[Component] = []
        for group in _linked(tables):
            while group:
                columns = tuple(sorted({column for table in group for column in table.scope}))
                order, largest = self._elimination_order(columns, group)
                if largest <= _JOINT_LIMIT:
                    parts.append(Component.plan(columns, group, order))
                    break
                widest = max(group, key=lambda table: (len(table.scope), table.values.size))
                self.untabled += [r for r in self.relations if r.scope == widest.scope]
                group = [table for table in group if table.scope != widest.scope]
                if len(split := _linked(group)) > 1:
                    parts += self._components(group)
                    break
                group = split[0] if split else []
        return parts

    def _elimination_order(self, columns: Sequence[int], tables: list[Table]) -> tuple[tuple[int, ...], int]:
        scopes, order, largest = [set(table.scope) for table in tables], [], 0
        left = set(columns)
        while left:
            joint = {c: set().union({c}, *(scope for scope in scopes if c in scope)) for c in left}
            size = {c: math.prod(len(self.domains[v]) for v in joint[c]) for c in left}
            chosen = min(left, key=lambda c: (size[c] > _TABLE_LIMIT, size[c], c))
            largest = max(largest, size[chosen])
            scopes = [scope for scope in scopes if chosen not in scope] + [joint[chosen] - {chosen}]
            order.append(chosen)
            left.remove(chosen)
        return tuple(order), largest

    def satisfied_columns(self, relation: Relation, columns: Mapping[int, np.ndarray]) -> np.ndarray:
        """Where a relation holds; `columns` are arrays of sizes."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(relation.holds({self.plan.axes[c].id: columns[c] for c in relation.scope}), bool)

    def satisfied(self, relation: Relation, rows: np.ndarray) -> np.ndarray:
        """Rows `[n, axes]` for which a relation holds."""
        held = self.satisfied_columns(relation, {column: rows[:, column] for column in relation.scope})
        return np.broadcast_to(held, len(rows))

    def in_domain(self, rows: np.ndarray, column: int) -> np.ndarray:
        """Rows whose size in a column is one of its choices."""
        domain = self.domains[column]
        at = np.minimum(np.searchsorted(domain, rows[:, column]), len(domain) - 1)
        return domain[at] == rows[:, column]

    def legal_part(self, rows: np.ndarray, component: Component) -> np.ndarray:
        """Rows that are legal as far as the tables of a component go."""
        good = np.ones(len(rows), bool)
        for column in component.columns:
            good &= self.in_domain(rows, column)
        for relation in self._inside[component.columns]:
            good &= self.satisfied(relation, rows)
        return good

    def legal(self, rows: np.ndarray) -> np.ndarray:
        """Rows that satisfy everything."""
        good = np.ones(len(rows), bool)
        for column in range(len(self.domains)):
            good &= self.in_domain(rows, column)
        for relation in self.relations:
            good &= self.satisfied(relation, rows)
        return good

    def solve(self, component: Component, unary: Mapping[int, np.ndarray]) -> dict[int, int] | None:
        """The cheapest legal size per column of the component, or None; `unary` is a cost per choice (inf forbids)."""
        trail = self.eliminate(component, unary)
        return None if trail is None else self.read_back(trail, np.argmin)

    def eliminate(self, component: Component, unary: Mapping[int, np.ndarray]) -> list[Step] | None:
        """The elimination of a component's axes one by one, or None where nothing legal is left."""
        left: dict[int, np.ndarray] = {}
        for column in component.columns:
            allowed = np.isfinite(unary[column])
            if not allowed.all():
                left[column] = np.flatnonzero(allowed)
                if not len(left[column]):
                    return None
        arrays = [_restrict(table, left) for table in component.tables]
        arrays += [unary[c][left[c]] if c in left else unary[c] for c in component.columns]
        trail: list[Step] = []
        for join in component.joins:
            costs = reduce(np.add, [arrays[slot][index] for slot, index in join.inputs])
            domain = self.domains[join.column]
            trail.append(Step(join, costs, domain[left[join.column]] if join.column in left else domain))
            arrays.append(costs.min(axis=join.dim))
        return None if any(arrays[slot] == np.inf for slot in component.last) else trail

    def read_back(self, trail: list[Step], choose: Callable[[np.ndarray], Any]) -> dict[int, int]:
        """Sizes per column from an elimination."""
        picked: dict[int, Any] = {}
        sizes: dict[int, int] = {}
        for step in reversed(trail):
            column = step.join.column
            picked[column] = slice(None)
            picked[column] = at = int(choose(step.costs[tuple(picked[c] for c in step.join.scope)]))
            sizes[column] = int(step.domain[at])
        return sizes

    def count(self, component: Component, fixed: Mapping[int, np.ndarray] | None = None) -> int | None:
        """Number of legal assignments; columns in `fixed` are not counted, only one of their allowed choices must
        exist. None where that takes too large a table."""
        hidden = fixed or {}
        tables = [Table(table.scope, table.values == 0) for table in component.tables]
        for column in sorted((join.column for join in component.joins), key=lambda c: c not in hidden):
            involved = [table for table in tables if column in table.scope]
            scope = tuple(sorted({column}.union(*(table.scope for table in involved))))
            if math.prod(len(self.domains[c]) for c in scope) > _JOINT_LIMIT:
                return None
            if column in hidden:
                involved.append(Table((column,), hidden[column]))
            joint = reduce(np.multiply, [_spread(table, scope) for table in involved])
            at = scope.index(column)
            if column in hidden:
                joint = joint.any(axis=at)
            else:
                joint = (joint if joint.dtype == object else joint.astype(object)).sum(axis=at)
            tables = [table for table in tables if column not in table.scope]
            tables.append(Table(tuple(c for c in scope if c != column), np.asarray(joint)))
        return math.prod(int(table.values) for table in tables)


def _holds(constraint: Constraint) -> Callable[[Mapping[int, Any]], Any]:
    def holds(sizes: Mapping[int, Any]) -> Any:
        def leaf(layout: Any) -> Any:
            return active_size(layout, sizes)

        if constraint.fn in ("truth", "bool"):
            return (np.asarray(evaluate(constraint.args[0], leaf)) != 0) == constraint.result  # type: ignore[arg-type]
        if constraint.fn in ("index", "int"):
            return np.asarray(evaluate(constraint.args[0], leaf)) == constraint.result  # type: ignore[arg-type]
        return evaluate(Op(constraint.fn, constraint.args), leaf) == constraint.result  # type: ignore[arg-type]

    return holds


def _ids(constraint: Constraint) -> set[int]:
    return {axis.id for arg in constraint.args for leaf in leaves(arg) for axis in axes_of(leaf)}  # type: ignore[arg-type]


def _linked(tables: list[Table]) -> list[list[Table]]:
    """Tables grouped by shared columns."""
    if not tables:
        return []
    import networkx as nx  # not before it is needed: it takes a tenth of a second

    links = nx.Graph()
    for table in tables:
        nx.add_path(links, table.scope)
    parts = sorted(nx.connected_components(links), key=min)
    return [[table for table in tables if table.scope[0] in part] for part in parts]


def _restrict(table: Table, left: Mapping[int, np.ndarray]) -> np.ndarray:
    values = table.values
    for dim, column in enumerate(table.scope):
        if column in left:
            values = values.take(left[column], axis=dim)
    return values


def _spread(table: Table, scope: tuple[int, ...]) -> np.ndarray:
    """The table as an array that broadcasts over a larger scope."""
    sizes = dict(zip(table.scope, table.values.shape, strict=True))
    return table.values.reshape([sizes.get(column, 1) for column in scope])
