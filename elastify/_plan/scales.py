"""Floats that are a root of a size, such as `self.scale = head_dim ** -0.5`.

Forward multiplies by a number that was computed when the model was made; no integer leads to it. So it is recognised
by its value: a float that a module multiplies with, and that is `size ** 0.5` or `size ** -0.5` of something elastic
which the module knows. The last dimensions that it computes with come first, for a scale counts what is summed up:
`num_heads` may be as large as `head_dim`. Of these the sizes of its own attributes are likelier, and attributes that
are none come last. Where two layouts of one rank have the size, neither is meant for sure, and the number stays. A
float that the recorded run did not read, because it took another path (fused attention), is recognised by its name.

What stays is listed: the other powers that a factor may be, what objects and dictionaries hold (a `config`, where a
number is more likely chosen than computed), tensors of one number, and floats of any name in code that no run has
taken.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from torch import Tensor, nn

from elastify._analysis import Analysis, operation
from elastify._capture import Code
from elastify._ir import Attr, Layout, mentions
from elastify._plan.described import Described
from elastify._plan.unread import Place, held

_BOTH, _DIMENSION, _ATTRIBUTE = 3, 2, 1  # ranks of layouts
_FOLLOWED, _LISTED = (-0.5, 0.5), (-1.0, 1.0, -0.25, 0.25)  # powers
_SCALE = re.compile(r"scal|temperature|norm_fact|sqrt", re.IGNORECASE)
_NO_SCALE = re.compile(r"drop|prob|rate|eps|momentum|^p$", re.IGNORECASE)
Sizes = dict[int, dict[Layout, int]]  # layouts with their ranks, by size


def find_scales(
    described: Described, analysis: Analysis, attributes: Mapping[Attr, Layout], elastic: Collection[int], code: Code
) -> tuple[dict[Attr, tuple[Layout, float]], dict[Attr, str]]:
    """Float attributes with the layout and the power of its size that they are, and others that may be a power of a
    size but stay, with the reason; `attributes` are elastic integers."""
    used, sizes = _used_floats(analysis), _sizes_by_module(analysis, elastic)
    for attr, layout in attributes.items():
        ranks = sizes.setdefault(attr.owner, {}).setdefault(layout.size, {})
        ranks[layout] = _ATTRIBUTE if ranks.get(layout, _ATTRIBUTE) == _ATTRIBUTE else _BOTH
    scales: dict[Attr, tuple[Layout, float]] = {}
    staying: dict[Attr, str] = {}
    for place, value, exact in _floats(described):
        modules = place.modules(sizes)
        given = next((used[path][value] for path in modules if value in used.get(path, ())), "")
        telling = bool(given or _SCALE.search(place.word))
        if not telling and _NO_SCALE.search(place.word):
            continue
        known = [sizes[path] for path in modules]
        powers = [*_powers(value, _FOLLOWED, known, exact)] or [*_powers(value, _LISTED, known, exact)]
        line = place.read(code) if powers else ""
        if not powers or (not line and (place.shared or not telling)):
            continue
        if telling and exact and not place.shared and len(powers) == 1 and powers[0][1] in _FOLLOWED:
            scales[place.attr] = powers[0]
        else:
            layout, power = powers[0]
            where = given or f"in a {'path that was not run' if exact else 'tensor'}{line and f' ({line})'}"
            staying[place.attr] = f"{value:g} may be {layout.size} ** {power:g}, {where}"
    return scales, staying


def _powers(
    value: float, powers: Collection[float], known: Sequence[Sizes], exact: bool
) -> Iterator[tuple[Layout, float]]:
    """Of which layouts' sizes a number is a power: those of the highest rank."""
    for power in powers:
        size = round(value ** (1 / power))
        if size > 1 and abs(size**power - value) < (1e-9 if exact else 1e-6) * value:
            ranks = {layout: rank for sizes in known for layout, rank in sizes.get(size, {}).items()}
            yield from ((layout, power) for layout, rank in ranks.items() if rank == max(ranks.values()))


def _floats(described: Described) -> Iterator[tuple[Place, float, bool]]:
    """Floats that may be a power of a size, and whether they are exact: not in a tensor, where nothing sets them."""
    for place, value in held(described):
        exact = type(value) is float
        if isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point() and not value.is_meta:
            value = 0.0 if isinstance(value, nn.Parameter) else float(value)
        if type(value) is float and 1e-6 < value < 1e6:
            yield place, value, exact


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


def _sizes_by_module(analysis: Analysis, elastic: Collection[int]) -> dict[str, Sizes]:
    """Elastic layouts of the last dimensions that each module computes with."""
    sizes: dict[str, Sizes] = {}
    for dims, graph in zip(analysis.dims, analysis.graphs, strict=True):
        sizes.update((call.path, {}) for call in graph.modules if call.path not in sizes)
        for call in graph.calls:
            for term in {term.id: term for v in call.inputs() for term in dims.get(v.id, ())[-1:]}.values():
                layout = analysis.terms.resolve(term)
                if mentions(layout, elastic):
                    sizes.setdefault(call.where, {}).setdefault(layout.size, {})[layout] = _DIMENSION
    return sizes
