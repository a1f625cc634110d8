"""Float attributes that are a root of a size, such as `self.scale = head_dim ** -0.5`.

Forward multiplies by a number that was computed when the model was made; no integer leads to it. So it is recognised
by its value: a float that a module multiplies with, and that is `size ** 0.5` or `size ** -0.5` of something elastic
which the module knows. The sizes of its own attributes come first, then those of the last dimensions that it computes
with. Where two layouts of one rank have the size, neither is meant for sure, and the number stays. A float that the
recorded run did not read, because it took another path (fused attention), is recognised by its name as well.

What stays is listed, with the other powers that a factor may be.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from torch import nn

from elastify._analysis import Analysis, operation
from elastify._ir import Attr, Layout, mentions

_ATTRIBUTE, _DIMENSION = 2, 1  # ranks of layouts
_FOLLOWED, _LISTED = (-0.5, 0.5), (-1.0, 1.0, -0.25, 0.25)  # powers
_SCALE = re.compile(r"scal|temperature|norm_fact|sqrt", re.IGNORECASE)
Sizes = dict[str, dict[int, dict[Layout, int]]]  # by module and size, layouts with their ranks


def find_scales(
    model: nn.Module, analysis: Analysis, attributes: Mapping[Attr, Layout], elastic: Collection[int]
) -> tuple[dict[Attr, tuple[Layout, float]], dict[Attr, str]]:
    """Float attributes with the layout and the power of its size that they are, and others that may be a power of a
    size but stay, with the reason; `attributes` are elastic integers."""
    used = _used_floats(analysis)
    floats = {path: own for path, module in model.named_modules() if (own := _floats(module))}
    sizes = _sizes_by_module(analysis, elastic, floats)
    for attr, layout in attributes.items():
        sizes.setdefault(attr.owner, {}).setdefault(layout.size, {})[layout] = _ATTRIBUTE
    scales: dict[Attr, tuple[Layout, float]] = {}
    staying: dict[Attr, str] = {}
    for path, own in floats.items():
        for name, value in own.items():
            place = used.get(path, {}).get(value, "")
            if not place and not _SCALE.search(name):
                continue
            found = list(_powers(value, _FOLLOWED, sizes.get(path, {})))
            if len(found) == 1:
                scales[Attr(path, name)] = found[0]
            elif found := found or list(_powers(value, _LISTED, sizes.get(path, {}))):
                layout, power = found[0]
                staying[Attr(path, name)] = (
                    f"{value:g} may be {layout.size} ** {power:g}, {place or 'in a path that was not run'}"
                )
    return scales, staying


def _powers(
    value: float, powers: Collection[float], sizes: Mapping[int, Mapping[Layout, int]]
) -> Iterator[tuple[Layout, float]]:
    """Of which layouts' sizes a number is a power: those of the highest rank."""
    for power in powers:
        size = round(value ** (1 / power))
        if size > 1 and abs(size**power - value) < 1e-9 * value:
            ranks = sizes.get(size, {})
            yield from ((layout, power) for layout, rank in ranks.items() if rank == max(ranks.values()))


def _used_floats(analysis: Analysis) -> dict[str, dict[float, str]]:
    """Floats that each module multiplies with, and where."""
    used: dict[str, dict[float, str]] = {}
    for graph in analysis.graphs:
        for call in graph.calls:
            if operation(call.op).scales:
                for number in (*call.args, *call.kwargs.values()):
                    if isinstance(number, float):
                        used.setdefault(call.where, {}).setdefault(number, f"{call.op} in {call.source}")
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


def _floats(module: nn.Module) -> dict[str, float]:
    """Float attributes of a module that may be a power of a size."""
    return {name: value for name, value in vars(module).items() if type(value) is float and 1e-6 < value < 1e6}
