"""What the user asked for: globs of names and module paths, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from elastify._errors import ElastifyError
from elastify._ir import ElasticAxis, Shares
from elastify._plan.choices import build_choices, explicit_size, is_int, smallest_share


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; see `elastify.elastify`. With `every_axis` each is asked as if it were named alone."""

    freeze: tuple[str, ...] = ()
    choices: Mapping[str, Sequence[int | float]] | None = None
    min_ratio: float | Mapping[str, float] = 0.25
    multiple_of: int | None = None
    depth: bool = True
    every_axis: bool = False

    def __post_init__(self) -> None:
        wrong = [pattern for pattern in self.freeze if not isinstance(pattern, str)]
        if wrong:
            raise ElastifyError(f"freeze has {wrong[0]!r}, which is no pattern", fix='freeze=["head", "*.heads"]')
        asked = {} if self.choices is None else self.choices
        if not isinstance(asked, Mapping) or not all(isinstance(own, Sequence) for own in asked.values()):
            raise ElastifyError(
                f"choices={asked!r} is no mapping to lists", fix="choices={'*.hidden': [64, 128, 0.75]}"
            )

    def frozen_by(self, *names: str) -> str | None:
        """The first pattern that asks for something under one of these names to stay as it is."""
        return next((pattern for pattern in self.freeze if matches(pattern, *names)), None)

    def explicit(self, name: str) -> Sequence[int | float] | None:
        """The choices that were asked for."""
        pattern = _last(self.choices or (), name)
        return None if pattern is None else (self.choices or {})[pattern]

    def alone(self, name: str, size: int, role: str) -> tuple[int, ...]:
        """Legal sizes of an axis or stage of that name by itself, in ascending order; the last is `size`."""
        step = None if role == "depth" else self.multiple_of
        return build_choices(size, role, self._ratio(name)[1], step, self.explicit(name), name=name)

    def sizes(self, axes: Sequence[ElasticAxis], shares: Shares) -> dict[int, tuple[int, ...]]:
        """Legal sizes of axes that share dimensions, by id, in ascending order; the last is the full size.

        A ratio is a share of the dimensions that are products of the axes that its pattern matches (`Shares`).
        """
        if self.every_axis:
            return {axis.id: self.alone(axis.name, axis.size, axis.role) for axis in axes}
        by_pattern = {pattern: _matching(pattern, axes) for pattern in self.choices or ()}
        found: dict[int, tuple[int, ...]] = {}
        for axis in axes:
            pattern = _last(by_pattern, axis.name)
            if pattern is not None:
                asked, sizes = self._listed(axis, by_pattern[pattern], shares, (self.choices or {})[pattern])
                found[axis.id] = build_choices(axis.size, explicit=sizes, name=axis.name) if asked else (axis.size,)
        least = {axis.id: found.get(axis.id, (1,))[0] / axis.size for axis in axes}
        dealt: dict[str, dict[int, float]] = {}
        for axis in axes:
            if axis.id not in found:
                pattern, ratio = self._ratio(axis.name)
                if pattern not in dealt:
                    dealt[pattern] = shares.deal(smallest_share(ratio, axis.name), _matching(pattern, axes), least)
                share = dealt[pattern][axis.id]
                found[axis.id] = build_choices(axis.size, axis.role, share, self.multiple_of, name=axis.name)
        return found

    def _listed(
        self, axis: ElasticAxis, group: Mapping[int, int], shares: Shares, values: Sequence[int | float]
    ) -> tuple[bool, list[int]]:
        """What a list of sizes and ratios that a glob matches, with others in its `group`, asks of one axis."""
        sizes, least = [], {ident: 1 / size for ident, size in group.items()}
        for value in values:
            size = explicit_size(value, axis.size, axis.name)
            if not is_int(value):
                size = explicit_size(shares.deal(float(value), group, least)[axis.id], axis.size, axis.name)
            sizes.append(size)
        return axis.role != "head_dim" or shares.names_head_dim(group), sizes

    def _ratio(self, name: str) -> tuple[str, Any]:
        """The smallest share that was asked for, and the pattern that matches the name."""
        if not isinstance(self.min_ratio, Mapping):
            return "*", self.min_ratio
        pattern = _last(self.min_ratio, name)
        return ("*", 0.25) if pattern is None else (pattern, self.min_ratio[pattern])


def _matching(pattern: str, axes: Iterable[ElasticAxis]) -> dict[int, int]:
    """The axes that a glob matches, by id, with their sizes."""
    return {axis.id: axis.size for axis in axes if fnmatchcase(axis.name, pattern)}


def matches(pattern: str, *names: str) -> bool:
    """Whether a glob fits a name or a module path above it.

    >>> matches("blocks.0", "blocks.0.mlp.hidden"), matches("*.heads", "blocks.0.attn.heads")
    (True, True)
    """
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for name in names)


def check_patterns(options: Options, names: Sequence[str], paths: Sequence[str]) -> None:
    """Every pattern that the user gave must fit something."""
    asked = [("freeze", p, [*names, *paths]) for p in options.freeze]
    asked += [("choices", p, list(names)) for p in options.choices or ()]
    if isinstance(options.min_ratio, Mapping):
        asked += [("min_ratio", p, list(names)) for p in options.min_ratio]
    for argument, pattern, candidates in asked:
        if not any(matches(pattern, name) for name in candidates):
            raise ElastifyError(
                f"{argument} pattern {pattern!r} fits no axis, stage or module",
                where="elastify",
                why=f"axes and stages are called {', '.join(get_close_matches(pattern, names, 3, 0.5) or names[:6])} …",
                fix="print(space(model)) after elastify without it shows all names",
            )


def _last(patterns: Iterable[str], name: str) -> str | None:
    """The last pattern that matches a name."""
    return next((pattern for pattern in reversed([*patterns]) if fnmatchcase(name, pattern)), None)
