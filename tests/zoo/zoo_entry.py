"""The models that are checked, and what must be elastic in each.

An `Entry` makes one model with small inputs. It may say for every kind of axis that the architecture has where to look
for it: "MLP hidden" of a transformer is the output dimension of the first linear layer of *every* block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from elastify import SearchSpace

Made = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
Place = tuple[str, int]
"""A glob of parameter names and a dimension."""

ROLES = {"heads": "heads", "head dim": "head_dim"}
"""Kinds of axes whose role must be named right, too (in one dimension there are heads and head dim)."""


@dataclass(frozen=True)
class Entry:
    """A model of a suite. `elastic` maps kinds of axes to places; `stages` are containers whose depth is elastic.

    `why_large` explains a smallest configuration of more than 20 % of the MACs; suites with `elastic` need it.
    `options` go to `check_model`, or, where the entry is `light`, to `check_sizes`.
    `also` is a further check, called with the model and its inputs; it returns what is wrong.
    """

    name: str
    make: Callable[[], Made]
    elastic: Mapping[str, Sequence[Place]] = field(default_factory=dict)
    stages: Sequence[str] = ()
    why_large: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    light: bool = False
    also: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], list[str]] | None = None


def missing(entry: Entry, names: Sequence[str], found: SearchSpace) -> list[str]:
    """What should be elastic and is not; `names` are the model's parameters."""
    members: dict[Place, set[str]] = {}
    for axis in found.axes:
        for place in axis.members:
            members.setdefault(place, set()).add(axis.role)
    faults = []
    for kind, places in entry.elastic.items():
        for pattern, dim in places:
            fitting = [name for name in names if fnmatchcase(name, pattern)]
            rigid = [
                n
                for n in fitting
                if ROLES.get(kind, next(iter(members.get((n, dim), ())), None)) not in members.get((n, dim), ())
            ]
            if not fitting:
                faults.append(f"{kind}: no parameter is called {pattern}")
            elif rigid:
                faults.append(
                    f"{kind}: {rigid[0]}[{dim}] is not elastic ({len(rigid)} of {len(fitting)} fitting {pattern})"
                )
    containers = {stage.container for stage in found.stages}
    return faults + [f"depth: {name} has no stage" for name in entry.stages if name not in containers]
