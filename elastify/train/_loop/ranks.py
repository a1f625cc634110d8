"""Several processes: each trains the same subnets on data of its own, and their gradients meet once per step.

A step has several backwards, and most of them leave blocks out. So nothing is reduced during a backward: at the end of
the step the ranks tell each other which parameters have a gradient anywhere, count a missing one as zero, and average.
Parameters without a gradient on all ranks keep none. That needs neither buckets that wait for every parameter nor a
search for unused ones. Before the step they compare what the strategy is about to do: gradients of different subnets
would add up to nonsense, or the ranks would wait for each other forever.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from elastify._search import Ranks
from elastify.train._loop.plain import Plain
from elastify.train._strategies import Strategy


@contextmanager
def one_reduction(model: nn.Module, strategy: Strategy | Plain, *, last: bool = True) -> Iterator[None]:
    """Around `strategy.step` in a loop of your own on several ranks: gradients are averaged once, at the end.

    >>> import torch
    >>> from elastify import elastify
    >>> from elastify.train import Sandwich
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    >>> strategy = Sandwich(model)
    >>> with one_reduction(model, strategy):
    ...     losses = strategy.step(lambda: model(torch.randn(8, 4)), lambda outputs: outputs.square().mean())

    `model` is the elastic model, its DistributedDataParallel (without `find_unused_parameters`) or one that
    `fully_shard` has sharded; in one process nothing happens. With gradient accumulation, `last` is False for all
    batches of a step but the last. Raises ElastifyError if the ranks are about to train different subnets, and when
    another rank has gone, at once or after the timeout of the process group.
    """
    parameters = list(model.parameters())
    ranks = Ranks.of(parameters[0].device)
    if ranks.size > 1:
        fix = "the same arguments, seed and number of steps on every rank"
        ranks.same("states of the strategy", fingerprint(strategy), fix)
    with model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext():
        yield
    if last:
        ranks.reduce(parameters)


def fingerprint(strategy: Strategy | Plain) -> int:
    """A number that differs where a strategy differs in its arguments or in what it will sample."""
    said = [type(strategy).__name__, strategy.arguments, strategy.state_dict()]
    return zlib.crc32(json.dumps(said, default=lambda value: type(value).__name__).encode())
