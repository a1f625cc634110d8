"""What is refused before a strategy trains.

It must be a strategy of this model, the optimizer must know the parameters that it has added, and a checkpoint must be
of a strategy with the same arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from elastify._errors import ElastifyError
from elastify._verbs import space
from elastify.train._strategies.strategy import Strategy


def check_strategy(strategy: object, model: nn.Module) -> None:
    """Refuse what is no strategy of this model."""
    if not isinstance(strategy, Strategy):
        raise ElastifyError(f"{strategy!r} is not a strategy", fix="an object of one, as strategy=Sandwich(model)")
    if not isinstance(model, nn.Module) or not any(strategy.model is module for module in model.modules()):
        name = type(strategy).__name__
        raise ElastifyError(f"this {name} trains another model", fix=f"strategy={name}(model), of the same model")
    for path, module in strategy.model.named_modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse:
            raise ElastifyError(
                "a subnet has no sparse gradients",
                where=path,
                why="its weight is a slice of the table",
                fix=f"model.{path}.sparse = False",
            )


def check_optimizer(strategy: Strategy, optimizer: Any) -> None:
    """Refuse an optimizer that was made before the strategy added its parameters: it knows none of them."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    added = {name: p for name, p in strategy.model.named_parameters() if name.endswith("_elastic") and p.requires_grad}
    if added and not any(id(parameter) in known for parameter in added.values()):
        raise ElastifyError(
            f"the optimizer does not know {next(iter(added))}",
            why=f"{type(strategy).__name__} adds parameters to the model",
            fix="strategy.prepare() before the optimizer is made",
        )


def check_arguments(strategy: Strategy, stored: Mapping[str, str], where: str) -> None:
    """Refuse to go on from the checkpoint of a run whose strategy had other arguments."""
    for name, value in strategy.arguments.items():
        before = stored.get(name, value)
        if before != value and json.loads(before) not in _other_spellings(strategy, name, json.loads(value)):
            same = next((n for n, (a, b) in enumerate(zip(before, value, strict=False)) if a != b), 0)
            start = max(0, same - 20)
            raise ElastifyError(
                f"the strategy of the checkpoint had a different value of {name}",
                where=where,
                why=f"{before[start : start + 80]} there, {value[start : start + 80]} here",
                fix="the same arguments as before, or another folder",
            )


def _other_spellings(strategy: Strategy, name: str, value: Any) -> list[Any]:
    """What earlier versions wrote for the same value: other names of axes, and a single glob as it was given."""
    if name == "axes":
        known = space(strategy.model)
        rungs = [axis.choices for axis in known.axes]
        return [[[n, *c] for n, c in zip(names, rungs, strict=False)] for names in known.spellings.values()]
    return value if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) else []
