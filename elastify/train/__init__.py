"""Training of elastic models: strategies, a trainer, and what comes before (`sort_channels`) and after (`recalibrate`).

A strategy turns one batch into several passes, one per subnet, and leaves the sum of their gradients. It works in any
loop of your own; `fit` is a loop with progress, mixed precision, checkpoints and resume, and `ElasticTrainer`,
imported when it is asked for, is the trainer of transformers.
"""

from typing import TYPE_CHECKING, Any

from elastify.train import _strategies
from elastify.train._finetune import finetune
from elastify.train._loop import History, active_only, fit, one_reduction
from elastify.train._strategies import *  # noqa: F403 - a new strategy needs no line here
from elastify.train._surgery import align, factorize, fuse, grow, recalibrate, replace_norms, sort_channels, stitch

if TYPE_CHECKING:
    from elastify.train._loop.trainer import ElasticTrainer as ElasticTrainer

__all__ = [
    "History",
    "active_only",
    "align",
    "factorize",
    "finetune",
    "fit",
    "fuse",
    "grow",
    "one_reduction",
    "recalibrate",
    "replace_norms",
    "sort_channels",
    "stitch",
]
__all__ += _strategies.__all__


def __getattr__(name: str) -> Any:
    if name != "ElasticTrainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from elastify.train._loop.trainer import ElasticTrainer

    return ElasticTrainer
