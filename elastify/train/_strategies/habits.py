"""How a model goes through its blocks, found out by one full run and one replay per exit, in evaluation mode.

Each replay must give what the subnet of that depth gives when it runs by itself; otherwise it is no exit. Two habits
are seen on the way. Which outputs of blocks are changed in place later: these have to be copied when they are kept.
And whether the loss depends on the blocks through the output of the last one alone (see `replay`). In the full run no
operation after it may share a node of the graph with what came before; in a replay no other stand-in may get a
gradient.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

from elastify._errors import ElastifyError
from elastify._ir import Stage
from elastify._verbs import activate, space
from elastify.train._batches import random_state, set_random_state
from elastify.train._evaluate import alike, evaluating, float_tensors
from elastify.train._strategies.exits import cut_after
from elastify.train._strategies.losses import Forward, Loss, scalar
from elastify.train._strategies.replay import Habits, Trace


def find_habits(model: nn.Module, stage: Stage, exits: Sequence[int], forward: Forward, loss: Loss) -> Habits:
    """The habits of a model on this batch; an error if one of the exits gives something else than its subnet."""

    def run() -> tuple[list[Tensor], Tensor]:
        """What is compared, the outputs or where `loss` runs the model its value; and the value."""
        outputs = forward()
        value = loss(outputs)
        seen = any(isinstance(leaf, Tensor) for leaf in tree_leaves(outputs))
        return float_tensors(outputs if seen else value), value

    before = random_state()
    try:
        with evaluating(model):
            activate(model, None)
            trace = Trace(model, stage.blocks)
            with torch.enable_grad(), trace.full_run():
                value = scalar(run()[1])
            cut = _shares_no_operation(trace, value)
            for blocks in exits:
                with activate(model, cut_after(model, space(model).max, stage, blocks)):
                    expected, _ = run()
                    with torch.enable_grad(), trace.replay(blocks):
                        replayed, value = run()
                if not alike(replayed, expected):
                    raise ElastifyError(
                        f"the subnet of {blocks} blocks is not the full network up to there",
                        where=stage.name,
                        why="what runs before or between its blocks depends on their number",
                        fix="Sorted trains the same subnets one by one",
                    )
                cut = cut and _uses_the_last_output_alone(trace, scalar(value))
            return Habits(trace.changed(), cut)
    finally:
        set_random_state(before)


def _shares_no_operation(trace: Trace, loss: Tensor) -> bool:
    """Whether the loss of the full run, up to what the last block returned, shares no operation with the rest."""
    ends = {made.original.grad_fn for made in trace.last_outputs()}
    return _operations({loss.grad_fn} - ends, ends).isdisjoint(_operations(ends))


def _uses_the_last_output_alone(trace: Trace, loss: Tensor) -> bool:
    """Whether the loss of a replay depends on no stand-in except those that the last block handed out."""
    learning = [made for made in trace.stand_ins() if made.leaf.requires_grad]
    try:
        gradients = torch.autograd.grad(loss, [made.leaf for made in learning], allow_unused=True)
    except RuntimeError:  # no gradient at all, or none in evaluation mode
        return False
    return all(gradient is None or trace.was_handed(made) for gradient, made in zip(gradients, learning, strict=True))


def _operations(last: set[Node | None], ends: Collection[Node | None] = ()) -> set[Node]:
    """The nodes of the graph that these, the last ones, need, up to `ends`; not those that collect gradients."""
    needed, waiting = set[Node](), [node for node in last if node is not None]
    while waiting:
        node = waiting.pop()
        if node not in needed and node.next_functions:
            needed.add(node)
            waiting += [before for before, _ in node.next_functions if before is not None and before not in ends]
    return needed
