"""Embeddings with sparse gradients: a subnet gives its part of the table the gradient that the extracted model has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from elastify import activate, elastify, extract, space

IDS = torch.tensor([[1, 4, 4, 2], [0, 7, 1, 19]])


class Own(nn.Embedding):
    """A class made of it."""


class Looks(nn.Module):
    """A table, and layers behind it; `twice` looks into it from two modules that share it."""

    def __init__(self, kind: type[nn.Module], twice: bool = False) -> None:
        super().__init__()
        self.table, self.a, self.b = kind(20, 16, sparse=True), nn.Linear(16, 32), nn.Linear(32, 3)
        if twice:
            self.again = kind(20, 16, sparse=True)
            self.again.weight = self.table.weight
        self.twice = twice

    def forward(self, ids: Tensor) -> Tensor:
        found = self.table(ids) + self.again(ids + 0) if self.twice else self.table(ids)
        return self.b(torch.relu(self.a(found.mean(1) if found.dim() > 2 else found)))


def gradient(model: nn.Module) -> Tensor:
    model.zero_grad()
    model(IDS).square().sum().backward()
    found = model.table.weight.grad
    return found.to_dense() if found.is_sparse else found


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag, Own])
def test_gradients_are_those_of_the_extracted_model(kind: type[nn.Module], twice: bool) -> None:
    torch.manual_seed(0)
    model = elastify(Looks(kind, twice), IDS)
    full = gradient(model)
    for config in (0.5, *({axis.name: 0.5} for axis in space(model).axes)):
        expected = gradient(extract(model, config))
        with activate(model, config):
            model.zero_grad()
            model(IDS).square().sum().backward()
        found = model.table._parameters["weight"].grad
        found = found.to_dense() if found.is_sparse else found
        units = expected.shape[1]
        torch.testing.assert_close(found[:, :units], expected)
        assert not found[:, units:].any()
    torch.testing.assert_close(gradient(model), full)


def test_gradients_of_both_add_up() -> None:
    torch.manual_seed(0)
    model = elastify(Looks(nn.Embedding), IDS)
    full = gradient(model)
    half = gradient(extract(model, 0.5))
    model.zero_grad()
    model(IDS).square().sum().backward()
    with activate(model, 0.5):
        model(IDS).square().sum().backward()
    expected = full.clone()
    expected[:, : half.shape[1]] += half
    torch.testing.assert_close(model.table.weight.grad.to_dense(), expected)
    before = model.table.weight.detach().clone()
    torch.optim.SGD(model.parameters(), 0.1).step()
    torch.testing.assert_close(model.table.weight, before - 0.1 * expected)
    with activate(model, 0.5), torch.no_grad():
        assert not model(IDS).requires_grad
