"""Every construct is elastic where it says, frozen where it says, and passes the full check."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from elastify import elastify, space

from . import (
    attention,
    code,
    convolutions,
    depth,
    experts,
    integers,
    names,
    norms,
    objects,
    positions,
    recurrent,
    shapes,
    sharing,
)
from .construct import Construct, axes_at, check

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
    *objects.CONSTRUCTS,
    *names.CONSTRUCTS,
    *depth.CONSTRUCTS,
    *integers.CONSTRUCTS,
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


def test_a_number_that_loses_its_origin_unseen_is_found_by_the_proof() -> None:
    """`math.sqrt` hands out a plain float, and asks nothing: the smaller network shows what it was used for."""
    net = integers.halves(lambda m, x: int(math.sqrt(3 * x.shape[1])))()
    with pytest.warns(UserWarning, match=r"first.hidden: the smaller network does not run"):
        elastify(net, torch.randn(2, 6))
    assert axes_at(space(net), "first.weight[0]") == []


def test_names_are_unique() -> None:
    names = [construct.name for construct in CONSTRUCTS]
    assert len(set(names)) == len(names)
