"""The search space as text: one line per kind of axis.

Axes with the same role, sizes and choices whose names differ only in numbers share a line; so do frozen dimensions
with the same reason. The order is that of the first appearance, so the text is stable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from elastify._config import pattern
from elastify._cost import human
from elastify._relation_text import describe
from elastify._wishes import ladder, match

if TYPE_CHECKING:
    from elastify._space import SearchSpace

_WIDTH = 120
_NAME = 44
_MOST = 6


def table(space: SearchSpace) -> str:
    """The whole space on lines of at most 120 characters."""
    state = "verified" if space.verified else "not verified"
    kind = "" if space.size.exact else " (a bound)"
    head = f"{space.title or 'SearchSpace'}: {space.size!s} configurations{kind}, {state}"
    sections = [[head], _axes(space), _stages(space), _frozen(space), _relations(space), _numbers(space), _costs(space)]
    return "\n".join(line[:_WIDTH].rstrip() for section in sections for line in section)


def explain(space: SearchSpace, name: str) -> str:
    """All that is known about the axes or stages that a glob matches."""
    blocks = []
    for column in match(name, space.columns):
        if column >= len(space.axes):
            stage = space.stages[column - len(space.axes)]
            lines = [
                f"{stage.name}: keeps {ladder(stage.choices)} of the {len(stage.blocks)} blocks of {stage.container}"
            ]
        else:
            axis = space.axes[column]
            lines = [f"{axis.name}: {axis.role}, {axis.size} units, choices {ladder(space.rows.choices[column])}"]
            members = _grouped(axis.members, lambda member: f"{pattern(member[0])}[{member[1]}]")
            for shared, same in members.items():
                alone = f"{same[0][0]}[{same[0][1]}]"
                lines.append(
                    f"  runs through {alone}" if len(same) == 1 else f"  runs through {shared} {_times(len(same))}"
                )
            for relation in space.rows.relations.relations:
                if column in relation.scope:
                    lines.append(f"  {relation.text}" + (f"  ({relation.source})" if relation.source else ""))
            lines += [f"  {reason}" for reason in space.reasons.get(axis.name, ())]
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def _axes(space: SearchSpace) -> list[str]:
    if not space.axes:
        return ["", "no elastic axes"]
    derived, names = space.rows.relations.derived, {axis.id: axis.name for axis in space.axes}

    def key(column: int) -> Any:
        axis = space.axes[column]
        ratio = pattern(describe(axis.derived, names)) if column in derived else ""
        return pattern(axis.name), axis.role, axis.size, tuple(space.rows.choices[column].tolist()), ratio

    groups = _grouped(range(len(space.axes)), key)
    rows = [("axis", "role", "full", "", "choices")]
    for (name, role, size, choices, ratio), columns in groups.items():
        label = space.axes[columns[0]].name if len(columns) == 1 else name
        rows.append((label, role, str(size), _times(len(columns)), ladder(choices) + (f"  = {ratio}" if ratio else "")))
    return ["", *_aligned(rows, right={2})]


def _stages(space: SearchSpace) -> list[str]:
    lines: list[str] = []
    if space.stages:
        rows: list[tuple[str, ...]] = [("stage", "blocks", "keep", "")]
        rows += [(s.name, str(len(s.blocks)), ladder(s.choices), _span(s.blocks)) for s in space.stages]
        lines = ["", *_aligned(rows, right={1})]
    if space.plan.rigid:
        lines += ["", f"rows of blocks that stay whole ({len(space.plan.rigid)})"]
        lines += [f"  {_span(rigid.blocks)}: {rigid.reason}" for rigid in space.plan.rigid]
    return lines


def _frozen(space: SearchSpace) -> list[str]:
    if not space.plan.frozen:
        return []
    groups = _grouped(space.plan.frozen, lambda dim: pattern(dim.reason))
    lines = ["", f"frozen dimensions ({len(space.plan.frozen)})"]
    for reason, dims in groups.items():
        tensors = _grouped(dims, lambda dim: f"{pattern(dim.tensor)}[{dim.dim}]")
        text = dims[0].reason if len({dim.reason for dim in dims}) == 1 else reason
        lines.append(f"  {text}  {_times(len(dims))}")
        shown = [f"{name} {_times(len(same))}".rstrip() for name, same in list(tensors.items())[:3]]
        more = f", and {len(tensors) - 3} more" if len(tensors) > 3 else ""
        lines.append(f"      {_fit(', '.join(shown), _WIDTH - 20)}{more}")
    return lines


def _relations(space: SearchSpace) -> list[str]:
    derived = len(space.rows.relations.derived)
    others = space.rows.relations.relations[derived:]
    if not others:
        return []
    groups = _grouped(others, lambda relation: pattern(relation.text))
    lines = ["", f"relations ({len(others)})"]
    for text, same in groups.items():
        source = f"  ({same[0].source})" if same[0].source else ""
        lines.append(f"  {same[0].text if len(same) == 1 else text}{source}  {_times(len(same))}")
    return lines


def _numbers(space: SearchSpace) -> list[str]:
    """Numbers that only describe the model."""
    lines = []
    for text, attrs in (
        ("numbers that forward never reads, set to the new sizes", sorted(space.plan.matched, key=str)),
        ("numbers that fit several sizes, left as they are: may be wrong in a smaller model", space.plan.unclear),
    ):
        if attrs:
            groups = _grouped(attrs, lambda attr: pattern(str(attr)))
            shown = [
                f"{name if len(same) > 1 else same[0]} {_times(len(same))}".rstrip() for name, same in groups.items()
            ]
            more = f", and {len(shown) - _MOST} more" if len(shown) > _MOST else ""
            lines += [f"{text} ({len(attrs)})", f"  {_fit(', '.join(shown[:_MOST]), _WIDTH - 20)}{more}"]
    return ["", *lines] if lines else []


def _costs(space: SearchSpace) -> list[str]:
    lines = []
    if space.cost is not None:
        costs = space.cost(np.stack([space.rows.least, space.rows.full]))
        rows: list[tuple[str, ...]] = [("cost per sample", "MACs", "parameters", "bytes", "activations")]
        for name, cost in (("min", costs[0]), ("max", costs[1])):
            rows.append((name, *(human(n) for n in (cost.macs, cost.params, cost.bytes, cost.activations))))
        share = 100 * costs[0].macs / max(1, costs[1].macs)
        lines = [
            "",
            *_aligned(rows, right={1, 2, 3, 4}),
            f"  the smallest has {share:.1f} % of the MACs of the full network",
        ]
    if space.example:
        sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in space.example.items())
        lines += ([] if lines else [""]) + [f"  one sample: {sizes}"]
    return lines


def _grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _aligned(rows: list[tuple[str, ...]], right: set[int]) -> list[str]:
    widths = [min(_NAME, max(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [_fit(cell, widths[i]) if i < len(row) - 1 or i in right else cell for i, cell in enumerate(row)]
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(cells)]
        lines.append("  " + "  ".join(cells))
    return lines


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width // 2 - 2]}...{text[len(text) - (width - width // 2 - 1) :]}"


def _times(count: int) -> str:
    return f"x{count}" if count > 1 else ""


def _span(paths: tuple[str, ...]) -> str:
    return f"{paths[0]} .. {paths[-1]}" if len(paths) > 1 else "".join(paths)
