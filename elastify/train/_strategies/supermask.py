"""Supermasks: a mask of frozen random weights, sampled anew in every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from elastify.train._strategies.masks import Masked, gate_weights, to_gate


@dataclass(frozen=True, eq=False)
class Supermask(Masked):
    """Bernoulli masks of weights with straight-through gradients (Zhou et al., "Deconstructing lottery tickets",
    arXiv 1905.01067), a baseline of `GumbelMask`.

    >>> from torch import nn
    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    >>> strategy = Supermask(model, weights="signed")
    >>> strategy.prepare()
    >>> strategy.step(lambda: model(torch.randn(8, 4)), torch.mean).max is None
    False

    A weight is kept with probability sigmoid(logit), and in the extracted model if that is at least one half. With
    `rescale` a tensor is multiplied by the number of its weights over that of the kept ones. `select`: globs of names.
    """

    select: str | tuple[str, ...] = ("*",)
    rescale: bool = True

    def _choose(self) -> list[str]:
        return to_gate(self.model, "weight", self.select)

    def _add_gates(self, chosen: list[str]) -> None:
        gate_weights(self.model, chosen, "kept" if self.rescale else None, torch.zeros_like, kind="bernoulli")
