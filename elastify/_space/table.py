"""The search space as text: one line per kind of axis.

Axes with the same role, sizes and choices whose names differ only in numbers share a line; so do frozen dimensions
with the same kind of reason. The order is that of the first appearance, so the text is stable.
"""

from __future__ import annotations

import fnmatch
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from elastify._space.config import pattern
from elastify._space.metrics import METRICS, human
from elastify._space.wishes import ladder, match

if TYPE_CHECKING:
    from elastify._space.space import SearchSpace

_WIDTH = 120
_NAME = 64
_DEFAULTS = {"freeze": (), "choices": None, "min_ratio": 0.25, "multiple_of": None, "depth": True, "keep_outputs": True}
_LISTED = 6  # globs of one line
_WHOLE: Any = {"break_long_words": False, "break_on_hyphens": False}  # names are never cut: people paste them
_DIGITS = re.compile(r"\d+")
_BLOCKS = re.compile(r"(?<=\.)\d+(?=\.)")


def table(space: SearchSpace) -> str:
    """The whole space, on lines of 120 characters where names are not longer."""
    state = "verified" if space.verified else "not verified"
    kind = "" if space.size.exact else " (a bound)"
    head = f"{space.title or 'SearchSpace'}: {space.size!s} configurations{kind}, {state}"
    sections = [
        [head, *_asked(space)],
        _axes(space),
        _whole(space),
        _stages(space),
        _frozen(space),
        _relations(space),
        _numbers(space),
        _branches(space),
        _costs(space),
    ]
    return "\n".join(line.rstrip() for section in sections for line in section)


def explain(space: SearchSpace, name: str) -> str:
    """All that is known about the axes or stages that a glob matches."""
    blocks = []
    for column in match(name, space.columns):
        if column >= len(space.axes):
            stage = space.stages[column - len(space.axes)]
            lines = [
                f"{stage.name}: keeps {ladder(stage.choices)} of the {len(stage.blocks)} blocks of {stage.container}"
            ]
            lines += [f"  the first blocks only: {stage.prefix}"] if stage.prefix else []
            lines += [f"  with them goes {path}" for path in space.plan.beside(stage.blocks)]
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


def _asked(space: SearchSpace) -> list[str]:
    """What `elastify` was asked for, where that is not the default."""
    shown = {name: value for name, value in space.asked.items() if _DEFAULTS.get(name, value) != value}
    return [f"asked: {name}={value!r}" for name, value in shown.items()]


def _axes(space: SearchSpace) -> list[str]:
    drawn = [column for column, axis in enumerate(space.axes) if not axis.whole]
    if not drawn:
        return ["", "no elastic axes"]

    def key(column: int) -> Any:
        axis = space.axes[column]
        return _shape(axis.name), axis.role, axis.size, tuple(space.rows.choices[column].tolist())

    groups = _grouped(drawn, key)
    rows = [("axis", "role", "full", "", "choices")]
    for (_, role, size, choices), columns in groups.items():
        own = [space.axes[column].name for column in columns]
        found = globs(own, sorted(set(space.columns).difference(own)))
        label = ", ".join(found[:_LISTED]) + (f", and {len(found) - _LISTED} more" if len(found) > _LISTED else "")
        rows.append((label, role, str(size), _times(len(columns)), ladder(choices)))
    return ["", *_aligned(rows, right={2})]


def _whole(space: SearchSpace) -> list[str]:
    """Axes that only those who name them make smaller."""
    columns = [column for column, axis in enumerate(space.axes) if axis.whole]
    if not columns:
        return []
    groups = _grouped(columns, lambda c: (_shape(space.axes[c].name), tuple(space.rows.choices[c].tolist())))
    labels = [
        f"{_starred([space.axes[c].name for c in same])} {ladder(own)} {_times(len(same))}"
        for (_, own), same in groups.items()
    ]
    return [
        "",
        "they stay whole unless a pattern matches them alone: ratios are for the coarser axes of their dimensions",
        f"  {_list(labels)}",
    ]


