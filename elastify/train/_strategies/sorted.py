"""Nested subnets, a few of them drawn at random in each step.

Every subnet keeps a prefix of the units and blocks of every larger one, so that what matters most comes to stand
first. That makes selection trivial: under a budget it is the largest subnet that fits, and nothing is searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from elastify._errors import ElastifyError
from elastify._space import SubnetConfig, parse_budget, state
from elastify._verbs import cost, space
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses, floats
from elastify.train._strategies.strategy import Strategy


@dataclass(frozen=True, eq=False)
class Sorted(Strategy):
    """`draws` of the nested subnets in each step, all on the labels (Valipour et al., SortedNet, arXiv 2309.00255).

    >>> import torch
    >>> from torch import nn
    >>> from elastify import cost, elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)), torch.randn(2, 4))
    >>> strategy = Sorted(model, subnets=5, draws=2)
    >>> x = torch.randn(8, 4)
    >>> len(strategy.step(lambda: model(x), lambda outputs: outputs.square().mean()).random)
    2
    >>> strategy.select(budget_macs=0.6 * cost(model).macs)
    SubnetConfig(hidden=7)

    `subnets` is their number, from the smallest to the full network; or `(widths, depths)`, a grid of so many sizes of
    all axes and numbers of blocks (up to hundreds of subnets); or a list of configurations as for `activate`. They
    are drawn evenly, with repeats. The draws of a step share its batch and their gradients add up. As the authors
    accumulate over fresh batches, as we understand them, there is `draws=1` with `fit(..., accumulate=4)`.
    """

    subnets: int | Sequence[Any] = 8
    draws: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or not self.configs:
            raise ElastifyError("a step needs at least one draw from at least one subnet", where="Sorted")

    def prepare(self) -> None:
        """Nothing to add; a warning where the model has running statistics, which the full network alone moves."""
        self._warn_of_norms()

    @cached_property
    def configs(self) -> tuple[SubnetConfig, ...]:
        """The subnets."""
        where, asked = space(self.model), self.subnets
        if not isinstance(asked, (int, Sequence)) or isinstance(asked, str):
            raise ElastifyError(f"subnets={asked!r}", where="Sorted", fix="a number, (widths, depths), or a list")
        if isinstance(asked, int):
            return tuple(dict.fromkeys(where.nested(asked)))
        if len(asked) == 2 and all(isinstance(number, int) for number in asked):
            return where.grid(*asked)
        return tuple(dict.fromkeys(where.config(wishes) for wishes in asked))

    def step(
        self, forward: Forward, loss: Loss, *, distill: Distill | None = None, backward: Backward = Tensor.backward
    ) -> Losses:
        """Add the gradients of the losses of the drawn subnets; arguments as for `Sandwich.step`, but no `distill`."""
        self._labels_only(distill)
        drawn = self._generator.integers(len(self.configs), size=self.draws)
        values = [self._pass(self.configs[number], forward, loss, backward) for number in drawn]
        return Losses(random=tuple(floats(values)))

    def select(
        self,
        budget_macs: float | str | None = None,
        budget_params: float | str | None = None,
        budget_bytes: float | str | None = None,
    ) -> SubnetConfig:
        """The largest of the trained subnets within the budgets, which are as for `search`.

        Raises ElastifyError where even the smallest is above them.
        """
        costs, full = cost(self.model, list(self.configs)), state(self.model).costs.of()
        asked = {"macs": budget_macs, "params": budget_params, "bytes": budget_bytes}
        limits = {name: parse_budget(value, getattr(full, name)) for name, value in asked.items() if value is not None}
        fitting = [
            (costs.macs[number], costs.params[number], number)
            for number in range(len(self.configs))
            if all(getattr(costs, name)[number] <= limit for name, limit in limits.items())
        ]
        if not fitting:
            least = ", ".join(f"{min(getattr(costs, name))} {name}" for name in limits)
            raise ElastifyError(f"none of the {len(self.configs)} subnets fits", why=f"the smallest has {least}")
        return self.configs[max(fitting)[-1]]
