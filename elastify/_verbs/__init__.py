"""What is done with an elastic model, in the order in which people do it.

Look at it: `space`, `cost` (`spaces`); `graph` is of any model. Let it run as one of its subnets: `activate`
(`activation`). Find the subnet that fits: `search` (`searching`). Take it out as a plain model: `extract`
(`extraction`). One file a family; each asks the model for its `State` and hands names down as numbers. What needs a
run takes its example from `examples`. A new verb is a function in the file of its family, and a name here and in
`elastify/__init__.py`.
"""

from elastify._verbs.activation import activate, active_config
from elastify._verbs.examples import described_example, example_for
from elastify._verbs.extraction import extract
from elastify._verbs.graph import graph
from elastify._verbs.searching import Budgets, pairwise, search
from elastify._verbs.spaces import cost, space

__all__ = [
    "Budgets",
    "activate",
    "active_config",
    "cost",
    "described_example",
    "example_for",
    "extract",
    "graph",
    "pairwise",
    "search",
    "space",
]
