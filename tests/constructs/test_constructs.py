"""Every construct is elastic where it says, frozen where it says, and passes the full check."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from . import attention, code, convolutions, experts, norms, positions, recurrent, shapes, sharing
from .construct import Construct, check

CONSTRUCTS = [
    *attention.CONSTRUCTS,
    *positions.CONSTRUCTS,
    *convolutions.CONSTRUCTS,
    *shapes.CONSTRUCTS,
    *norms.CONSTRUCTS,
    *recurrent.CONSTRUCTS,
    *sharing.CONSTRUCTS,
    *experts.CONSTRUCTS,
    *code.CONSTRUCTS,
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The workers of a parallel run share the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("construct", CONSTRUCTS, ids=str)
def test_construct(construct: Construct) -> None:
    check(construct)


def test_names_are_unique() -> None:
    names = [construct.name for construct in CONSTRUCTS]
    assert len(set(names)) == len(names)
