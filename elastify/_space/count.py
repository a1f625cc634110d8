"""How many configurations a search space has.

Configurations are counted in canonical form: where a stage skips blocks, the axes that only those blocks use
do not multiply. Axes that no relation links multiply; components of related axes are counted by elimination.
The sum runs over the depths of the stages whose blocks own axes; unrelated stages multiply. Where a table would be too
large the count is an upper bound and says so.
"""

from __future__ import annotations

import math
from decimal import Decimal
from itertools import product

import numpy as np

from elastify._space.rows import Rows

_DEPTH_LIMIT = 1 << 14


class SpaceSize(int):
    """A number of configurations; `exact` is False where it is only an upper bound.

    >>> str(SpaceSize(1234)), str(SpaceSize(10**40, exact=False))
    ('1,234', '<= 1.00e+40')
    """

    exact: bool

    def __new__(cls, value: int, exact: bool = True) -> SpaceSize:
        self = super().__new__(cls, value)
        self.exact = exact
        return self

    def __str__(self) -> str:
        digits = f"{int(self):,}" if self < 10**9 else f"{Decimal(int(self)):.2e}"
        return digits if self.exact else f"<= {digits}"


def count_configurations(rows: Rows) -> SpaceSize:
    """Number of different configurations of a plan."""
    relations, plan = rows.relations, rows.plan
    exact = not relations.untabled
    groups = [(column,) for column in relations.lone] + [part.columns for part in relations.components]
    components = [None] * len(relations.lone) + list(relations.components)
    stages_of = [{s for c in columns for around in rows.homes.get(c, ()) for s, _ in around} for columns in groups]
    total = 1
    nests = [{number, *(stage for stage, _ in around)} for number, around in rows.nests.items()]
    for stages in _clusters([*stages_of, *nests], len(plan.stages)):
        members = [i for i, own in enumerate(stages_of) if own and own <= stages]
        depths = [plan.stages[s].choices for s in sorted(stages)]
        if math.prod(map(len, depths)) > _DEPTH_LIMIT:
            exact, depths = False, [choices[-1:] for choices in depths]
            total *= math.prod(len(plan.stages[s].choices) for s in stages)
        subtotal, memo = 0, {}
        for combination in product(*depths):
            depth = dict(zip(sorted(stages), combination, strict=True))
            if any(depth[s] != plan.stages[s].choices[-1] for s in stages if _skipped(rows, s, depth)):
                continue
            count = 1
            for i in members:
                dead = tuple(c for c in groups[i] if _dead(rows, c, depth))
                if (i, dead) not in memo:
                    memo[i, dead] = _count(rows, groups[i], components[i], dead)
                found = memo[i, dead]
                exact &= found is not None
                count *= math.prod(len(relations.domains[c]) for c in groups[i]) if found is None else found
            subtotal += count
        total *= subtotal
    for i, own in enumerate(stages_of):
        if not own:
            found = _count(rows, groups[i], components[i], ())
            exact &= found is not None
            total *= math.prod(len(relations.domains[c]) for c in groups[i]) if found is None else found
    return SpaceSize(total, exact)


def _count(rows: Rows, columns: tuple[int, ...], component, dead: tuple[int, ...]) -> int | None:
    domains = rows.relations.domains
    if component is None:
        return 1 if dead else len(domains[columns[0]])
    return rows.relations.count(component, {c: np.ones(len(domains[c]), bool) for c in dead})


def _dead(rows: Rows, column: int, depth: dict[int, int]) -> bool:
    """Whether every member of an axis lies inside a skipped block."""
    members = rows.homes.get(column)
    return bool(members) and all(any(depth[s] <= b for s, b in around) for around in members)


def _skipped(rows: Rows, stage: int, depth: dict[int, int]) -> bool:
    """Whether a stage lies inside a skipped block."""
    return any(depth[s] <= b for s, b in rows.nests.get(stage, ()))


def _clusters(stages_of: list[set[int]], n_stages: int) -> list[set[int]]:
    """Stages that own axes together must be counted together."""
    import networkx as nx  # not before it is needed: it takes a tenth of a second

    links = nx.empty_graph(n_stages)
    for own in stages_of:
        nx.add_path(links, own)
    return list(nx.connected_components(links))
