"""Run a model again without what it has computed already.

Subnets of different depth begin with the same work: all that runs up to the end of the last block they share. A
`Trace` writes down what each module returned on that way (of nested calls the outermost; not those around blocks). When
the model runs at another depth these modules hand out what they returned before, through generated subclasses, until
the last shared block; from there on everything runs. What is handed out is cut off from the graph: the gradients that
it gets are kept, and join those of the recorded run where the value was made. So the shared part runs once forward and
once backward. The first step shows the `Habits` of the model; with them later ones need less memory.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_leaves, tree_map

from elastify._capture import resolve
from elastify._errors import ElastifyError
from elastify._ir import Stage, enclosing
from elastify._space import SubnetConfig
from elastify._verbs import space

_generated: dict[type, type] = {}
_TRACE = "_elastify_trace"


@dataclass(frozen=True)
class Habits:
    """What a model does in a run and its replays, found out beforehand."""

    changed: frozenset[tuple[int, int]]  # tensors that it changed in place later: block, place in what that returned
    cut: bool  # whether what follows a block uses nothing else of what came before than what the block returned


class Trace:
    """What the modules of a run return, up to the end of the last of these blocks (module paths, in their order).

    If the model's habits allow it (`cut`), the recorded run goes on from a cut after the last block: its loss can go
    backward before those of the replayed runs, so that what follows the blocks is in memory once at a time, and
    `backward` takes the gradients of all through the blocks. Then only what blocks returned is ever used again.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[str], habits: Habits | None = None) -> None:
        self.cut = habits is not None and habits.cut
        self._changes = habits.changed if habits is not None else frozenset()
        self._last: nn.Module | None = None  # the last block of a replay, and the tensors that it handed out
        self._from: set[int] = set()
        around = {resolve(model, parent) for path in blocks for parent in ("", *enclosing(path)[:-1])}
        self._own = set(model.modules()) - around
        self._blocks = [resolve(model, path) for path in blocks]
        self._calls: list[tuple[nn.Module, Any]] = []
        self._ends: list[int] = []  # number of calls after each block
        self._kept: dict[tuple[int, int, bool], tuple[Tensor, Tensor]] = {}  # and the originals: ids are reused
        self._versions: dict[int, tuple[Tensor, int]] = {}
        self._joined: set[int] = set()
        self._queues: dict[nn.Module, list[Any]] = {}
        self._waiting: dict[nn.Module, int] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the run inside."""
        running: list[nn.Module] = []
        learning = torch.is_grad_enabled()

        def begins(module: nn.Module, args: Any) -> None:
            if module in self._own and not running:
                running.append(module)

        def ends(module: nn.Module, args: Any, output: Any) -> Any:
            if not running or module is not running[0]:
                return None
            running.clear()
            if len(self._ends) == len(self._blocks):
                return None
            number, places = len(self._ends), count()
            block = module is self._blocks[number]
            if block and learning and not torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()):
                raise ElastifyError(
                    "a block runs without gradients, though it has parameters to train",
                    where=type(module).__name__,
                    why="a reentrant checkpoint runs it again in the backward: no gradient of an exit would reach it",
                    fix="checkpoint(..., use_reentrant=False); Sorted trains the same subnets one by one",
                )

            def keep(value: Any) -> Any:
                changes = block and (number, next(places)) in self._changes
                return self._keep(value, copied=changes or not self.cut)

            kept = tree_map(keep, output)
            self._calls.append((module, kept))
            if block:
                self._ends.append(len(self._calls))
            return tree_map(self._copied, kept) if self.cut and len(self._ends) == len(self._blocks) else None

        handles = register_module_forward_pre_hook(_eager(begins)), register_module_forward_hook(_eager(ends))
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
        if self.cut and not self.changed() <= self._changes:
            raise ElastifyError(
                "forward changes in place what a block has returned, as it did not in evaluation mode",
                why="it is kept for the subnets of that depth, and is lost",
                fix="Sorted trains the same subnets one by one",
            )

    @contextmanager
    def replaying(self, blocks: int) -> Iterator[None]:
        """Inside, what ran up to the end of this many blocks hands out what it returned."""
        self._queues = {}
        for module, output in self._calls[: self._ends[blocks - 1]]:
            self._queues.setdefault(module, []).append(output)
        self._last, self._from = self._blocks[blocks - 1], set()
        self._waiting = {module: len(queue) for module, queue in self._queues.items()}
        classes, give = {module: type(module) for module in self._queues}, _eager(self.give)
        try:
            for module, cls in classes.items():
                module.__dict__[_TRACE] = give
                module.__class__ = _replaying(cls)
            yield
        finally:
            for module, cls in classes.items():
                module.__class__ = cls
                del module.__dict__[_TRACE]
        if any(self._waiting.values()):
            raise ElastifyError(
                f"a run with {blocks} blocks does not begin like one with more",
                why="a module that ran before the last block did not run again, or its forward was replaced",
                fix="Sorted trains the same subnets one by one",
            )

    def give(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What a module hands out; once all it returned has been handed out, it runs."""
        queue = self._queues[module]
        waiting = self._waiting[module]
        if not waiting and not any(module is block for block in self._blocks):  # blocks may be asked again: checkpoints
            return forward(module, *args, **kwargs)
        self._waiting[module] = max(0, waiting - 1)
        copy = self._copied if module is self._last else self._guarded
        return tree_map(copy, queue[len(queue) - max(1, waiting)])

    def straight(self, loss: Tensor) -> bool:
        """Whether a loss depends on nothing of the recorded run but what the last replayed block returned."""
        leaves = [kept for _, kept in self._kept.values() if kept.requires_grad]
        try:
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        except RuntimeError:  # no gradient at all, or none in evaluation mode
            return False
        return all(one is None or id(kept) in self._from for one, kept in zip(gradients, leaves, strict=True))

    def apart(self, loss: Tensor) -> bool:
        """Whether a loss of the recorded run, up to what the last block returned, shares no operation with the rest."""
        if len(self._ends) < len(self._blocks):
            return False
        last = {id(kept) for kept in self._returned(len(self._blocks) - 1)}
        ends = {value.grad_fn for value, kept in self._kept.values() if id(kept) in last}
        return _operations({loss.grad_fn} - ends, ends).isdisjoint(_operations(ends))

    def backward(self) -> None:
        """Take the gradients of what was handed out through the recorded run, from where it was cut."""
        last = {id(kept) for kept in self._returned(len(self._blocks) - 1)}
        cut = [(value, kept) for value, kept in self._kept.values() if id(kept) in last and kept.grad is not None]
        gradients = [kept.grad for _, kept in cut]
        for _, kept in cut:
            kept.grad = None
        torch.autograd.backward([value for value, _ in cut], gradients)

    def check_joined(self) -> None:
        """After the backward of the recorded run: an error if it has missed a gradient of the replayed ones."""
        if any(kept.grad is not None and id(kept) not in self._joined for _, kept in self._kept.values()):
            raise ElastifyError(
                "a gradient was lost",
                why="a subnet uses a value on which the loss of the full network does not depend",
                fix="Sorted trains the same subnets one by one",
            )

    def _keep(self, value: Any, copied: bool) -> Any:
        """A tensor to hand out, made once; its gradients will join those of the original.

        Its numbers are `copied` where they may be used after they have changed.
        """
        if not isinstance(value, Tensor) or (value.is_leaf and value.requires_grad):
            return value
        key = (id(value), _version(value), copied)
        if key not in self._kept:
            kept = (value.detach().clone() if copied else value.detach()).requires_grad_(value.requires_grad)
            self._kept[key] = (value, kept)
            self._versions[id(kept)] = (value, _version(value))
            if value.requires_grad:
                value.register_hook(lambda gradient: self._join(gradient, kept))
        return self._kept[key][1]

    def changed(self) -> frozenset[tuple[int, int]]:
        """Tensors that blocks returned and that have been changed in place since: block, place in what it returned."""
        every = ((number, place) for number in range(len(self._ends)) for place in enumerate(self._returned(number)))
        return frozenset((number, place) for number, (place, kept) in every if self._has_changed(kept))

    def _has_changed(self, kept: Any) -> bool:
        original, version = self._versions.get(id(kept), (None, 0))
        return original is not None and _version(original) != version

    def _returned(self, block: int) -> list[Any]:
        return tree_leaves(self._calls[self._ends[block] - 1][1])

    def _copied(self, value: Any) -> Any:
        """What follows the last block may change it in place."""
        self._from.add(id(value))
        return value.clone() if isinstance(value, Tensor) else value

    def _guarded(self, value: Any) -> Any:
        """Before it, only what was changed then will be changed again."""
        return value.clone() if self._has_changed(value) else value

    def _join(self, gradient: Tensor, kept: Tensor) -> Tensor:
        self._joined.add(id(kept))
        return gradient if kept.grad is None else gradient + kept.grad


