"""Subnetworks extracted from frozen weights by Gumbel gates, per weight, per unit of an axis, or per block.

Each gate is open with probability sigmoid(logit), sampled once per step with straight-through gradients. Masks of
weights give no speed by themselves; those of units and blocks do: units are sorted by their gates, so that the open
ones are a prefix, which slicing keeps. The expected cost is the exact one, linear around the expected sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from elastify import _verbs
from elastify._errors import ElastifyError
from elastify._space import SubnetConfig, parse_budget, state
from elastify.train._strategies.choices import is_prepared
from elastify.train._strategies.gate_config import expected_macs, open_config, open_first, prove
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses
from elastify.train._strategies.masks import Masked, gate_blocks, gate_units, gate_weights, to_gate


@dataclass(frozen=True, eq=False)
class GumbelMask(Masked):
    """Train gates, not weights (Dupont et al., ASLP, "Extracting effective subnetworks", arXiv 2202.12986).

    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    >>> strategy = GumbelMask(model, "unit")
    >>> optimizer = torch.optim.SGD(strategy.groups(lr=50.0), momentum=0.9)  # prepares the model
    >>> x = torch.randn(8, 4)
    >>> losses = strategy.step(lambda: model(x), lambda outputs: outputs.square().mean())
    >>> optimizer.step()
    >>> strategy.extract()[0].out_features <= 16
    True

    `granularity`: "weight" (the paper: with `weights="kaiming"` or "signed", and a learnt scale per tensor, `rescale`),
    "unit" for units of axes, channels and heads, or "block" for the blocks of stages but the first (not of stages that
    keep first blocks only). `select`: globs of the names of weights, axes or stages (None: all of them; axes of roles
    hidden and heads). `start` is their logit, `tau` the temperature. With `budget_macs` (units and blocks) `penalty`
    times the excess of expected MACs over the budget, relative to it, is added to the loss. Added parameters end in
    `_elastic`.
    """

    granularity: str = "weight"
    select: str | tuple[str, ...] | None = None
    tau: float = 1.0
    start: float = 0.0
    rescale: bool = True
    budget_macs: float | str | None = None
    penalty: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.granularity not in ("weight", "unit", "block"):
            raise ElastifyError(f"granularity={self.granularity!r}", fix='one of "weight", "unit", "block"')
        if self.budget_macs is not None and self.granularity == "weight":
            raise ElastifyError("masked weights save no MACs", where="budget_macs", fix='granularity="unit" or "block"')
        if not (self.tau > 0 and self.penalty >= 0):
            raise ElastifyError(f"tau={self.tau}, penalty={self.penalty}", fix="tau above 0, penalty 0 or more")
        if self.budget_macs is not None and self._budget() < 1:
            fix = 'a number of MACs, "350M", or a share such as "50%"'
            raise ElastifyError(f"budget {self.budget_macs!r} is below one MAC", where="budget_macs", fix=fix)

    def _budget(self) -> int:
        return parse_budget(self.budget_macs, state(self.model).costs.of().macs)

    def _choose(self) -> list[Any]:
        return to_gate(self.model, self.granularity, self.select)

    def _add_gates(self, chosen: list[Any]) -> None:
        def first(weight: Tensor) -> Tensor:
            return torch.full_like(weight, self.start)

        if self.granularity == "weight":
            scale = "smart" if self.rescale else None
            gate_weights(self.model, chosen, scale, first, tau=self.tau)
        else:
            gate = gate_units if self.granularity == "unit" else gate_blocks
            gate(self.model, chosen, self.start, tau=self.tau)

    def step(
        self, forward: Forward, loss: Loss, *, distill: Distill | None = None, backward: Backward = Tensor.backward
    ) -> Losses:
        """Add the gradients of the loss with newly drawn gates, and of the excess over the budget."""
        if self.granularity != "weight" and "proven" not in self._once and is_prepared(self):
            prove(self.model, forward, loss)
            self._once["proven"] = True
        losses = super().step(forward, loss, distill=distill, backward=backward)
        if self.budget_macs is not None:
            excess = expected_macs(self.model) / self._budget() - 1
            if excess > 0:
                backward(self.penalty * excess)
        return losses

    def config(self) -> SubnetConfig:
        """The configuration of the open gates: its depths, and sizes that count units; `extract` keeps the open ones.

        An axis keeps its smallest legal size that holds all open units; the others in it are closed in its weights.
        No unit moves: active in this model, such a size is that of the first units, open or not.
        """
        self.prepare()
        return open_config(self.model)

    def extract(self) -> nn.Module:
        """A plain model of what the gates leave open, smaller where units or blocks are gated."""
        config = self.config()
        return _verbs.extract(open_first(self.model), config).requires_grad_()
