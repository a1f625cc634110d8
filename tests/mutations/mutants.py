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

from elastify import _attributes, _depth, _equations
from elastify import _rules as rules
from elastify._graph import values
from elastify._layout import Axis, Layout
from elastify._plan import Plan
from elastify._planner import Planner
from elastify._rules import RULES, contractions, elementwise, indexing, norms, views
from elastify._rules._facts import Facts
from elastify._terms import Term

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    name: str
    net: str
    patch: Patch


def wrong_rule(op: str, function: Callable[..., None]) -> Patch:
    return lambda mp: mp.setitem(RULES, op, function)


def wrong_helper(module: Any, name: str, function: Any) -> Patch:
    return lambda mp: mp.setattr(module, name, function)


def together(*patches: Patch) -> Patch:
    return lambda mp: [patch(mp) for patch in patches] and None


def wrong_plan(change: Callable[[Plan], Plan]) -> Patch:
    plan = Planner.plan
    return lambda mp: mp.setattr(Planner, "plan", lambda self: change(plan(self)))


# -- rules that state something else -----------------------------------------------------------------------


def spelled(spec: str, take: int = 3) -> Callable[..., None]:
    """A contraction in other letters, of the first `take` arguments."""
    return lambda f, out, *args, **_: contractions.contract(f, spec, args[:take], out)


def as_elementwise(f: Facts, out: Any, input: Any, *_: Any, **__: Any) -> None:
    elementwise.same_shape(f, out, input)


def nothing(*_: Any, **__: Any) -> None:
    """The rule is missing and nobody notices."""


def batch_norm_without(index: int) -> Callable[..., None]:
    def rule(f: Facts, out: Any, input: Any, *args: Any, **kwargs: Any) -> None:
        vectors = [v for v in values((args, kwargs)) if len(v.shape) == 1]
        norms._vectors(f, f.dims(input)[1], *vectors[:index], *vectors[index + 1 :])
        f.give(out, f.dims(input))

    return rule


def layer_norm_plain(f: Facts, out: Any, input: Any, shape: Any, *_: Any, **__: Any) -> None:
    f.give(out, f.dims(input))
    f.require(shape[0], f.dims(input)[-1])


