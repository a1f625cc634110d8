"""What a rewritten model remembers: its plan, the active configuration, and caches.

One `Record` is shared by a model and all its rewritten modules, as a plain entry of their `__dict__`, so a deep copy
of the model gets its own, shared in the same way. `Active` is one configuration: made by `set_active`, thrown away by
the next; everything in it is computed when first asked for. `Tables` depend on the plan alone and serve all copies.
"""

from __future__ import annotations

import copy
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import cached_property
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from elastify._capture import recorders, unrecorded, viewed
from elastify._errors import ElastifyError
from elastify._ir import Attr, Layout, Plan, Stage, axes_of
from elastify._rewrite.setters import Setters
from elastify._rewrite.slices import Cut, Ruler, Slice, cut_of

Key = tuple[frozenset[tuple[int, int]], frozenset[tuple[str, tuple[int, ...]]]]
Transform = Callable[[Tensor], Tensor]


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


known_models = Models()


class Tables:
    """Rulers of a plan: one per layout, and those of each tensor."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._rulers: dict[Layout, Ruler] = {}
        self.tensors = {name: tuple(map(self.ruler, layouts)) for name, layouts in plan.tensors.items()}
        self.full = {axis.id: axis.size for axis in plan.axes}
        self.stages: dict[str, Stage] = {stage.name: stage for stage in plan.stages}

    @cached_property
    def homes(self) -> dict[int, set[frozenset[str]]]:
        """Of every axis, the blocks around each of the tensors that have it."""
        blocks = [block for stage in self.stages.values() for block in stage.blocks]
        found: dict[int, set[frozenset[str]]] = {}
        for name, layouts in self.plan.tensors.items():
            around = frozenset(block for block in blocks if name.startswith(f"{block}."))
            for axis in {axis.id for layout in layouts for axis in axes_of(layout)}:
                found.setdefault(axis, set()).add(around)
        return found

    def gone(self, blocks: frozenset[str]) -> frozenset[int]:
        """Axes that only these blocks have, where numbers ask for it that must not follow what is left out."""
        if not blocks or not self.plan.unclear:
            return frozenset()
        return frozenset(axis for axis, homes in self.homes.items() if all(home & blocks for home in homes))

    def ruler(self, layout: Layout) -> Ruler:
        """The ruler of a layout."""
        found = self._rulers.get(layout)
        if found is None:
            found = self._rulers[layout] = Ruler(layout)
        return found


class Active:
    """The configuration in force. Of the blocks not in it, some `left` their containers, which keep their names
    `hidden` (by container path), some step `aside`."""

    def __init__(self, sizes: dict[int, int], blocks: dict[str, tuple[int, ...]]) -> None:
        self.sizes, self.blocks = sizes, blocks
        self.key: Key = (frozenset(sizes.items()), frozenset(blocks.items()))
        self.thread = threading.get_ident()
        self.cuts: dict[Ruler, Cut | None] = {}
        self.slices: dict[tuple[Ruler, ...], Slice] = {}
        self.hidden: dict[str, frozenset[str]] = {}
        self.left: frozenset[str] = frozenset()
        self.aside: frozenset[str] = frozenset()
        self.scratch: dict[str, Tensor] = {}

    def cut(self, ruler: Ruler) -> Cut | None:
        """What is kept of a dimension; tensors of equal layouts share it."""
        if ruler.ids.isdisjoint(self.sizes):
            return None
        if ruler not in self.cuts:
            self.cuts[ruler] = cut_of(ruler.layout, self.sizes)
        return self.cuts[ruler]


class Record:
    """The state of one elastic model."""

    def __init__(self, plan: Plan, tables: Tables) -> None:
        self.plan, self.tables = plan, tables
        self.active: Active | None = None
        self.transforms: dict[str, Transform] = {}
        self.extras: dict[str, tuple[Layout, ...]] = {}  # parameters of transforms, which no extracted model has
        self.overlays: dict[Key, dict[str, Tensor]] = {}
        self.originals: dict[Attr, Any] = {}
        self.moved: dict[Attr, Any] = {}
        self.caches: dict[Attr, Any] = {}
        self.compiled = False
        self.setters: Setters | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Record:
        twin = Record(self.plan, self.tables)
        memo[id(self)] = twin
        if self.active is not None:
            twin.active = Active(self.active.sizes, self.active.blocks)
            twin.active.hidden = self.active.hidden
            twin.active.left, twin.active.aside = self.active.left, self.active.aside
        twin.transforms = copy.deepcopy(self.transforms, memo)
        twin.extras = dict(self.extras)
        twin.overlays = copy.deepcopy(self.overlays, memo)
        twin.originals, twin.moved = copy.deepcopy(self.originals, memo), dict(self.moved)
        twin.caches = copy.deepcopy(self.caches, memo)
        return twin  # its setters are resolved anew: they hold dictionaries of the modules they belong to

    def text(self, most: int = 8) -> str:
        """The active configuration in a few words."""
        active = self.active
        if active is None:
            return "elastic, full network active"
        parts = [
            f"{axis.name} {active.sizes[axis.id]}/{axis.size}" for axis in self.plan.axes if axis.id in active.sizes
        ]
        parts += [
            f"{stage.name} {len(active.blocks[stage.name])}/{len(stage.blocks)} blocks"
            for stage in self.plan.stages
            if stage.name in active.blocks
        ]
        if not parts:
            return "elastic, full network active"
        more = [f"{len(parts) - most} more"] if len(parts) > most else []
        return "elastic, active: " + ", ".join(parts[:most] + more)

    def fill(self) -> None:
        """Make all slices now: a compiled model is guarded on them, made lazily they would cost a second compile."""
        if self.active is not None:
            for name in self.tables.tensors:
                self.slice(self.active, name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "setters": None}

    def value(self, module: nn.Module, name: str, full: Tensor) -> Tensor:
        """The active value of a tensor whose own value is `full`."""
        if not recorders:
            return self._value(module, name, full)
        with unrecorded():
            return self._value(module, name, full)

    def _value(self, module: nn.Module, name: str, full: Tensor) -> Tensor:
        active = self.active
        if torch.compiler.is_compiling():
            self.compiled = True
        elif active is not None and active.thread != threading.get_ident():
            check_thread()
        if type(full).__name__ == "DTensor" and asked_by_fsdp():
            return full
        if self.transforms:
            transform = self.transforms.get(name)
            if transform is not None:
                full = transform(full)
        if active is None:
            return full
        if name in self.plan.statistics:
            return self._statistic(module, name, full)
        if name not in self.tables.tensors:  # only transformed
            return full
        cut = self.slice(active, name)
        return cut(full) if cut.indices else viewed(full, cut)

    def slice(self, active: Active, name: str) -> Slice:
        """How the active configuration slices a tensor."""
        rulers = self.tables.tensors[name]
        found = active.slices.get(rulers)
        if found is None:
            found = active.slices[rulers] = Slice([r.full for r in rulers], [active.cut(r) for r in rulers])
        return found

    def _statistic(self, module: nn.Module, name: str, full: Tensor) -> Tensor:
        """Running statistics: those stored for the configuration, else a part of the full ones, never to be updated."""
        active = self.active
        assert active is not None
        if not active.sizes and not active.blocks:  # one of several ways through, and the full network
            return full
        stored = self.overlays.get(active.key)
        if stored is not None and name in stored:
            return _moved(stored, name, full)
        if not module.training:
            return self.slice(active, name)(full) if name in self.tables.tensors else full
        if name not in active.scratch:
            part = self.slice(active, name)(full) if name in self.tables.tensors else full
            active.scratch[name] = part.detach().clone()
        return _moved(active.scratch, name, full)


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
