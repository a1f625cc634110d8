"""Units of two networks are brought into one order, and averaged."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastify import ElastifyError, elastify, extract, space
from elastify.train import align, fuse, sort_channels
from tests.small_nets import Net
from tests.train.prepared import X, elastic_net


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 24), nn.Linear(24, 3)
        self.attn, self.norm = nn.MultiheadAttention(24, 4, batch_first=True), nn.LayerNorm(24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.norm(x + self.attn(x, x, x)[0]))


def shuffled(model: nn.Module) -> nn.Module:
    """A copy with all units in another order."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(5)
    sort_channels(other, lambda p: torch.rand(p.shape, generator=generator))
    return other


NETS = {
    "residual": (Net, torch.randn(4, 6)),
    "attention": (Attention, torch.randn(4, 5, 6)),
}


@pytest.mark.parametrize("net", list(NETS))
def test_another_order_is_found_exactly(net: str) -> None:
    torch.manual_seed(0)
    make, x = NETS[net]
    model = elastify(make(), x)
    other = shuffled(model)
    before = other(x)
    names = list(space(model).plan.tensors)
    assert any(not torch.equal(model.state_dict()[n], other.state_dict()[n]) for n in names)
    orders = align(model, other)
    assert set(orders) == {axis.name for axis in space(model).axes}
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    torch.testing.assert_close(other(x), before)


def test_plain_models_and_convolutions() -> None:
    model = elastic_net()
    other = extract(shuffled(model))
    fused = fuse(model, other)
    torch.testing.assert_close(fused(X), model(X))
    assert torch.equal(fuse(model, other, share=0.0)(X), model(X))


def test_fused_networks_are_better_than_naive_averages() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 6, generator=generator)
    labels = (x.square() @ torch.randn(6, 4, generator=generator)).argmax(1)
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(150):
            optimizer.zero_grad()
            F.cross_entropy(net(x), labels).backward()
            optimizer.step()
        models.append(elastify(net, x[:2]))
    naive = copy.deepcopy(models[0])
    with torch.no_grad():
        for ours, theirs in zip(naive.parameters(), models[1].parameters(), strict=True):
            ours.lerp_(theirs, 0.5)
    fused = fuse(*models)
    losses = [F.cross_entropy(model(x), labels).item() for model in (*models, naive, fused)]
    assert max(losses[:2]) < losses[3] < 0.8 * losses[2]


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    model = elastic_net()
    with pytest.raises(ElastifyError, match="different architectures"):
        align(model, nn.Sequential(nn.Conv2d(3, 8, 3)))
    with pytest.raises(ElastifyError, match="is not elastic"):
        align(nn.Linear(2, 2), model)
    with pytest.raises(ElastifyError, match=r"share=2 is not in"):
        fuse(model, copy.deepcopy(model), 2)
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ElastifyError, match="optimal transport needs POT") as caught:
        align(model, copy.deepcopy(model))
    assert "elastify[fuse]" in str(caught.value)
