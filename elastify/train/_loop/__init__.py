"""The loop around a strategy: batches, schedules, checkpoints, logs, ranks, and the two ways in, `fit` and the
transformers Trainer (`trainer`, which is imported only where that library is installed).
"""

from elastify.train._loop.active_only import active_only
from elastify.train._loop.fit import History, fit
from elastify.train._loop.ranks import one_reduction
from elastify.train._loop.schedule import Limits
from elastify.train._loop.settings import Objective

__all__ = [
    "History",
    "Limits",
    "Objective",
    "active_only",
    "fit",
    "one_reduction",
]
