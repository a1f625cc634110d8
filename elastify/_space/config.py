"""One subnetwork by names: the configuration that people write, read, print and store.

A `SubnetConfig` names one subnetwork: a size for every elastic axis and the kept blocks of every stage. It is
a value: frozen, hashable, printable, written to and read from JSON text. It carries the fingerprint of the
search space it was made for, so that a configuration of another model is refused instead of misread.
Below the public names, where a plan has ids, the same is a `Choice`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from elastify._errors import ElastifyError
from elastify._ir import RULE, Plan
from elastify._plan import is_int

_FORMAT = 1
_NUMBER = re.compile(r"(?<![\w:])\d+(?=\.)|(?<=\.)\d+(?!\w)")


@dataclass(frozen=True, slots=True)
class SubnetConfig:
    """One subnetwork: a size per axis name and the kept block indices per stage name.

    >>> config = SubnetConfig.of({"mlp.hidden": 96}, {"layers": range(4)})
    >>> config
    SubnetConfig(mlp.hidden=96, layers=4 blocks)
    >>> SubnetConfig.from_json(config.to_json()) == config
    True
    """

    size_items: tuple[tuple[str, int], ...]
    depth_items: tuple[tuple[str, tuple[int, ...]], ...]
    space: str = ""

    @classmethod
    def of(
        cls, sizes: Mapping[str, int], depths: Mapping[str, Iterable[int]] | None = None, space: str = ""
    ) -> SubnetConfig:
        """From mappings; `space` is the fingerprint of the search space that it belongs to."""
        return cls(
            tuple(sorted(((name, int(size)) for name, size in sizes.items()), key=lambda item: _natural(item[0]))),
            tuple(
                sorted(
                    ((name, tuple(map(int, kept))) for name, kept in (depths or {}).items()),
                    key=lambda item: _natural(item[0]),
                )
            ),
            space,
        )

    @property
    def sizes(self) -> Mapping[str, int]:
        """Size of every axis, by name."""
        return MappingProxyType(dict(self.size_items))

    @property
    def depths(self) -> Mapping[str, tuple[int, ...]]:
        """Indices of the kept blocks of every stage, by name."""
        return MappingProxyType(dict(self.depth_items))

    def to_json(self) -> str:
        """JSON text with sorted keys, on one line."""
        data = {"elastify_config": _FORMAT, "space": self.space, "sizes": dict(self.size_items)}
        return json.dumps(data | {"depths": dict(self.depth_items)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SubnetConfig:
        """The configuration that `to_json` wrote; ElastifyError for anything else."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ElastifyError("this is not a configuration", why=f"invalid JSON: {error}") from None
        if not isinstance(data, dict) or data.get("elastify_config") != _FORMAT:
            raise ElastifyError("this is not a configuration", why=f'no "elastify_config": {_FORMAT} in it')
        sizes, depths, space = data.get("sizes"), data.get("depths"), data.get("space")
        well_formed = (
            isinstance(sizes, dict)
            and isinstance(depths, dict)
            and isinstance(space, str)
            and all(is_int(size) for size in sizes.values())
            and all(isinstance(kept, list) and all(map(is_int, kept)) for kept in depths.values())
        )
        if not well_formed:
            raise ElastifyError("this is not a configuration", why="sizes must be integers, depths lists of them")
        return cls.of(data["sizes"], data["depths"], data["space"])

    def __repr__(self) -> str:
        groups: dict[str, list[tuple[str, int]]] = {}
        for name, size in self.size_items:
            groups.setdefault(pattern(name), []).append((name, size))
        parts = []
        for shared, items in groups.items():
            sizes = [size for _, size in items]
            same = len(set(sizes)) == 1
            parts.append(f"{items[0][0] if len(items) == 1 else shared}={sizes[0] if same else sizes}")
        for name, kept in self.depth_items:
            prefix = kept == tuple(range(len(kept)))
            parts.append(
                f"{name}={len(kept)} block{'s' if len(kept) > 1 else ''}" if prefix else f"{name}=blocks {list(kept)}"
            )
        return f"SubnetConfig({', '.join(parts)})"


def pattern(name: str) -> str:
    """A dotted name, or a text with such names, with the numbers in it replaced.

    >>> pattern("blocks.11.mlp.fc1"), pattern("layers.3"), pattern("layer1.0.conv2 at net.py:12")
    ('blocks.*.mlp.fc1', 'layers.*', 'layer1.*.conv2 at net.py:12')
    """
    return _NUMBER.sub("*", name)


def fingerprint(plan: Plan, names: Sequence[str] | None = None, rule: str = RULE) -> str:
    """Twelve hex digits that name the axes and stages of a plan (not the choices: those may differ per run), and the
    rule by which shares of dimensions are dealt.

    `names` are others of the axes, those of an earlier version. The first version had no rule ("").
    """
    facts: list[object] = [
        sorted(zip(names or [axis.name for axis in plan.axes], [axis.size for axis in plan.axes], strict=True)),
        sorted((stage.name, stage.blocks) for stage in plan.stages),
        *filter(None, [rule]),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


@lru_cache(maxsize=1 << 14)
def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Numbers in names sort as numbers: blocks.2 before blocks.10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name))
