"""Edge-popup: the weights with the largest scores are used, and only scores are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from elastify._errors import ElastifyError
from elastify.train._strategies.masks import Masked, gate_weights, to_gate


@dataclass(frozen=True, eq=False)
class EdgePopup(Masked):
    """The share `keep` of weights with the largest scores, in every tensor (Ramanujan et al., "What's hidden in a
    randomly weighted neural network?", arXiv 1911.13299), a baseline of `GumbelMask`.

    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    >>> strategy = EdgePopup(model, weights="signed")
    >>> strategy.prepare()
    >>> int(strategy.extract()[0].weight.count_nonzero())
    32

    Scores are drawn as Kaiming's uniform weights; gradients pass straight through to them. `select`: globs of weights.
    """

    select: str | tuple[str, ...] = ("*",)
    keep: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep <= 1:
            raise ElastifyError(
                f"keep={self.keep} is not a share", where="EdgePopup", fix="a number above 0, at most 1"
            )

    def _choose(self) -> list[str]:
        return to_gate(self.model, "weight", self.select)

    def _add_gates(self, chosen: list[str]) -> None:
        generator = torch.Generator().manual_seed(self.seed + 1)

        def scores(weight: Tensor) -> Tensor:
            drawn = torch.empty(weight.shape)
            return nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator).to(weight)

        gate_weights(self.model, chosen, None, scores, kind="top", top=self.keep)
