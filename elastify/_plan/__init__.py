"""From an analysis to a plan: which axes and stages a model offers, what they are called, and what follows them.

`Planner` turns layouts into axes (`naming`, `choices`) and looks for repeated blocks that can be left out (`depth`,
`skips`, `stages`). `numbers` finds attributes that forward never reads but people and other libraries do.
`constraints` keeps the comparisons that some sizes would answer differently.
"""

from elastify._plan.choices import ceil_ratio, is_int
from elastify._plan.nn_numbers import nn_sources, spellings
from elastify._plan.options import Options, check_patterns
from elastify._plan.planner import STATISTICS, Planner

__all__ = [
    "STATISTICS",
    "Options",
    "Planner",
    "ceil_ratio",
    "check_patterns",
    "is_int",
    "nn_sources",
    "spellings",
]
