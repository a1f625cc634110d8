"""What an elastic model keeps besides its weights, and how a tensor of it is seen.

One `ElasticState` is shared by a model and all its rewritten modules, as a plain entry of their `__dict__`: a deep copy
of the model gets its own, shared in the same way. `Active` is one choice in force: made by `set_active`, thrown away by
the next; its slices are made when they are first asked for. `Tables` depend on the plan alone and serve all copies.

The properties of the generated classes ask `ElasticState.value`. A transform may change the stored tensor first; then
what the active choice keeps is cut out of it. Running statistics are those that were stored for the choice, if any.
"""

from __future__ import annotations

import copy
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from elastify._capture import not_elastic, recorders, unrecorded, viewed
from elastify._errors import ElastifyError
from elastify._ir import FULL, Attr, Block, Choice, Key, Layout, Plan, Presence, Stage, axes_of, enclosing
from elastify._rewrite.buffers import Buffers, Grown, check_replaced, growing_sizes, not_replaced
from elastify._rewrite.setters import Setters
from elastify._rewrite.slices import Cut, Ruler, Slice, cut_of
from elastify._rewrite.turns import Turns

if TYPE_CHECKING:
    from elastify._rewrite.changes import Blueprint, Touched, Whole

Transform = Callable[[Tensor], Tensor]


def elastic_state(model: nn.Module) -> ElasticState:
    """What an elastic model keeps; ElastifyError for another."""
    if not is_elastic(model):
        raise not_elastic(model)
    return model.__dict__["_elastify"]


def is_elastic(model: nn.Module) -> bool:
    """Whether `install` made this module elastic (its rewritten submodules are not models of their own)."""
    return isinstance(model, nn.Module) and "_elastify_root" in model.__dict__