def _operations(last: set[Any], ends: Collection[Any] = ()) -> set[Any]:
    """The nodes of the graph that these, the last ones, need, up to `ends`; not those that collect gradients."""
    found, waiting = set(), [node for node in last if node is not None]
    while waiting:
        node = waiting.pop()
        if node not in found and node.next_functions:
            found.add(node)
            waiting += [before for before, _ in node.next_functions if before is not None and before not in ends]
    return found


def alike(found: object, expected: object) -> bool:
    """Whether two runs gave the same, but for rounding."""
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return all(_close(a, b) for a, b in pairs if isinstance(a, Tensor) and a.is_floating_point() and a.numel())


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = torch.finfo(a.dtype).eps ** 0.5
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * (b.abs().max() + tolerance))


def _version(tensor: Tensor) -> int:
    """How often a tensor has been changed in place."""
    return -1 if tensor.is_inference() else tensor._version


def _eager(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Not to be traced by `torch.compile`, which compiles what lies between; asked only where it has been loaded."""
    return torch.compiler.disable(fn) if "torch._dynamo" in sys.modules else fn


def _replaying(base: Any) -> type:
    """The subclass of `base` whose forward asks the trace."""
    if base not in _generated:

        @wraps(base.forward)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            return self.__dict__[_TRACE](self, base.forward, args, kwargs)

        members = {"forward": forward, "__module__": base.__module__, "__qualname__": base.__qualname__}
        _generated[base] = types.new_class(base.__name__, (base,), exec_body=lambda names: names.update(members))
    return _generated[base]


def pick_stage(model: nn.Module, name: str | None) -> Stage:
    """The stage of this name; None is the longest."""
    stages = {stage.name: stage for stage in space(model).stages}
    if name is None and stages:
        return max(stages.values(), key=lambda stage: len(stage.blocks))
    if name not in stages:
        raise ElastifyError(
            "the model has no blocks that can be left out" if not stages else f"no stage is called {name!r}",
            fix=f"one of {', '.join(stages)}" if stages else "print(space(model)) shows why",
        )
    return stages[name]


def pick_exits(stage: Stage, exits: Sequence[int] | None, full: int) -> list[int]:
    """Numbers of blocks in ascending order, the last is all of them."""
    chosen = stage.choices if exits is None else exits
    for blocks in chosen:
        if blocks not in stage.choices:
            raise ElastifyError(f"there is no exit after {blocks!r} blocks", where=stage.name, fix=f"{stage.choices}")
    return [*sorted({blocks for blocks in chosen if blocks < full}), full]


def cut_after(model: nn.Module, config: SubnetConfig, stage: Stage, blocks: int) -> SubnetConfig:
    """The same configuration with the first blocks of a stage only."""
    depths = {**config.depths, stage.name: config.depths[stage.name][:blocks]}
    return space(model).normalise(SubnetConfig.of(config.sizes, depths, space(model).fingerprint))
