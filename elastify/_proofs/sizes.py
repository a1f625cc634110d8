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
from elastify._ir import Choice, Graph, Layout, Plan, RecordedCall, Value, active_size, mentions

Capture = Callable[[Choice, int], Graph]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where a reduced network differs from the plan."""

    text: str


def compare(analysis: Analysis, plan: Plan, reduced: Graph, choice: Choice, index: int = 0) -> Mismatch | None:
    """The first difference between a captured subnet and what the plan says it is.

    The same operations must run on the same tensors, where a tensor that a skipped block passed on is the one that
    takes its place. `index` tells which graph was captured again; where blocks go is not known of one that calls the
    model several times, of which it is then asked that it runs and gives what it should.
    """
    graph = analysis.graphs[index]
    left_out = [
        stage.skips[block]
        for stage in plan.stages
        for number, block in enumerate(stage.blocks)
        if number not in choice.blocks.get(stage.name, range(len(stage.blocks)))
    ]
    skips = [runs[index] for runs in left_out if index in runs]
    gone = {number for skip in skips for number in skip.calls()}
    full = [call for number, call in enumerate(graph.calls) if number not in gone and _effective(call)]
    now = [call for call in reduced.calls if _effective(call)]
    sizer = _Sizer(analysis, choice.sizes, frozenset(axis.id for axis in plan.axes), analysis.counted(), index)
    if left_out and len(graph.roots) > 1:
        found = sizer.values(graph.outputs, reduced.outputs)
        return Mismatch(f"{found} from the whole model") if found else None
    counts = next((number for number, call in enumerate(full) if sizer.counts(call)), len(full))
    cut = counts < len(full) and [call.op for call in full] != [call.op for call in now]
    if cut:
        found = sizer.paths(full[counts:], now[counts:])
        if not found and any(max(skip.calls()) >= graph.calls.index(full[counts]) for skip in skips):
            found = "without the blocks other operations run"
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
    for number, (a, b) in enumerate(zip(full, now, strict=True)):
        found = sizer.values(a.outputs(), b.outputs(), counted=number >= counts) or flow.follow(a.inputs(), b.inputs())
        if a.op != b.op:
            found = f"{b.op} runs in place of {a.op}"
        if found:
            return Mismatch(f"{found} from {a.op} in {a.where or 'the model'} ({a.source})")
        flow.bind(a.outputs(), b.outputs())
    if cut:
        return None
    lost = {v.id for number in gone for v in graph.calls[number].outputs()} - flow.instead.keys()
    outputs = [value for value in graph.outputs if value.id not in lost]
    found = sizer.values(outputs, reduced.outputs, counted=counts < len(full)) or flow.follow(outputs, reduced.outputs)
    return Mismatch(f"{found} from the whole model") if found else None


def _effective(call: RecordedCall) -> bool:
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
        self.same.update((a.id, b.id) for a, b in zip(full, reduced, strict=False))

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


@dataclass(frozen=True, slots=True)
class _Sizer:
    """Compares sizes with layouts: of all dimensions, or of those that have one of the `moving` axes."""

    analysis: Analysis
    sizes: Mapping[int, int]
    moving: frozenset[int]
    counted: frozenset[int]
    index: int

    def layouts(self, value: Value) -> tuple[Layout, ...]:
        return self.analysis.layouts(value, self.index)

    def counts(self, call: RecordedCall) -> bool:
        """Whether the data decide how many results a call gives."""
        return any(mentions(layout, self.counted) for value in call.outputs() for layout in self.layouts(value))

    def moves(self, layout: Layout) -> bool:
        return mentions(layout, self.moving)

    def values(self, full: Sequence[Value], reduced: Sequence[Value], *, counted: bool = False) -> str:
        """The first result that does not have the size of its layout; numbers of places may differ if `counted`."""
        if len(full) != len(reduced) and not counted:
            return f"{len(reduced)} results instead of {len(full)}"
        for a, b in zip(full, reduced, strict=False):
            if a.id not in self.analysis.dims[self.index]:
                continue
            layouts = self.layouts(a)
            expected = [active_size(layout, self.sizes) for layout in layouts]
            for i, size in enumerate(b.shape) if len(expected) == len(b.shape) else ():
                if mentions(layouts[i], self.counted) or (counted and not self.moves(layouts[i])):
                    expected[i] = size  # by the data, not by us
            if expected != list(b.shape):
                return f"{list(b.shape)} and not {expected}"
        return ""

    def paths(self, full: Sequence[RecordedCall], reduced: Sequence[RecordedCall]) -> str:
        """The first difference in calls whose number is not fixed, module by module."""
        before, after = _by_module(full), _by_module(reduced)
        for path in before | after:
            one, two = before.get(path, []), after.get(path, [])
            where = f"in {path or 'the model'}"
            if [call.op for call in one] == [call.op for call in two]:
                for a, b in zip(one, two, strict=True):
                    if found := self.values(a.outputs(), b.outputs(), counted=True):
                        return f"{found} from {a.op} {where} ({a.source})"
            elif found := self.lines(one, two):
                return f"{found} {where}"
        return ""

    def lines(self, full: Sequence[RecordedCall], reduced: Sequence[RecordedCall]) -> str:
        """The first difference between rounds of a loop that runs more often or less: every line of the code must do in
        one round what it did in another, and all that touch moving axes must run."""
        known = _by_line(full)
        for (op, source), calls in _by_line(reduced).items():
            for b in calls:
                differences = [self.values(a.outputs(), b.outputs(), counted=True) for a in known.get((op, source), ())]
                if all(differences):
                    return (
                        f"{differences[0]} from {op} ({source})"
                        if differences
                        else "the smaller network runs other operations"
                    )
        missing = known.keys() - _by_line(reduced).keys()
        if not full or any(self.touches(call) for line in missing for call in known[line]):
            return "the smaller network runs other operations"
        return ""

    def touches(self, call: RecordedCall) -> bool:
        return any(self.moves(x) for value in (*call.inputs(), *call.outputs()) for x in self.layouts(value))


def _by_module(calls: Sequence[RecordedCall]) -> dict[str, list[RecordedCall]]:
    found: dict[str, list[RecordedCall]] = {}
    for call in calls:
        found.setdefault(call.where, []).append(call)
    return found


def _by_line(calls: Sequence[RecordedCall]) -> dict[tuple[str, str], list[RecordedCall]]:
    found: dict[tuple[str, str], list[RecordedCall]] = {}
    for call in calls:
        found.setdefault((call.op, call.source), []).append(call)
    return found


def difference(analysis: Analysis, plan: Plan, capture: Capture, choice: Choice, index: int = 0) -> str:
    """What is wrong with one reduced network, captured as graph number `index`; "" if nothing is."""
    try:
        found = compare(analysis, plan, capture(choice, index), choice, index)
    except ElastifyError as error:
        place = f" ({error.where})" if error.where else ""
        return f"the smaller network does not run: {error.why or error.what}{place}"
    return found.text if found else ""


def failing(
    analysis: Analysis, plan: Plan, capture: Capture, choices: Sequence[Choice], index: int = 0
) -> tuple[dict[int, str], dict[str, str]]:
    """Axes (by id) and stages (by name) whose reduced networks are not the plan's, with the difference.

    `capture(choice, index)` records graph number `index` of a reduced network.
    """
    axes: dict[int, str] = {}
    stages: dict[str, str] = {}

    def blame(item: int | str, text: str) -> None:
        if isinstance(item, int):
            axes[item] = text
        else:
            stages[item] = text

    def narrow(items: list[int | str], choice: Choice, text: str) -> None:
        if len(items) == 1:
            return blame(items[0], text)
        half = len(items) // 2
        blamed = False
        for part in (items[:half], items[half:]):
            some = difference(analysis, plan, capture, choice.only(part), index)
            if some:
                blamed = True
                narrow(part, choice, some)
        if not blamed:  # only together: keep the first half, give up the other
            for item in items[half:]:
                blame(item, text)

    for choice in choices:
        while True:
            choice = choice.only([part for part in choice.parts if part not in axes and part not in stages])
            text = difference(analysis, plan, capture, choice, index) if choice.parts else ""
            if not text:
                break
            before = len(axes) + len(stages)
            narrow(choice.parts, choice, text)
            if len(axes) + len(stages) == before:
                break
    return axes, stages
