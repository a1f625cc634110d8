"""What a subnetwork costs, as a closed form over its configuration.

The closed form (`closed_form`) is evaluated with numpy on a chunk of configurations at a time. Numbers are exact:
int64, refused where the full network would overflow it. A MAC is one multiply-accumulate (see `macs`). Costs are per
sample, also of samples mixed (tokens sorted by expert).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import cached_property, partial
from math import floor, isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np

from elastify._errors import ElastifyError
from elastify._ir import Graph, Layout, Plan
from elastify._space.closed_form import ClosedForm, evaluate, horner
from elastify._space.config import SubnetConfig
from elastify._space.metrics import Cost

_CHUNK = 8192
_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class CostModel:
    """The cost of every configuration of a plan, compiled once, when a cost is asked for.

    `layouts` gives the layouts of each value (by id) of the graph; others have their recorded shape. Axes in `batch`
    count as one; calls without, on what was made of inputs or `counted` in them, are on all `samples` and count for
    their share. `parameters` names those of `graph.tensors` that are (None: all of them); others only count as bytes.
    Columns of an encoded configuration: the axes of the plan, then its stages.
    """

    def __init__(
        self,
        graph: Graph,
        layouts: Mapping[int, tuple[Layout, ...]],
        plan: Plan,
        *,
        batch: Iterable[int] = (),
        counted: Iterable[int] = (),
        samples: int = 1,
        parameters: Iterable[str] | None = None,
    ) -> None:
        self._plan = plan
        self._full = np.array(
            [axis.size for axis in plan.axes] + [len(stage.blocks) for stage in plan.stages], np.int64
        )
        self._compile = partial(
            ClosedForm, plan, graph, layouts, frozenset(batch), frozenset(counted), samples, parameters
        )

    @cached_property
    def _closed(self) -> ClosedForm:
        """The closed form, worked out when the first cost is asked for; the graph is not needed any more then."""
        own = vars(self)
        compiled = own.get("_compile")
        if compiled is None:  # another thread was faster
            return own["_closed"]
        closed = own["_closed"] = compiled()
        own.pop("_compile", None)
        return closed

    @cached_property
    def _trees(self) -> dict[str, Any]:
        return {metric: horner(poly) for metric, poly in self._closed.polys.items()}

    def in_dtypes(self, key: Hashable, named: Callable[[], Mapping[str, str]]) -> CostModel:
        """The costs of the model when its tensors have the dtypes that are `named`; made once for each `key`."""
        twins = self.__dict__.setdefault("_twins", {})
        if key not in twins:
            twin = copy.copy(self)
            for name in ("_twins", "_trees"):
                twin.__dict__.pop(name, None)
            twin.__dict__["_closed"] = self._closed.in_dtypes(named())
            twins[key] = twin
        return twins[key]

    def __call__(self, encoded: Any) -> Cost:
        """Cost of encoded configurations `[n, columns]` as int64 arrays `[n]`."""
        values = self.values(encoded)
        return Cost(*(values[field.name] for field in fields(Cost)))

    def values(self, encoded: Any) -> dict[str, np.ndarray]:
        """The value of every metric for each encoded configuration."""
        rows = np.asarray(encoded)
        if rows.ndim != 2 or rows.shape[1] != len(self._full) or not np.issubdtype(rows.dtype, np.integer):
            raise ElastifyError(
                f"cannot cost an array of shape {rows.shape} and type {rows.dtype}",
                why=f"an encoded configuration has {len(self._full)} integer columns",
                fix="space(model).encode(configs)",
            )
        if rows.size and ((rows < 0).any() or (rows > self._full).any()):
            raise ElastifyError(
                "an encoded configuration is out of range", why="a size is negative or above the full one"
            )
        out = {metric: np.empty(len(rows), np.int64) for metric in self._trees}
        for start in range(0, len(rows), _CHUNK):
            columns = np.ascontiguousarray(rows[start : start + _CHUNK].T, dtype=np.int64)
            values = self._closed.variables.evaluate(columns)
            for metric, tree in self._trees.items():
                out[metric][start : start + _CHUNK] = evaluate(tree, values)
        return out

    def of(self, config: SubnetConfig | None = None) -> Cost:
        """Cost of one configuration (None: the full network); kept blocks need not be a prefix."""
        values = self._values_of(config)
        return Cost(*(int(evaluate(self._trees[field.name], values)) for field in fields(Cost)))

    def by_module(self, config: SubnetConfig | None = None) -> dict[str, int]:
        """MACs of one configuration per module path, in the order of the run."""
        values, result = self._values_of(config), Counter()
        for where, _, poly in self._closed.calls:
            result[where] += int(evaluate(horner(poly), values))
        return dict(result)

    def _values_of(self, config: SubnetConfig | None) -> list[Any]:
        sizes = {} if config is None else config.sizes
        depths = {} if config is None else config.depths
        columns = [np.int64(sizes.get(axis.name, axis.size)) for axis in self._plan.axes]
        columns += [np.int64(len(depths.get(stage.name, stage.blocks))) for stage in self._plan.stages]
        kept = [frozenset(depths.get(stage.name, range(len(stage.blocks)))) for stage in self._plan.stages]
        return self._closed.variables.evaluate(columns, kept)


def parse_budget(value: Any, full: int | None = None) -> int:
    """A budget as a whole number: a number, or text with k, M, G or T (powers of 1000) or, where `full` is
    given, a percentage of it.

    >>> parse_budget("1.2G"), parse_budget(350e6), parse_budget("10k"), parse_budget("40%", full=1000)
    (1200000000, 350000000, 10000, 400)
    """
    fix = 'a number of at least 0, or text such as "1.2G", "350M", "10k"'
    if isinstance(value, str):
        text = value.strip().replace("_", "")
        if text.endswith("%") and full is not None:
            number, unit = text[:-1].strip(), Fraction(full, 100)
        else:
            number = text.rstrip("".join(_LETTERS)).strip()
            suffix = text[len(text.rstrip("".join(_LETTERS))) :]
            short = suffix[:-1] if suffix.lower().endswith("b") else suffix
            if short.lower() not in _SUFFIXES or short == "m":
                raise ElastifyError(f"budget {value!r} has the unknown suffix {suffix!r}", fix=fix)
            unit = Fraction(_SUFFIXES[short.lower()])
        try:
            amount = Decimal(number)
        except InvalidOperation:
            raise ElastifyError(f"budget {value!r} is not a number", fix=fix) from None
        if not amount.is_finite():
            raise ElastifyError(f"budget {value!r} is not finite", fix=fix)
        total = Fraction(amount) * unit
    elif isinstance(value, Real) and not isinstance(value, bool):
        if not isfinite(value):
            raise ElastifyError(f"budget {value!r} is not finite", fix=fix)
        total = Fraction(float(value)) if not isinstance(value, Integral) else Fraction(int(value))
    else:
        raise ElastifyError(f"budget {value!r} is not a number", fix=fix)
    if total < 0:
        raise ElastifyError(f"budget {value!r} is negative", fix=fix)
    if 0 < total < 1:
        share = f'"{float(100 * total):g}%"; or ' if full is not None else ""
        raise ElastifyError(f"budget {value!r} is below one", why="it is a number, not a share", fix=f"{share}{fix}")
    return min(floor(total), np.iinfo(np.int64).max)  # no network costs more


_LETTERS = [chr(code) for start in (65, 97) for code in range(start, start + 26)]
