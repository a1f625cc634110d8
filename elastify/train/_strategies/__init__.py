"""One training step, many ways: which subnets a step runs, with which loss, and what it keeps between steps.

A strategy is a frozen dataclass of its choices with a `step` (`strategy`, `losses`). `distill` is a loss that several
share; `masks`, `gates`, `levels`, `exits` and `replay` are the mechanics below single strategies. `__all__` are the
public names, which `elastify.train` hands on; the others are for the loop.
"""

from elastify.train._strategies.all_exits import AllExits
from elastify.train._strategies.alternate_core import AlternateCore
from elastify.train._strategies.checks import check_arguments as check_arguments
from elastify.train._strategies.checks import check_optimizer as check_optimizer
from elastify.train._strategies.checks import check_strategy as check_strategy
from elastify.train._strategies.compressible import Compressible
from elastify.train._strategies.dealing import shares as shares
from elastify.train._strategies.distill import soft_cross_entropy
from elastify.train._strategies.edge_popup import EdgePopup
from elastify.train._strategies.exit_early import EarlyExit, exit_early
from elastify.train._strategies.full_plus_random import FullPlusRandom
from elastify.train._strategies.gumbel_mask import GumbelMask
from elastify.train._strategies.losses import Backward as Backward
from elastify.train._strategies.losses import Distill as Distill
from elastify.train._strategies.losses import Forward as Forward
from elastify.train._strategies.losses import Loss as Loss
from elastify.train._strategies.losses import Losses
from elastify.train._strategies.losses import floats as floats
from elastify.train._strategies.losses import scalar as scalar
from elastify.train._strategies.progressive import ProgressiveShrinking
from elastify.train._strategies.sandwich import Sandwich
from elastify.train._strategies.sorted import Sorted
from elastify.train._strategies.strategy import Strategy
from elastify.train._strategies.supermask import Supermask

__all__ = [
    "AllExits",
    "AlternateCore",
    "Compressible",
    "EarlyExit",
    "EdgePopup",
    "FullPlusRandom",
    "GumbelMask",
    "Losses",
    "ProgressiveShrinking",
    "Sandwich",
    "Sorted",
    "Strategy",
    "Supermask",
    "exit_early",
    "soft_cross_entropy",
]
