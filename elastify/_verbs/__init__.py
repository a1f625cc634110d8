"""What is done with an elastic model, in the order in which people do it.

Look at it: `space`, `cost` (`spaces`); `graph` is of any model. Let it run as one of its subnets: `activate`
(`activation`). Find the subnet that fits: `search` (`searching`). Take it out as a plain model: `extract`
(`extraction`); or make the model itself plain again: `plain`. One file a family; each asks the model for its `State`,
refuses one that has been changed since, and hands names down as numbers. What needs a run takes its example from
`examples`. A new verb is a function in the file of its family, and a name here and in `elastify/__init__.py`.
"""

from elastify._verbs.activation import activate, active_config
from elastify._verbs.examples import described_examples, example_for, examples_for
from elastify._verbs.extraction import extract
from elastify._verbs.graph import graph
from elastify._verbs.plain import plain
from elastify._verbs.searching import Budgets, pairwise, search
from elastify._verbs.spaces import cost, costs_of, space

__all__ = [
    "Budgets",
    "activate",
    "active_config",
    "cost",
    "costs_of",
    "described_examples",
    "example_for",
    "examples_for",
    "extract",
    "graph",
    "pairwise",
    "plain",
    "search",
    "space",
]
