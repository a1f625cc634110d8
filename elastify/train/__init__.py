"""Training of elastic models: strategies, a trainer, and what comes before (`sort_channels`) and after (`recalibrate`).

A strategy turns one batch into several passes, one per subnet, and leaves the sum of their gradients. It works in any
loop of your own; `fit` is a loop with progress, mixed precision, checkpoints and resume, and `ElasticTrainer`, imported
when it is asked for, is the trainer of transformers.
"""

from typing import TYPE_CHECKING, Any

from elastify.train._active_only import active_only
from elastify.train._align import align, fuse
from elastify.train._all_exits import AllExits
from elastify.train._alternate_core import AlternateCore
from elastify.train._compressible import Compressible
from elastify.train._distill import soft_cross_entropy
from elastify.train._edge_popup import EdgePopup
from elastify.train._exit_early import EarlyExit, exit_early
from elastify.train._factorize import factorize
from elastify.train._fit import History, fit
from elastify.train._full_plus_random import FullPlusRandom
from elastify.train._grow import grow
from elastify.train._gumbel_mask import GumbelMask
from elastify.train._norms import replace_norms
from elastify.train._progressive import ProgressiveShrinking
from elastify.train._ranks import one_reduction
from elastify.train._recalibrate import recalibrate
from elastify.train._sandwich import Sandwich
from elastify.train._sort import sort_channels
from elastify.train._sorted import Sorted
from elastify.train._stitch import stitch
from elastify.train._strategy import Losses, Strategy
from elastify.train._supermask import Supermask

if TYPE_CHECKING:
    from elastify.train._trainer import ElasticTrainer as ElasticTrainer

__all__ = [
    "AllExits",
    "AlternateCore",
    "Compressible",
    "EarlyExit",
    "EdgePopup",
    "FullPlusRandom",
    "GumbelMask",
    "History",
    "Losses",
    "ProgressiveShrinking",
    "Sandwich",
    "Sorted",
    "Strategy",
    "Supermask",
    "active_only",
    "align",
    "exit_early",
    "factorize",
    "fit",
    "fuse",
    "grow",
    "one_reduction",
    "recalibrate",
    "replace_norms",
    "soft_cross_entropy",
    "sort_channels",
    "stitch",
]


def __getattr__(name: str) -> Any:
    if name != "ElasticTrainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from elastify.train._trainer import ElasticTrainer

    return ElasticTrainer