class ElasticState:
    """What one elastic model keeps.

    `transforms`, by canonical name, change tensors before they are sliced; `extras` are the parameters that these have,
    which no extracted model gets, with their layouts. `statistics` are those of norms, by the key of their choice.
    `originals` are the numbers of modules as they were at first, `block_numbers` those that were changed because the
    active choice removes blocks, as they were before. `caches` is what the caches of forward held before the first run.
    `growing` are the modules whose buffers may grow. `compiled` tells whether torch.compile has looked inside.
    `blueprint` is what the model was made of (`changes`), `touched` and `whole` are the parts of it that a glance
    compares.
    """

    blueprint: Blueprint | None = None
    touched: Touched | None = None
    whole: Whole | None = None

    def __init__(self, plan: Plan, tables: Tables) -> None:
        self.plan, self.tables = plan, tables
        self.active: Active | None = None
        self.transforms: dict[str, Transform] = {}
        self.extras: dict[str, tuple[Layout, ...]] = {}
        self.statistics: dict[Key, dict[str, Tensor]] = {}
        self.originals: dict[Attr, int | float] = {}
        self.block_numbers: dict[Attr, Any] = {}
        self.caches: dict[Attr, Any] = {}
        self.compiled = False
        self.setters: Setters | None = None
        self.growing: list[nn.Module] | None = None
        self.remembering: list[Any] | None = None
        self.turns = Turns()

    def __deepcopy__(self, memo: dict[int, Any]) -> ElasticState:
        twin = ElasticState(self.plan, self.tables)
        memo[id(self)] = twin
        if self.active is not None:
            twin.active = Active(self.active.choice, self.active.hidden, self.active.removed, self.active.bypassed)
        twin.transforms = copy.deepcopy(self.transforms, memo)
        twin.extras = dict(self.extras)
        twin.statistics = {key: copy.deepcopy(stored, memo) for key, stored in self.statistics.items()}
        twin.originals, twin.block_numbers = dict(self.originals), dict(self.block_numbers)
        twin.caches = copy.deepcopy(self.caches, memo)
        twin.blueprint = self.blueprint
        twin.turns = Turns(self.choice.key)
        return twin  # what holds dictionaries of modules (setters, touched, whole) is resolved anew

    def __getstate__(self) -> dict[str, Any]:
        gone = dict.fromkeys(("setters", "growing", "remembering", "touched", "whole"))
        return {**self.__dict__, **gone, "turns": Turns(self.choice.key)}

    @property
    def choice(self) -> Choice:
        """The choice in force."""
        return FULL if self.active is None else self.active.choice

    def text(self, most: int = 8) -> str:
        """The choice in force, in a few words."""
        sizes, blocks = self.choice.sizes, self.choice.blocks
        parts = [f"{axis.name} {sizes[axis.id]}/{axis.size}" for axis in self.plan.axes if axis.id in sizes]
        stages = [stage for stage in self.plan.stages if stage.name in blocks]
        parts += [f"{stage.name} {len(blocks[stage.name])}/{len(stage.blocks)} blocks" for stage in stages]
        if not parts:
            return "elastic, full network active"
        more = [f"{len(parts) - most} more"] if len(parts) > most else []
        return "elastic, active: " + ", ".join(parts[:most] + more)

    def value(self, module: nn.Module, name: str, full: Tensor, *, buffer: bool = False) -> Tensor:
        """The active value of a tensor, perhaps a `buffer`, whose own value is `full`."""
        if not recorders:
            return self._value(module, name, full, buffer)
        with unrecorded():
            return self._value(module, name, full, buffer)

    def slice(self, active: Active, name: str) -> Slice:
        """How the active choice slices a tensor."""
        rulers = self.tables.tensors[name]
        found = active.slices.get(rulers)
        if found is None:
            found = active.slices[rulers] = Slice([r.full for r in rulers], [active.cut(r) for r in rulers])
        return found

    def slice_of(self, active: Active, name: str, stored: Tensor) -> Slice:
        """How the active choice slices a buffer, which may have grown in dimensions that are no axes."""
        rulers, cuts = self.tables.tensors[name], [active.cut(ruler) for ruler in self.tables.tensors[name]]
        if stored.dim() != len(rulers) or any(
            cut and size != ruler.full for ruler, cut, size in zip(rulers, cuts, stored.shape, strict=True)
        ):
            raise ElastifyError(
                f"buffer {name} has shape {list(stored.shape)}",
                why=f"it had {[ruler.full for ruler in rulers]} when the model was made elastic",
                fix="elastify a model whose buffers have their final shapes",
            )
        if all(size == ruler.full for ruler, size in zip(rulers, stored.shape, strict=True)):
            return self.slice(active, name)
        return Slice(stored.shape, cuts)

    def assign(self, module: nn.Module, local: str, value: Any, register: Callable[[Tensor], None]) -> None:
        """Forward puts `value` in the place of a buffer of a module, while a subnet is active."""
        name, active = module.__dict__["_elastify_names"][local], self.active
        assert active is not None
        if name in self.plan.statistics:
            own = self.statistics.get(active.key, {})
            if name not in own and not module.training:
                raise not_replaced(module, local, "it belongs to the full network; this subnet has none of its own")
            check_replaced(module, local, value, getattr(module, local).shape)
            (own if name in own else active.scratch)[name] = value
            return
        with unrecorded() if recorders else nullcontext():
            rulers = self.tables.tensors[name]
            grown = active.buffers.grown.get(name)
            stored = module._buffers[local] if grown is None else grown.stored
            cut = None if stored is None else self.slice_of(active, name, stored)
            sizes = growing_sizes(rulers, active.choice.sizes, self.tables.full.keys())
            active.buffers.assign(Grown(module, local, stored), name, value, cut, sizes, register)

    def put_back(self) -> None:
        """A pass has ended: what it has written to copies of parts of buffers is stored."""
        if self.active is not None and self.active.buffers.parts:
            with unrecorded() if recorders else nullcontext():
                self.active.buffers.put_back(self.plan.written)

    def settle(self) -> None:
        """What is stored is now all that there is: no parts wait to be put back, and nothing has grown for a while."""
        self.put_back()
        if self.active is not None:
            self.active.buffers.shrink()

    def is_gone(self, name: str) -> bool:
        """Whether a module or tensor is or lies in something that the active choice leaves out."""
        first, left_out = self.plan.first_name, self.active.left_out if self.active is not None else ()
        return not set(map(first, left_out)).isdisjoint(enclosing(first(name)))

    def slice_all(self) -> None:
        """Make all slices now: a compiled model is guarded on them, made lazily they would cost a second compile."""
        if self.active is not None:
            for name in self.tables.tensors:
                self.slice(self.active, name)

    def _value(self, module: nn.Module, name: str, full: Tensor, buffer: bool) -> Tensor:
        active = self.active
        if torch.compiler.is_compiling():
            self.compiled = True
            if active is not None and torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
                raise ElastifyError(
                    "an active subnet cannot be exported",
                    why="slices of the full weights would be constants",
                    fix="torch.export.export(extract(model), ...), which takes the active subnet",
                )
        else:
            if active is not None and active.thread != threading.get_ident():
                check_thread()
            self.turns.check(self.choice.key)
        if type(full).__name__ == "DTensor" and asked_by_fsdp():
            return full
        if self.transforms:
            transform = self.transforms.get(name)
            if transform is not None:
                full = transform(full)
        if active is None:
            return full
        if name in self.plan.statistics:
            return self._statistic(active, module, name, full)
        if name not in self.tables.tensors:  # only transformed
            return full
        if buffer:
            if name in active.buffers.grown:
                return full
            return active.buffers.seen(name, full, self.slice_of(active, name, full), self.plan.written)
        cut = self.slice(active, name)
        part = cut(full) if cut.indices else viewed(full, cut)
        if module.__dict__.get("sparse") is True and part is not full:
            return _Densely.apply(part)  # type: ignore[no-any-return] - that of an embedding
        return part

    def _statistic(self, active: Active, module: nn.Module, name: str, full: Tensor) -> Tensor:
        """Running statistics: those stored for the choice, else a part of the full ones, never to be updated."""
        if not active.choice.parts:  # one of several ways through, and the full network
            return full
        stored = self.statistics.get(active.key)
        if stored is not None and name in stored:
            return _moved(stored, name, full)
        if not module.training:
            return self.slice(active, name)(full) if name in self.tables.tensors else full
        if name not in active.scratch:
            part = self.slice(active, name)(full) if name in self.tables.tensors else full
            active.scratch[name] = part.detach().clone()
        return _moved(active.scratch, name, full)


