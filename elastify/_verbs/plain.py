"""An elastic model as the plain one that it was, in place."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from elastify._errors import ElastifyError
from elastify._rewrite import elastic_state, original_class, remove

Model = TypeVar("Model", bound=nn.Module)


def plain(model: Model) -> Model:
    """Take back what `elastify` did, in place: the full network, in its own classes, with the weights that it has now.

    It is the way to change a model that is elastic: replace a head, wrap layers, convert norms, and make it elastic
    again. What was changed before stays changed. Statistics that `recalibrate` stored for subnets are forgotten.

    >>> import torch
    >>> from elastify import cost, elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.zeros(2, 4))
    >>> plain(model)[2] = nn.Linear(64, 5)
    >>> cost(elastify(model, torch.zeros(2, 4))).macs
    576

    Raises ElastifyError for a model that is not elastic, for one with parameters that a strategy has added, of which
    `extract` makes a plain one, and for one that is sharded.
    """
    elastic = elastic_state(model)
    if elastic.transforms or elastic.extras:
        first = next(iter({**elastic.extras, **elastic.transforms}))
        raise ElastifyError(
            f"this {type(model).__name__} has what a strategy has added",
            where=first,
            why="without it the model would compute something else",
            fix="extract(model, space(model).max) is a plain model with the values in force",
        )
    for path, module in model.named_modules():
        kind = type(module)
        if kind is original_class(kind) and any("_elastify_base" in vars(cls) for cls in kind.__mro__):
            raise ElastifyError(
                f"{path or 'the model'} is a {kind.__name__} now",
                why="a class was put over the elastic one, as sharding does",
                fix="plain(model) before that",
            )
    remove(model)
    return model
