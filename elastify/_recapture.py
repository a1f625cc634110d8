"""The proof of sizes: a reduced network, captured again, must be the plan's network.

The permutation test cannot see an attribute that was left at its old value: activated and extracted would agree
and both be wrong. So reduced configurations are activated and captured on fake tensors, and every operation must be
the same and every dimension of every result must have the size of its layout. What fails is narrowed down to
the axes and stages responsible.

Where values decide how many results there are (a detector's boxes), a smaller network has others, and loops over them
run longer or shorter. From the first operation that counts on, calls are compared module by module and in the
dimensions that move; what runs otherwise than before proves nothing about the axes that it touches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from elastify._analysis import Analysis
from elastify._errors import ElastifyError
from elastify._graph import Call, Graph, Value, values
from elastify._layout import Layout, active_size, axes_of
from elastify._plan import Plan

Sizes = Mapping[int, int]
Blocks = Mapping[str, tuple[int, ...]]
Capture = Callable[[Sizes, Blocks], Graph]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where a reduced network differs from the plan."""

    text: str


def compare(analysis: Analysis, plan: Plan, reduced: Graph, sizes: Sizes, blocks: Blocks) -> Mismatch | None:
    """The first difference between a captured subnet and what the plan says it is.

    The same operations must run on the same tensors, where a tensor that a skipped block handed on is the one that
    takes its place.
    """
    graph = analysis.graphs[0]
    skips = [
        stage.skips[block]
        for stage in plan.stages
        for index, block in enumerate(stage.blocks)
        if index not in blocks.get(stage.name, range(len(stage.blocks)))
    ]
    gone = {number for skip in skips for number in range(skip.start, skip.stop)}
    full = [call for number, call in enumerate(graph.calls) if number not in gone and _effective(call)]
    now = [call for call in reduced.calls if _effective(call)]
    counts = next((number for number, call in enumerate(full) if _counts(call)), None)
    if counts is not None:
        moving = frozenset(axis.id for axis in plan.axes)
        found = _compare_paths(analysis, full[counts:], now[counts:], sizes, moving)
        if found:
            return Mismatch(found)
        full, now = full[:counts], now[:counts]
    if len(full) != len(now):
        at = next((i for i, (a, b) in enumerate(zip(full, now, strict=False)) if a.op != b.op), -1)
        return Mismatch(
            f"{len(now)} operations instead of {len(full)}; the first other one is {full[at].op} "
            f"in {full[at].where or 'the model'} ({full[at].source})"
        )
    flow = _Flow(graph, reduced, dict(pair for skip in skips for pair in skip.instead))
    for a, b in zip(full, now, strict=True):
        found = _compare_values(analysis, a.outputs(), b.outputs(), sizes) or flow.follow(a.inputs(), b.inputs())
        if a.op != b.op:
            found = f"{b.op} runs in place of {a.op}"
        if found:
            return Mismatch(f"{found} from {a.op} in {a.where or 'the model'} ({a.source})")
        flow.bind(a.outputs(), b.outputs())
    if counts is not None:
        return None
    lost = {v.id for number in gone for v in graph.calls[number].outputs()} - flow.instead.keys()
    outputs = [value for value in graph.outputs if value.id not in lost]
    found = _compare_values(analysis, outputs, reduced.outputs, sizes) or flow.follow(outputs, reduced.outputs)
    return Mismatch(f"{found} from the whole model") if found else None


def _counts(call: Call) -> bool:
    """Whether values decide how many results a call gives."""
    if call.op == "getitem":
        return any(value.dtype == "bool" for value in values(call.args[1:]))
    return call.op in _COUNTING or (call.op == "where" and len(call.args) == 1)


_COUNTING = frozenset("nonzero argwhere masked_select nms _unique2 unique_consecutive".split())


def _compare_paths(
    analysis: Analysis, full: Sequence[Call], now: Sequence[Call], sizes: Sizes, moving: frozenset[int]
) -> str:
    """The first difference in calls whose number is not fixed, in dimensions that have one of the `moving` axes."""

    def layouts(value: Value) -> list[Layout | None]:
        found = map(analysis.terms.resolve, analysis.dims[0].get(value.id, ()))
        return [layout if any(axis.id in moving for axis in axes_of(layout)) else None for layout in found]

    before, after = _by_module(full), _by_module(now)
    for path in before | after:
        one, two = before.get(path, []), after.get(path, [])
        where = f"in {path or 'the model'}"
        if [call.op for call in one] != [call.op for call in two]:
            touched = any(any(layouts(v)) for call in one for v in (*call.inputs(), *call.outputs()))
            if touched or not one:
                return f"other operations than before run {where}"
            continue
        for a, b in zip(one, two, strict=True):
            for x, y in zip(a.outputs(), b.outputs(), strict=False):
                for layout, size in zip(layouts(x), y.shape, strict=False):
                    if layout is not None and active_size(layout, sizes) != size:
                        return f"{list(y.shape)} and not {active_size(layout, sizes)} from {a.op} {where} ({a.source})"
    return ""


