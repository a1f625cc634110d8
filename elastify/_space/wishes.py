"""What a user asks of a configuration, read into targets per column.

A wish is a glob over names of axes and stages with a ratio (rounded up to the next legal choice, and only a
preference where relations forbid it), an exact int (a pin), or for a stage the block indices to keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np

from elastify._errors import ElastifyError
from elastify._ir import Stage
from elastify._plan import ceil_ratio, is_int
from elastify._space.rows import Rows

_WISHED = 100.0


@dataclass(slots=True)
class Wishes:
    """Target row; weight and pin per axis; kept blocks per stage."""

    targets: np.ndarray
    weights: np.ndarray
    pins: np.ndarray
    kept: list[frozenset[int]] = field(default_factory=list)


def read_wishes(rows: Rows, wishes: Mapping[str, Any] | float | int) -> Wishes:
    """The wishes of a mapping from globs to sizes, or of a single ratio for everything."""
    if not isinstance(wishes, Mapping):
        wishes = {"*": _ratio(wishes, "")}
    plan, n_axes = rows.plan, rows.n_axes
    names = [*(axis.name for axis in plan.axes), *(stage.name for stage in plan.stages)]
    read = Wishes(rows.full.astype(float), np.ones(n_axes), np.zeros(n_axes, bool))
    read.kept = [frozenset(range(int(n))) for n in rows.full[n_axes:]]
    former = [(*old, *names[n_axes:]) for old in zip(*(axis.former for axis in plan.axes), strict=True)]
    for pattern, value in wishes.items():
        found = match(pattern, names, former)
        shares = {} if is_int(value) else _dealt(rows, value, pattern, [c for c in found if c < n_axes])
        for column in found:
            if column >= n_axes:
                blocks = _blocks(rows, column, value, names[column])
                read.kept[column - n_axes] = blocks
                read.targets[column] = len(blocks)
            elif is_int(value) or column in shares:
                wanted = shares.get(column, value)
                read.targets[column] = _target(rows.choices[column], wanted, names[column], int(rows.full[column]))
                read.pins[column] = is_int(value)
                read.weights[column] = _WISHED
    return read


def _dealt(rows: Rows, value: Any, pattern: str, columns: Sequence[int]) -> dict[int, float]:
    """The share of each of some axes where their dimensions shall keep a ratio, of those that are asked for any."""
    if not columns:
        return {}
    axes = {rows.plan.axes[column].id: column for column in columns}
    least = {ident: rows.choices[column][0] / rows.full[column] for ident, column in axes.items()}
    dealt = rows.shares.deal(_ratio(value, pattern), axes, least)
    whole = {axis.id for axis in rows.plan.axes if axis.whole and rows.shares.is_finer(axis.id, axes)}
    if not rows.shares.names_head_dim(axes):
        whole |= {axis.id for axis in rows.plan.axes if axis.role == "head_dim"}
    return {axes[ident]: share for ident, share in dealt.items() if ident not in whole}


def match(pattern: Any, names: Sequence[str], former: Iterable[Sequence[str]] = ()) -> list[int]:
    """Positions of the names that a glob matches (an exact name matches itself, whatever characters it has).

    Where it matches none, `former` names of the same things are tried.
    """
    if not isinstance(pattern, str):
        raise ElastifyError(f"{pattern!r} is not a pattern", fix='config({"*.mlp.hidden": 0.5})')
    for spelled in (names, *former):
        found = [position for position, name in enumerate(spelled) if name == pattern]
        found = found or [position for position, name in enumerate(spelled) if fnmatchcase(name, pattern)]
        if found:
            return found
    near = nearest(pattern, names)
    raise ElastifyError(
        f"{pattern!r} matches no axis and no stage",
        why=f"there are {len(names)}, such as {', '.join(near)}" if near else "there are none",
        fix="print(space(model)) lists them",
    )


def nearest(pattern: str, names: Iterable[str], n: int = 4) -> list[str]:
    """The names most like a pattern."""
    names = list(names)
    stem = pattern.replace("*", "").strip(".")
    inside = [name for name in names if stem and (stem in name or name in stem)]
    close = get_close_matches(pattern, names, n, 0.4) or get_close_matches(stem, names, n, 0.3)
    return list(dict.fromkeys([*close, *inside, *names]))[:n]


def legal_choices(choices: Iterable[int]) -> str:
    """The legal choices in words.

    >>> legal_choices([8, 16, 24, 32]), legal_choices([1, 2, 6])
    ('legal: 8..32 step 8', 'legal: 1, 2, 6')
    """
    return f"legal: {ladder(choices)}"


def ladder(choices: Iterable[int]) -> str:
    """Choices, shortened where they are evenly spaced (but for the last).

    >>> ladder([16, 24, 32, 40, 50]), ladder(range(3, 13)), ladder([7])
    ('16..40 step 8, 50', '3..12', '7')
    """
    sizes = [int(choice) for choice in choices]
    steps = {b - a for a, b in pairwise(sizes)}
    if len(sizes) > 3 and len(steps) == 1:
        step = steps.pop()
        return f"{sizes[0]}..{sizes[-1]}" + (f" step {step}" if step > 1 else "")
    if len(sizes) > 4 and len({b - a for a, b in pairwise(sizes[:-1])}) == 1:
        return f"{ladder(sizes[:-1])}, {sizes[-1]}"
    if len(sizes) > 12:
        return f"{', '.join(map(str, sizes[:5]))}, ..., {', '.join(map(str, sizes[-3:]))} ({len(sizes)} choices)"
    return ", ".join(map(str, sizes))


def cannot_keep(kept: Iterable[Any], stage: Stage) -> ElastifyError:
    """The error for blocks of a stage that are not a legal selection."""
    order = "the first blocks" if stage.prefix else f"ascending, begin with 0, below {len(stage.blocks)}"
    legal = f"{order}; number of blocks {legal_choices(stage.choices)}"
    return ElastifyError(f"blocks {list(kept)} cannot be kept", where=stage.name, why=stage.prefix, fix=legal)


def conflict(rows: Rows, read: Wishes) -> ElastifyError:
    """Why exact sizes cannot be met together: the first whose release would help, with what it could be instead."""
    names = [axis.name for axis in rows.plan.axes]
    for column in np.flatnonzero(read.pins)[::-1]:
        pins = read.pins.copy()
        pins[column] = False
        if rows.fit_wishes(read.targets[None], weights=read.weights, pins=pins, solve=True) is None:
            continue
        legal = []
        for size in rows.choices[column]:
            targets = read.targets.copy()
            targets[column] = size
            if rows.fit_wishes(targets[None], weights=read.weights, pins=read.pins, solve=True) is not None:
                legal.append(int(size))
        tied = [relation for relation in rows.relations.relations if column in relation.scope]
        return ElastifyError(
            f"{names[column]} = {int(read.targets[column])} does not fit the other sizes",
            where=tied[0].source if tied else "",
            why="; ".join(relation.text for relation in tied[:3]),
            fix=f"{names[column]} with the others: {legal_choices(legal)}",
        )
    pinned = ", ".join(f"{names[column]}={int(read.targets[column])}" for column in np.flatnonzero(read.pins))
    return ElastifyError("no configuration has all of these sizes", why=pinned, fix="ask for ratios instead")


def _target(choices: np.ndarray, value: Any, name: str, full: int) -> int:
    if is_int(value):
        if value not in choices:
            fix = f"{legal_choices(choices)}{'; or 1.0, which is all of it' if value == 1 else ''}"
            raise ElastifyError(f"{value} is not a legal size", where=name, fix=fix)
        return int(value)
    wanted = ceil_ratio(_ratio(value, name), full)
    return int(choices[np.searchsorted(choices, wanted)])


def _blocks(rows: Rows, column: int, value: Any, name: str) -> frozenset[int]:
    stage = rows.plan.stages[column - rows.n_axes]
    if isinstance(value, (tuple, list, range)):
        kept = [int(block) for block in value if is_int(block)]
        if len(kept) < len(value) or not stage.allows(kept):
            raise cannot_keep(value, stage)
        return frozenset(kept)
    return frozenset(range(_target(rows.choices[column], value, name, stage.choices[-1])))


def _ratio(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= 1:
        raise ElastifyError(
            f"{value!r} is not a ratio",
            where=name,
            why="a float is a share of the full size, an int a number of units",
            fix="a float above 0 and at most 1, or an int in a mapping of names to sizes"
            + ("" if name else ', such as {"*.hidden": 0.5, "blocks": 4}; or a SubnetConfig'),
        )
    return float(value)
