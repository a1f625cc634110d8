"""What a subnetwork costs, as a closed form over its configuration.

Every counted call contributes products of layout sizes (`linear`: all of the output times the input features),
multiplied by 0 or 1 for every stage block that it runs in. Compiling turns each product into a monomial over
a few variables: the columns of an encoded configuration, block switches, and sums (the size of a concat). Equal
monomials merge, sums are nested by their most frequent variable (Horner), and what is left is evaluated with numpy
on a chunk of configurations at a time. Numbers are exact: int64, refused where the full network would overflow it.

A MAC is one multiply-accumulate (see `_macs`). Costs are per sample, also of samples mixed (tokens sorted by expert).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import cached_property
from math import floor, isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np

from elastify._config import SubnetConfig
from elastify._errors import ElastifyError
from elastify._graph import Call, Graph, Value, enclosing
from elastify._layout import Axis, Layout, Product
from elastify._macs import Dims, Term, from_inputs, products
from elastify._plan import Plan

METRICS = ("macs", "params", "bytes", "activations")
_CHUNK = 8192
_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}

Monomial = tuple[int, ...]
Poly = dict[Monomial, int]


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost per sample: multiply-accumulates, parameters, bytes of parameters and buffers, and output elements of
    the counted ops. Integers for one configuration, int64 arrays for many."""

    macs: Any
    params: Any
    bytes: Any
    activations: Any

    def __repr__(self) -> str:
        if isinstance(self.macs, np.ndarray):
            return f"Cost({self.macs.size} configurations)"
        return (
            f"Cost({human(self.macs)} MACs, {human(self.params)} parameters, {human(self.bytes)}B, "
            f"{human(self.activations)} activations)"
        )

    def __getitem__(self, index: Any) -> Cost:
        """Row `index` of a cost of many configurations."""
        picked = (getattr(self, metric)[index] for metric in METRICS)
        return Cost(*(int(value) if np.ndim(value) == 0 else value for value in picked))


