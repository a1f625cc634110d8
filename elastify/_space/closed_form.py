"""Cost as a closed form over a configuration.

Every counted call contributes products of layout sizes (`linear`: all of the output times the input features),
multiplied by 0 or 1 for every stage block that it runs in. Compiling turns each product into a monomial over
a few variables: the columns of an encoded configuration, block switches, and sums (the size of a concat). Equal
monomials merge, and sums are nested by their most frequent variable (Horner).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from elastify._analysis import MacTerm, made_of, products
from elastify._errors import ElastifyError
from elastify._ir import Axis, Graph, Layout, Plan, Presence, Product, RecordedCall, Value, mentions
from elastify._space.metrics import METRICS

Monomial = tuple[int, ...]
Poly = dict[Monomial, int]


class ClosedForm:
    """Sums of products of variables: of each metric, and the MACs of each call."""

    def __init__(
        self,
        plan: Plan,
        graph: Graph,
        layouts: Mapping[int, tuple[Layout, ...]],
        batch: frozenset[int],
        counted: frozenset[int],
        samples: int,
        parameters: Iterable[str] | None,
    ) -> None:
        self.variables = _Variables(plan, batch)
        polys: dict[str, Counter[Monomial]] = {metric: Counter() for metric in METRICS}
        shared: dict[str, Counter[Monomial]] = {metric: Counter() for metric in METRICS}
        presence = Presence(plan)
        self.calls: list[tuple[str, str, Poly]] = []

        def dims(value: Value) -> tuple[Layout, ...]:
            known = layouts.get(value.id)
            return known if known is not None else tuple(Axis(-1, size) for size in value.shape)

        batched = [value for value in graph.inputs if not batch or any(mentions(dim, batch) for dim in dims(value))]
        mixed, counted = (made_of(graph, batched), counted) if samples > 1 else (set(), frozenset())
        around = plan.blocks_around()
        for number, call in enumerate(graph.calls):
            terms = products(call, dims)
            if terms:
                switches = self.variables.switches(presence.around(call.where).union(around.get(number, ())))
                output = _output_size(call, dims)
                mixes = any(t.shows(counted) for t in terms) or not mixed.isdisjoint(v.id for v in call.inputs())
                mixes = mixes and not any(t.shows(self.variables.batch) for t in terms)
                added = {n: self.variables.poly(m.of_call(terms, output), switches) for n, m in METRICS.items()}
                for name, part in added.items():
                    (shared if mixes else polys)[name].update(part)
                macs = added["macs"]
                self.calls.append((call.where, call.op, _share(macs, samples) if mixes else macs))
        for metric in METRICS:  # together, because experts may have odd numbers of tokens
            polys[metric].update(_share(shared[metric], samples))
        is_parameter = None if parameters is None else frozenset(parameters)
        self._stored: list[tuple[list[str], str, bool, Poly]] = []  # names, dtype, whether a parameter, size
        for value, names in _tensors(graph, plan):
            ways = {way for name in names for way in presence.ways(name)}
            present = self.variables.any_of([self.variables.switches(way) for way in ways])
            size = self.variables.poly([MacTerm(dims(value))], present)
            counts = is_parameter is None or not is_parameter.isdisjoint(names)
            self._stored.append((names, value.dtype, counts, size))
        self._of_calls = polys
        self.polys = self._with_tensors({})
        self._check_range(plan)

    def _with_tensors(self, dtypes: Mapping[str, str]) -> dict[str, Poly]:
        """The sums over calls, and what the tensors add that are stored in these dtypes."""
        polys = {metric: Counter(poly) for metric, poly in self._of_calls.items()}
        for names, recorded, counts, size in self._stored:
            dtype = next((dtypes[name] for name in names if name in dtypes), recorded)
            for name, metric in METRICS.items():
                times = metric.of_element(dtype, counts)
                polys[name].update({monomial: n * times for monomial, n in size.items() if times})
        return dict(polys)

    def in_dtypes(self, dtypes: Mapping[str, str]) -> ClosedForm:
        """The same of a model whose tensors have other dtypes now, by name."""
        twin = copy.copy(self)
        twin.polys = self._with_tensors(dtypes)
        return twin

    def _check_range(self, plan: Plan) -> None:
        columns = [*(axis.size for axis in plan.axes), *(len(stage.blocks) for stage in plan.stages)]
        kept = [frozenset(range(len(stage.blocks))) for stage in plan.stages]
        values = [int(value) for value in self.variables.evaluate(columns, kept)]
        for metric, poly in self.polys.items():
            total = sum(_product(values, monomial, count) for monomial, count in poly.items())
            if total >= 2**63:
                raise ElastifyError(f"the {metric} of this model do not fit 64 bits", why=f"there are {total}")


class _Variables:
    """Numbers the variables of the closed form: columns first, then switches, sums and alternatives on demand."""

    def __init__(self, plan: Plan, batch: frozenset[int]) -> None:
        self._plan = plan
        self._column = {axis.id: index for index, axis in enumerate(plan.axes)}
        self._width = len(plan.axes) + len(plan.stages)
        self._stages_from = len(plan.axes)
        self.batch = batch
        self._made: dict[tuple[Any, ...], int] = {}
        self._sizes: dict[Layout, tuple[int, Monomial]] = {}

    def _make(self, *recipe: Any) -> int:
        return self._made.setdefault(recipe, self._width + len(self._made))

    def switches(self, blocks: Iterable[tuple[int, int]]) -> Monomial:
        """The switches of blocks (stage, index)."""
        return tuple(sorted(self._make("switch", stage, index) for stage, index in sorted(blocks)))

    def any_of(self, alternatives: list[Monomial]) -> Monomial:
        """1 where one of the products of switches is 1: a tied tensor stays while one of its owners does."""
        if () in alternatives:
            return ()
        distinct = tuple(sorted(set(alternatives)))
        return distinct[0] if len(distinct) == 1 else (self._make("any", distinct),)

    def poly(self, terms: Iterable[MacTerm], factors: Monomial) -> Poly:
        """Sum of terms times a product of variables, each layout reduced to one monomial."""
        poly: Poly = Counter()
        for term in terms:
            count, monomial = 1, list(factors)
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
        yield value, list(dict.fromkeys(map(plan.first_name, names[number] + aliases)))


def _output_size(call: RecordedCall, dims: Any) -> MacTerm:
    return MacTerm(dims(call.outputs()[0]))


def _share(poly: Poly, samples: int) -> Poly:
    return {monomial: count // samples for monomial, count in poly.items()}


def _product(values: list[Any], monomial: Monomial, count: int) -> Any:
    result: Any = count
    for variable in monomial:
        result = values[variable] * result
    return result


def horner(poly: Poly) -> tuple[int, list[tuple[int, Any]]]:
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
        branches.append((variable, horner(inside)))
    return rest.get((), 0), branches


def evaluate(tree: tuple[int, list[tuple[int, Any]]], values: list[Any]) -> Any:
    constant, branches = tree
    total: Any = constant
    for variable, inside in branches:
        total = total + values[variable] * (evaluate(inside, values) if inside[1] else inside[0])
    return total
