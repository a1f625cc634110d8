"""A hundred random networks, each put through the whole check; `tools/fuzz.py` runs as many as are wanted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from .nets import OPERATIONS, Counted, make
from .pieces import PIECES
from .verdict import judge

SEEDS = range(100)
CHUNK = 10


@pytest.mark.slow
@pytest.mark.parametrize("first", SEEDS[::CHUNK])
def test_random_networks_are_elastic_and_right(first: int) -> None:
    found = [judge(seed, configurations=3, costs=1) for seed in range(first, first + CHUNK)]
    assert [verdict for verdict in found if verdict.kind == "wrong"] == []
    assert sum(verdict.kind == "refused" for verdict in found) <= 1


def test_a_seed_gives_the_same_network() -> None:
    (a, x), (b, y) = make(7), make(7)
    assert str(a) == str(b)
    assert all(torch.equal(one, other) for one, other in zip(x, y, strict=True))
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def run(net: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    with torch.no_grad(), Counted() as counted:
        net(*inputs)
    return counted.count


def test_what_is_left_behind_gets_a_head_of_its_own() -> None:
    """In this one a token is joined on and then left by taking the last."""
    net, inputs = make(705)
    made = net.get_submodule("stem1")
    made.zero_grad()
    out = net(*inputs)
    (out if isinstance(out, Tensor) else torch.cat(out, 1)).sigmoid().sum().backward()
    grads = [weight.grad for weight in made.parameters()]
    assert grads
    assert all(grad is not None and grad.any() for grad in grads)


def test_networks_have_5_to_60_operations_and_every_piece_occurs() -> None:
    nets = [make(seed) for seed in range(400)]
    counts = [run(*made) for made in nets]
    assert min(counts) >= OPERATIONS[0]
    assert max(counts) <= OPERATIONS[1]
    used = {type(module).__name__ for net, _ in nets for module in net.children()}
    assert {piece.name for piece in PIECES} - used == set()
