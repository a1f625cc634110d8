"""What an elastic model can be, and what that costs.

Both answers were worked out by `elastify` and are kept on the model; nothing runs here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from elastify._rewrite import check_unchanged
from elastify._space import Cost, CostModel, SearchSpace, state
from elastify._verbs.activation import chosen


def space(model: nn.Module) -> SearchSpace:
    """The search space of an elastic model; printing it shows axes, stages and what is frozen and why."""
    return state(model).space


def cost(model: nn.Module, config: Any = None) -> Cost:
    """Exact cost per sample of a configuration; None is the network as it runs now: the active subnet, or the full one.

    A `SubnetConfig`, a mapping of globs or a ratio gives numbers; a list of those, or an array from
    `space(model).encode`, gives arrays. MACs are multiply-accumulates; activations count elements; bytes are those of
    the parameters and buffers in the dtypes that they have now.

    Raises ElastifyError for a model that was changed after `elastify`.
    """
    where, costs = space(model), costs_of(model)
    if isinstance(config, np.ndarray):
        return costs(config)
    if isinstance(config, (list, tuple)):
        return costs(where.encode([chosen(model, item) for item in config]))
    return costs.of(chosen(model, config))


def costs_of(model: nn.Module) -> CostModel:
    """The costs of a model, which must be as it was but for the dtypes: bytes are those of its tensors now."""
    known = state(model)
    now = check_unchanged(model)
    return known.costs.in_dtypes(now.types(), now.named_types)
