"""What is known of an elastic model besides its weights, kept in one place on the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from elastify._capture import not_elastic
from elastify._ir import ExampleSpec
from elastify._space.cost import CostModel
from elastify._space.space import SearchSpace

STATE = "_elastify_state"


@dataclass(frozen=True)
class State:
    """What is known of an elastic model besides its weights; copies of the model share it."""

    space: SearchSpace
    costs: CostModel
    examples: tuple[ExampleSpec | None, ...] = ()  # what it was made elastic with, without data
    batch: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # dimensions of its inputs that count samples

    def __deepcopy__(self, memo: dict[int, Any]) -> State:
        return self


def state(model: nn.Module) -> State:
    """What elastify knows of a model; an error for a plain one."""
    known = model.__dict__.get(STATE) if isinstance(model, nn.Module) else None
    if known is None:
        raise not_elastic(model)
    return known
