"""Several processes: each trains the same subnets on data of its own, and their gradients meet once per step.

A step has several backwards, and most of them leave blocks out. So nothing is reduced during a backward: at the end of
the step the ranks tell each other which parameters have a gradient anywhere, count a missing one as zero, and average.
Parameters without a gradient on all ranks keep none. That needs neither buckets that wait for every parameter nor a
search for unused ones. Before the step they compare what the strategy is about to do: gradients of different subnets
would add up to nonsense, or the ranks would wait for each other forever.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from elastify._errors import ElastifyError
from elastify.train._loop.plain import Plain
from elastify.train._strategies import Strategy

_UNANSWERED = re.compile(r"gloo/transport|by peer|timed out|timeout|connection|socket|broken pipe", re.IGNORECASE)
_BUCKET = 1 << 24  # entries that are sent at once


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of this run; `device` is where numbers for the others are put."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @staticmethod
    def of(device: torch.device) -> Ranks:
        """Those of the process group. ElastifyError if processes were started together and do not know each other."""
        if dist.is_available() and dist.is_initialized():
            return Ranks(device, dist.get_rank(), dist.get_world_size())
        if os.environ.get("TORCHELASTIC_RUN_ID") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ElastifyError(
                f"{os.environ['WORLD_SIZE']} processes were started, but they do not know each other",
                why="each would train a separate model",
                fix="torch.distributed.init_process_group() before training",
            )
        return Ranks(device)

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """The sums over all ranks."""
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        with _others():
            dist.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, number: int) -> list[int]:
        """The numbers of all ranks, in their order."""
        if self.size == 1:
            return [number]
        mine = torch.tensor([number], device=self.device)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        with _others():
            dist.all_gather(every, mine)
        return [int(x) for x in every]

    def fewest(self, number: int | None) -> int | None:
        """The smallest of the numbers of all ranks; None where one of them does not know its own."""
        least = min(self.gather(-1 if number is None else number))
        return None if least < 0 else least

    def same(self, what: str, number: int, fix: str) -> None:
        """ElastifyError, on all ranks, if they do not have the same number."""
        numbers = self.gather(number)
        if len(set(numbers)) > 1:
            raise ElastifyError(f"the ranks have different {what}", why=f"rank by rank: {numbers}", fix=fix)

    def broadcast(self, tensors: Iterator[Tensor]) -> None:
        """Give the values of rank 0 to all, in place; sharded ones are left alone."""
        if self.size > 1:
            with _others(), torch.no_grad():
                for tensor in tensors:
                    if not is_sharded(tensor):
                        sent = tensor.data.to(self.device)  # a model may stay on the CPU until it is sharded
                        dist.broadcast(sent, 0)
                        tensor.data.copy_(sent)

    def reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients; a rank without one counts as zero. Sharded parameters have done it themselves."""
        own = [p for p in parameters if p.requires_grad and not is_sharded(p)]
        if self.size == 1 or not own:
            return
        present = torch.tensor([p.grad is not None for p in own], dtype=torch.int32, device=self.device)
        with _others():
            dist.all_reduce(present)
        bucket: list[Tensor] = []
        for parameter, count in zip(own, present.tolist(), strict=True):
            if not count:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if bucket and (bucket[0].dtype != parameter.grad.dtype or sum(g.numel() for g in bucket) > _BUCKET):
                self._average(bucket)
                bucket = []
            bucket.append(parameter.grad)
        self._average(bucket)

    def _average(self, gradients: list[Tensor]) -> None:
        if gradients:
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients]) / self.size
            with _others():
                dist.all_reduce(flat)
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))


@contextmanager
def one_reduction(model: nn.Module, strategy: Strategy | Plain, *, last: bool = True) -> Iterator[None]:
    """Around `strategy.step` in a loop of your own on several ranks: gradients are averaged once, at the end.

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


def is_sharded(tensor: Tensor) -> bool:
    """Whether each rank holds a part of it only."""
    return type(tensor).__name__ == "DTensor" or type(tensor.data).__name__ == "DTensor"


@contextmanager
def _others() -> Iterator[None]:
    """What a process group raises when another rank does not answer; gloo has no class of errors for it."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _UNANSWERED.search(str(error)):
            raise
        raise ElastifyError(
            "another rank has stopped or does not respond",
            why=str(error).strip().splitlines()[0],
            fix="start all of them again: from the last checkpoint, if there is one",
        ) from error
