"""The search space: every legal configuration of an elastic model, to sample, snap to, walk through and print.

`SearchSpace` speaks in names, ratios and `SubnetConfig`s; it encodes them as rows of integers and leaves the work
to `rows` (nearest legal row, random rows, nested rows) and `relations` (which sizes go together).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from elastify._errors import ElastifyError, whole_number
from elastify._ir import Choice, ElasticAxis, Plan, Stage
from elastify._space.config import SubnetConfig, fingerprint
from elastify._space.cost import Cost
from elastify._space.count import SpaceSize, count_configurations
from elastify._space.rows import Rows
from elastify._space.table import explain, table
from elastify._space.wishes import cannot_keep, conflict, legal_choices, read_wishes

if TYPE_CHECKING:
    import networkx as nx

Rng = random.Random | np.random.Generator | int | None


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """All subnetworks of an elastic model.

    >>> space = SearchSpace(Plan(axes=(ElasticAxis(0, "mlp.hidden", 8, (2, 4, 8)),)))
    >>> space.size, space.config({"mlp.*": 0.3}), space.min
    (3, SubnetConfig(mlp.hidden=4), SubnetConfig(mlp.hidden=2))

    `cost` maps encoded rows to their `Cost`; `reasons` has lines of text per axis name; `example` describes the sizes
    that costs refer to, such as `{"x": (3, 224, 224)}`, and `doubt` why these are those of a whole call, if they are;
    `asked` are the options that `elastify` was given.
    """

    plan: Plan
    verified: bool = False
    title: str = ""
    example: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    cost: Callable[[np.ndarray], Cost] | None = None
    doubt: str = ""
    reasons: Mapping[str, Sequence[str]] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def axes(self) -> tuple[ElasticAxis, ...]:
        """The elastic axes, in the order of the columns of an encoded configuration."""
        return self.plan.axes

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Runs of repeated blocks whose depth is elastic; their columns follow those of the axes."""
        return self.plan.stages

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of an encoded configuration."""
        return (*(axis.name for axis in self.axes), *(stage.name for stage in self.stages))

    @cached_property
    def fingerprint(self) -> str:
        """Names the axes and stages; a configuration carries it."""
        return fingerprint(self.plan)

    @cached_property
    def spellings(self) -> Mapping[str, tuple[str, ...]]:
        """The columns as today's and earlier versions called them, by the fingerprints that they gave."""
        former = [*zip(*(axis.former for axis in self.axes), strict=True)]
        depths = self.columns[len(self.axes) :]
        found = {fingerprint(self.plan, names, ""): (*names, *depths) for names in former}
        return {**found, fingerprint(self.plan, rule=""): self.columns, self.fingerprint: self.columns}

    @cached_property
    def rows(self) -> Rows:
        """The configurations as rows of integers."""
        return Rows(self.plan)

    @cached_property
    def size(self) -> SpaceSize:
        """Number of different configurations; `.exact` is False where it is only an upper bound."""
        return count_configurations(self.rows)

    @cached_property
    def max(self) -> SubnetConfig:
        """The full network."""
        return self._decode(self.rows.full[None])[0]

    @cached_property
    def min(self) -> SubnetConfig:
        """The smallest network: every size, and every depth, as small as the relations allow."""
        return self._decode(self.rows.normalise(self.rows.least[None]))[0]

    def sample(self, rng: Rng = None) -> SubnetConfig:
        """A random configuration. Sizes and depths are drawn evenly from their choices, related sizes one after
        the other, each from what the ones before leave legal.

        `rng` is a `random.Random`, a numpy Generator or a seed.
        """
        return self._decode(self.rows.normalise(self.rows.sample(_generator(rng))[None]))[0]

    def nested(self, n: int) -> tuple[SubnetConfig, ...]:
        """`n` configurations from the smallest to the full one, each a part of the next: no size and no depth ever
        shrinks, other than canonical sizes of blocks that are skipped. As SortedNet trains, arXiv 2309.00255.
        """
        n = whole_number("n", n, 1)
        return tuple(self._decode(self.rows.normalise(self.rows.nested(n))))

    def grid(self, widths: int, depths: int) -> tuple[SubnetConfig, ...]:
        """`widths` sizes of all axes together, from the smallest to the full, for each of `depths` depths of all
        stages: `widths * depths` configurations, the shallowest first, less those that are no others.

        >>> plan = Plan((ElasticAxis(0, "hidden", 8, (2, 4, 6, 8)),), (Stage("blocks", "", ("0", "1"), (1, 2)),))
        >>> [(c.sizes["hidden"], len(c.depths["blocks"])) for c in SearchSpace(plan).grid(3, 2)]
        [(2, 1), (4, 1), (8, 1), (2, 2), (4, 2), (8, 2)]
        """
        widths, depths = whole_number("widths", widths, 1), whole_number("depths", depths, 1)
        rows, n_axes = self.rows, len(self.axes)
        found = []
        for row in rows.nested(depths):
            low, high = rows.least.copy(), rows.full.copy()
            low[n_axes:] = high[n_axes:] = row[n_axes:]
            found += self._decode(rows.normalise(rows.nested(widths, low, high)))
        return tuple(dict.fromkeys(found))

    def config(self, wishes: SubnetConfig | Mapping[str, Any] | float | int | None = None) -> SubnetConfig:
        """The configuration that a mapping of globs describes; what it does not mention stays full.

        Globs match names of axes and stages; later entries win. A float is a ratio, rounded up to the next legal size;
        an int is exact; a stage also takes the indices of the blocks to keep. A single ratio is meant for everything.

        >>> axes = ElasticAxis(0, "a.hidden", 8, (2, 4, 8)), ElasticAxis(1, "b", 3, (1, 2, 3))
        >>> space = SearchSpace(Plan(axes))
        >>> space.config({"*": 0.5, "b": 3})
        SubnetConfig(a.hidden=4, b=3)
        """
        if wishes is None:
            return self.max
        if isinstance(wishes, SubnetConfig):
            return self.check(wishes)
        read = read_wishes(self.rows, wishes)
        row = self.rows.fit_wishes(read.targets[None], weights=read.weights, pins=read.pins)
        if row is None:
            raise conflict(self.rows, read)
        return self._decode(self.rows.normalise(row, read.kept), read.kept)[0]

    def by_id(self, config: SubnetConfig) -> Choice:
        """A configuration as everything below names it: sizes by axis id, kept blocks by stage name."""
        ids = {axis.name: axis.id for axis in self.axes}
        return Choice({ids[name]: size for name, size in config.size_items}, dict(config.depth_items))

    def repair(self, wishes: Mapping[str, Any]) -> SubnetConfig:
        """The legal configuration nearest to any sizes and depths (by name), not above them where that is possible."""
        target = self.rows.full.astype(float)
        if not isinstance(wishes, Mapping):
            raise ElastifyError(f"{wishes!r} does not map names to sizes", fix='repair({"blocks.0.hidden": 100})')
        for name, value in wishes.items():
            if name not in self._column:
                raise ElastifyError(f"no axis or stage is called {name!r}", fix="print(space(model))")
            if (
                not isinstance(value, (int, float, np.integer, np.floating))
                or isinstance(value, bool)
                or value != value
            ):
                raise ElastifyError(f"{value!r} is not a size", where=name)
            target[self._column[name]] = value
        return self._decode(self.rows.normalise(self.rows.fit(target[None])))[0]

    def normalise(self, config: SubnetConfig) -> SubnetConfig:
        """The same subnetwork with canonical sizes for what its skipped blocks alone use."""
        kept = [frozenset(config.depths[stage.name]) for stage in self.stages]
        return self._decode(self.rows.normalise(self._row(config)[None], kept), kept)[0]

    def current(self, config: SubnetConfig) -> SubnetConfig:
        """The configuration with today's names, if an earlier version wrote it for this space; else itself."""
        names = {name for name, _ in config.size_items + config.depth_items}
        for mark, columns in self.spellings.items():
            if mark != self.fingerprint and config.space in ("", mark) and names == set(columns):
                new = dict(zip(columns, self.columns, strict=True))
                sizes = {new[name]: size for name, size in config.size_items}
                return SubnetConfig.of(sizes, config.depths, self.fingerprint)
        return config

    def check(self, config: SubnetConfig) -> SubnetConfig:
        """The configuration itself, with today's names, if it is one of this space; else ElastifyError."""
        config = self.current(config)
        names = {name for name, _ in config.size_items + config.depth_items}
        if config.space not in ("", self.fingerprint) or names != self._column.keys():
            raise ElastifyError(
                "this configuration belongs to another model",
                why=f"it was made for space {config.space or 'unknown'}, this one is {self.fingerprint}",
                fix="make one with space(model).config(...)",
            )
        depths = config.depths
        for stage in self.stages:
            kept = depths[stage.name]
            if not stage.allows(kept):
                raise cannot_keep(kept, stage)
        self._check_row(self._row(config))
        return config

    def encode(self, configs: Any) -> np.ndarray:
        """int64 array `[n, columns]` of one configuration or a list (dicts and ratios as in `config`).

        Columns are sizes of the axes, then numbers of kept blocks: only prefixes of a stage can be encoded.
        """
        many = list(configs) if isinstance(configs, Iterable) and not isinstance(configs, Mapping) else [configs]
        rows = np.empty((len(many), len(self.columns)), np.int64)
        for number, wishes in enumerate(many):
            config = self.config(wishes)
            for name, kept in config.depth_items:
                if kept != tuple(range(len(kept))):
                    raise ElastifyError(
                        f"blocks {list(kept)} cannot be encoded", where=name, why="only the first blocks of a stage can"
                    )
            rows[number] = self._row(config)
        return rows

    def decode(self, row: Any) -> SubnetConfig:
        """The configuration of an encoded row."""
        row = np.asarray(row)
        if row.shape != (len(self.columns),) or not np.issubdtype(row.dtype, np.integer):
            raise ElastifyError(
                f"cannot decode an array of shape {row.shape} and type {row.dtype}",
                why=f"an encoded configuration has {len(self.columns)} integer columns",
            )
        self._check_row(row)
        return self._decode(row[None])[0]

    def why(self, name: str) -> str:
        """What an axis runs through, what ties it to others, and the recorded reasons."""
        return explain(self, name)

    def graph(self) -> nx.Graph:
        """Axes, stages, tensors and relations as the nodes of a graph of networkx, couplings as its edges.

        A node is called `kind:name` and has `kind` and `name`. An axis has `size`, `choices`, `role` and `reasons`; a
        tensor `shape`, `layout` and `frozen` (reasons by dimension); a stage `blocks` and `choices`; a relation
        `source`. An edge from an axis to a tensor has the `dims` that the axis runs through, and of these the ones
        that are `summed` over: there the tensor takes the units in. Every edge has `reasons`.

        >>> axes = ElasticAxis(0, "hidden", 8, (2, 4, 8), members=(("up.weight", 0), ("down.weight", 1))),
        >>> couplings = SearchSpace(Plan(axes)).graph()
        >>> list(couplings["axis:hidden"]), couplings.edges["axis:hidden", "tensor:down.weight"]["dims"]
        (['tensor:up.weight', 'tensor:down.weight'], (1,))
        """
        from elastify._space.graph import space_graph

        return space_graph(self)

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:
        return f"SearchSpace({len(self.axes)} axes, {len(self.stages)} stages, {self.size!s} configurations)"

    # rows and configurations

    @cached_property
    def _column(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.columns)}

    def _row(self, config: SubnetConfig) -> np.ndarray:
        sizes, depths = config.sizes, config.depths
        return np.array(
            [*(sizes[axis.name] for axis in self.axes), *(len(depths[s.name]) for s in self.stages)], np.int64
        )

    def _decode(self, rows: np.ndarray, kept: Sequence[frozenset[int]] | None = None) -> list[SubnetConfig]:
        """Configurations of legal rows; all of them keep the blocks `kept` where that is given."""
        names, configs = self.columns, []
        for row in rows.tolist():
            sizes = dict(zip(names, row[: len(self.axes)], strict=False))
            chosen: list[Any] = [range(n) for n in row[len(self.axes) :]] if kept is None else [*map(sorted, kept)]
            depths: dict[str, Sequence[int]] = {s.name: blocks for s, blocks in zip(self.stages, chosen, strict=True)}
            for number, around in self.rows.inner_stages.items():  # inside a block that is left out nothing is chosen
                if any(block not in depths[self.stages[outer].name] for outer, block in around):
                    depths[self.stages[number].name] = range(len(self.stages[number].blocks))
            configs.append(SubnetConfig.of(sizes, depths, self.fingerprint))
        return configs

    def _check_row(self, row: np.ndarray) -> None:
        for column in np.flatnonzero(~self.rows.in_choices(row[None])[0]):
            legal = legal_choices(self.rows.choices[column])
            raise ElastifyError(f"{row[column]} is not a legal size", where=self.columns[column], fix=legal)
        sizes = row[None, : len(self.axes)]
        for relation in self.rows.relations.relations:
            if not self.rows.relations.satisfied(relation, sizes)[0]:
                found = ", ".join(f"{self.columns[c]}={row[c]}" for c in relation.scope)
                raise ElastifyError(
                    f"these sizes do not fit together: {found}",
                    where=relation.source,
                    why=relation.text,
                    fix="space(model).repair(...) gives the nearest legal configuration",
                )


def _generator(rng: Rng) -> np.random.Generator:
    if isinstance(rng, random.Random):
        return np.random.default_rng(rng.getrandbits(64))
    if rng is None or isinstance(rng, (np.random.Generator, np.random.RandomState)):
        return np.random.default_rng(rng)
    try:
        return np.random.default_rng(whole_number("rng", rng, 0))
    except ElastifyError as error:
        raise ElastifyError(error.what, fix="a seed, random.Random(0) or numpy.random.default_rng(0)") from None
