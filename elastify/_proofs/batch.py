"""Which dimensions of the inputs count samples. Costs are per sample, and exports let their number be any.

Candidates are the axes of inputs that no weight has and that the layouts lead to an output. One is the batch if its
entries are independent. Mostly the record shows that no operation brings them together (`kept_apart`). Where it does
not, other numbers for the first and for the last sample, in a run in eval mode, must leave the outputs of all others as
they were, to the bit (`independence`). The rows of a mask fail this, and so do the tokens of a sequence that attends to
itself. Axes that stand outside of others are asked first: in `[samples, tokens, channels]` of a net without attention
both would pass. Where layouts lead nowhere, an output counts samples in the dimension that grows when the inputs get
one more.

Each row of an adjacency matrix that is used once passes, too, and so does each query of a sequence to others: there an
input without that axis has features (a dimension that a weight has, too) of things that are summed up. Then, and where
none passes, or several that cannot be one, a call is one sample, and `doubt` says why. `elastify(batch=...)` tells.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import nn

from elastify._analysis import Analysis, kept_apart
from elastify._capture import Example, capture, tensors_by_name
from elastify._errors import ElastifyError
from elastify._ir import Axis, Graph, Layout, Product, Value, axes_of, mentions
from elastify._proofs.independence import Runs
from elastify._proofs.outputs import Outputs
from elastify._space import nearest


@dataclass(frozen=True)
class Batch:
    """The ids of the axes that count samples, how many the example has, and the dimensions by the names of inputs."""

    axes: frozenset[int] = frozenset()
    count: int = 1
    dims: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    doubt: str = ""

    def by_tensor(self, model: nn.Module, example: Example) -> dict[int, tuple[int, ...]]:
        """The dimensions by the ids of the tensors of an example."""
        return {id(tensor): self.dims.get(name, ()) for name, tensor in tensors_by_name(model, example).items()}

    def sample_shape(self, value: Value) -> tuple[int, ...]:
        """The shape of an input for one sample, without the dimensions that count nothing else."""
        dims = self.dims.get(value.name, ())
        sizes = {dim: size // self.count if dim in dims else size for dim, size in enumerate(value.shape)}
        return tuple(size for dim, size in sizes.items() if dim not in dims or size > 1)

    def resized(self, model: nn.Module, example: Example, count: int) -> Example:
        """The example with so many samples."""
        return example.resized(self.by_tensor(model, example), self.count, count)


Told = Mapping[str | int, int | None]


def find_batches(
    model: nn.Module, analysis: Analysis, examples: Sequence[Example], outputs: Outputs, told: Told
) -> list[Batch]:
    """The dimensions that count samples, in each example; `told` gives those of inputs by name or position, None for an
    input that has no such dimension. Nothing about the model changes. Raises ElastifyError where what is told cannot
    be."""
    _check_told(model, examples, told)
    return [
        _find(_Search(model, analysis, index, example, outputs, _by_name(model, example, told)))
        for index, example in zip(analysis.firsts, examples, strict=True)
    ]


def _find(search: _Search) -> Batch:
    found = search.as_told() or (search.by_place() if search.runs.failed else search.by_growth() or search.by_layouts())
    if not found.axes and (listed := _listed(search.graph)) > 1:
        return Batch(count=listed)
    return found


def _listed(graph: Graph) -> int:
    """How many samples a list of them has, as detectors take them; 1 where no argument is a list of tensors."""
    root = next((call for call in graph.modules if call.path == ""), None)
    given = (*root.args, *root.kwargs.values()) if root else ()
    lists = [arg for arg in given if isinstance(arg, (list, tuple)) and arg and isinstance(arg[0], Value)]
    return max(map(len, lists), default=1)


def _check_told(model: nn.Module, examples: Sequence[Example], told: Told) -> None:
    """Refuse names that are inputs in no example."""
    for key in told:
        if not any(_by_name(model, example, {key: None}) for example in examples):
            bound = (example.bound(inspect.signature(model.forward)).arguments for example in examples)
            known = dict.fromkeys(name for arguments in bound for name in arguments)
            known.update(dict.fromkeys(name for example in examples for name in tensors_by_name(model, example)))
            near = ", ".join(nearest(str(key), [*known]))
            raise ElastifyError(f"{key!r} is not an input", where="batch", why=f"inputs are {near}")


def _by_name(model: nn.Module, example: Example, told: Told) -> dict[str, int | None]:
    """What was told of the inputs that an example has, by the names that a record has for them."""
    named = tensors_by_name(model, example)
    arguments = list(example.bound(inspect.signature(model.forward)).arguments)
    found: dict[str, int | None] = {}
    for key, dim in told.items():
        name = arguments[key] if isinstance(key, int) and 0 <= key < len(arguments) else str(key)
        for own in (own for own in named if own == name or own.startswith(f"{name}.")):
            rank = named[own].dim()
            if dim is not None and not (type(dim) is int and -rank <= dim < rank):
                shape = list(named[own].shape)
                why = f"its shape is {shape}"
                raise ElastifyError(f"{own} has no dimension {dim!r}", where="batch", why=why, fix="an index, or None")
            found[own] = None if dim is None else dim % rank
    return found


class _Search:
    """The candidates among the dimensions of the inputs, and what is known of them."""

    def __init__(
        self,
        model: nn.Module,
        analysis: Analysis,
        index: int,
        example: Example,
        outputs: Outputs,
        told: Mapping[str, int | None],
    ) -> None:
        self.model, self.example, self.outputs, self.told = model, example, outputs, told
        self.analysis, self.index = analysis, index
        self.graph = graph = analysis.graphs[index]
        layouts = partial(analysis.layouts, index=index)
        self.inputs = {value.name: layouts(value) for value in graph.inputs}
        self.results = [layouts(value) for value in outputs.values(graph)]
        self.owned = {a.id for value in graph.tensors.values() for layout in layouts(value) for a in axes_of(layout)}
        self.reached = {axis.id for layouts in self.results for layout in layouts for axis in axes_of(layout)}
        self.runs = Runs(model, analysis, index, example, outputs)

    def batch(self, axes: Iterable[int], count: int) -> Batch:
        axes = frozenset(axes)
        dims = {
            name: tuple(dim for dim, layout in enumerate(layouts) if mentions(layout, axes))
            for name, layouts in self.inputs.items()
        }
        return Batch(axes, count, dims)

    def as_told(self) -> Batch | None:
        """The dimensions that were told; None where none was."""
        told = {f"{name}[{dim}]": self.inputs[name][dim] for name, dim in self.told.items() if dim is not None}
        for name, layout in told.items():
            if layout.size == 1 or mentions(layout, self.owned):
                why = "its size is 1" if layout.size == 1 else "its units are those of a weight"
                raise ElastifyError(f"{name} cannot count samples", where="batch", why=why, fix="another, or None")
        if len({layout.size for layout in told.values()}) > 1:
            sizes = ", ".join(f"{name} has {layout.size}" for name, layout in told.items())
            raise ElastifyError("these dimensions cannot count the same samples", where="batch", why=sizes)
        axes = (axis.id for layout in told.values() for axis in axes_of(layout) if axis.size > 1)
        return self.batch(axes, next(iter(told.values())).size) if told else None

    def free(self, layouts: Iterable[Layout]) -> dict[int, int]:
        """Sizes by ids of the axes in some layouts of inputs that may count samples."""
        axes = (axis for layout in layouts for axis in axes_of(layout))
        return {axis.id: axis.size for axis in axes if axis.size > 1 and axis.id not in self.owned}

    def asked(self) -> list[tuple[Layout, ...]]:
        """The layouts of the inputs that may have a batch."""
        return [layouts for name, layouts in self.inputs.items() if name not in self.told]

    def names(self, axes: Collection[int]) -> str:
        """Dimensions in words."""
        return ", ".join(f"{name}[{dim}]" for name, dims in self.batch(axes, 1).dims.items() for dim in dims)

    def by_layouts(self) -> Batch:
        """The outermost axes that lead to an output and are independent."""
        sizes = self.free(layout for layouts in self.asked() for layout in layouts)
        left, outside, doubts = [axis for axis in sizes if axis in self.reached], self._order(), dict[str, None]()
        while left:
            outer = [a for a in left if not any((b, a) in outside and (a, b) not in outside for b in left)] or left
            against = {axis: self.against(axis) for axis in outer}
            passed = [axis for axis in outer if not against[axis]]
            if len({sizes[axis] for axis in passed}) > 1:
                return _none(f"{self.names(passed)} may each count samples")
            if passed:
                return self.joined(self.batch(passed, sizes[passed[0]]), outside)
            doubts.update((f"{self.names([axis])}: {why}", None) for axis, why in against.items())
            left = [axis for axis in left if axis not in outer]
        return _none("; ".join(doubts) or "no dimension of an input leads to an output")

    def against(self, axis: int) -> str:
        """Why an axis that leads to an output is not the batch, or "" if it may be."""
        if why := self.mixed({axis}):
            return why
        for name, layouts in self.inputs.items():
            things = list(self.free(layouts))[:1]
            apart = name not in self.told and not any(mentions(layout, {axis}) for layout in layouts)
            features = any(mentions(layout, self.owned) for layout in layouts)
            if apart and features and things and things[0] not in self.reached:
                return f"{self.names(things)} is summed over"
        return ""

    def mixed(self, axes: Collection[int]) -> str:
        """Why an entry of some axes is no sample on its own, or "" if the record or a run proves that it is."""
        results = self.outputs.values(self.graph)
        if kept_apart(self.analysis, axes, self.graph.inputs, results, self.index):
            return ""
        return self.runs.against(axes, self.inputs, self.results)

    def joined(self, found: Batch, outside: Collection[tuple[int, int]]) -> Batch:
        """With inputs of their own that begin with as many entries, where samples of both together are independent:
        pictures whose features are put among the words of a text, say."""
        firsts = self.free(own[0] for own in self.asked() if own)
        near = {axis for pair in outside if not found.axes.isdisjoint(pair) for axis in pair} | found.axes
        others = {axis for axis, size in firsts.items() if size == found.count and axis not in near}
        both = self.batch(found.axes | others, found.count)
        return found if not others or self.mixed(both.axes) else both

    def _order(self) -> set[tuple[int, int]]:
        """Pairs of axes of which the first stands before the second in an input or output."""
        found = set()
        for layouts in (*self.inputs.values(), *self.results):
            row = list(dict.fromkeys(axis.id for layout in layouts for axis in axes_of(layout)))
            found.update((a, b) for i, a in enumerate(row) for b in row[i + 1 :])
        return found

    def by_growth(self) -> Batch | None:
        """First dimensions of the inputs, where no layout leads from one to an output but outputs grow with them."""
        sizes = self.free(own[0] for own in self.asked() if own)
        count = next((size for axis, size in sizes.items() if axis not in self.reached), 0)
        if not count:
            return None
        found = self.batch((axis for axis, size in sizes.items() if size == count), count)
        more = self.outputs_of_one_more(found)
        if more is None or len(more) != len(self.results):
            return None
        axis, results = next(iter(found.axes)), list[tuple[Layout, ...]]()
        for value, grown in zip(self.outputs.values(self.graph), more, strict=True):
            pairs = zip(value.shape, grown.shape, strict=False)
            results.append(tuple(_counting(axis, count, n) if m != n else Axis(-1, n) for n, m in pairs))
        grows = any(mentions(layout, {axis}) for layouts in results for layout in layouts)
        return None if not grows or self.runs.against(found.axes, self.inputs, results) else found

    def outputs_of_one_more(self, batch: Batch) -> list[Value] | None:
        """The outputs in a record of the model with one sample more; None where it does not run."""
        try:
            more = batch.resized(self.model, self.example, batch.count + 1)
            graph = capture(self.model, more, fake=not self.graph.real)
        except ElastifyError:
            return None
        return self.outputs.values(graph)

    def by_place(self) -> Batch:
        """The first dimension of the first input, where nothing can be run."""
        sizes = self.free(own[0] for own in self.asked() if own)
        if not sizes:
            return _none("no input begins with a dimension that no weight has")
        count = next(iter(sizes.values()))
        found = self.batch((axis for axis, size in sizes.items() if size == count), count)
        return replace(found, doubt=f"{self.names(found.axes)} may count samples or not: {self.runs.failed}")


def _none(why: str) -> Batch:
    return Batch(doubt=f"one call is one sample: {why}")


def _counting(axis: int, count: int, size: int) -> Layout:
    return Axis(axis, count) if size == count else Product((Axis(axis, count), Axis(-1, max(1, size // count))))
