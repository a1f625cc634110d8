"""The register of pieces that random networks are made of.

A piece is a module written as people write them: `__init__(self, rng, shape)` draws its own sizes for an input of
that shape (without the batch; one per input) and raises `UnfitError` where it cannot take it. A tensor's kind is
the letters of its dimensions: b batch, c channels, t time or tokens, h and w space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from random import Random
from typing import Any, TypeVar

from torch import nn

WIDTHS = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 24)
LAST = "bc btc bhwc"  # channels last
FIRST = "bct bchw"  # channels second
Class = TypeVar("Class", bound=type[nn.Module])


class UnfitError(Exception):
    """The piece cannot take inputs of these shapes."""


@dataclass(frozen=True)
class Piece:
    """What a piece takes (a kind per input) and gives; `gives` is empty where it is the kind of the first input."""

    name: str
    takes: tuple[str, ...]
    gives: str
    make: Callable[..., nn.Module]


PIECES: list[Piece] = []


def piece(takes: str, gives: str = "", weight: int = 1) -> Callable[[Class], Class]:
    """Register a piece for each of several kinds ("bc btc"), or pairs of kinds ("btc+bc")."""

    def register(made: Class) -> Class:
        for kinds in takes.split():
            PIECES.extend([Piece(made.__name__, tuple(kinds.split("+")), gives, made)] * weight)
        return made

    return register


def fit(condition: Any) -> None:
    if not condition:
        raise UnfitError


def width(rng: Random) -> int:
    return rng.choice(WIDTHS)


def composite(rng: Random) -> int:
    return rng.choice([n for n in WIDTHS if len(divisors(n)) > 0])


def divisors(n: int) -> list[int]:
    """Divisors other than 1 and n."""
    return [d for d in range(2, n) if n % d == 0]


def divisor(rng: Random, n: int, *others: int) -> int:
    """A common divisor of at least 2 that leaves at least 2."""
    common = gcd(n, *others) if others else n
    found = [d for d in range(2, common + 1) if common % d == 0 and d < n]
    fit(found)
    return rng.choice(found)
