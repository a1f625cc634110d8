"""Training of elastic models: strategies, a trainer, and what comes before (`sort_channels`) and after (`recalibrate`).

A strategy turns one batch into several passes, one per subnet, and leaves the sum of their gradients. It works in any
loop of your own; `fit` is a loop with progress, mixed precision, checkpoints and resume, and `ElasticTrainer`,
imported when it is asked for, is the trainer of transformers.
"""

from typing import TYPE_CHECKING, Any

from elastify.train._loop import History, active_only, fit, one_reduction
from elastify.train._strategies import (
    AllExits,
    AlternateCore,
    Compressible,
    EarlyExit,
    EdgePopup,
    FullPlusRandom,
    GumbelMask,
    Losses,
    ProgressiveShrinking,
    Sandwich,
    Sorted,
    Strategy,
    Supermask,
    exit_early,
    soft_cross_entropy,
)
from elastify.train._surgery import align, factorize, fuse, grow, recalibrate, replace_norms, sort_channels, stitch

if TYPE_CHECKING:
    from elastify.train._loop.trainer import ElasticTrainer as ElasticTrainer

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
    from elastify.train._loop.trainer import ElasticTrainer

    return ElasticTrainer
