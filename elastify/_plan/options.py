"""What the user asked for: globs of names and module paths, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from elastify._errors import ElastifyError
from elastify._plan.choices import build_choices


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; see `elastify.elastify`."""

    freeze: tuple[str, ...] = ()
    choices: Mapping[str, Sequence[int | float]] | None = None
    min_ratio: float | Mapping[str, float] = 0.25
    multiple_of: int | None = None
    depth: bool = True

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
        return _last_match(self.choices, name)

    def sizes(self, name: str, size: int, role: str) -> tuple[int, ...]:
        """Legal sizes of an axis or stage of that name, in ascending order; the last is `size`."""
        ratio = self.min_ratio
        if isinstance(ratio, Mapping):
            found = _last_match(ratio, name)
            ratio = 0.25 if found is None else found
        step = None if role == "depth" else self.multiple_of
        return build_choices(size, role, ratio, step, self.explicit(name), name=name)


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


def _last_match(table: Mapping[str, Any] | None, name: str) -> Any:
    found = None
    for pattern, value in (table or {}).items():
        if fnmatchcase(name, pattern):
            found = value
    return found
