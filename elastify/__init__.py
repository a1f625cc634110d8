"""elastify: make any PyTorch network elastic, train all its sizes at once, extract the one that fits."""

from elastify._build import elastify
from elastify._config import SubnetConfig
from elastify._cost import Cost
from elastify._elastic import activate, cost, extract, search, space
from elastify._errors import ElastifyError
from elastify._save import load, save
from elastify._search import Result
from elastify._space import SearchSpace

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
    "load",
    "save",
    "search",
    "space",
]