def _by_module(calls: Sequence[Call]) -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = {}
    for call in calls:
        found.setdefault(call.where, []).append(call)
    return found


def _effective(call: Call) -> bool:
    """Whether a call made something: `x.to(x.dtype)` gives back x, and may or may not be recorded."""
    return not {v.id for v in call.outputs()} <= {v.id for v in call.inputs()}


class _Flow:
    """Which value of the reduced graph is which of the full one; `instead` gives those that take another's place.

    Parameters are known by name. A sliced one is a tensor without a name, made anew at each use.
    """

    def __init__(self, full: Graph, reduced: Graph, instead: dict[int, int]) -> None:
        self.instead = instead
        there = {name: value.id for name, value in reduced.tensors.items()}
        self.owned = {value.id: there.get(name, -1) for name, value in full.tensors.items()}
        made = (call.outputs() for call in reduced.calls if _effective(call))
        self.known = {*self.owned.values(), *(v.id for outputs in made for v in outputs)}
        self.same: dict[int, int] = {}
        self.bind(full.inputs, reduced.inputs)

    def bind(self, full: Sequence[Value], reduced: Sequence[Value]) -> None:
        self.same.update((a.id, b.id) for a, b in zip(full, reduced, strict=True))

    def follow(self, full: Sequence[Value], reduced: Sequence[Value]) -> str:
        """The first value that is not the one it should be; one that nothing made is known by its first use."""
        if len(full) != len(reduced):
            return f"{len(reduced)} tensors instead of {len(full)}"
        for a, b in zip(full, reduced, strict=True):
            ident = a.id
            while ident in self.instead:
                ident = self.instead[ident]
            if ident in self.owned:
                wrong = b.id in self.known and b.id != self.owned[ident]
            else:
                wrong = self.same.setdefault(ident, b.id) != b.id
            if wrong:
                return f"{b} in place of {a}"
        return ""


def _compare_values(analysis: Analysis, full: Sequence[Value], reduced: Sequence[Value], sizes: Sizes) -> str:
    """The first result that does not have the size of its layout."""
    if len(full) != len(reduced):
        return f"{len(reduced)} results instead of {len(full)}"
    for a, b in zip(full, reduced, strict=True):
        terms = analysis.dims[0].get(a.id)
        if terms is None:
            continue
        expected = tuple(active_size(analysis.terms.resolve(term), sizes) for term in terms)
        told = [len(expected) == len(b.shape) and analysis.counted(term) for term in terms]  # by the data, not by us
        expected = tuple(n if free else m for m, n, free in zip(expected, b.shape, told, strict=False))
        if expected != tuple(b.shape):
            return f"{list(b.shape)} and not {list(expected)}"
    return ""


def failing(
    analysis: Analysis, plan: Plan, capture: Capture, configurations: Sequence[tuple[Sizes, Blocks]]
) -> tuple[dict[int, str], dict[str, str]]:
    """Axes (by id) and stages (by name) whose reduced networks are not the plan's, with the difference."""
    axes: dict[int, str] = {}
    stages: dict[str, str] = {}

    def blame(item: int | str, text: str) -> None:
        if isinstance(item, int):
            axes[item] = text
        else:
            stages[item] = text

    def wrong(sizes: Sizes, blocks: Blocks) -> str:
        try:
            found = compare(analysis, plan, capture(sizes, blocks), sizes, blocks)
        except ElastifyError as error:
            return f"the smaller network does not run: {error.why or error.what}"
        return found.text if found else ""

    def narrow(items: list[int | str], sizes: Sizes, blocks: Blocks, text: str) -> None:
        if len(items) == 1:
            return blame(items[0], text)
        half = len(items) // 2
        blamed = False
        for part in (items[:half], items[half:]):
            some = wrong(
                {i: sizes[i] for i in part if isinstance(i, int)}, {n: blocks[n] for n in part if isinstance(n, str)}
            )
            if some:
                blamed = True
                narrow(part, sizes, blocks, some)
        if not blamed:  # only together: keep the first half, give up the other
            for item in items[half:]:
                blame(item, text)

    for sizes, blocks in configurations:
        while True:
            sizes = {i: n for i, n in sizes.items() if i not in axes}
            blocks = {n: b for n, b in blocks.items() if n not in stages}
            if not sizes and not blocks:
                break
            text = wrong(sizes, blocks)
            if not text:
                break
            before = len(axes) + len(stages)
            narrow([*sizes, *blocks], sizes, blocks, text)
            if len(axes) + len(stages) == before:
                break
    return axes, stages
