"""Run a model again without what it has computed already.

Subnets of different depth begin with the same work: all that runs up to the end of the last block they share. Trained
one by one, three depths of a network of three blocks run 6 blocks forward and 6 backward. Here they run 3 and 3:

    full run    stem  b0  b1  b2  head -> loss of depth 3
    replay      stem' b0' b1'     head -> loss of depth 2
    replay      stem' b0'         head -> loss of depth 1

In the full run a `Trace` keeps what stem and blocks return: of nested calls the outermost, but none of the containers
around the blocks. In a replay the model's own forward runs at a smaller depth. The primed modules compute nothing,
they hand out what they returned before, through generated subclasses. After the last shared block everything runs.
For a tensor the replay gets a *stand-in*: a leaf of the same numbers, where the backward of its loss ends and leaves a
gradient. When the backward of the full run comes to the original, a hook adds the gradient of its stand-in. So b0 and
b1 are passed once, with the sum of the gradients of all depths.

That backward therefore comes last, and until then the graph of the head at full depth stays in memory. Where nothing
but the output of b2 leads from the blocks to the loss (`Habits.cut`), the full run goes on from a stand-in of it, too:
the backward of its loss ends there and frees the head, and `Trace.backward` takes all gradients through the blocks.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from elastify._capture import resolve
from elastify._errors import ElastifyError
from elastify._ir import enclosing

_generated: dict[type, type] = {}
_TRACE = "_elastify_trace"
_ONE_BY_ONE = "Sorted trains the same subnets one by one"


@dataclass(frozen=True)
class Habits:
    """What a model does in a full run and its replays (see `find_habits`)."""

    changed: frozenset[tuple[int, int]]  # blocks' outputs that it changes in place later: (block, place)
    cut: bool  # whether what follows a block uses nothing of what came before except the output of the block


@dataclass(eq=False)
class StandIn:
    """A tensor that a module returned, and the leaf that replays get in its place."""

    original: Tensor  # held, so that its id is not given to another tensor
    leaf: Tensor
    version: int  # of the original, when it was returned
    joined: bool = False  # whether a backward has come to the original

    @property
    def has_changed(self) -> bool:
        """Whether the original has been changed in place since."""
        return _version(self.original) != self.version

    def join(self, gradient: Tensor) -> Tensor:
        """The gradient of the original and that of the leaf."""
        self.joined = True
        return gradient if self.leaf.grad is None else gradient + self.leaf.grad


class Trace:
    """What the modules of a full run return, up to the end of the last of these blocks (module paths, in their order).

    First `full_run`, then any number of `replay`, then the backward of the full run, then `check_joined`.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[str], habits: Habits | None = None) -> None:
        self.cut = habits is not None and habits.cut
        self._changing = habits.changed if habits is not None else frozenset()
        around = {resolve(model, parent) for path in blocks for parent in ("", *enclosing(path)[:-1])}
        self._own = set(model.modules()) - around
        self._blocks = [resolve(model, path) for path in blocks]
        # of the full run
        self._running: nn.Module | None = None  # the outermost module that runs
        self._learning = False
        self._calls: list[tuple[nn.Module, object]] = []  # modules, with their outputs as stand-ins
        self._ends: list[int] = []  # number of calls after each block
        self._made: dict[tuple[int, int, bool], StandIn] = {}  # by id and version of the original, and if copied
        self._of_leaf: dict[int, StandIn] = {}
        # of a replay
        self._last: nn.Module | None = None  # the last block that hands out
        self._handed: set[int] = set()  # ids of what it handed out
        self._queues: dict[nn.Module, list[object]] = {}
        self._waiting: dict[nn.Module, int] = {}  # outputs that were not handed out yet

    # -- the full run ------------------------------------------------------------------------------------

    @contextmanager
    def full_run(self) -> Iterator[None]:
        """Keep what the modules return in the run inside."""
        self._learning = torch.is_grad_enabled()
        begins, returns = _eager(self._note_begin), _eager(self._note_output)
        handles = register_module_forward_pre_hook(begins), register_module_forward_hook(returns)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if len(self._ends) < len(self._blocks):
            raise ElastifyError(
                f"only {len(self._ends)} of {len(self._blocks)} blocks of the stage ran, in order, in forward()",
                fix="forward() must run the model that the strategy was made for",
            )
        if self.cut and not self.changed() <= self._changing:
            raise ElastifyError(
                "forward changes in place what a block has returned, as it did not in evaluation mode",
                why="it is kept for the subnets of that depth, and is lost",
                fix=_ONE_BY_ONE,
            )

    def _note_begin(self, module: nn.Module, args: object) -> None:
        if module in self._own and self._running is None:
            self._running = module

    def _note_output(self, module: nn.Module, args: object, output: object) -> object:
        """Keep the output of an outermost module; behind a cut the run goes on with copies of the stand-ins."""
        if module is not self._running:
            return None
        self._running = None
        number = len(self._ends)
        if number == len(self._blocks):
            return None  # what follows the blocks runs in every replay
        is_block = module is self._blocks[number]
        if is_block:
            self._check_gradients(module)
        leaves, structure = tree_flatten(output)
        changing = [is_block and (number, place) in self._changing for place in range(len(leaves))]
        kept = [self._stand_in(x, copied=late or not self.cut) for x, late in zip(leaves, changing, strict=True)]
        self._calls.append((module, tree_unflatten(kept, structure)))
        if is_block:
            self._ends.append(len(self._calls))
        is_last = len(self._ends) == len(self._blocks)
        return tree_map(self._copy, self._calls[-1][1]) if self.cut and is_last else None

    def _check_gradients(self, block: nn.Module) -> None:
        if self._learning and not torch.is_grad_enabled() and any(p.requires_grad for p in block.parameters()):
            raise ElastifyError(
                "a block runs without gradients, though it has parameters to train",
                where=type(block).__name__,
                why="a reentrant checkpoint runs it again in the backward: no gradient of an exit would reach it",
                fix=f"checkpoint(..., use_reentrant=False); {_ONE_BY_ONE}",
            )

    def _stand_in(self, value: object, copied: bool) -> object:
        """The leaf for a tensor, made once; its numbers are `copied` where they may be used after they have changed."""
        if not isinstance(value, Tensor) or (value.is_leaf and value.requires_grad):
            return value
        key = (id(value), _version(value), copied)
        if key not in self._made:
            leaf = (value.detach().clone() if copied else value.detach()).requires_grad_(value.requires_grad)
            made = self._made[key] = self._of_leaf[id(leaf)] = StandIn(value, leaf, _version(value))
            if value.requires_grad:
                value.register_hook(made.join)
        return self._made[key].leaf

    # -- a replay ----------------------------------------------------------------------------------------

    @contextmanager
    def replay(self, blocks: int) -> Iterator[None]:
        """Inside, what ran up to the end of this many blocks hands out what it returned."""
        self._queues = {}
        for module, output in self._calls[: self._ends[blocks - 1]]:
            self._queues.setdefault(module, []).append(output)
        self._last, self._handed = self._blocks[blocks - 1], set()
        self._waiting = {module: len(queue) for module, queue in self._queues.items()}
        classes, hand_out = {module: type(module) for module in self._queues}, _eager(self._hand_out)
        try:
            for module, cls in classes.items():
                module.__dict__[_TRACE] = hand_out
                module.__class__ = _handing_out(cls)
            yield
        finally:
            for module, cls in classes.items():
                module.__class__ = cls
                del module.__dict__[_TRACE]
        if any(self._waiting.values()):
            raise ElastifyError(
                f"a run with {blocks} blocks does not begin like one with more",
                why="a module that ran before the last block did not run again, or its forward was replaced",
                fix=_ONE_BY_ONE,
            )

    def _hand_out(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> object:
        """The next output of a module; once it has handed out all of them it runs, unless it is a block."""
        queue, waiting = self._queues[module], self._waiting[module]
        if not waiting and not any(module is block for block in self._blocks):  # a checkpoint asks blocks twice
            return forward(module, *args, **kwargs)
        self._waiting[module] = max(0, waiting - 1)
        copy = self._copy if module is self._last else self._copy_if_changed
        return tree_map(copy, queue[len(queue) - max(1, waiting)])

    def _copy(self, value: object) -> object:
        """What follows the last block may change it in place."""
        self._handed.add(id(value))
        return value.clone() if isinstance(value, Tensor) else value

    def _copy_if_changed(self, value: object) -> object:
        """Before the last block, only what the full run changed will be changed again."""
        made = self._of_leaf.get(id(value))
        return made.leaf.clone() if made is not None and made.has_changed else value

    # -- gradients ---------------------------------------------------------------------------------------

    def stand_ins(self) -> list[StandIn]:
        """All there are."""
        return list(self._of_leaf.values())

    def last_outputs(self) -> list[StandIn]:
        """Those of what the last block returned, each once: it may return a tensor twice."""
        last = {id(leaf) for leaf in self._returned(len(self._blocks) - 1)}
        return [made for ident, made in self._of_leaf.items() if ident in last]

    def was_handed(self, made: StandIn) -> bool:
        """Whether the last block of the present or latest replay handed it out."""
        return id(made.leaf) in self._handed

    def changed(self) -> frozenset[tuple[int, int]]:
        """What blocks returned and was changed in place since, as (block, place in its output)."""
        places: set[tuple[int, int]] = set()
        for number in range(len(self._ends)):
            for place, leaf in enumerate(self._returned(number)):
                made = self._of_leaf.get(id(leaf))
                if made is not None and made.has_changed:
                    places.add((number, place))
        return frozenset(places)

    def backward(self) -> None:
        """Take the gradients of the stand-ins of the last block through the full run, which was cut there."""
        cut = [made for made in self.last_outputs() if made.leaf.grad is not None]
        gradients = [made.leaf.grad for made in cut]
        for made in cut:
            made.leaf.grad = None
        torch.autograd.backward([made.original for made in cut], gradients)

    def check_joined(self) -> None:
        """After the backward of the full run: an error if it has missed a gradient of a replay."""
        if any(made.leaf.grad is not None and not made.joined for made in self.stand_ins()):
            raise ElastifyError(
                "a gradient was lost",
                why="a subnet uses a value on which the loss of the full network does not depend",
                fix=_ONE_BY_ONE,
            )

    def _returned(self, block: int) -> list[object]:
        return tree_leaves(self._calls[self._ends[block] - 1][1])


def _version(tensor: Tensor) -> int:
    """How often a tensor has been changed in place."""
    return -1 if tensor.is_inference() else tensor._version


def _eager(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Not to be traced by `torch.compile`, which compiles what lies between; asked only where it has been loaded."""
    return torch.compiler.disable(fn) if "torch._dynamo" in sys.modules else fn


def _handing_out(base: Any) -> type:
    """The subclass of `base` whose forward asks the trace."""
    if base not in _generated:

        @wraps(base.forward)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            return self.__dict__[_TRACE](self, base.forward, args, kwargs)

        members = {"forward": forward, "__module__": base.__module__, "__qualname__": base.__qualname__}
        _generated[base] = types.new_class(base.__name__, (base,), exec_body=lambda names: names.update(members))
    return _generated[base]