def group_norm_reversed(f: Facts, out: Any, input: Any, groups: Any, weight: Any, bias: Any, *_: Any) -> None:
    outer = f.leaf(int(groups))
    f.require(groups, outer)
    channels = f.product(f.leaf(f.dims(input)[1].size // int(groups)), outer)
    norms._vectors(f, channels, weight, bias)
    f.give(out, f.dims(input))


def first_operand(f: Facts, out: Any, input: Any, *_: Any, **__: Any) -> None:
    f.give(out, f.dims(input) if len(input.shape) == len(out.shape) else f.dims(out))


def linear_swapped(f: Facts, out: Any, input: Any, weight: Any, bias: Any = None) -> None:
    square = weight.shape[0] == weight.shape[1]
    spec = "... i, i o, o -> ... o" if square else "... i, o i, o -> ... o"
    contractions.contract(f, spec, (input, weight, bias), out)


def conv_without_bias(f: Facts, out: Any, input: Any, weight: Any, bias: Any, *args: Any, **kwargs: Any) -> None:
    contractions.conv(f, out, input, weight, None, *args, **kwargs)


def stack_first(f: Facts, out: Any, tensors: Any, dim: int = 0) -> None:
    views.stack(f, out, [tensors[0]] * len(tensors), dim)


def unbind_loose(f: Facts, out: Any, input: Any, dim: int = 0) -> None:
    """Each result has dimensions of its own."""
    f.freeze(f.dims(input)[dim], "taken apart")


def glu_interleaved(f: Facts, out: Any, input: Any, dim: int = -1) -> None:
    *lead, whole = f.dims(input)
    half = f.leaf(out.shape[-1])
    f.same(whole, f.product(half, f.fixed(2)))
    f.give(out, [*lead, half])


def glu_elementwise(f: Facts, out: Any, input: Any, dim: int = -1) -> None:
    f.give(out, [*f.dims(input)[:-1], f.leaf(out.shape[-1])])


def split_swapped(f: Facts, out: Any, input: Any, sizes: Any, dim: int = 0) -> None:
    parts = [f.leaf(int(n)) for n in sizes]
    for number, part in zip(sizes, parts, strict=True):
        f.require(number, part)
    dims = list(f.dims(input))
    f.same(dims[dim], f.concat(parts))
    for value, part in zip(out, parts[::-1], strict=True):
        f.give(value, [*dims[:-1], part])


def cat_shifted(f: Facts, out: Any, tensors: Any, dim: int = 0) -> None:
    views.cat(f, out, [*tensors[1:], tensors[0]], dim)


def cat_forgotten(f: Facts, out: Any, tensors: Any, dim: int = 0) -> None:
    dims = list(f.dims(tensors[0]))
    dims[dim] = f.leaf(out.shape[dim])
    f.give(out, dims)


def regroup_swapped(f: Facts, dims: Any, shape: Any) -> list[Term]:
    """Heads and head_dim exchanged wherever a reshape makes two equal factors side by side."""
    result = _regroup(f, dims, shape)
    if len(shape) == 5:
        result[3], result[4] = result[4], result[3]
    return result


_regroup = views.regroup


def flatten_reversed(f: Facts, out: Any, input: Any, start_dim: int = 0, end_dim: int = -1) -> None:
    first, *dims = f.dims(input)
    f.give(out, [first, f.product(*dims[1:], dims[0])])


def conv_groups_reversed(f: Facts, out: Any, input: Any, weight: Any, bias: Any, *args: Any, **_: Any) -> None:
    groups, rows = f.leaf(int(args[3])), f.dims(weight)[0]
    f.require(args[3], groups)
    f.same(f.dims(input)[1], f.product(groups, f.dims(weight)[1]))
    if int(args[3]) != 1:
        f.same(rows, f.product(f.leaf(rows.size // int(args[3])), groups))
    contractions._conv_out(f, out, input, weight, bias, rows)


def conv_swapped(f: Facts, out: Any, input: Any, weight: Any, bias: Any, *_: Any) -> None:
    rows, columns, *_ = f.dims(weight)
    if rows.size == columns.size:
        rows, columns = columns, rows
    f.same(f.dims(input)[1], columns)
    contractions._conv_out(f, out, input, weight, bias, rows)


def conv_transpose_swapped(f: Facts, out: Any, input: Any, weight: Any, bias: Any, *_: Any) -> None:
    rows, columns, *_ = f.dims(weight)
    f.same(f.dims(input)[1], columns)
    contractions._conv_out(f, out, input, weight, bias, rows)


def conv_with_free_space(f: Facts, out: Any, input: Any, weight: Any, bias: Any, *_: Any) -> None:
    f.same(f.dims(input)[1], f.dims(weight)[1])
    f.same(f.dims(bias)[0], f.dims(weight)[0])
    f.give(out, [f.dims(input)[0], f.dims(weight)[0], *(f.leaf(n) for n in out.shape[2:])])


def pixel_shuffle_reversed(f: Facts, out: Any, input: Any, factor: int) -> None:
    channels, dims = f.leaf(out.shape[1]), f.dims(input)
    f.same(dims[1], f.product(f.fixed(factor), f.fixed(factor), channels))
    f.give(out, [dims[0], channels, f.fixed(out.shape[2]), f.fixed(out.shape[3])])


def embedding_by_row(f: Facts, out: Any, weight: Any, input: Any, *_: Any, **__: Any) -> None:
    """The vocabulary taken for a channel: its rows are free, and tied to the width where the sizes allow."""
    rows, width = f.dims(weight)
    f.give(out, [*f.dims(input), rows if rows.size == width.size else width])


def embedding_free(f: Facts, out: Any, weight: Any, input: Any, *_: Any, **__: Any) -> None:
    f.give(out, [*f.dims(input), f.dims(weight)[1]])


def chunk_loose(f: Facts, out: Any, input: Any, chunks: Any, dim: int = 0) -> None:
    """The parts of a chunk are axes of their own."""
    views._give_parts(f, out, input, dim, [f.leaf(v.shape[dim]) for v in values(out)])


def stride_reversed(f: Facts, term: Term, start: Any, stop: Any, step: int) -> Term:
    piece = f.leaf(term.size // step)
    f.same(term, f.product(f.fixed(step), piece))
    return piece


def stack_in_front(f: Facts, out: Any, tensors: Any, dim: int = 0) -> None:
    """The new dimension changes places with the one before it (both of size 2 in the network)."""
    views.stack(f, out, tensors, dim)
    dims = f.dims(out)
    dims[-1], dims[-2] = dims[-2], dims[-1]


def repeat_outside(f: Facts, out: Any, input: Any, repeats: Any, dim: int) -> None:
    dims, times = list(f.dims(input)), f.leaf(int(repeats))
    f.require(repeats, times)
    dims[dim] = f.product(times, dims[dim])
    f.give(out, dims)


def matmul_loose(f: Facts, out: Any, input: Any, other: Any) -> None:
    contractions.contract(f, "... n k, ... l m -> ... n m", (input, other), out)


def matmul_crossed(f: Facts, out: Any, input: Any, other: Any) -> None:
    """`x @ y` of two square matrices taken for `x @ y.T`."""
    square = other.shape[-1] == other.shape[-2]
    contractions.contract(
        f, "... n k, ... m k -> ... n m" if square else "... n k, ... k m -> ... n m", (input, other), out
    )


def einsum_misread(f: Facts, out: Any, equation: str, *operands: Any) -> None:
    contractions.einsum(f, out, equation.replace("ij,jk", "ji,jk"), *operands)


def sdpa_parts(*, value: bool = True, key: bool = True, heads: bool = True) -> Callable[..., None]:
    def rule(f: Facts, out: Any, q: Any, k: Any, v: Any, **_: Any) -> None:
        a, b, c = f.dims(q), f.dims(k), f.dims(v)
        if key:
            f.same(a[-1], b[-1])
        if heads:
            f.same(a[1], b[1])
            f.same(b[1], c[1])
        f.give(out, [*a[:-1], c[-1] if value else f.leaf(c[-1].size)])

    return rule


def permute_loose(f: Facts, out: Any, input: Any, *order: Any, dims: Any = None) -> None:
    terms = f.dims(input)
    f.give(out, [f.leaf(terms[i].size) for i in (order if len(order) > 1 else order[0])])


def transpose_forgotten(f: Facts, out: Any, input: Any, dim0: int, dim1: int) -> None:
    if input.shape == out.shape:
        f.give(out, f.dims(input))
    else:
        views.transpose(f, out, input, dim0, dim1)


def gates_inside(f: Facts, rows: Term, hidden: Term) -> None:
    f.same(rows, f.product(hidden, f.fixed(rows.size // hidden.size)))


def recurrent_without(part: str) -> Callable[..., None]:
    """The weights of one direction, the recurrent columns, or the biases are forgotten."""

    def rule(f: Facts, out: Any, data: Any, state: Any, weights: Any, *args: Any) -> None:
        hidden = f.leaf(next(values(state)).shape[-1])
        features, both = f.dims(data)[-1], bool(args[4])
        per = 4
        for layer in range(int(args[1])):
            for direction in range(1 + both):
                at = (layer * (1 + both) + direction) * per
                wih, whh, *biases = (f.dims(w) for w in weights[at : at + per])
                f.same(wih[1], features)
                if part == "direction" and direction == 1:
                    continue
                contractions._gates(f, wih[0], hidden)
                contractions._gates(f, whh[0], hidden)
                if part != "columns":
                    f.same(whh[1], hidden)
                for bias in biases if part != "biases" else ():
                    contractions._gates(f, bias[0], hidden)
            parts = [hidden] * (1 + both)
            features = f.product(hidden, f.fixed(2)) if part == "halves" and both else f.concat(parts)
        result, *finals = values(out)
        f.give(result, [*f.dims(data)[:-1], features])
        for final, s in zip(finals, values(state), strict=True):
            f.give(final, f.dims(s))

    return rule


def cut_silent(f: Facts, term: Term, start: Any, stop: Any, step: Any) -> Term:
    """A slice says nothing about what it cuts."""
    size = len(range(*slice(indexing._plain(start), indexing._plain(stop), step).indices(term.size)))
    return term if size == term.size else f.leaf(size)


def cut_backwards(f: Facts, term: Term, start: Any, stop: Any, step: Any) -> Term:
    """`x[:n]` and `x[n:]` exchanged where the halves are equal."""
    if start is None and stop is None:
        return term
    first, last = f.leaf(term.size // 2), f.leaf(term.size // 2)
    f.same(term, f.concat([first, last]))
    f.require(start if start is not None else stop, last)
    return first if start is not None else last


def setitem_forgets(f: Facts, out: Any, input: Any, index: Any, value: Any) -> None:
    f.give(out, f.dims(input))


def require_ignored(self: Facts, number: Any, term: Term) -> None:
    """Numbers in the source do not count."""


def freeze_but(text: str) -> Patch:
    freeze = Facts.freeze

    def partly(self: Facts, term: Term, reason: str) -> None:
        if text not in reason:
            freeze(self, term, reason)

    return wrong_helper(Facts, "freeze", partly)


def unnoticed(facts: Facts, call: Any, reason: str) -> None:
    """An operation without a rule passes silently: its result has new dimensions that nothing holds."""


# -- plans that lost or changed something ------------------------------------------------------------------


def without_attribute(*names: str) -> Callable[[Plan], Plan]:
    return lambda plan: replace(plan, attributes={a: to for a, to in plan.attributes.items() if a.name not in names})


def without_tensor(name: str) -> Callable[[Plan], Plan]:
    return lambda plan: replace(plan, tensors={n: to for n, to in plan.tensors.items() if n != name})


def without_aliases(plan: Plan) -> Plan:
    return replace(plan, aliases={})


def relaid(name: str, change: Callable[[Layout], Layout]) -> Callable[[Plan], Plan]:
    """The layout of one tensor's first dimension is changed (while the plan still has it)."""

    def changed(plan: Plan) -> Plan:
        if name not in plan.tensors:
            return plan
        first, *rest = plan.tensors[name]
        return replace(plan, tensors={**plan.tensors, name: (change(first), *rest)})

    return changed


def reverse(layout: Layout) -> Layout:
    return layout if isinstance(layout, Axis) else type(layout)(layout.parts[::-1])


def twin(plan: Plan) -> Plan:
    """One axis too many: the last one's last member gets an axis of its own."""
    if not plan.axes or any(axis.id == 10**6 for axis in plan.axes):
        return plan
    axis = plan.axes[-1]
    name, dim = axis.members[-1]
    own = replace(axis, id=10**6, name="twin", members=((name, dim),))
    layouts = list(plan.tensors[name])
    layouts[dim] = renamed(layouts[dim], axis.id)
    return replace(plan, axes=(*plan.axes, own), tensors={**plan.tensors, name: tuple(layouts)})


def renamed(layout: Layout, ident: int) -> Layout:
    if isinstance(layout, Axis):
        return Axis(10**6, layout.size) if layout.id == ident else layout
    return type(layout)(tuple(renamed(part, ident) for part in layout.parts))


def attribute_of(name: str, other: str) -> Callable[[Plan], Plan]:
    """An attribute that follows another's dimension."""

    def changed(plan: Plan) -> Plan:
        found = {a.name: to for a, to in plan.attributes.items()}
        if other not in found:
            return plan
        return replace(
            plan, attributes={a: found[other] if a.name == name else to for a, to in plan.attributes.items()}
        )

    return changed


def without_nn_table(kind: type, name: str) -> Patch:
    """Neither the plan nor the table of torch.nn sets an attribute."""
    plan = wrong_plan(without_attribute(name))
    table = {
        k: {n: s for n, s in v.items() if k is not kind or n != name} for k, v in _attributes.NN_ATTRIBUTES.items()
    }

    def patch(mp: pytest.MonkeyPatch) -> None:
        plan(mp)
        mp.setattr(_attributes, "NN_ATTRIBUTES", table)

    return patch


def skippable_always(*_: Any) -> bool:
    return True


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
    Mutant("gates inside units (LSTM)", "lstm", wrong_helper(contractions, "_gates", gates_inside)),
    Mutant("gates inside units (GRU)", "gru", wrong_helper(contractions, "_gates", gates_inside)),
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
        "a block that changes the width can be skipped", "deep", wrong_helper(_depth, "_skippable", skippable_always)
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
