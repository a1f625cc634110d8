"""The search space of an elastic model: legal configurations, what they cost, and how they print.

`SearchSpace` holds axes, stages and relations; a `SubnetConfig` is one legal point, made from globs and ratios
(`wishes`). Many configurations at once are rows of numbers (`rows`). `CostModel` counts MACs, parameters, bytes and
activations exactly, as closed forms of the sizes. `state` is what is known of an elastic model besides its weights.
"""

from elastify._space.config import SubnetConfig
from elastify._space.cost import CostModel, parse_budget
from elastify._space.metrics import METRICS, Cost, human, itemsize
from elastify._space.relation_text import size_text
from elastify._space.space import SearchSpace
from elastify._space.state import STATE, State, state
from elastify._space.wishes import nearest

__all__ = [
    "METRICS",
    "STATE",
    "Cost",
    "CostModel",
    "SearchSpace",
    "State",
    "SubnetConfig",
    "human",
    "itemsize",
    "nearest",
    "parse_budget",
    "size_text",
    "state",
]
