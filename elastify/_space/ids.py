"""A configuration has names for people, and axis ids and stage names for everything below."""

from __future__ import annotations

from elastify._ir import Choice
from elastify._space.config import SubnetConfig
from elastify._space.space import SearchSpace


def ids_of(where: SearchSpace, config: SubnetConfig) -> Choice:
    """A configuration by axis id and stage name."""
    ids = {axis.name: axis.id for axis in where.axes}
    return Choice({ids[name]: size for name, size in config.size_items}, dict(config.depth_items))
