"""Wider networks that compute the same, or an error."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from elastify import ElastifyError, elastify, extract, space
from elastify._space.state import STATE, state
from elastify.train import Compressible, grow, sort_channels
from tests.every_axis import every_axis
from tests.small_nets import Net
from tests.train.prepared import X, elastic_net
from tests.train.surgery.test_align import Attention

TOKENS = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 10, batch_first=True, bidirectional=True), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


CASES = {
    "hidden of residual blocks": (Net, torch.randn(4, 6), {"*hidden": 1.5}),
    "a width with layer norms": (Net, torch.randn(4, 6), {"*width": 2.0, "*hidden": 30}),
    "heads": (Attention, TOKENS, {"*heads": 8}),
    "both directions of an LSTM": (Recurrent, TOKENS, {"*": 1.3}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_larger_and_the_same(case: str) -> None:
    make, x, sizes = CASES[case]
    torch.manual_seed(0)
    model = elastify(make(), x)
    before = copy.deepcopy(model.state_dict())
    large = grow(model, sizes, x)
    assert type(large) is make
    assert not any("_elastify" in module.__dict__ for module in large.modules())
    count, more = (sum(p.numel() for p in m.parameters()) for m in (model, large))
    assert more > 1.2 * count
    torch.testing.assert_close(large(x), model(x), rtol=1e-4, atol=1e-5)
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor)
    again = elastify(large, x)  # its attributes are right: it is elastic itself
    wanted = {axis.name: axis.size for axis in space(again).axes}
    assert all(size >= old.size for size, old in zip(wanted.values(), space(model).axes, strict=True))
    sort_channels(again)
    torch.testing.assert_close(extract(again)(x), model(x), rtol=1e-4, atol=1e-5)


def test_copies_learn_different_things() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 6)
    model = elastify(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), x)
    large = grow(model, {"*": 2.0}, x)
    large(x).square().sum().backward()
    first, second = large[0].weight.grad.chunk(2)
    assert torch.equal(*large[0].weight.chunk(2))
    used = first.abs().sum(1) > 0
    assert used.any()
    assert (first != second).any(1)[used].all()
    torch.testing.assert_close(sum(large[2].weight.chunk(2, 1)), model[2].weight)


def test_convolutions_with_norms() -> None:
    model = elastic_net().eval()
    large = grow(model, {"*": 2.0}, X[:2])
    assert [large[0].out_channels, large[3].in_channels, large[3].out_channels] == [32, 32, 64]
    assert large[1].num_channels == 32
    torch.testing.assert_close(large(X), model(X), rtol=1e-4, atol=1e-5)


def test_what_would_change_the_function_is_refused() -> None:
    torch.manual_seed(0)
    model = every_axis(Attention(), TOKENS)
    with torch.no_grad():
        model.attn._parameters["in_proj_weight"].mul_(1e-3)  # the scores are so small that nothing would show
    name = next(axis.name for axis in space(model).axes if axis.role == "head_dim")
    with pytest.raises(ElastifyError, match=f"growing {name} changes what the network computes"):
        grow(model, {"*head_dim": 2.0, "*heads": 8}, TOKENS)
    net = elastify(nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)), TOKENS)
    with pytest.raises(ElastifyError, match="changes what the network computes"):
        grow(net, {"*": 1.5}, TOKENS)
    torch.testing.assert_close(grow(net, {"*": 3.0}, TOKENS)(TOKENS), net(TOKENS), rtol=1e-4, atol=1e-5)


def test_refusals() -> None:
    model = elastic_net()
    with pytest.raises(ElastifyError, match="no axis is called 'width'"):
        grow(model, {"width": 2.0}, X[:2])
    with pytest.raises(ElastifyError, match="has 16 units already"):
        grow(model, {"0.*": 8}, X[:2])
    model.__dict__[STATE] = replace(state(model), examples=())
    with pytest.raises(ElastifyError, match="needs example inputs"):  # where no description of one is remembered either
        grow(model, {"*": 2.0})
    Compressible(model).prepare()
    with pytest.raises(ElastifyError, match="has changed how this model computes its weights"):
        grow(model, {"*": 2.0}, X[:2])


def test_growing_keeps_what_every_example_computes() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.norm, self.down = nn.Linear(4, 16), nn.LayerNorm(16), nn.Linear(16, 3)

        def forward(self, x: Tensor, norm: bool = False) -> Tensor:
            h = self.up(x)
            return self.down(self.norm(h) if norm else h)

    x = torch.randn(2, 4)
    one, both = elastify(Normed(), x), elastify(Normed(), examples=[x, (x, True)])
    assert grow(both, {"*": 2.0})(x, True).shape == (2, 3)
    with pytest.raises(ElastifyError, match="changes what the network computes"):
        grow(both, {"*": 1.5})
    assert grow(one, {"*": 1.5})(x).shape == (2, 3)
