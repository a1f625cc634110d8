"""What goes with blocks though it lies elsewhere: entries of lists that a loop runs through beside the blocks.

    for block, norm, gamma in zip(self.blocks, self.norms, self.gammas):
        x = x + gamma * block(norm(x))

Where `blocks.2` is left out, `norms.2` and `gammas.2` are of no use: in every recorded run, all the calls that are
given their tensors are left out with the block. So they go as well. A tensor that several rounds share goes with the
last of them; one that anything else uses stays. A module goes whole if all in it goes with the same blocks.

A run that goes on with what another has left has no rounds of its own; there, a tensor must be used by the same lines
as in the first run of the same example.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from elastify._ir import Graph, enclosing
from elastify._plan.blocks import BlockRow
from elastify._plan.skips import SkipFinder


def alongside(
    model: nn.Module, graphs: Sequence[Graph], finders: Sequence[SkipFinder], rows: Sequence[BlockRow]
) -> dict[str, tuple[str, ...]]:
    """By path, modules and tensors that only rounds of blocks of these rows use, with the blocks."""
    if not rows:
        return {}
    users = _users(graphs, finders, rows)
    modules = {path: None for path, _ in model.named_modules()}  # under first names, and before what is in them
    tensors = [name for name in graphs[0].tensors if name.rpartition(".")[0] in modules]
    users_inside: dict[str, set[frozenset[str | None]]] = {}
    for name in users.keys() & {*modules, *tensors}:
        for path in enclosing(name):
            users_inside.setdefault(path, set()).add(frozenset(users[name]))
    found: dict[str, tuple[str, ...]] = {}
    for path in (*modules, *tensors):
        blocks = frozenset().union(*users_inside.get(path, ()))
        alike = len(users_inside.get(path, ())) == 1 and None not in blocks
        holds_one = any(path in enclosing(block) for block in blocks if block)
        if alike and not holds_one and found.keys().isdisjoint(enclosing(path)):
            found[path] = tuple(sorted(filter(None, blocks)))
    return found


def _users(
    graphs: Sequence[Graph], finders: Sequence[SkipFinder], rows: Sequence[BlockRow]
) -> dict[str, set[str | None]]:
    """The blocks that go with the calls that use a module or tensor; None for a call that is there whenever that is."""
    users: dict[str, set[str | None]] = {}

    def add(names: Iterable[str], blocks: Sequence[str]) -> None:
        for name in names:
            users.setdefault(name, set()).add(_user(name, blocks))

    for finder in finders:
        blocks, flow = _blocks_of(rows, finder.index), finder.flow
        for ident, numbers in flow.uses.items():
            for call in numbers if ident in flow.weights else ():
                add(flow.weights[ident], blocks.get(call, ()))
        for call in finder.graph.modules:
            for own in {blocks.get(inner, ()) for inner in range(call.start, call.stop)}:
                add([call.path], own)
    for graph in graphs:
        if all(graph is not finder.graph for finder in finders):
            lines = _lines(next(first for first in graphs if first.example == graph.example))
            for name, others in _lines(graph).items():
                if not others <= lines.get(name, set()):
                    add([name], ())
    return users


def _user(name: str, blocks: Sequence[str]) -> str | None:
    """The outermost of these blocks that takes along what has this name, though that does not lie in it; None if none
    does."""
    around = ""
    for block in blocks:
        if block in enclosing(name):
            around = f"{block}."
        elif block.startswith(around):
            return block
    return None


def _blocks_of(rows: Sequence[BlockRow], number: int) -> Mapping[int, tuple[str, ...]]:
    """By call of record `number`, the blocks with which it is left out, those with the longest rounds first."""
    found: dict[int, tuple[str, ...]] = {}
    skips = [(path, row.skips[path]) for row in rows for path in row.blocks[1:]]
    rounds = [(path, runs[number].calls()) for path, runs in skips if number in runs]
    for path, calls in sorted(rounds, key=lambda one: -len(one[1])):
        for call in calls:
            found[call] = (*found.get(call, ()), path)
    return found


def _lines(graph: Graph) -> dict[str, set[tuple[str, str, str]]]:
    """The places at which each parameter and buffer is used."""
    names: dict[int, list[str]] = {}
    for name, value in graph.tensors.items():
        names.setdefault(value.id, []).append(name)
    found: dict[str, set[tuple[str, str, str]]] = {}
    for call in graph.calls:
        for name in (name for value in call.inputs() for name in names.get(value.id, ())):
            found.setdefault(name, set()).add((call.where, call.op, call.source))
    return found
