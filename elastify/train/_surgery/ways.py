"""Ways through a sequence of pieces as one elastic axis, ordered by what they cost.

A way is a subset of the pieces, in their order. The costs of a way are the sums over its pieces, each counted once on
one sample; so the axis has no equations, only a table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from elastify._capture import Example, capture
from elastify._errors import ElastifyError
from elastify._ir import ElasticAxis, Plan
from elastify._plan import norm_statistics
from elastify._rewrite import elastic_state, install
from elastify._space import STATE, Cost, CostModel, SearchSpace, State, itemsize
from elastify._verbs import activate
from elastify.train._evaluate import evaluating

Way = tuple[int, ...]


def trace(pieces: Sequence[nn.Module], x: Any) -> list[Tensor]:
    """What every piece gives, in evaluation mode; the modes are as before."""
    outputs: list[Tensor] = []
    with evaluating(nn.ModuleList(pieces)):
        for piece in pieces:
            x = piece(x)
            if not isinstance(x, Tensor):
                raise ElastifyError(
                    f"a piece returns a {type(x).__name__}", where=type(piece).__name__, why="no tensor"
                )
            outputs.append(x)
    return outputs


class _Ways(CostModel):
    """Exact costs of the ways: sums over their pieces, each counted on one sample. `elements` are the sizes of tensors
    by name; the first part of a name is the number of the piece."""

    def __init__(self, costs: Cost, ways: Sequence[Way], elements: Mapping[str, int]) -> None:
        self._costs, self._ways, self._elements = costs, ways, elements

    def in_dtypes(self, key: Hashable, named: Callable[[], Mapping[str, str]]) -> _Ways:
        pieces, dtypes = Counter[int](), named()
        for name, many in self._elements.items():
            pieces[int(name.partition(".")[0])] += many * itemsize(dtypes[name])
        sums = np.array([sum(pieces[number] for number in way) for way in self._ways], np.int64)
        return _Ways(replace(self._costs, bytes=sums), self._ways, self._elements)

    def __call__(self, encoded: Any) -> Cost:
        rows = np.asarray(encoded)[:, 0] - 1
        return self._costs[rows]

    def of(self, config: Any = None) -> Cost:
        return self._costs[-1 if config is None else config.sizes["stitch"] - 1]


def choose_way(model: nn.Sequential, ways: list[Way], x: Tensor, largest: Way) -> nn.Sequential:
    """The pieces, with the way through them as an axis; ways that cost more than `largest` are left out."""
    pieces: dict[int, tuple[int, ...]] = {}
    for way in ways:
        for number, value in zip(way, [x, *trace([model[n] for n in way], x)], strict=False):
            if number not in pieces:
                graph = capture(model[number], Example((value,)))
                names = [name for name, _ in model[number].named_parameters()]
                counted = CostModel(graph, {}, Plan(), parameters=names).of()
                pieces[number] = tuple(value for _, value in counted.items())
    sums = {way: tuple(map(sum, zip(*(pieces[n] for n in way), strict=True))) for way in ways}
    kept = sorted((way for way in ways if sums[way] < sums[largest] or way == largest), key=sums.__getitem__)
    used = sorted(set().union(*kept))
    model, size = nn.Sequential(*(model[number] for number in used)), len(kept)
    axis = ElasticAxis(0, "stitch", size, tuple(range(1, size + 1)), "stitch")
    paths = {"": (0, tuple(tuple(map(used.index, way)) for way in kept))}
    install(model, Plan((axis,), statistics=norm_statistics(model), paths=paths))
    table = np.array([sums[way] for way in kept], np.int64)
    tensors = (*model.named_parameters(), *model.named_buffers())
    costs = _Ways(Cost(*table.T), [tuple(map(used.index, way)) for way in kept], {n: t.numel() for n, t in tensors})
    plan = elastic_state(model).plan
    where = SearchSpace(plan, verified=True, title="stitched", example={"input": tuple(x.shape[1:])}, cost=costs)
    model.__dict__[STATE] = State(where, costs)
    activate(model, None)
    return model
