"""Several processes that work together, and how they talk: sums, numbers of each, what the first one says.

All of them call the same functions in the same order, and one that has gone is an error in the others. What a rank
does for itself, such as scoring the candidate that it was dealt, it does `alone`: there it does not know the others.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from elastify._errors import ElastifyError

_UNANSWERED = re.compile(r"gloo/transport|by peer|timed out|timeout|connection|socket|broken pipe", re.IGNORECASE)
_BUCKET = 1 << 24  # entries that are sent at once
_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of this run; `device` is where numbers for the others are put."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @staticmethod
    def of(device: torch.device) -> Ranks:
        """Those of the process group. ElastifyError if processes were started together and do not know each other."""
        if _ALONE.get():
            return Ranks(device)
        if dist.is_available() and dist.is_initialized():
            return Ranks(device, dist.get_rank(), dist.get_world_size())
        if os.environ.get("TORCHELASTIC_RUN_ID") and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ElastifyError(
                f"{os.environ['WORLD_SIZE']} processes were started, but they do not know each other",
                why="each would work on a model of its own",
                fix="torch.distributed.init_process_group() before that",
            )
        return Ranks(device)

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """The sums over all ranks."""
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        with others():
            dist.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, number: int) -> list[int]:
        """The numbers of all ranks, in their order."""
        if self.size == 1:
            return [number]
        mine = torch.tensor([number], device=self.device)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        with others():
            dist.all_gather(every, mine)
        return [int(x) for x in every]

    def fewest(self, number: int | None) -> int | None:
        """The smallest of the numbers of all ranks; None where one of them does not know its own."""
        least = min(self.gather(-1 if number is None else number))
        return None if least < 0 else least

    def collect(self, value: Any) -> list[Any]:
        """The values of all ranks, of any kind, in their order."""
        every = [value] * self.size
        if self.size > 1:
            with others():
                dist.all_gather_object(every, value)
        return every

    def share(self, value: Any = None) -> Any:
        """The value of the first rank."""
        found = [value]
        if self.size > 1:
            with others():
                dist.broadcast_object_list(found, 0)
        return found[0]

    def same(self, what: str, number: int, fix: str) -> None:
        """ElastifyError, on all ranks, if they do not have the same number."""
        numbers = self.gather(number)
        if len(set(numbers)) > 1:
            raise ElastifyError(f"the ranks have different {what}", why=f"rank by rank: {numbers}", fix=fix)

    def broadcast(self, tensors: Iterator[Tensor]) -> None:
        """Give the values of rank 0 to all, in place; sharded ones are left alone."""
        if self.size > 1:
            with others(), torch.no_grad():
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
        with others():
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
            with others():
                dist.all_reduce(flat)
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))


@contextmanager
def alone(ranks: Ranks) -> Iterator[None]:
    """Around what each rank does by itself; ElastifyError afterwards if it has talked to the others in it."""
    token, before = _ALONE.set(True), _talks(ranks)
    try:
        yield
    finally:
        _ALONE.reset(token)
    if _talks(ranks) != before:
        raise ElastifyError(
            "the ranks have talked to each other while each looked at another subnet",
            why="what they sum up, gather or wait for is mixed up then",
            fix="evaluate(model) that works in one process, on all of the data that a score is of",
        )


def _talks(ranks: Ranks) -> int:
    """How often the ranks have talked to each other."""
    group: Any = dist.distributed_c10d._get_default_group() if ranks.size > 1 else None
    return 0 if group is None else group._get_sequence_number_for_group()


def is_sharded(tensor: Tensor) -> bool:
    """Whether each rank holds a part of it only."""
    return type(tensor).__name__ == "DTensor" or type(tensor.data).__name__ == "DTensor"


@contextmanager
def others() -> Iterator[None]:
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


@contextmanager
def catch_interrupt(notice: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `notice`, a second one interrupts as ever; outside the main thread every one does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def first(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        notice()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
