"""One training step, many ways: which subnets a step runs, with which loss, and what it keeps between steps.

A strategy is a frozen dataclass of its choices with a `step` (`strategy`). `distill` and `teacher` are the losses
that several share; `masks`, `gates`, `levels` and `replay` are the mechanics below single strategies.
"""

from elastify.train._strategies.all_exits import AllExits
from elastify.train._strategies.alternate_core import AlternateCore
from elastify.train._strategies.checks import check_arguments, check_optimizer, check_strategy
from elastify.train._strategies.compressible import Compressible
from elastify.train._strategies.distill import soft_cross_entropy
from elastify.train._strategies.edge_popup import EdgePopup
from elastify.train._strategies.exit_early import EarlyExit, exit_early
from elastify.train._strategies.full_plus_random import FullPlusRandom
from elastify.train._strategies.gumbel_mask import GumbelMask
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses, floats, scalar
from elastify.train._strategies.progressive import ProgressiveShrinking
from elastify.train._strategies.sandwich import Sandwich
from elastify.train._strategies.sorted import Sorted
from elastify.train._strategies.strategy import Strategy
from elastify.train._strategies.supermask import Supermask

__all__ = [
    "AllExits",
    "AlternateCore",
    "Backward",
    "Compressible",
    "Distill",
    "EarlyExit",
    "EdgePopup",
    "Forward",
    "FullPlusRandom",
    "GumbelMask",
    "Loss",
    "Losses",
    "ProgressiveShrinking",
    "Sandwich",
    "Sorted",
    "Strategy",
    "Supermask",
    "check_arguments",
    "check_optimizer",
    "check_strategy",
    "exit_early",
    "floats",
    "scalar",
    "soft_cross_entropy",
]
