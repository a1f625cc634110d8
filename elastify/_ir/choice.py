"""One subnet in numbers: what everything below the names of axes speaks of.

A `SubnetConfig` calls axes by name, for people, and belongs to one search space. A `Choice` has the ids of a plan. It
says only what is smaller than in the full network, or says the rest as well: `FULL` keeps everything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

Key = tuple[frozenset[tuple[int, int]], frozenset[tuple[str, tuple[int, ...]]]]


@dataclass(frozen=True, slots=True)
class Choice:
    """Kept units by axis id, and indices of the kept blocks by stage name; what is not mentioned is kept whole.

    >>> Choice({0: 8, 1: 2}, {"layers": (0, 1)}).only([1, "layers"])
    Choice(sizes={1: 2}, blocks={'layers': (0, 1)})
    """

    sizes: Mapping[int, int] = field(default_factory=dict)
    blocks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """The same as plain values that can be the key of a table."""
        return frozenset(self.sizes.items()), frozenset(self.blocks.items())

    @property
    def parts(self) -> list[int | str]:
        """What the choice mentions: ids of axes, then names of stages."""
        return [*self.sizes, *self.blocks]

    def only(self, parts: Collection[int | str]) -> Choice:
        """The same of these axes and stages; the others are whole."""
        sizes = {axis: size for axis, size in self.sizes.items() if axis in parts}
        return Choice(sizes, {stage: kept for stage, kept in self.blocks.items() if stage in parts})


FULL = Choice()
