"""Which subnet was active when: a block that is computed again must be what it was.

A checkpoint that saves memory (`use_reentrant=True`, or a function of the user's own) runs a block without a graph, and
once more when the backward comes to it. If another subnet is active by then, the block gives gradients of that one, and
nothing looks wrong. Autograd numbers its nodes in the order in which they are made. So the number that it has come to
is noted whenever the subnet changes; a tensor that is asked for inside a backward looks up the number of the node that
asks, and refuses to be that of another subnet.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from types import FrameType

import torch
from torch.autograd.function import BackwardCFunction
from torch.compiler import is_dynamo_compiling

from elastify._errors import ElastifyError
from elastify._ir import FULL, Key

_MOST = 4096
in_backward = torch._C._current_graph_task_id
"""The number of the backward that runs in this thread, or -1."""


class Turns:
    """The subnets (by the keys of their choices) that were active one after another; at first, `key`."""

    def __init__(self, key: Key = FULL.key) -> None:
        self._numbers: list[int] = [0]
        self._keys: list[Key | None] = [key]
        self.many = False  # whether there was more than one

    def note(self, key: Key) -> None:
        """From now on, this one."""
        if key == self._keys[-1]:
            return
        self._numbers.append(torch._C._autograd._get_sequence_nr())  # type: ignore[attr-defined]
        self._keys.append(key)
        self.many = True
        if len(self._keys) > _MOST:
            del self._numbers[1 : _MOST // 2], self._keys[1 : _MOST // 2]
            self._keys[0] = None  # too long ago to be known

    def check_full(self) -> None:
        """Refuse to go on as the full network in a block that began as a subnet."""
        if not is_dynamo_compiling() and self.many and in_backward() != -1:
            self.check(FULL.key)

    def check(self, key: Key) -> None:
        """Refuse to go on as this one in a block that began as another."""
        node = _asking() if self.many and in_backward() != -1 else None
        if node is not None and self._keys[bisect_right(self._numbers, node._sequence_nr()) - 1] != key:
            raise ElastifyError(
                "a block is computed again while another subnet is active than in its forward",
                where=f"{type(node).__name__} of a checkpoint",
                why="its gradients would be those of the other subnet",
                fix="call backward() inside `with activate(...)`, or checkpoint(..., use_reentrant=False)",
            )


def _asking() -> BackwardCFunction | None:
    """The outermost function written in Python whose backward runs."""
    found: BackwardCFunction | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "backward" and code.co_argcount:
            ctx = frame.f_locals.get(code.co_varnames[0])
            found = ctx if isinstance(ctx, BackwardCFunction) else found
        frame = frame.f_back
    return found
