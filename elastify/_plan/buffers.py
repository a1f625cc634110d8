"""Buffers that forward writes, in place or by putting another tensor there.

*Statistics* belong to a configuration, for they tell what comes in, which differs from subnet to subnet. They are what
an operation like `batch_norm` is given to keep for evaluation, and what does the same by hand: a run in training mode
writes it and returns nothing that depends on it, but in evaluation mode the outputs do. What a module counts beside
them (`num_batches_tracked`) goes with them. So do those of the norms of torch that no recorded run has met.

All *others* are shared like weights: a moving average that the model computes with in training, too, a codebook, the
vectors of a spectral norm, a queue. A subnet reads and writes its part of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from elastify._analysis import operation
from elastify._ir import Graph, RecordedCall, Value, values


def norm_statistics(model: nn.Module) -> frozenset[str]:
    """The statistics of the norms of torch, by name."""
    norms = [(path, module) for path, module in model.named_modules() if isinstance(module, _NormBase)]
    return frozenset(name for path, module in norms for name, _ in module.named_buffers(path))


def written_buffers(model: nn.Module, graphs: Sequence[Graph]) -> tuple[frozenset[str], frozenset[str]]:
    """Statistics, and the other buffers that these runs write."""
    buffers = {name: tensor.dim() for name, tensor in model.named_buffers()}
    runs = [_Run(graph) for graph in graphs]
    given, written = set(norm_statistics(model)), set[str]()
    needed = set[str]().union(*(run.needed for run in runs if not run.graph.training))
    for run in runs:
        written |= run.written
        given |= run.given
        if run.graph.training:
            given |= (run.written - run.needed) & needed
    owners = {name.rpartition(".")[0] for name in given & buffers.keys()}
    counts = {name for name, dims in buffers.items() if not dims and name.rpartition(".")[0] in owners}
    statistics = frozenset((given | counts) & buffers.keys())
    return statistics, frozenset((written & buffers.keys()) - statistics)


class _Run:
    """The parameters and buffers, by name, that one run has `written`, was `given` to keep statistics in, and that its
    outputs `needed`."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.before: dict[int, int] = {}  # of a value: what it is a view of, or what it was before it was changed
        self.names: dict[int, str] = {}
        for name, value in graph.tensors.items():
            self.names.setdefault(value.id, name)
        self.written, self.given = set(graph.assigned), set[str]()
        for call in graph.calls:
            self._note(call)
        ids = {value.id for value in graph.outputs}
        for call in reversed(graph.calls):
            if any(value.id in ids for value in call.outputs()):
                ids |= {value.id for value in call.inputs()}
        self.needed = {self.names[ident] for ident in ids & self.names.keys()}

    def _note(self, call: RecordedCall) -> None:
        entry = operation(call.op)
        if call.inplace:
            changed = list(_changed(call))
            self.written |= {name for value in changed if (name := self._name(value))}
            self._follow(zip(call.outputs(), changed, strict=False))
        elif entry.view or entry.same:
            self._follow((value, call.inputs()[0]) for value in call.outputs())
        for place, word in entry.statistics:
            value = call.args[place] if place < len(call.args) else call.kwargs.get(word)
            if isinstance(value, Value) and (name := self._name(value)):
                self.given.add(name)

    def _follow(self, pairs: Iterable[tuple[Value, Value]]) -> None:
        self.before.update((new.id, old.id) for new, old in pairs if new.id > old.id)

    def _name(self, value: Value) -> str | None:
        ident = value.id
        while ident in self.before:
            ident = self.before[ident]
        return self.names.get(ident)


def _changed(call: RecordedCall) -> Iterator[Value]:
    """What a call in place has written to; of an operation of which nothing is known, whatever it was given."""
    if call.op.startswith("unseen:"):
        return iter(call.inputs())
    return values(call.kwargs["out"]) if call.kwargs.get("out") is not None else values(call.args[:1])
