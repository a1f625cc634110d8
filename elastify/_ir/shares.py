"""What a share of a dimension asks of the axes that it is made of.

Half of a dimension of 8 heads with 64 units each is 4 heads of 64 units, not 4 of 32: a share bounds the dimension.
Where a dimension is a product of axes that may get smaller, the coarsest takes the share, rounded up: groups of heads
before the heads of a group, groups before the units of a group. What one unit of it cannot give is asked of the next.
An axis that is a finer factor anywhere follows its products, wherever else it stands alone. The units of a head are
asked only where nothing else is: smaller heads are another network, for whoever names them.

No torch here. A new version of this rule has a new `RULE`, which fingerprints of spaces contain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import reduce
from graphlib import CycleError, TopologicalSorter
from itertools import chain, pairwise, product

from elastify._ir.layout import Axis, Concat, Layout

RULE = "shares of dimensions"
_RANKS = {"heads": 0, "groups": 0, "head_dim": 2}


class Shares:
    """Deals shares of dimensions of some layouts to the axes, by id, that have a role: to those that may get smaller.

    >>> from elastify._ir.layout import Product
    >>> heads, units, width = Axis(0, 2), Axis(1, 16), Axis(2, 32)
    >>> shares = Shares([Product((heads, units)), width], {0: "groups", 1: "hidden", 2: "width"})
    >>> shares.deal(0.25, (0, 1, 2), {0: 1 / 2})
    {0: 0.25, 2: 0.25, 1: 0.5}
    """

    def __init__(self, layouts: Iterable[Layout], roles: Mapping[int, str]) -> None:
        self.roles = roles
        products = {
            tuple(sorted(dict.fromkeys(found), key=lambda ident: _RANKS.get(roles[ident], 1)))
            for layout in set(layouts)
            for found in _factors(layout, roles)
        }
        self.order = _coarse_first(products, roles)
        place = {ident: number for number, ident in enumerate(self.order)}
        self.coarser: dict[int, set[tuple[int, ...]]] = {}
        for found in products:
            ordered = sorted(found, key=place.__getitem__)
            for number, ident in enumerate(ordered):
                if number:
                    self.coarser.setdefault(ident, set()).add(tuple(ordered[:number]))

    def names_head_dim(self, asked: Collection[int]) -> bool:
        """Whether only units of heads are asked."""
        return all(self.roles[ident] == "head_dim" for ident in asked)

    def is_finer(self, ident: int, asked: Collection[int]) -> bool:
        """Whether one of the axes that are asked is a coarser factor of a dimension of this one."""
        return any(not set(asked).isdisjoint(found) for found in self.coarser.get(ident, ()))

    def deal(self, share: float, asked: Collection[int], least: Mapping[int, float]) -> dict[int, float]:
        """The share that each of the `asked` axes has to take so that their dimensions keep `share`.

        `least` is the smallest share that each of them can keep; what that leaves over is asked of the next factor.
        Axes that are not asked do not count as factors.
        """
        wanted, kept = dict[int, float](), dict[int, float]()
        named = self.names_head_dim(asked)
        for ident in self.order:
            if ident in asked:
                left = share
                above = [found for found in self.coarser.get(ident, ()) if not kept.keys().isdisjoint(found)]
                if self.roles[ident] == "head_dim" and not named:
                    left = 1.0
                elif above:
                    left = max(reduce(lambda rest, c: min(1.0, rest / kept.get(c, 1.0)), a, share) for a in above)
                wanted[ident] = left
                kept[ident] = max(left, least.get(ident, 0.0))
        return wanted


def _factors(layout: Layout, roles: Collection[int]) -> Iterator[tuple[int, ...]]:
    """The axes of which a dimension is a product, once for each part of the concatenations in it."""
    if isinstance(layout, Axis):
        yield (layout.id,) if layout.id in roles else ()
    elif isinstance(layout, Concat):
        yield from dict.fromkeys(chain.from_iterable(_factors(part, roles) for part in layout.parts))
    else:
        parts = [list(dict.fromkeys(_factors(part, roles))) for part in layout.parts]
        for found in product(*parts):
            yield tuple(chain.from_iterable(found))


def _coarse_first(products: Iterable[tuple[int, ...]], roles: Mapping[int, str]) -> list[int]:
    """All axes, the coarser factors of each product before the finer ones."""
    before = {ident: set[int]() for ident in sorted(roles, key=lambda ident: (_RANKS.get(roles[ident], 1), ident))}
    for found in sorted(products):
        for coarse, fine in pairwise(found):
            before[fine].add(coarse)
    try:
        return list(TopologicalSorter(before).static_order())
    except CycleError:  # a product in this order and one in the other: neither is the finer
        return list(before)
