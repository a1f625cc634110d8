"""Blocks that can be left out, found in the record of a run.

A child of a Sequential, ModuleList or ModuleDict is skippable if its output has the very layouts of its input
and leaving it out is what the network was built for: the output is reached from the input through additions
alone (a residual branch, normalised afterwards or not), or the child repeats its neighbour operation by
operation. Layouts are only compared, never unified, to find depth. A stage is a run of such children after
one that stays: the first of the run, or the block before it of the same kind that changes the size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elastify._analysis import Analysis
from elastify._graph import Call, Graph, ModuleCall, Value, values

_PASSES = frozenset(
    """add dropout alpha_dropout layer_norm batch_norm group_norm rms_norm instance_norm relu gelu contiguous clone
    permute transpose view reshape flatten unflatten to float type_as clamp where""".split()
)


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive children of a container; the first always stays."""

    container: str
    blocks: tuple[str, ...]


def find_runs(analysis: Analysis, children: Mapping[str, Sequence[str]], kind: Callable[[str], Any]) -> list[Run]:
    """Runs of skippable blocks.

    `children` maps each container path to the paths of its children in order; `kind` gives what must be equal
    of a block and the one that stays before it (its class).
    """
    tables = [_calls_by_path(graph) for graph in analysis.graphs]
    runs: list[Run] = []
    for container in sorted(children, key=lambda path: path.count(".")):
        if any(container == b or container.startswith(f"{b}.") for run in runs for b in run.blocks):
            continue
        for blocks in _rows(analysis, tables, children[container]):
            if len(blocks) > 1 and kind(blocks[0]) != kind(blocks[1]):
                blocks = blocks[1:]  # the block that stays must be like the next
            if len(blocks) > 1:
                runs.append(Run(container, tuple(blocks)))
    return runs


def _rows(
    analysis: Analysis, tables: list[dict[str, list[ModuleCall]]], children: Sequence[str]
) -> Iterator[list[str]]:
    """Children in rows: one that stays, and those after it that may be skipped."""
    row: list[str] = []
    for path in children:
        if row and _skippable(analysis, tables, path, row[-1]):
            row.append(path)
            continue
        yield row
        row = [path] if all(len(table.get(path, ())) == 1 for table in tables) else []
    yield row


def _calls_by_path(graph: Graph) -> dict[str, list[ModuleCall]]:
    table: dict[str, list[ModuleCall]] = {}
    for call in graph.modules:
        table.setdefault(call.path, []).append(call)
    return table


def _skippable(analysis: Analysis, tables: list[dict[str, list[ModuleCall]]], path: str, before: str) -> bool:
    for index, table in enumerate(tables):
        calls = table.get(path, [])
        if len(calls) != 1:
            return False
        graph, call = analysis.graphs[index], calls[0]
        source = next(values((call.args, call.kwargs)), None)
        target = next(values(call.out), None)
        if source is None or target is None or isinstance(call.out, dict):
            return False
        if not _same_layouts(analysis, index, source, target):
            return False
        inside = graph.calls[call.start : call.stop]
        if not _is_residual(inside, source, target) and not _repeats(graph, inside, table.get(before, []), source):
            return False
    return True


def _same_layouts(analysis: Analysis, index: int, a: Value, b: Value) -> bool:
    terms, dims = analysis.terms, analysis.dims[index]
    if a.shape != b.shape or a.id not in dims or b.id not in dims:
        return False
    return all(
        x.size == 1 or terms.resolve(x) == terms.resolve(y) or (terms.is_frozen(x) and terms.is_frozen(y))
        for x, y in zip(dims[a.id], dims[b.id], strict=True)
    )


def _is_residual(inside: Sequence[Call], source: Value, target: Value) -> bool:
    """Whether additions (and what normally surrounds them) lead from the input to the output, past a branch."""
    made = {value.id: call for call in inside for value in call.outputs()}
    reached, waiting = set(), [target.id]
    added = False
    while waiting:
        ident = waiting.pop()
        if ident in reached:
            continue
        reached.add(ident)
        call = made.get(ident)
        if call is not None and call.op in _PASSES:
            added = added or call.op == "add"
            waiting += [v.id for v in (call.inputs() if call.op == "add" else call.inputs()[:1])]
    return source.id in reached and added


def _repeats(graph: Graph, inside: Sequence[Call], before: Sequence[ModuleCall], source: Value) -> bool:
    """Whether the block does, operation by operation, what its neighbour does, and feeds on its output."""
    if len(before) != 1 or not any(v.name for call in inside for v in call.inputs()):
        return False
    other = graph.calls[before[0].start : before[0].stop]
    return len(other) == len(inside) and all(
        a.op == b.op and [v.shape for v in a.inputs()] == [v.shape for v in b.inputs()]
        for a, b in zip(inside, other, strict=True)
    )
