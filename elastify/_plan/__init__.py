"""From an analysis to a plan: which axes and stages a model offers, what they are called, and what follows them.

`Planner` tells the story. Axes get names (`uses`, `naming`) and sizes (`options`, `choices`). Repeated blocks that
can be left out are put in rows and become stages: `flow` and `skips` say what leaving out one span of a record means,
`blocks`, `loops` and `depth` which blocks form a row, `stages` which rows are offered. Numbers that describe the model
follow: those that no run shows (`described`, `numbers`, `operands`), those of torch.nn (`nn_numbers`), floats that are
a root of a size (`scales`), and numbers of layers (`layers`). `constraints` keeps the comparisons that some sizes would
answer differently. `buffers` tells which ones forward writes, `branches` what the recorded runs took one side of.
"""

from elastify._plan.buffers import norm_statistics
from elastify._plan.choices import ceil_ratio, is_int
from elastify._plan.nn_numbers import nn_sources, spellings
from elastify._plan.operands import arguments, attributes, elastic_sizes, may_be_a_size
from elastify._plan.options import Options, check_patterns
from elastify._plan.planner import Planner

__all__ = [
    "Options",
    "Planner",
    "arguments",
    "attributes",
    "ceil_ratio",
    "check_patterns",
    "elastic_sizes",
    "is_int",
    "may_be_a_size",
    "nn_sources",
    "norm_statistics",
    "spellings",
]