class CostModel:
    """The cost of every configuration of a plan, compiled once.

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
        self._variables = _Variables(plan, frozenset(batch))
        polys: dict[str, Counter[Monomial]] = {metric: Counter() for metric in METRICS}
        shared: dict[str, Counter[Monomial]] = {metric: Counter() for metric in METRICS}
        blocks = _blocks(plan)
        self._calls: list[tuple[str, str, Poly]] = []

        def dims(value: Value) -> tuple[Layout, ...]:
            known = layouts.get(value.id)
            return known if known is not None else tuple(Axis(-1, size) for size in value.shape)

        mixed, counted = (from_inputs(graph), frozenset(counted)) if samples > 1 else (set(), frozenset())
        around = plan.blocks_around()
        for number, call in enumerate(graph.calls):
            terms = products(call, Dims(dims))
            if terms:
                switches = self._variables.switches(call.where, blocks, around.get(number, ()))
                macs, made = (self._variables.poly(part, switches) for part in (terms, [_output_size(call, dims)]))
                mixes = any(t.shows(counted) for t in terms) or not mixed.isdisjoint(v.id for v in call.inputs())
                mixes = mixes and not any(t.shows(self._variables.batch) for t in terms)
                for metric, part in (("macs", macs), ("activations", made)):
                    (shared if mixes else polys)[metric].update(part)
                self._calls.append((call.where, call.op, _share(macs, samples) if mixes else macs))
        for metric in METRICS:  # together, because experts may have odd numbers of tokens
            polys[metric].update(_share(shared[metric], samples))
        is_parameter = None if parameters is None else frozenset(parameters)
        for value, names in _tensors(graph, plan):
            present = self._variables.any_of([self._variables.switches(name, blocks) for name in names])
            size = self._variables.poly([Term(1, dims(value))], present)
            if is_parameter is None or not is_parameter.isdisjoint(names):
                polys["params"].update(size)
            polys["bytes"].update({monomial: n * itemsize(value.dtype) for monomial, n in size.items()})
        self._polys = polys
        self._full = np.array(
            [axis.size for axis in plan.axes] + [len(stage.blocks) for stage in plan.stages], np.int64
        )
        self._check_range()

    @cached_property
    def _trees(self) -> dict[str, Any]:
        return {metric: _nest(poly) for metric, poly in self._polys.items()}

    def __call__(self, encoded: Any) -> Cost:
        """Cost of encoded configurations `[n, columns]` as int64 arrays `[n]`."""
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
        out = {metric: np.empty(len(rows), np.int64) for metric in METRICS}
        for start in range(0, len(rows), _CHUNK):
            columns = np.ascontiguousarray(rows[start : start + _CHUNK].T, dtype=np.int64)
            values = self._variables.evaluate(columns)
            for metric, tree in self._trees.items():
                out[metric][start : start + _CHUNK] = _value(tree, values)
        return Cost(**out)

    def of(self, config: SubnetConfig | None = None) -> Cost:
        """Cost of one configuration (None: the full network); kept blocks need not be a prefix."""
        return Cost(*(int(_value(self._trees[metric], self._values_of(config))) for metric in METRICS))

    def by_module(self, config: SubnetConfig | None = None) -> dict[str, int]:
        """MACs of one configuration per module path, in the order of the run."""
        values, result = self._values_of(config), Counter()
        for where, _, poly in self._calls:
            result[where] += int(_value(_nest(poly), values))
        return dict(result)

    def _values_of(self, config: SubnetConfig | None) -> list[Any]:
        sizes = {} if config is None else config.sizes
        depths = {} if config is None else config.depths
        columns = [np.int64(sizes.get(axis.name, axis.size)) for axis in self._plan.axes]
        columns += [np.int64(len(depths.get(stage.name, stage.blocks))) for stage in self._plan.stages]
        kept = [frozenset(depths.get(stage.name, range(len(stage.blocks)))) for stage in self._plan.stages]
        return self._variables.evaluate(columns, kept)

    def _check_range(self) -> None:
        blocks = [frozenset(range(len(stage.blocks))) for stage in self._plan.stages]
        values = [int(value) for value in self._variables.evaluate([int(size) for size in self._full], blocks)]
        for metric, poly in self._polys.items():
            total = sum(_product(values, monomial, count) for monomial, count in poly.items())
            if total >= 2**63:
                raise ElastifyError(f"the {metric} of this model do not fit 64 bits", why=f"there are {total}")


class _Variables:
    """Numbers the variables of the closed form: columns first, then switches, sums and alternatives on demand."""

    def __init__(self, plan: Plan, batch: frozenset[int]) -> None:
        self._column = {axis.id: index for index, axis in enumerate(plan.axes)}
        self._width = len(plan.axes) + len(plan.stages)
        self._stages_from = len(plan.axes)
        self.batch = batch
        self._made: dict[tuple[Any, ...], int] = {}
        self._sizes: dict[Layout, tuple[int, Monomial]] = {}

    def _make(self, *recipe: Any) -> int:
        return self._made.setdefault(recipe, self._width + len(self._made))

    def switches(
        self, path: str, blocks: Mapping[str, list[tuple[int, int]]], others: Iterable[tuple[int, int]] = ()
    ) -> Monomial:
        """The switches of the blocks that a module path or tensor name lies in, and of `others` (stage, index)."""
        inside = {block for part in enclosing(path) for block in blocks.get(part, ())} if blocks else set()
        return tuple(sorted(self._make("switch", stage, index) for stage, index in inside.union(others)))

    def any_of(self, alternatives: list[Monomial]) -> Monomial:
        """1 where one of the products of switches is 1: a tied tensor stays while one of its owners does."""
        if () in alternatives:
            return ()
        distinct = tuple(sorted(set(alternatives)))
        return distinct[0] if len(distinct) == 1 else (self._make("any", distinct),)

    def poly(self, terms: Iterable[Term], factors: Monomial) -> Poly:
        """Sum of terms times a product of variables, each layout reduced to one monomial."""
        poly: Poly = Counter()
        for term in terms:
            count, monomial = term.count, list(factors)
            for layout in term.layouts:
                scale, part = self._monomial(layout)
                count, monomial = count * scale, monomial + list(part)
            if term.contracted:
                scale, part = self._monomial(Product(term.contracted))
                monomial += [self._make("above_one", scale, part)] if part else []
                count = 0 if not part and scale == 1 else count
            if count:
                poly[tuple(sorted(monomial))] += count
        return poly

    def _monomial(self, layout: Layout) -> tuple[int, Monomial]:
        """The size of a layout as coefficient and monomial; a proper sum becomes a variable of its own."""
        if layout not in self._sizes:
            poly = self._size(layout)
            if len(poly) == 1:
                ((monomial, scale),) = poly.items()
            else:
                scale, monomial = 1, (self._make("sum", tuple(sorted(poly.items()))),)
            self._sizes[layout] = (scale, monomial)
        return self._sizes[layout]

    def _size(self, layout: Layout) -> Poly:
        if isinstance(layout, Axis):
            if layout.id in self.batch:
                return {(): 1}
            return {(self._column[layout.id],): 1} if layout.id in self._column else {(): layout.size}
        if isinstance(layout, Product):
            scale, monomial = 1, ()
            for part in layout.parts:
                factor, variables = self._monomial(part)
                scale, monomial = scale * factor, tuple(sorted(monomial + variables))
            return {monomial: scale}
        total: Counter[Monomial] = Counter()
        for part in layout.parts:
            total.update(self._size(part))
        return total

    def evaluate(self, columns: Any, kept: list[frozenset[int]] | None = None) -> list[Any]:
        """Values of all the variables; `kept` are the blocks of each stage (None: a prefix, as long as the column)."""
        values = list(columns)
        for kind, *recipe in self._made:
            if kind == "switch":
                stage, block = recipe
                if kept is None:
                    values.append((values[self._stages_from + stage] > block).astype(np.int64))
                else:
                    values.append(np.int64(block in kept[stage]))
            elif kind == "sum":
                values.append(sum(_product(values, monomial, count) for monomial, count in recipe[0]))
            elif kind == "any":
                alternatives = [_product(values, monomial, 1) for monomial in recipe[0]]
                values.append(np.maximum.reduce(alternatives))
            else:
                scale, monomial = recipe
                values.append((np.asarray(_product(values, monomial, scale)) > 1).astype(np.int64))
        return values


def _blocks(plan: Plan) -> dict[str, list[tuple[int, int]]]:
    """(stage index, block index) of the blocks that can be left out, by path."""
    found: dict[str, list[tuple[int, int]]] = {}
    for number, stage in enumerate(plan.stages):
        for block, path in enumerate(stage.blocks[1:], start=1):
            found.setdefault(path, []).append((number, block))
    return found


def _tensors(graph: Graph, plan: Plan) -> Iterator[tuple[Value, list[str]]]:
    """Parameters and buffers with all their names; a tied one comes once."""
    names: dict[int, list[str]] = {}
    for name, value in graph.tensors.items():
        names.setdefault(value.id, []).append(name)
    by_canonical: dict[str, int] = {}
    found: dict[int, Value] = {}
    for value in graph.tensors.values():
        canonical = {plan.aliases.get(name, name) for name in names[value.id]}
        first = next((by_canonical[name] for name in sorted(canonical) if name in by_canonical), value.id)
        by_canonical.update(dict.fromkeys(canonical, first))
        if first == value.id:
            found[first] = value
        else:
            names[first] = list(dict.fromkeys(names[first] + names[value.id]))
    for number, value in found.items():
        aliases = [alias for alias, name in plan.aliases.items() if name in names[number]]
        yield value, list(dict.fromkeys(names[number] + aliases))


def _output_size(call: Call, dims: Any) -> Term:
    return Term(1, dims(call.outputs()[0]))


def _share(poly: Poly, samples: int) -> Poly:
    return {monomial: count // samples for monomial, count in poly.items()}


def _product(values: list[Any], monomial: Monomial, count: int) -> Any:
    result: Any = count
    for variable in monomial:
        result = values[variable] * result
    return result


def _nest(poly: Poly) -> tuple[int, list[tuple[int, Any]]]:
    """`constant + sum(variable * nested)`: the most frequent variable of what is left is taken out first."""
    rest, branches = dict(poly), []
    while any(rest):
        frequency = Counter(variable for monomial in rest for variable in set(monomial))
        variable = min(frequency, key=lambda v: (-frequency[v], v))
        inside: Poly = {}
        for monomial in [m for m in rest if variable in m]:
            shorter = list(monomial)
            shorter.remove(variable)
            inside[tuple(shorter)] = rest.pop(monomial)
        branches.append((variable, _nest(inside)))
    return rest.get((), 0), branches


def _value(tree: tuple[int, list[tuple[int, Any]]], values: list[Any]) -> Any:
    constant, branches = tree
    total: Any = constant
    for variable, inside in branches:
        total = total + values[variable] * (_value(inside, values) if inside[1] else inside[0])
    return total


def itemsize(dtype: str) -> int:
    """Bytes of one element of a dtype, by its name.

    >>> itemsize("bfloat16"), itemsize("int64"), itemsize("bool")
    (2, 8, 1)
    """
    digits = dtype.removeprefix("torch.").split("_")[0]
    bits = int("".join(character for character in digits if character.isdigit()) or 8)
    return max(1, bits // 8)


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
    return floor(total)


_LETTERS = [chr(code) for start in (65, 97) for code in range(start, start + 26)]


def human(number: float) -> str:
    """A count with three digits and k, M, G or T.

    >>> human(1254321098), human(512), human(2_500_000)
    ('1.25G', '512', '2.5M')
    """
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= scale:
            return f"{number / scale:.3g}{unit}" if number < 999.5 * scale else f"{number / scale:.0f}{unit}"
    return f"{number:g}"
