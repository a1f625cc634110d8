"""elastify: make any PyTorch network elastic, train all its sizes at once, extract the one that fits."""

from elastify._config import SubnetConfig
from elastify._cost import Cost
from elastify._elastic import activate, cost, elastify, extract, space
from elastify._errors import ElastifyError

__all__ = ["Cost", "ElastifyError", "SubnetConfig", "activate", "cost", "elastify", "extract", "space"]
