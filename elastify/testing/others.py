"""Examples of other sizes: what a network does at another length, picture size or batch.

Equality at the example says nothing of rows of a table that only a longer input reads. So every dimension of the inputs
is made larger, or smaller where the model does not run on that: all that no weight has at once, else one by one, and
the samples. The numbers are those of the example, repeated. What the model does not run on is no example.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice

import torch
from torch import Tensor, nn

from elastify._analysis import Analysis
from elastify._capture import Example, tensors_by_name
from elastify._proofs import Batch

Dims = Mapping[int, Mapping[int, int]]
"""By the id of a tensor and its dimension, the axis whose places it counts."""
_CHANGES = ((1.5, 0), (2, 0), (1, 1), (0.5, 0), (1, -1))  # factors, and what is added


def other_examples(
    model: nn.Module, analysis: Analysis, index: int, batch: Batch, example: Example
) -> Iterator[tuple[str, Example, bool]]:
    """Examples of other sizes that the model runs on, each after a text; last whether only the samples are others.
    Graph `index` is the record of the example."""
    dims = _dims(model, analysis, index, example)
    found = {ident for own in dims.values() for ident in own.values()}
    samples, places = sorted(found & batch.axes), sorted(found - batch.axes - analysis.fixed)
    together = list(islice(_running(model, example, dims, places), 1))
    alone = found & analysis.fixed if together else found - batch.axes  # what seems fixed may be a mistake
    yield from ((*pair, False) for pair in together)
    for group in (*([ident] for ident in sorted(alone)), samples):
        yield from ((*pair, group is samples) for pair in islice(_running(model, example, dims, group), 1))


def _dims(model: nn.Module, analysis: Analysis, index: int, example: Example) -> Dims:
    terms, named = analysis.terms, tensors_by_name(model, example)
    found: dict[int, dict[int, int]] = {}
    for value in analysis.graphs[index].inputs:
        for dim, term in enumerate(analysis.dims[index][value.id]):
            term = terms.find(term)
            if value.name in named and term.kind == "leaf" and term.size > 1:
                found.setdefault(id(named[value.name]), {})[dim] = term.id
    return found


def _running(model: nn.Module, example: Example, dims: Dims, group: Collection[int]) -> Iterator[tuple[str, Example]]:
    """The example with the axes of a group at half as much again, twice as much, one more, half and one less."""
    for factor, more in _CHANGES if group else ():

        def resized(tensor: Tensor, factor: float = factor, more: int = more) -> Tensor:
            for dim, ident in dims.get(id(tensor), {}).items():
                if ident in group:
                    size = tensor.size(dim)
                    index = torch.arange(max(1, int(size * factor) + more), device=tensor.device) % size
                    tensor = tensor.index_select(dim, index)
            return tensor

        other = example.mapped(resized)
        try:
            with torch.no_grad():
                other(model)
        except Exception:  # noqa: BLE001 - whatever the model says, it does not run on this
            continue
        sizes = ", ".join("x".join(map(str, tensor.shape)) for tensor in other.tensors())
        yield sizes, other
