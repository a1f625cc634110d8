"""Wrong couplings, one per row: which network, and how the library is broken while elastify runs.

A rule is replaced in the table of rules, a helper in its module, or the finished plan is rewritten before anything
obeys it. Every mutant says something false about a network whose axes are known (`nets.NETS`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from torch import nn

from elastify._analysis import equations as _equations
from elastify._analysis import rules
from elastify._analysis.facts import Facts
from elastify._analysis.rules import OPS, indexing, recurrence, views
from elastify._analysis.terms import Term
from elastify._ir.plan import Plan
from elastify._plan import nn_numbers
from elastify._plan.planner import Planner
from elastify._plan.skips import SkipFinder

from .wrong_plans import (
    alike_always,
    attribute_of,
    fed_by_anything,
    relaid,
    reverse,
    twin,
    without_aliases,
    without_attribute,
    without_tensor,
)
from .wrong_rules import (
    as_elementwise,
    batch_norm_without,
    cat_forgotten,
    cat_shifted,
    chunk_loose,
    conv_groups_reversed,
    conv_swapped,
    conv_transpose_swapped,
    conv_with_free_space,
    conv_without_bias,
    cut_backwards,
    cut_silent,
    einsum_misread,
    embedding_by_row,
    embedding_free,
    first_operand,
    flatten_reversed,
    gates_inside,
    glu_elementwise,
    glu_interleaved,
    group_norm_reversed,
    layer_norm_plain,
    linear_swapped,
    matmul_crossed,
    matmul_loose,
    nothing,
    permute_loose,
    pixel_shuffle_reversed,
    recurrent_without,
    regroup_swapped,
    repeat_outside,
    sdpa_parts,
    setitem_forgets,
    spelled,
    split_swapped,
    stack_first,
    stack_in_front,
    stride_reversed,
    transpose_forgotten,
    unbind_loose,
    unnoticed,
)

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    name: str
    net: str
    patch: Patch


def wrong_rule(op: str, function: Callable[..., None]) -> Patch:
    return lambda mp: mp.setitem(OPS, op, replace(OPS[op], rule=function))


def wrong_helper(module: Any, name: str, function: Any) -> Patch:
    return lambda mp: mp.setattr(module, name, function)


def together(*patches: Patch) -> Patch:
    return lambda mp: [patch(mp) for patch in patches] and None


def wrong_plan(change: Callable[[Plan], Plan]) -> Patch:
    plan = Planner.plan
    return lambda mp: mp.setattr(Planner, "plan", lambda self: change(plan(self)))


def freeze_but(text: str) -> Patch:
    freeze = Facts.freeze

    def partly(self: Facts, term: Term, reason: str) -> None:
        if text not in reason:
            freeze(self, term, reason)

    return wrong_helper(Facts, "freeze", partly)


def without_nn_table(kind: type, name: str) -> Patch:
    """Neither the plan nor the table of torch.nn sets an attribute."""
    plan = wrong_plan(without_attribute(name))
    table = {k: {n: s for n, s in v.items() if k is not kind or n != name} for k, v in nn_numbers.NN_ATTRIBUTES.items()}

    def patch(mp: pytest.MonkeyPatch) -> None:
        plan(mp)
        mp.setattr(nn_numbers, "NN_ATTRIBUTES", table)

    return patch


MUTANTS = [
    # linear, convolution, norms
    Mutant("linear forgets its bias", "mlp", wrong_rule("linear", spelled("... i, o i -> ... o", 2))),
    Mutant("linear swaps a square weight", "mlp", wrong_rule("linear", linear_swapped)),
    Mutant("a residual sum is not unified", "residual", wrong_rule("add", first_operand)),
    Mutant("a sum of two units forgets one side", "two", wrong_rule("add", first_operand)),
    Mutant("batch norm forgets its running mean", "conv", wrong_rule("batch_norm", batch_norm_without(0))),
    Mutant("batch norm forgets its running variance", "conv", wrong_rule("batch_norm", batch_norm_without(1))),
    Mutant("batch norm forgets its weight", "conv", wrong_rule("batch_norm", batch_norm_without(2))),
    Mutant("batch norm forgets its bias", "conv", wrong_rule("batch_norm", batch_norm_without(3))),
    Mutant("batch norm forgets everything", "conv", wrong_rule("batch_norm", as_elementwise)),
    Mutant("layer norm forgets weight and bias", "normed", wrong_rule("layer_norm", layer_norm_plain)),
    Mutant("group norm takes groups inside", "grouped", wrong_rule("group_norm", group_norm_reversed)),
    Mutant("group norm for an element-wise operation", "grouped", wrong_rule("group_norm", as_elementwise)),
    Mutant("conv forgets its bias", "conv", wrong_rule("conv2d", conv_without_bias)),
    Mutant("conv swaps a square weight", "conv", wrong_rule("conv2d", conv_swapped)),
    Mutant("grouped conv with groups inside", "conv_groups", wrong_rule("conv2d", conv_groups_reversed)),
    Mutant("depthwise multiplier outside", "depthwise", wrong_rule("conv1d", conv_groups_reversed)),
    Mutant("transposed conv as a conv", "transposed", wrong_rule("conv_transpose1d", conv_transpose_swapped)),
    Mutant("positions taken for channels", "positional", wrong_rule("conv2d", conv_with_free_space)),
    # joining and splitting
    Mutant("flatten in another order", "conv", wrong_rule("flatten", flatten_reversed)),
    Mutant("a shifted concat", "dense", wrong_rule("cat", cat_shifted)),
    Mutant("a concat that forgets its parts", "dense", wrong_rule("cat", cat_forgotten)),
    Mutant("GLU interleaved", "gated", wrong_rule("glu", glu_interleaved)),
    Mutant("GLU as an element-wise operation", "gated", wrong_rule("glu", glu_elementwise)),
    Mutant("the halves of a split swapped", "gated_by_split", wrong_rule("split", split_swapped)),
    Mutant("slices swapped", "cut", wrong_helper(indexing, "cut", cut_backwards)),
    Mutant("slices forgotten", "cut", wrong_helper(indexing, "cut", cut_silent)),
    Mutant("a literal bound forgotten", "first_four", wrong_helper(indexing, "_bound", nothing)),
    Mutant("the chosen unit is not held", "one_unit", freeze_but("picked by its position")),
    Mutant("units picked by a tensor are not held", "permuted", freeze_but("picked by an index tensor")),
    Mutant("channel shuffle forgotten", "shuffled", wrong_rule("channel_shuffle", as_elementwise)),
    Mutant("pixel shuffle with channels inside", "pixels", wrong_rule("pixel_shuffle", pixel_shuffle_reversed)),
    Mutant("a transpose forgotten", "square", wrong_rule("transpose", transpose_forgotten)),
    Mutant("setitem forgets what is written", "written", wrong_rule("setitem", setitem_forgets)),
    Mutant("stack forgets its second tensor", "joined", wrong_rule("stack", stack_first)),
    # tables
    Mutant("rows of an embedding are free", "tokens", wrong_rule("embedding", embedding_free)),
    Mutant("an embedding tied to its vocabulary", "tokens", wrong_rule("embedding", embedding_by_row)),
    # attention
    Mutant("heads and head_dim exchanged", "attention", wrong_helper(views, "regroup", regroup_swapped)),
    Mutant("the contraction of a matmul forgotten", "matmuls", wrong_rule("matmul", matmul_loose)),
    Mutant("x @ y taken for x @ y.T", "matmuls", wrong_rule("matmul", matmul_crossed)),
    Mutant("unbind as three other tensors", "attention", wrong_rule("unbind", unbind_loose)),
    Mutant("einsum letters swapped", "einsums", wrong_rule("einsum", einsum_misread)),
    Mutant(
        "attention forgets the units of v", "sdpa", wrong_rule("scaled_dot_product_attention", sdpa_parts(value=False))
    ),
    Mutant(
        "attention forgets q times k", "two_heads", wrong_rule("scaled_dot_product_attention", sdpa_parts(key=False))
    ),
    Mutant(
        "attention forgets the heads", "two_heads", wrong_rule("scaled_dot_product_attention", sdpa_parts(heads=False))
    ),
    Mutant("attention forgets its bias table", "two_heads", wrong_rule("scaled_dot_product_attention", sdpa_parts())),
    Mutant("a bias table forgets its heads", "two_heads", wrong_rule("permute", permute_loose)),
    Mutant("groups of queries exchanged", "queries", wrong_rule("repeat_interleave", repeat_outside)),
    Mutant(
        "rotary halves untied",
        "rotary",
        together(wrong_rule("chunk", chunk_loose), wrong_rule("cat", cat_forgotten), wrong_rule("add", first_operand)),
    ),
    Mutant(
        "rotary pairs taken for halves",
        "interleaved",
        together(wrong_helper(indexing, "_stride", stride_reversed), wrong_rule("stack", stack_in_front)),
    ),
    # recurrence
    Mutant("gates inside units (LSTM)", "lstm", wrong_helper(recurrence, "_gates", gates_inside)),
    Mutant("gates inside units (GRU)", "gru", wrong_helper(recurrence, "_gates", gates_inside)),
    Mutant("LSTM forgets its biases", "lstm", wrong_rule("lstm", recurrent_without("biases"))),
    Mutant("LSTM forgets the recurrent columns", "lstm", wrong_rule("lstm", recurrent_without("columns"))),
    Mutant("LSTM forgets the way back", "both", wrong_rule("lstm", recurrent_without("direction"))),
    Mutant("the directions of an LSTM interleaved", "both", wrong_rule("lstm", recurrent_without("halves"))),
    # order, interface, numbers in the source
    Mutant("cumsum as an element-wise operation", "cumsum", wrong_rule("cumsum", as_elementwise)),
    Mutant("flip as an element-wise operation", "flip", wrong_rule("flip", as_elementwise)),
    Mutant("roll as an element-wise operation", "roll", wrong_rule("roll", as_elementwise)),
    Mutant("sort as an element-wise operation", "sort", wrong_rule("sort", as_elementwise)),
    Mutant("tril as an element-wise operation", "tril", wrong_rule("tril", as_elementwise)),
    Mutant("an operation without a rule passes", "unknown", wrong_helper(rules, "freeze_all", unnoticed)),
    Mutant("inputs and outputs are free", "mlp", freeze_but("interface")),
    Mutant("numbers in the source are free", "literal", wrong_helper(Facts, "require", nothing)),
    Mutant("numbers of attributes are free", "attention", wrong_helper(Facts, "require", nothing)),
    Mutant("equations are not solved", "halved", wrong_helper(_equations.Solver, "solve", nothing)),
    # plans
    Mutant("num_heads left as it was", "attention", wrong_plan(without_attribute("num_heads"))),
    Mutant("head_dim left as it was", "attention", wrong_plan(without_attribute("head_dim"))),
    Mutant("num_heads follows head_dim", "attention", wrong_plan(attribute_of("num_heads", "head_dim"))),
    Mutant("heads of keys left as they were", "queries", wrong_plan(without_attribute("kv_heads"))),
    Mutant("groups left as they were", "grouped", wrong_plan(without_attribute("groups"))),
    Mutant("num_groups left as it was", "grouped", wrong_plan(without_attribute("num_groups"))),
    Mutant("normalized_shape left as it was", "normed", wrong_plan(without_attribute("normalized_shape"))),
    Mutant("the sizes of a split left as they were", "gated_by_split", wrong_plan(without_attribute("left", "right"))),
    Mutant("one size of a split left as it was", "gated_by_split", wrong_plan(without_attribute("right"))),
    Mutant("a bound left as it was", "cut", wrong_plan(without_attribute("cut"))),
    Mutant("hidden_size left as it was", "lstm", without_nn_table(nn.LSTM, "hidden_size")),
    Mutant("a shared weight without its second name", "tied", wrong_plan(without_aliases)),
    Mutant("a tensor missing from the plan", "mlp", wrong_plan(without_tensor("2.weight"))),
    Mutant("a bias missing from the plan", "mlp", wrong_plan(without_tensor("0.bias"))),
    Mutant("a running variance missing from the plan", "conv", wrong_plan(without_tensor("1.running_var"))),
    Mutant("a layout reversed in the plan", "attention", wrong_plan(relaid("qkv.weight", reverse))),
    Mutant("one axis too many", "mlp", wrong_plan(twin)),
    # depth
    Mutant(
        "a block that changes the width can be skipped",
        "deep",
        together(
            wrong_helper(SkipFinder, "_same_layouts", alike_always),
            wrong_helper(SkipFinder, "_before_additions", fed_by_anything),
        ),
    ),
]


EQUIVALENT = {
    "the halves of a GLU swapped": "both halves are one layout, so Concat(h, h) is itself swapped",
    "softmax ties nothing along its dimension": "it has no parameters, and permutes with its units",
    "an axis of size 1 left free": "it has no unit that could go",
    "embedding tied to a frozen vocabulary": "a unit that is held is held in every dimension",
    "in_features left as it was": "no computation reads it; a test of attributes covers it",
    "a float scale left as it was": "the smaller network is another function, and still one: only the rule of "
    "design.md, fused and unfused attention agree, decides",
    "a block that keeps all layouts skipped": "every choice of blocks is a network; the planner says which are meant",
}
"""Mutants that no proof can see, because the network they describe is as right as the original's."""
