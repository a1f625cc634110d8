"""Choosing the subnet that a model runs as.

`set_active` puts a `Choice` in force: numbers of modules get the values that belong to its sizes, removed blocks
disappear from their containers, and caches that forward had filled are emptied. It slices no tensor: the properties
of the generated classes do that when they are first asked.

Running statistics of norms belong to a configuration. Those that were measured for a subnet are stored beside it, and
stand in place of the buffers while it is active; the full network keeps its own, in its buffers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from elastify._capture import remembering_methods, write
from elastify._errors import ElastifyError
from elastify._ir import FULL, Choice
from elastify._rewrite.blocks import close_gaps
from elastify._rewrite.caches import reset
from elastify._rewrite.changes import check_touched
from elastify._rewrite.setters import Setters, compile_setters
from elastify._rewrite.state import Active, ElasticState, elastic_state, known_models

Stored = tuple[dict[int, int], dict[str, tuple[int, ...]], dict[str, Tensor]]
"""Sizes and blocks of a choice, and the statistics stored for it by tensor name: what checkpoints hold."""


def set_active(model: nn.Module, choice: Choice) -> None:
    """Let the model run as this subnet; `FULL` is the full network.

    Raises ElastifyError for axes, stages and sizes that the model does not have, and where what a subnet has a part of
    has been replaced.
    """
    elastic = elastic_state(model)
    active = _active(elastic, choice)
    if active is not None:
        check_touched(model)
    elastic.settle()
    known_models.add(model)
    setters = setters_of(model)
    for attr, old in reversed(elastic.block_numbers.items()):
        write(model, attr, old)
    chosen = active.choice if active is not None else FULL
    setters.apply(chosen.sizes, elastic.tables.only_in(chosen))
    reset(model, elastic.plan.caches, elastic.caches)
    if elastic.remembering is None:
        elastic.remembering = remembering_methods(model)
    for method in elastic.remembering:
        method.cache_clear()
    elastic.active = active
    elastic.turns.note(elastic.choice.key)
    if elastic.compiled:
        elastic.slice_all()
    elastic.block_numbers = {}
    if active is not None:
        active.buffers.remember(_growing(model))
    if active is not None and active.hidden:
        elastic.block_numbers = close_gaps(model, active.hidden, elastic.plan.counts)


@contextmanager
def active_subnet(model: nn.Module, choice: Choice) -> Iterator[None]:
    """Inside, this subnet is the active one; afterwards, the one that was."""
    before = elastic_state(model).choice
    try:
        set_active(model, choice)
        yield
    finally:
        set_active(model, before)


def setters_of(model: nn.Module) -> Setters:
    """What sets the numbers of a model that follow its sizes."""
    elastic = elastic_state(model)
    if elastic.setters is None:  # a copy: its modules are others
        elastic.setters = compile_setters(model, elastic.plan, elastic.tables.ruler, elastic.originals)
    return elastic.setters


def _growing(model: nn.Module) -> list[nn.Module]:
    """The modules of a model whose buffers may grow: those that share an elastic one."""
    elastic = elastic_state(model)
    if elastic.growing is None:
        shared = elastic.plan.tensors.keys() - elastic.plan.statistics
        elastic.growing = [
            module
            for module in model.modules()
            if any(n in shared and k in module._buffers for k, n in vars(module).get("_elastify_names", {}).items())
        ]
    return elastic.growing


def _active(elastic: ElasticState, choice: Choice) -> Active | None:
    """What a choice means for this model; None where tensors, numbers and blocks are those of the full network."""
    choice, plan = normalised(elastic, choice), elastic.plan
    if choice == FULL and not plan.paths:
        return None
    removed: set[str] = set()
    bypassed: set[str] = set()
    hidden: dict[str, set[str]] = {}
    for name, kept in choice.blocks.items():
        stage = elastic.tables.stages[name]
        skipped = {block for index, block in enumerate(stage.blocks) if index not in kept}
        if stage.bypassed:
            bypassed |= skipped
        else:
            removed |= skipped
    removed.update(elastic.tables.presence.gone_along(choice))
    for path in removed:
        container, _, child = path.rpartition(".")
        hidden.setdefault(container, set()).add(child)
    for path, (axis, ways) in plan.paths.items():
        way = ways[choice.sizes.get(axis, len(ways)) - 1]
        hidden[path] = {str(child) for child in set().union(*ways).difference(way)}
        removed |= {f"{path}.{child}" if path else child for child in hidden[path]}
    return Active(
        choice, {path: frozenset(names) for path, names in hidden.items()}, frozenset(removed), frozenset(bypassed)
    )


def normalised(elastic: ElasticState, choice: Choice) -> Choice:
    """The same choice without what it keeps whole: equal for equal subnets."""
    full, stages = elastic.tables.full, elastic.tables.stages
    try:
        sizes = {axis: size for axis, size in choice.sizes.items() if size != full[axis]}
        blocks = {name: tuple(kept) for name, kept in choice.blocks.items() if len(kept) != len(stages[name].blocks)}
    except KeyError as error:
        raise ElastifyError(f"no axis or stage {error}", why="the configuration is of another model") from None
    for axis, size in sizes.items():
        if not 0 < size < full[axis]:
            raise ElastifyError(f"axis {axis} cannot keep {size} units", why=f"it has {full[axis]}")
    return Choice(sizes, blocks)


def stored_statistics(model: nn.Module, choice: Choice) -> dict[str, Tensor] | None:
    """Running statistics stored for a configuration, by tensor name; None when there are none."""
    elastic = elastic_state(model)
    return elastic.statistics.get(normalised(elastic, choice).key)


def store_statistics(model: nn.Module, statistics: Mapping[str, Tensor] | None, choice: Choice | None = None) -> None:
    """Keep running statistics for a configuration (the active one by default), or forget them (None).

    A forward in train mode then updates the stored tensors in place.
    """
    elastic = elastic_state(model)
    choice = elastic.choice if choice is None else normalised(elastic, choice)
    if choice == FULL:
        raise ElastifyError("the full network keeps its own statistics", why="they are its buffers")
    if statistics is None:
        elastic.statistics.pop(choice.key, None)
    else:
        elastic.statistics[choice.key] = dict(statistics)


def all_statistics(model: nn.Module) -> list[Stored]:
    """What is stored for every configuration."""
    stored = elastic_state(model).statistics.items()
    return [(dict(sizes), dict(blocks), statistics) for (sizes, blocks), statistics in stored]


def restore_statistics(model: nn.Module, entries: Iterable[Stored]) -> None:
    """Keep what `all_statistics` gave, and nothing else."""
    elastic_state(model).statistics.clear()
    for sizes, blocks, statistics in entries:
        store_statistics(model, statistics, Choice(sizes, blocks))