class _Densely(torch.autograd.Function):
    """The tensor itself, with a dense gradient: of a sparse one autograd cannot make that of the whole table."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return part.view_as(part)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (gradient,) = grad_outputs
        return gradient.to_dense() if gradient.is_sparse else gradient


class Active:
    """One choice in force; it mentions only what is not whole.

    Of the blocks that it leaves out, `removed` have disappeared from their containers (`hidden`: the names of such
    children by path of the container), like what goes with them, and `bypassed` return their input. `scratch` are
    copies of statistics for the forward passes of training, which write to them; `buffers` is what it has of those that
    all choices share.
    """

    def __init__(
        self,
        choice: Choice,
        hidden: Mapping[str, frozenset[str]],
        removed: frozenset[str],
        bypassed: frozenset[str],
    ) -> None:
        self.choice, self.hidden, self.removed, self.bypassed = choice, hidden, removed, bypassed
        self.key = choice.key
        self.thread = threading.get_ident()
        self.cuts: dict[Ruler, Cut | None] = {}
        self.slices: dict[tuple[Ruler, ...], Slice] = {}
        self.scratch: dict[str, Tensor] = {}
        self.buffers = Buffers()

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__.update(kept, thread=threading.get_ident())  # it was pickled in another process, perhaps

    @property
    def left_out(self) -> frozenset[str]:
        """Paths of all blocks that are not kept, and of what goes with them."""
        return self.removed | self.bypassed

    def cut(self, ruler: Ruler) -> Cut | None:
        """What is kept of a dimension; tensors of equal layouts share it."""
        if ruler.ids.isdisjoint(self.choice.sizes):
            return None
        if ruler not in self.cuts:
            self.cuts[ruler] = cut_of(ruler.layout, self.choice.sizes)
        return self.cuts[ruler]


class Tables:
    """What is looked up in a plan: rulers (one per layout, and those of each tensor), full sizes, stages, and what goes
    with blocks."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._rulers: dict[Layout, Ruler] = {}
        self.tensors = {name: tuple(map(self.ruler, layouts)) for name, layouts in plan.tensors.items()}
        self.full = {axis.id: axis.size for axis in plan.axes}
        self.stages: dict[str, Stage] = {stage.name: stage for stage in plan.stages}
        self.presence = Presence(plan)

    def ruler(self, layout: Layout) -> Ruler:
        """The ruler of a layout."""
        found = self._rulers.get(layout)
        if found is None:
            found = self._rulers[layout] = Ruler(layout)
        return found

    def only_in(self, choice: Choice) -> frozenset[int]:
        """Axes that only blocks have which are left out; looked for where numbers ask, which must not follow those."""
        if not choice.blocks or not self.plan.unclear:
            return frozenset()
        blocks, axes = self.presence.left_out(choice), self._ways.items()
        return frozenset(axis for axis, ways in axes if not any(way.isdisjoint(blocks) for way in ways))

    @cached_property
    def _ways(self) -> dict[int, set[frozenset[Block]]]:
        """For every axis, the sets of blocks of which one must be kept for a tensor to be there that has it."""
        found: dict[int, set[frozenset[Block]]] = {}
        for name, layouts in self.plan.tensors.items():
            for axis in {axis.id for layout in layouts for axis in axes_of(layout)}:
                found.setdefault(axis, set()).update(self.presence.ways(name))
        return found


class Models:
    """The elastic models that are alive and have been used: who sees only a parameter finds its model here."""

    def __init__(self) -> None:
        self._models: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.changes = 0

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(list(self._models))

    def add(self, model: nn.Module) -> None:
        """Once per model; copies are added when a subnet of theirs is first chosen."""
        if model not in self._models:
            self._models.add(model)
            self.changes += 1

    def discard(self, model: nn.Module) -> None:
        """One that is plain again."""
        self._models.discard(model)
        self.changes += 1


known_models = Models()


def _moved(stored: dict[str, Tensor], name: str, like: Tensor) -> Tensor:
    """`stored[name]`, following the device and dtype of the model's own tensor."""
    tensor = stored[name]
    if tensor.device != like.device or tensor.dtype != like.dtype:
        tensor = stored[name] = tensor.to(like.device, like.dtype)
    return tensor


def asked_by_fsdp() -> bool:
    """Whether a sharded parameter is wanted by the machinery that shards it, which must get the parameter itself."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("elastify."):
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__", "").startswith("torch.distributed.fsdp.")


def check_thread() -> None:
    """Refuse a second thread; backward threads, which recompute checkpointed blocks, belong to the first."""
    if torch._C._current_graph_task_id() == -1:
        raise ElastifyError(
            "the active subnet of this model was chosen by another thread",
            why="one model has one active configuration",
            fix="use one copy.deepcopy(model) per thread, or extract(model, config)",
        )
