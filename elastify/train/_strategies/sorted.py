"""Nested subnets, of which each update trains one, in exact shares of the draws.

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
from elastify._space import SubnetConfig, parse_budget
from elastify._verbs import cost, space
from elastify.train._strategies.dealing import Weights, check_weights, deal, shares
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses, floats
from elastify.train._strategies.teaching import Lesson, Taught


@dataclass(frozen=True, eq=False)
class Sorted(Taught):
    """Nested subnets, `draws` of them in each step (Valipour et al., SortedNet, arXiv 2309.00255).

    >>> import torch
    >>> from torch import nn
    >>> from elastify import cost, elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)), torch.randn(2, 4))
    >>> strategy = Sorted(model, subnets=5)
    >>> x = torch.randn(8, 4)
    >>> len(strategy.step(lambda: model(x), lambda outputs: outputs.square().mean()).random)
    1
    >>> strategy.select(budget_macs=0.6 * cost(model).macs)
    SubnetConfig(hidden=7)

    `subnets` is their number, from the smallest to the full network; or `(widths, depths)`, a grid of so many sizes of
    all axes and numbers of blocks (up to hundreds of subnets); or a list of configurations as for `activate`. They are
    dealt in exact shares, in shuffled order. `weights` are the shares: "macs" gives all equal MACs, so that small ones
    are drawn more often (of a grid, mostly the few smallest); "even" draws all alike; "macs->even" goes from the one to
    the other as training goes on; or a number for each of them.

    The draws of a step share its batch, and their gradients add up. One at a time, each with a fresh batch and an
    update, is better for the same MACs. The authors accumulate, as we understand them: `fit(..., accumulate=4)`.

    `teacher` is None (labels only); "full", the full network as it is; "frozen", as it was before the training; "ema",
    the average of its weights; or a module called as the model is. `mix` is the share of the labels; the rest is the
    teacher's probabilities in each cross-entropy, at a `temperature`. A loss without one keeps its targets and adds the
    mean absolute difference to the teacher's outputs. The teacher begins at the share `start` of the training.
    """

    subnets: int | Sequence[Any] = 8
    draws: int = 1
    weights: Weights = "macs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or not self.configs:
            raise ElastifyError("a step needs at least one draw from at least one subnet", where="Sorted")
        check_weights(self.weights, len(self.configs), "Sorted")
        self._memory.update(hand=[], owed=[])

    def prepare(self) -> None:
        """Copy the teacher; a warning where the model has running statistics, which the full network alone moves."""
        super().prepare()
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
        return tuple(where.config(wishes) for wishes in asked)

    def step(
        self, forward: Forward, loss: Loss, *, distill: Distill | None = None, backward: Backward = Tensor.backward
    ) -> Losses:
        """Add the gradients of the losses of the drawn subnets; arguments as for `Sandwich.step`."""
        lesson = Lesson(self, forward, loss, distill, backward)
        values = floats([lesson.subnet(self.sample()) for _ in range(self.draws)])
        self._count()
        return Losses(random=tuple(values))

    def sample(self) -> SubnetConfig:
        """The next of the subnets."""
        wanted = shares(self.weights, self._macs, self.progress)
        return self.configs[deal(self._memory, wanted, self._generator)]

    @cached_property
    def _macs(self) -> list[float]:
        return [float(value) for value in cost(self.model, list(self.configs)).macs]

    def select(
        self,
        budget_macs: float | str | None = None,
        budget_params: float | str | None = None,
        budget_bytes: float | str | None = None,
    ) -> SubnetConfig:
        """The largest of the trained subnets within the budgets, as for `search`; an error where none is."""
        costs, full = cost(self.model, list(self.configs)), cost(self.model)
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
