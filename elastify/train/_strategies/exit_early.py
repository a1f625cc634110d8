"""Inference that ends as soon as the network is sure.

Depths are tried from the smallest on. Each goes on where the one before has ended: its blocks run once, and only what
follows the stage (final norm, head) runs again for every exit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elastify._errors import ElastifyError
from elastify._verbs import activate, active_config
from elastify.train._strategies.exits import cut_after, pick_exits, pick_stage
from elastify.train._strategies.replay import Trace


class EarlyExit(NamedTuple):
    """Outputs of the model after this many blocks of the stage, and the least confidence among them."""

    outputs: Any
    blocks: int
    confidence: float


def exit_early(
    model: nn.Module,
    inputs: Any,
    threshold: float = 0.9,
    *,
    exits: Sequence[int] | None = None,
    stage: str | None = None,
    confidence: Callable[[Any], Tensor] | None = None,
) -> EarlyExit:
    """Run as many blocks as it takes until the whole batch is confident; of a batch of one, that is per sample.

    >>> from elastify import elastify
    >>> class Block(nn.Linear):
    ...     def forward(self, x):
    ...         return x + super().forward(x).tanh()
    >>> net = nn.Sequential(nn.Sequential(*(Block(4, 4) for _ in range(3))), nn.Linear(4, 2))
    >>> model = elastify(net, torch.randn(2, 4), min_ratio=0.1).eval()
    >>> exit_early(model, torch.randn(1, 4), 0.5).blocks, exit_early(model, torch.randn(1, 4), 1.0).blocks
    (1, 3)

    `inputs` are a tensor, a tuple of arguments or a dict of them. `exits` and `stage` as for `AllExits`, which trains
    models for this. `confidence(outputs)` gives a tensor of numbers, all of which must reach the threshold; None is
    the largest probability, softmax over the last dimension of the outputs (or of their `logits`), at every position:
    for the next token of a language model pass `lambda y: y.logits[:, -1].softmax(-1).amax(-1)`.
    The sizes of the active subnet are kept, and its blocks are the most that run. No gradients are computed.
    (Kavehzadeh et al., Sorted LLaMA, arXiv 2309.08968, exit by confidence.)
    """
    if model.training:
        raise ElastifyError("the model is in training mode", where="exit_early", fix="model.eval()")
    where, config = pick_stage(model, stage), active_config(model)
    kept = config.depths[where.name]
    paths = [where.blocks[index] for index in kept]
    before: tuple[Trace, int] | None = None
    with torch.inference_mode(False), torch.no_grad():
        for blocks in pick_exits(where, exits, len(kept)):
            trace = Trace(model, paths[:blocks])
            shared = before[0].replay(before[1]) if before else nullcontext()
            with activate(model, cut_after(model, config, where, blocks)), shared, trace.full_run():
                outputs = _run(model, inputs)
            least = float((confidence or _largest_probability)(outputs).min())
            if least >= threshold or blocks == len(kept):
                return EarlyExit(outputs, blocks, least)
            before = trace, blocks
    raise AssertionError("the last exit is the whole network")


def _run(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def _largest_probability(outputs: object) -> Tensor:
    logits = getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor):
        raise ElastifyError(
            f"{type(outputs).__name__} is not a tensor of logits and has no attribute logits",
            fix="confidence=lambda outputs: ...",
        )
    return logits.softmax(-1).amax(-1)
