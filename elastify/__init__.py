"""elastify: make any PyTorch network elastic, train all its sizes at once, extract the one that fits."""

from elastify._deploy import load, save
from elastify._elastify import elastify
from elastify._errors import ElastifyError
from elastify._search import Result
from elastify._space import Cost, SearchSpace, SubnetConfig
from elastify._verbs import activate, cost, extract, graph, plain, search, space

__all__ = [
    "Cost",
    "ElastifyError",
    "Result",
    "SearchSpace",
    "SubnetConfig",
    "activate",
    "cost",
    "elastify",
    "extract",
    "graph",
    "load",
    "plain",
    "save",
    "search",
    "space",
]
