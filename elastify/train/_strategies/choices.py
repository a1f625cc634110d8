"""Which parts of a model a strategy is put on, by globs of their names, and by which arguments it was put there.

A strategy that adds parameters is the only one of its model. Its arguments are kept with the model, and go where
copies of it go; a second object of the same arguments (a resumed run, say) finds them and goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from elastify._errors import ElastifyError
from elastify._space import nearest
from elastify.train._strategies.strategy import Strategy

_LATER = {"model", "axes", "stages"} | {"seed", "beta", "n_random", "ends", "warmup", "budget_macs", "penalty"}
_KEY = "_elastify_prepared"  # extracted models do not have what begins like this


def as_globs(globs: str | Iterable[str]) -> tuple[str, ...]:
    """A single string is one glob.

    >>> as_globs("blocks.*"), as_globs(["stem.*", "head.*"])
    (('blocks.*',), ('stem.*', 'head.*'))
    """
    return (globs,) if isinstance(globs, str) else tuple(globs)


def matched(globs: str | Iterable[str], names: Sequence[str]) -> list[str]:
    """The names that one of the globs matches; an error for a glob without any, where there are names.

    >>> matched("*.up", ["0.up", "0.down"])
    ['0.up']
    """
    chosen: set[str] = set()
    for glob in as_globs(globs):
        some = [name for name in names if name == glob or fnmatchcase(name, glob)]
        if names and not some:
            near = ", ".join(nearest(glob, names))
            raise ElastifyError(f"{glob!r} matches no name", why=f"there are {len(names)}, such as {near}")
        chosen.update(some)
    return [name for name in names if name in chosen]


def freeze_globs(strategy: Strategy, name: str) -> None:
    """Make a tuple of the globs in this field of a strategy, so that all forms of them are the same argument."""
    if (globs := getattr(strategy, name)) is not None:
        object.__setattr__(strategy, name, as_globs(globs))


def note_prepared(strategy: Strategy) -> None:
    """The strategy has added its parameters to its model."""
    strategy.model.__dict__[_KEY] = _what_is_added(strategy)


def is_prepared(strategy: Strategy) -> bool:
    """Whether the model has the parameters of this strategy; an error if it has those of another one."""
    mine = _what_is_added(strategy)
    before = strategy.model.__dict__.get(_KEY, mine)
    if before != mine:
        kind, same = before["strategy"], before["strategy"] == mine["strategy"]
        other = [f"{name}={json.loads(text)!r}" for name, text in before.items() if same and text != mine[name]]
        raise ElastifyError(
            "another strategy has prepared this model",
            where=mine["strategy"],
            why=f"a {kind}{' with ' if same else ''}{', '.join(other)}",
            fix="the same strategy and arguments, or a fresh copy of the model: only one adds parameters to it",
        )
    return _KEY in strategy.model.__dict__


def _what_is_added(strategy: Strategy) -> dict[str, str]:
    """The kind of a strategy, and those of its arguments that decide which parameters it adds."""
    decisive = {name: text for name, text in strategy.arguments.items() if name not in _LATER}
    return {"strategy": type(strategy).__name__, **decisive}
