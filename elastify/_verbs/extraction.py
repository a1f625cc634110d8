"""One subnet as a plain model.

What is done to the copy is told in `elastify._deploy`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from elastify._capture import uncollected
from elastify._deploy import materialise
from elastify._rewrite import check_unchanged
from elastify._space import state
from elastify._verbs.activation import chosen


def extract(model: nn.Module, config: Any = None) -> nn.Module:
    """A plain model of the original class with the weights of one subnet, on memory of its own.

    `config` as for `activate`; None is the network as it runs now: the active subnet, or the full one. Raises
    ElastifyError for a model that was changed after `elastify`.
    """
    known = state(model)
    check_unchanged(model)
    choice = known.space.by_id(chosen(model, config))
    with uncollected():
        return materialise(model, choice, known.examples)
