"""What elastify knows about other libraries, and nothing elsewhere does.

Each adapter is a module that answers for models of one library: which example inputs fit, which outputs are
interface. A library is recognised by the classes that a model inherits from; it is never imported here (a
model of it can only exist where it has been imported).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from elastify._adapters import einops, pretrained, timm, torchvision, transformers
from elastify._adapters.build import LIBRARIES as LIBRARIES
from elastify._adapters.build import build as build
from elastify._adapters.saved import build_like as build_like
from elastify._adapters.saved import describe as describe
from elastify._ir import Attr

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
_ADAPTERS = {"timm": timm, "torchvision": torchvision, "transformers": transformers}


def library_of(model: nn.Module) -> str | None:
    """Which of the known libraries a model's class comes from, subclasses in user code included."""
    homes = [cls.__module__.partition(".")[0] for cls in type(model).__mro__]
    return next((home for home in homes if home in _ADAPTERS), None)


def infer_example_inputs(model: nn.Module) -> Inputs | None:
    """(args, kwargs) for a forward pass at the model's usual size and a batch of 2; None if unknown."""
    library = library_of(model)
    found = _ADAPTERS[library].example_inputs(model) if library else None
    if found is None:
        return None
    args, kwargs = found
    device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))

    def move(item: Any) -> Any:
        if isinstance(item, list):
            return [move(part) for part in item]
        return item.to(device) if isinstance(item, Tensor) else item

    return tuple(map(move, args)), {key: move(item) for key, item in kwargs.items()}


def auxiliary_outputs(model: nn.Module) -> frozenset[str]:
    """Keys of a model's output that expose its inside, not its interface (caches, hidden states)."""
    return transformers.AUXILIARY_OUTPUTS if library_of(model) == "transformers" else frozenset()


def twin(owner: Any, attr: Attr) -> Attr | None:
    """The number of a module that says itself what its copies are made of, where they take this one from."""
    return einops.twin(owner, attr)


@cache
def copies_have_all(kind: type) -> bool:
    """Whether numbers set from outside get into copies of a module, which may say itself what these are made of."""
    author = next((cls for cls in kind.__mro__ if "__getstate__" in vars(cls)), object)
    return author.__module__.partition(".")[0] in ("torch", "builtins", "einops")


def sums(model: nn.Module) -> dict[Attr, tuple[str, ...]]:
    """Numbers that say how many inputs some weights (their second dimensions) have together."""
    return timm.sums(model) if library_of(model) == "timm" else {}


def measurable(model: nn.Module) -> dict[Attr, int]:
    """Numbers that say how wide the results of other methods than forward are."""
    return timm.channels(model) if library_of(model) == "timm" else {}


def measured(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Attr, int]:
    """What these are, told by running the methods; nothing where they do not run."""
    try:
        return timm.channels_given(model, args, kwargs)
    except (RuntimeError, AssertionError, ValueError, TypeError, LookupError, AttributeError):
        return {}


def guard(model: nn.Module) -> None:
    """Let the library of an elastic or extracted model save it in its own way only where that is right."""
    one_of_each = {type(module): module for module in model.modules()}
    if any(library_of(module) == "transformers" for module in one_of_each.values()):
        pretrained.guard(model)


def run_with_caches(model: nn.Module) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any] | None:
    """How a model that writes is called when it has written something: with what it remembers of that."""
    return transformers.run_with_caches if library_of(model) == "transformers" and transformers.writes(model) else None


def run_of_its_own(model: nn.Module) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any] | None:
    """How a model that generates in a way of its own is called, which may use more of its parts than forward does."""
    return transformers.generate if library_of(model) == "transformers" and transformers.has_own(model) else None


def operator_name(qualified: str) -> str | None:
    """Name under which the rules know an operator that a library registered with torch."""
    return torchvision.OPERATORS.get(qualified)


def uncached() -> Iterator[tuple[Any, str, Any, Any]]:
    """(object, attribute, cached, uncached) of functions whose cache would mix up the sizes of different runs."""
    yield from einops.uncached()