def _stages(space: SearchSpace) -> list[str]:
    lines: list[str] = []
    if space.stages:
        rows: list[tuple[str, ...]] = [("stage", "blocks", "keep", "")]
        for stage in space.stages:
            beside = list(dict.fromkeys(map(_shape, space.plan.beside(stage.blocks))))
            span = _span(stage.blocks) + (f", with {_list(beside)}" if beside else "")
            rows.append((stage.name, str(len(stage.blocks)), ladder(stage.choices), span))
        lines = ["", *_aligned(rows, right={1})]
    limited = [stage for stage in space.stages if stage.prefix]
    if limited:
        lines += ["", f"stages that keep only their first blocks, in numbers that were tested ({len(limited)})"]
        lines += _wrapped(f"{stage.name}: {stage.prefix}" for stage in limited)
    if space.plan.rigid:
        lines += ["", f"rows of blocks that cannot be shortened ({len(space.plan.rigid)})"]
        lines += _wrapped(f"{_span(rigid.blocks)}: {rigid.reason}" for rigid in space.plan.rigid)
    return lines


def _wrapped(texts: Iterable[str]) -> list[str]:
    """Texts on as many lines as they need: they end with file and line."""
    indent: Any = {"initial_indent": "  ", "subsequent_indent": "      "}
    return [line for text in texts for line in textwrap.wrap(text, _WIDTH, **indent, **_WHOLE)]


def _frozen(space: SearchSpace) -> list[str]:
    if not space.plan.frozen:
        return []
    groups = _grouped(space.plan.frozen, lambda dim: dim.reason.partition(": ")[0])
    lines = ["", f"frozen dimensions ({len(space.plan.frozen)})"]
    for reason, dims in groups.items():
        place = dims[0].reason.partition(": ")[2]
        alike = len({dim.reason for dim in dims}) == 1
        first = f"{': ' if alike else ', first: '}{place}" if place else ""
        lines += _wrapped([reason + first + _times(len(dims), 2)])
        tensors = _grouped(dims, lambda dim: (_shape(dim.tensor), dim.dim))
        labels = [f"{_starred([d.tensor for d in same])}[{n}] {_times(len(same))}" for (_, n), same in tensors.items()]
        lines.append(f"      {_list(labels)}")
    return lines


def _relations(space: SearchSpace) -> list[str]:
    relations = space.rows.relations.relations
    if not relations:
        return []
    groups = _grouped(relations, lambda relation: pattern(relation.text))
    lines = ["", f"relations ({len(relations)})"]
    for text, same in groups.items():
        source = f"  ({same[0].source})" if same[0].source else ""
        lines += _wrapped([f"{same[0].text if len(same) == 1 else text}{source}  {_times(len(same))}"])
    return lines


def _numbers(space: SearchSpace) -> list[str]:
    """Numbers that only describe the model, and buffers that forward writes."""
    lines = []
    for text, attrs in (
        ("numbers matched by name and size, set to the new sizes", sorted(space.plan.matched, key=str)),
        ("numbers that fit several sizes, right only where these are equal", list(space.plan.unclear)),
        ("statistics, which each configuration has for itself", sorted(space.plan.statistics)),
        ("buffers that forward writes, shared: a subnet writes its active units", sorted(space.plan.written)),
    ):
        if attrs:
            groups = _grouped(map(str, attrs), _shape)
            labels = [f"{_starred(same)} {_times(len(same))}" for same in groups.values()]
            lines += [f"{text} ({len(attrs)})", f"  {_list(labels)}"]
    staying = {str(attr): place for attr, place in space.plan.staying.items()}
    if staying:
        lines += [f"numbers that stay, though forward may compute with them ({len(staying)})"]
        groups = _grouped(staying, _shape)
        lines += _wrapped(f"{_starred(same)}: {staying[same[0]]}{_times(len(same), 2)}" for same in groups.values())
    return ["", *lines] if lines else []


