"""Choosing a configuration within a budget.

`run_search` proposes configurations (NSGA-II from Optuna), repairs each into the budget (`budget`) and keeps what was
scored in a study that can be resumed (`study`), by this process or all ranks (`workers`, `ranks`). `SearchOptions` say
how. It sees a space and functions; it never sees a model.
"""

from elastify._search.budget import Budget, Trial, failed, read_score
from elastify._search.options import SearchOptions
from elastify._search.ranks import Ranks, catch_interrupt, is_sharded
from elastify._search.search import Result, run_search, summarise
from elastify._search.workers import Workers

__all__ = [
    "Budget",
    "Ranks",
    "Result",
    "SearchOptions",
    "Trial",
    "Workers",
    "catch_interrupt",
    "failed",
    "is_sharded",
    "read_score",
    "run_search",
    "summarise",
]
