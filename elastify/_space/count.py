"""How many configurations a search space has.

Configurations are counted in canonical form: where a stage skips blocks, the axes that only those blocks use
do not multiply. Axes that no relation links multiply; components of related axes are counted by elimination.
The sum runs over the depths of the stages whose blocks own axes; unrelated stages multiply. Where a table would be too
large the count is an upper bound and says so.
"""

from __future__ import annotations

import math
from decimal import Decimal
from functools import cache
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
    stages_of = [{s for c in columns for own in rows.owning_blocks.get(c, ()) for s, _ in own} for columns in groups]
    inner = [{number, *(stage for stage, _ in around)} for number, around in rows.inner_stages.items()]

    @cache
    def counted(i: int, unused: tuple[int, ...]) -> int:
        """Assignments of a group of columns, of which unused ones do not multiply; more where a table is too large."""
        nonlocal exact
        domains, component = relations.domains, components[i]
        if component is None:
            return 1 if unused else int(rows.drawn(groups[i][0]).sum())
        still = {c: rows.drawn(c) for c in groups[i] if rows.whole[c]}
        found = relations.count(component, {**still, **{c: np.ones(len(domains[c]), bool) for c in unused}})
        exact &= found is not None
        return math.prod(int(rows.drawn(c).sum()) for c in groups[i]) if found is None else found

    total = math.prod(counted(i, ()) for i, own in enumerate(stages_of) if not own)
    for stages in _clusters([*stages_of, *inner], len(plan.stages)):
        members = [i for i, own in enumerate(stages_of) if own and own <= stages]
        depths = [plan.stages[s].choices for s in sorted(stages)]
        if math.prod(map(len, depths)) > _DEPTH_LIMIT:
            exact, depths = False, [choices[-1:] for choices in depths]
            total *= math.prod(len(plan.stages[s].choices) for s in stages)
        subtotal = 0
        for combination in product(*depths):
            depth = dict(zip(sorted(stages), combination, strict=True))
            if any(depth[s] != plan.stages[s].choices[-1] for s in stages if _skipped(rows, s, depth)):
                continue
            subtotal += math.prod(counted(i, tuple(c for c in groups[i] if _unused(rows, c, depth))) for i in members)
        total *= subtotal
    return SpaceSize(total, exact)


def _unused(rows: Rows, column: int, depth: dict[int, int]) -> bool:
    """Whether every member of an axis lies inside a skipped block."""
    members = rows.owning_blocks.get(column)
    return bool(members) and all(any(depth[s] <= b for s, b in around) for around in members)


def _skipped(rows: Rows, stage: int, depth: dict[int, int]) -> bool:
    """Whether a stage lies inside a skipped block."""
    return any(depth[s] <= b for s, b in rows.inner_stages.get(stage, ()))


def _clusters(stages_of: list[set[int]], n_stages: int) -> list[set[int]]:
    """Stages that own axes together must be counted together."""
    import networkx as nx  # not before it is needed: it takes a tenth of a second

    links = nx.empty_graph(n_stages)
    for own in stages_of:
        nx.add_path(links, own)
    return list(nx.connected_components(links))