def _branches(space: SearchSpace) -> list[str]:
    """What only other inputs would run."""
    if not space.plan.branches:
        return []
    groups = _grouped(space.plan.branches, lambda text: _BLOCKS.sub("*", text))
    lines = ["", f"branches of which one side was run, the other is not proven ({len(groups)})"]
    return [*lines, *_wrapped(f"{text}{_times(len(same), 2)}" for text, same in groups.items())]


def _costs(space: SearchSpace) -> list[str]:
    lines = []
    if space.cost is not None:
        costs = space.cost(np.stack([space.rows.least, space.rows.full]))
        rows: list[tuple[str, ...]] = [("cost per sample", *(metric.title for metric in METRICS.values()))]
        for name, cost in (("min", costs[0]), ("max", costs[1])):
            rows.append((name, *(human(n) for _, n in cost.items())))
        share = 100 * costs[0].macs / max(1, costs[1].macs)
        lines = [
            "",
            *_aligned(rows, right={*range(1, 1 + len(METRICS))}),
            f"  the smallest has {share:.1f} % of the MACs of the full network",
        ]
    if space.example:
        sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in space.example.items())
        lines += [] if lines else [""]
        lines += _wrapped([f"one sample: {sizes}", *filter(None, [space.doubt])])
    return lines


def _grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _shape(name: str) -> str:
    """A name with all its numbers replaced: what names must share to share a line."""
    return _DIGITS.sub("*", name)


def globs(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """The fewest globs that match these names, alike but for numbers, and no others.

    >>> globs(["a.1.b", "a.2.b"], ["a.1.c"]), globs(["a.1.0.b", "a.1.5.b", "a.2.5.b"], ["a.2.0.b"])
    (['a.*.b'], ['a.1.*.b', 'a.2.5.b'])
    """
    rows = [_DIGITS.findall(name) for name in names]
    moving = [i for i, column in enumerate(zip(*rows, strict=True)) if len(set(column)) > 1]
    glob = _starred(names)
    if not moving or not fnmatch.filter(others, glob):
        return [glob]
    parts = _grouped(zip(names, rows, strict=True), lambda pair: pair[1][moving[0]])
    return [glob for part in parts.values() for glob in globs([name for name, _ in part], others)]


def _starred(names: Sequence[str]) -> str:
    """Names of one shape in one, with stars for the numbers that differ."""
    texts, columns = _DIGITS.split(names[0]), zip(*map(_DIGITS.findall, names), strict=True)
    numbers = [column[0] if len(set(column)) == 1 else "*" for column in columns]
    return "".join(a + b for a, b in zip(texts, [*numbers, ""], strict=True))


def _list(items: Sequence[str]) -> str:
    """As many items as fit a line, at least one."""
    shown, length = [], 0
    for item in map(str.rstrip, items):
        length += len(item) + 2
        if shown and length > _WIDTH - 24:
            break
        shown.append(item)
    more = f", and {len(items) - len(shown)} more" if len(items) > len(shown) else ""
    return ", ".join(shown) + more


def _aligned(rows: list[tuple[str, ...]], right: set[int]) -> list[str]:
    """Rows in columns; a first cell that is too long has lines for itself."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths[0] = max(len(row[0]) for row in rows if len(row[0]) <= _NAME)
    lines = []
    for row in rows:
        if len(row[0]) > widths[0]:
            lines += textwrap.wrap(row[0], _WIDTH, initial_indent="  ", subsequent_indent="  ", **_WHOLE)
            row = ("", *row[1:])
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        lines.append("  " + "  ".join(cells))
    return lines


def _times(count: int, space: int = 0) -> str:
    return f"{' ' * space}x{count}" if count > 1 else ""


def _span(paths: tuple[str, ...]) -> str:
    return f"{paths[0]} .. {paths[-1]}" if len(paths) > 1 else "".join(paths)
