"""Draws in exact shares, in shuffled order.

Independent draws are uneven where it hurts: a share of one in 27 gives 11 ± 3 of 293 draws. Here draws are dealt in
hands, as cards are: every hand owes each subnet its share, gives the whole ones, and carries the rest over. So after
any number of hands no subnet is more than one draw away from its share. The order within a hand is shuffled.

Shares are by cost. `"macs"` gives all sizes equal MACs, so that a size which costs a tenth is drawn ten times as often;
`"even"` draws all alike; `"macs->even"` goes from the first to the second as training goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from elastify._errors import ElastifyError

Weights = str | Sequence[float]
WEIGHTS = ("macs", "even", "macs->even")


def check_weights(weights: Weights, number: int, where: str) -> None:
    """Raise ElastifyError for weights that are neither one of `WEIGHTS` nor `number` values of at least 0."""
    if isinstance(weights, str):
        if weights not in WEIGHTS:
            raise ElastifyError(f"there are no weights {weights!r}", where=where, fix=f"one of {', '.join(WEIGHTS)}")
        return
    known = isinstance(weights, Sequence) and all(isinstance(value, Real) and value >= 0 for value in weights)
    if not known or len(weights) != number or not sum(weights) > 0:
        raise ElastifyError(
            f"weights={weights!r} are not shares of {number} subnets",
            where=where,
            fix=f"a number of at least 0 for each of them, or one of {', '.join(WEIGHTS)}",
        )


def shares(weights: Weights, macs: Sequence[float], progress: float) -> np.ndarray:
    """The share of the draws of each subnet, by its MACs, when this share of the training (0 to 1) is done.

    >>> shares("macs", [1, 2, 4], 0.0).round(2).tolist()
    [0.57, 0.29, 0.14]
    >>> shares("macs->even", [1, 2, 4], 1.0).round(2).tolist()
    [0.33, 0.33, 0.33]
    """
    if not isinstance(weights, str):
        return np.asarray(weights, float) / np.sum(weights)
    inverse = 1 / np.maximum(np.asarray(macs, float), 1)
    even = {"macs": 0.0, "even": 1.0, "macs->even": min(1.0, max(0.0, progress))}[weights]
    return (1 - even) * inverse / inverse.sum() + even / len(macs)


def deal(memory: dict[str, Any], wanted: np.ndarray, generator: np.random.Generator) -> int:
    """The number of the next subnet; `memory` keeps the `hand` that is being dealt and what is `owed` to each.

    >>> memory, generator = {}, np.random.default_rng(0)
    >>> drawn = [deal(memory, np.array([0.625, 0.25, 0.125]), generator) for _ in range(24)]
    >>> [drawn.count(number) for number in range(3)]
    [15, 6, 3]
    """
    if not memory.get("hand"):
        owed = np.asarray(memory.get("owed") or np.zeros(len(wanted)), float) + wanted * len(wanted)
        hand = []
        for _ in wanted:
            hand.append(int(owed.argmax()))
            owed[hand[-1]] -= 1
        memory.update(owed=owed.tolist(), hand=generator.permutation(hand).tolist())
    return int(memory["hand"].pop())
