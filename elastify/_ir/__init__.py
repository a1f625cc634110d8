"""The nouns that everything else speaks of; no torch here, and nothing that runs.

An integer that remembers where it came from (`ints`): an attribute, a dimension of a tensor, or arithmetic on those.
The record of one run of a model (`graph`): calls, the values between them, and the module calls around them. What a
dimension is made of (`layout`): an axis, a product of axes, a concatenation. And what the rest of the library obeys
(`plan`): axes, stages, how each tensor and number follows them, and what is frozen for what reason. One subnet,
in numbers, is a `Choice` (`choice`); what goes with the blocks that it leaves out, `presence` tells. What is
remembered of the inputs of a run, without their data (`examples`).
"""

from elastify._ir.choice import FULL, Choice, Key
from elastify._ir.examples import MAX_TEXT, ExampleSpec, TensorSpec, Unknown
from elastify._ir.graph import Graph, ModuleCall, RecordedCall, Value, enclosing, values
from elastify._ir.ints import Attr, Dim, Expr, Guard, Int, Op, evaluate, exprs, guard_log, leaves
from elastify._ir.layout import Axis, Concat, Layout, Product, active_size, axes_of, indices, mentions, settled
from elastify._ir.plan import Constraint, ElasticAxis, FrozenDim, Plan, RigidBlocks, SizeExpr, Skip, Stage
from elastify._ir.presence import Block, Presence
from elastify._ir.trees import inside

__all__ = [
    "FULL",
    "MAX_TEXT",
    "Attr",
    "Axis",
    "Block",
    "Choice",
    "Concat",
    "Constraint",
    "Dim",
    "ElasticAxis",
    "ExampleSpec",
    "Expr",
    "FrozenDim",
    "Graph",
    "Guard",
    "Int",
    "Key",
    "Layout",
    "ModuleCall",
    "Op",
    "Plan",
    "Presence",
    "Product",
    "RecordedCall",
    "RigidBlocks",
    "SizeExpr",
    "Skip",
    "Stage",
    "TensorSpec",
    "Unknown",
    "Value",
    "active_size",
    "axes_of",
    "enclosing",
    "evaluate",
    "exprs",
    "guard_log",
    "indices",
    "inside",
    "leaves",
    "mentions",
    "settled",
    "values",
]
