"""Which subnet a model runs as.

A configuration has names here and numbers below: `by_id` of the search space translates it, `active_config` translates
back.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from elastify._rewrite import elastic_state, set_active
from elastify._space import SubnetConfig, state


class activate:  # noqa: N801 - reads as a function: activate(model, config), or with activate(model, config): ...
    """Make one subnet the active one: at once, and until the end of the `with` block if there is one.

    `config` is a SubnetConfig, a mapping of globs to ratios or sizes, or one ratio; None is the full network.

    >>> import torch
    >>> from elastify import elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> with activate(model, 0.5):
    ...     model[0].weight.shape
    torch.Size([32, 4])
    >>> model[0].weight.shape
    torch.Size([64, 4])
    """

    def __init__(self, model: nn.Module, config: Any = None) -> None:
        known = state(model)
        self._model, self._before = model, elastic_state(model).choice
        self.config = known.space.max if config is None else known.space.config(config)
        set_active(model, known.space.by_id(self.config))

    def __enter__(self) -> SubnetConfig:
        return self.config

    def __exit__(self, *error: Any) -> None:
        set_active(self._model, self._before)


def chosen(model: nn.Module, config: Any) -> SubnetConfig:
    """The configuration that is meant where a model is only looked at; None is the network as it runs now."""
    return active_config(model) if config is None else state(model).space.config(config)


def active_config(model: nn.Module) -> SubnetConfig:
    """The configuration that is active now."""
    where, choice = state(model).space, elastic_state(model).choice
    sizes = {axis.name: choice.sizes.get(axis.id, axis.size) for axis in where.axes}
    depths = {stage.name: choice.blocks.get(stage.name, range(len(stage.blocks))) for stage in where.stages}
    return SubnetConfig.of(sizes, depths, space=where.fingerprint)
