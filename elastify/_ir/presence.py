"""Which blocks a module or tensor goes with when a subnet leaves blocks out.

What lies inside a block goes with it. What lies elsewhere may be used by rounds of blocks alone, and then goes with
those (`Plan.alongside`): in `for block, gamma in zip(blocks, gammas)` the entry `gammas.2` is there while `blocks.2`
is. A tensor that two rounds share is there while one of the two is; so the answer is a set of *ways*, each a set of
blocks, and the thing is there where all blocks of one way are kept.
"""

from __future__ import annotations

from elastify._ir.choice import Choice
from elastify._ir.graph import enclosing
from elastify._ir.plan import Plan

Block = tuple[int, int]
"""Number of a stage, and place of a block in it; first blocks always stay and are none."""


class Presence:
    """Answers for one plan.

    >>> from elastify._ir import Stage
    >>> plan = Plan(stages=(Stage("b", "b", ("b.0", "b.1"), (1, 2)),), alongside={"gammas.1": ("b.1",)})
    >>> [sorted(way) for way in Presence(plan).ways("gammas.1")], [sorted(way) for way in Presence(plan).ways("b.0.fc")]
    ([[(0, 1)]], [[]])
    """

    def __init__(self, plan: Plan) -> None:
        self._first = plan.first_name
        self._blocks: dict[str, frozenset[Block]] = {}
        for number, stage in enumerate(plan.stages):
            for place, path in enumerate(stage.blocks[1:], start=1):
                own = self._blocks.get(self._first(path), frozenset())
                self._blocks[self._first(path)] = own | {(number, place)}
        self._alongside = {self._first(path): owners for path, owners in plan.alongside.items()}
        self._stages = plan.stages
        self._ways_along = {path: self.ways(path) for path in plan.alongside}

    def left_out(self, choice: Choice) -> set[Block]:
        """The blocks that a choice leaves out."""
        kept = {name: set(places) for name, places in choice.blocks.items()}
        found: set[Block] = set()
        for number, stage in enumerate(self._stages):
            places = range(len(stage.blocks))
            found.update((number, place) for place in places if place not in kept.get(stage.name, places))
        return found

    def gone_along(self, choice: Choice) -> list[str]:
        """Modules and tensors that go with the blocks that a choice leaves out, though they lie elsewhere."""
        left_out = self.left_out(choice)
        return [path for path, ways in self._ways_along.items() if not any(map(left_out.isdisjoint, ways))]

    def around(self, path: str) -> frozenset[Block]:
        """The blocks that a module or tensor lies in."""
        parts = enclosing(self._first(path)) if self._blocks else ()
        return frozenset().union(*(self._blocks.get(part, ()) for part in parts))

    def ways(self, path: str) -> set[frozenset[Block]]:
        """Sets of blocks; the module or tensor is there where all blocks of one of them are."""
        ways = {self.around(path)}
        for part in enclosing(self._first(path)) if self._alongside else ():
            others = {way for owner in self._alongside.get(part, ()) for way in self.ways(owner)} or {frozenset()}
            ways = {way | other for way in ways for other in others}
        return ways
