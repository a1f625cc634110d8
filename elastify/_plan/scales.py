"""Float attributes that are a root of a size, such as `self.scale = head_dim ** -0.5`.

Forward multiplies by a number that was computed when the model was made; no integer leads to it. So it is recognised
by its value: a float that a module multiplies with, and that is `size ** 0.5` or `size ** -0.5` of something elastic
which the module knows. The sizes of its own attributes come first, then those of the last dimensions that it computes
with. Where two layouts of one rank have the size, neither is meant for sure, and the number stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from elastify._analysis import Analysis, operation
from elastify._capture import resolve
from elastify._ir import Attr, Layout, mentions

_ATTRIBUTE, _DIMENSION = 2, 1  # ranks of layouts
Sizes = dict[str, dict[int, dict[Layout, int]]]  # by module and size, layouts with their ranks


def find_scales(
    model: nn.Module, analysis: Analysis, attributes: Mapping[Attr, Layout], elastic: Collection[int]
) -> dict[Attr, tuple[Layout, float]]:
    """Float attributes with the layout and the power of its size that they are; `attributes` are elastic integers."""
    used = _used_floats(analysis)
    owners = [path for path, floats in used.items() if floats & _floats(resolve(model, path)).keys()]
    sizes = _sizes_by_module(analysis, elastic, owners)
    for attr, layout in attributes.items():
        sizes.setdefault(attr.owner, {}).setdefault(layout.size, {})[layout] = _ATTRIBUTE
    scales: dict[Attr, tuple[Layout, float]] = {}
    for path in sorted(owners):
        for value, name in _floats(model.get_submodule(path)).items():
            if value not in used[path]:
                continue
            for power in (-0.5, 0.5):
                size = round(value ** (1 / power))
                if size > 1 and abs(size**power - value) < 1e-9 * value:
                    ranks = sizes.get(path, {}).get(size, {})
                    best = [layout for layout, rank in ranks.items() if rank == max(ranks.values())]
                    if len(best) == 1:
                        scales[Attr(path, name)] = (best[0], power)
    return scales


def _used_floats(analysis: Analysis) -> dict[str, set[float]]:
    """Floats that each module multiplies with."""
    used: dict[str, set[float]] = {}
    for graph in analysis.graphs:
        for call in graph.calls:
            if operation(call.op).scales:
                numbers = (*call.args, *call.kwargs.values())
                used.setdefault(call.where, set()).update(n for n in numbers if isinstance(n, float))
    return used


def _sizes_by_module(analysis: Analysis, elastic: Collection[int], owners: Collection[str]) -> Sizes:
    """Elastic layouts of the last dimensions that each module computes with."""
    sizes: Sizes = {}
    for dims, graph in zip(analysis.dims, analysis.graphs, strict=True):
        for call in graph.calls:
            if call.where not in owners:
                continue
            for value in call.inputs():
                for term in dims.get(value.id, ())[-1:]:
                    layout = analysis.terms.resolve(term)
                    if mentions(layout, elastic):
                        sizes.setdefault(call.where, {}).setdefault(layout.size, {})[layout] = _DIMENSION
    return sizes


def _floats(module: nn.Module) -> dict[float, str]:
    """Positive float attributes of a module, by value."""
    return {value: name for name, value in vars(module).items() if type(value) is float and value > 0}
