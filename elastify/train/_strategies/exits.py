"""Exits: the numbers of blocks of a stage after which the network may end."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from elastify._errors import ElastifyError
from elastify._ir import Stage
from elastify._space import SubnetConfig
from elastify._verbs import space


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
