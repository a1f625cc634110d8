"""Making one subnet the active one: kept units per axis, kept blocks per stage, and the numbers that follow.

Statistics of norms that were measured for a configuration are kept beside it and laid over the buffers while it is
active.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from elastify._capture import write
from elastify._errors import ElastifyError
from elastify._rewrite.blocks import close_gaps
from elastify._rewrite.caches import reset
from elastify._rewrite.setters import compile_setters
from elastify._rewrite.state import Active, Key, Record, known_models


def set_active(model: nn.Module, sizes: Mapping[int, int], blocks: Mapping[str, tuple[int, ...]]) -> None:
    """Choose the subnet: kept units per axis id, kept block indices per stage; what is missing is kept whole."""
    entry = record(model)
    known_models.add(model)
    setters = entry.setters
    if setters is None:  # a copy: its modules are others
        setters = entry.setters = compile_setters(model, entry.plan, entry.tables.ruler, entry.originals)
    active = _active(entry, sizes, blocks)
    for attr, old in reversed(entry.moved.items()):
        write(model, attr, old)
    setters.apply(active.sizes if active else {}, entry.tables.gone(active.left | active.aside) if active else ())
    reset(model, entry.plan.caches, entry.caches)
    entry.active = active
    if entry.compiled:
        entry.fill()
    entry.moved = {}
    if active is not None and active.hidden:
        entry.moved = close_gaps(model, active.hidden, entry.plan.counts)


@contextmanager
def active_subnet(model: nn.Module, sizes: Mapping[int, int], blocks: Mapping[str, tuple[int, ...]]) -> Iterator[None]:
    """Inside, this subnet is the active one; afterwards, the one that was."""
    before = record(model).active
    try:
        set_active(model, sizes, blocks)
        yield
    finally:
        set_active(model, *((before.sizes, before.blocks) if before else ({}, {})))


def _active(entry: Record, sizes: Mapping[int, int], blocks: Mapping[str, tuple[int, ...]]) -> Active | None:
    sizes, blocks = normalised(entry, sizes, blocks)
    if not sizes and not blocks and not entry.plan.paths:
        return None
    active = Active(sizes, blocks)
    gone: dict[str, set[str]] = {}
    skipped: dict[bool, set[str]] = {True: set(), False: set()}
    for name, kept in blocks.items():
        stage = entry.tables.stages[name]
        for index, block in enumerate(stage.blocks):
            if index not in kept:
                skipped[stage.bypassed].add(block)
                parent, _, child = block.rpartition(".")
                if not stage.bypassed:
                    gone.setdefault(parent, set()).add(child)
    for path, (axis, choices) in entry.plan.paths.items():
        gone[path] = {str(i) for i in set().union(*choices).difference(choices[sizes.get(axis, len(choices)) - 1])}
        skipped[False].update(f"{path}.{child}" if path else child for child in gone[path])
    active.hidden = {path: frozenset(names) for path, names in gone.items()}
    active.left, active.aside = frozenset(skipped[False]), frozenset(skipped[True])
    return active


def normalised(
    entry: Record, sizes: Mapping[int, int], blocks: Mapping[str, tuple[int, ...]]
) -> tuple[dict[int, int], dict[str, tuple[int, ...]]]:
    """The same configuration without what is kept whole."""
    full, stages = entry.tables.full, entry.tables.stages
    try:
        small = {axis: size for axis, size in sizes.items() if size != full[axis]}
        fewer = {name: tuple(kept) for name, kept in blocks.items() if len(kept) != len(stages[name].blocks)}
    except KeyError as error:
        raise ElastifyError(f"no axis or stage {error}", why="the configuration is of another model") from None
    for axis, size in small.items():
        if not 0 < size < full[axis]:
            raise ElastifyError(f"axis {axis} cannot keep {size} units", why=f"it has {full[axis]}")
    return small, fewer


def _key(entry: Record, sizes: Mapping[int, int], blocks: Mapping[str, tuple[int, ...]]) -> Key:
    small, fewer = normalised(entry, sizes, blocks)
    return frozenset(small.items()), frozenset(fewer.items())


def statistics_overlay(
    model: nn.Module, sizes: Mapping[int, int], blocks: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor] | None:
    """Running statistics stored for a configuration, by tensor name; None when there are none."""
    entry = record(model)
    return entry.overlays.get(_key(entry, sizes, blocks))


def store_statistics(
    model: nn.Module,
    statistics: Mapping[str, Tensor] | None,
    sizes: Mapping[int, int] | None = None,
    blocks: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Keep running statistics for a configuration (the active one by default), or forget them (None).

    A forward in train mode then updates the stored tensors in place.
    """
    entry = record(model)
    if sizes is None and blocks is None:
        key = entry.active.key if entry.active else (frozenset(), frozenset())
    else:
        key = _key(entry, sizes or {}, blocks or {})
    if key == (frozenset(), frozenset()):
        raise ElastifyError("the full network keeps its own statistics", why="they are its buffers")
    if statistics is None:
        entry.overlays.pop(key, None)
    else:
        entry.overlays[key] = dict(statistics)


def all_statistics(model: nn.Module) -> list[tuple[dict[int, int], dict[str, tuple[int, ...]], dict[str, Tensor]]]:
    """What is stored for every configuration, with its sizes and blocks: arguments of `store_statistics`."""
    return [(dict(sizes), dict(blocks), stored) for (sizes, blocks), stored in record(model).overlays.items()]


def restore_statistics(model: nn.Module, entries: Iterable[Any]) -> None:
    """Keep what `all_statistics` gave, and nothing else."""
    record(model).overlays.clear()
    for sizes, blocks, stored in entries:
        store_statistics(model, stored, sizes, blocks)


def record(model: nn.Module) -> Record:
    """The elastic record of a model."""
    if not is_elastic(model):
        raise ElastifyError(f"this {type(model).__name__} is not elastic", fix="elastify(model, example_inputs)")
    return model.__dict__["_elastify"]


def is_elastic(model: nn.Module) -> bool:
    """Whether `install` made this module elastic (its rewritten submodules are not models of their own)."""
    return "_elastify_root" in model.__dict__
