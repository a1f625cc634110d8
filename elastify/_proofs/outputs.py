"""What a model hands out, and what of it stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from elastify._analysis import Analysis
from elastify._capture import results
from elastify._ir import Graph, Layout, Value


@dataclass(frozen=True)
class Outputs:
    """All that a model returns, but the entries that expose its inside (`hidden`); `keep` says that their dimensions do
    not move."""

    hidden: frozenset[str]
    keep: bool

    def values(self, graph: Graph) -> list[Value]:
        """The outputs in a record."""
        return list(graph.results(self.hidden)) if graph.modules else graph.outputs

    def fixed(self, graph: Graph) -> list[Value]:
        """Those whose dimensions do not move."""
        return self.values(graph) if self.keep else []

    def tensors(self, result: Any) -> list[Tensor]:
        """The outputs in what forward returned."""
        return list(results(result, self.hidden))

    def moving(self, analysis: Analysis, training: bool, example: int = 0) -> list[tuple[Layout, ...]]:
        """Layouts of the outputs for an example in a mode, where they may move with the axes."""
        if self.keep:
            return []
        runs = [i for i, graph in enumerate(analysis.graphs) if graph.example == example]
        index = next((i for i in runs if analysis.graphs[i].training is training), runs[0])  # which may do the same
        dims = analysis.dims[index]
        return [tuple(map(analysis.terms.resolve, dims[value.id])) for value in self.values(analysis.graphs[index])]
