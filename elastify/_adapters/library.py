"""What elastify asks about a model that comes from a library, and the answers where nothing is known of it.

A subclass answers for one package, and overrides what it knows better:

    class Timm(Library, package="timm"):
        def inputs(self, model): ...

`of` finds it by the classes that a model inherits from, so that classes of users count that inherit from the
package's. It keeps nothing: one object answers for all models of a package, elastic, extracted and plain ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from elastify._errors import ElastifyError
from elastify._ir import Attr

_COUNTED = re.compile(r"(layers?|depths?|labels|classes|blocks|experts)$")
_SMALL = 1024  # so many of anything are built soon

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Run = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]
"""A way to run a model, of its positional and keyword arguments."""


class Library:
    """The answers for a model of which nothing is known, and what the library of others may know better."""

    package: str = ""
    """The top-level Python package that its classes are in."""
    prefix: str = ""
    """What the command writes before the names of its models; "" where it makes none by name."""
    auxiliary_outputs: frozenset[str] = frozenset()
    """Keys of a model's output that expose its inside, not its interface (caches, hidden states)."""
    operators: frozenset[str] = frozenset()
    """Operators that it registers with torch, `package::name`, for which there are rules under these names."""
    copies_follow: bool = False
    """Whether its modules, which say themselves what copies of them are made of, do so by numbers that `twin` gives."""

    def __init_subclass__(cls, package: str = "") -> None:
        if package in LIBRARIES:
            raise ElastifyError(
                f"{package} already has a library", where=cls.__qualname__, fix="one subclass per package"
            )
        if package:
            cls.package = package
            LIBRARIES[package] = cls()

    # -- how a model is run --------------------------------------------------------------------------------

    def inputs(self, model: nn.Module) -> Inputs | None:
        """(args, kwargs) for a forward pass at the model's usual size and a batch of 2; None if unknown."""
        return None

    def example_inputs(self, model: nn.Module) -> Inputs | None:
        """The same on the device of the model's weights."""
        device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))
        return tree_map_only(Tensor, lambda t: t.to(device), self.inputs(model))

    def run_with_caches(self, model: nn.Module) -> Run | None:
        """How a model that writes is called when it has written something: with what it remembers of that."""
        return None

    def run_of_its_own(self, model: nn.Module) -> Run | None:
        """How a model that generates in a way of its own is called, which may use more parts than forward does."""
        return None

    def uncached(self) -> Iterable[tuple[Any, str, Any, Any]]:
        """(object, attribute, cached, uncached) of functions whose cache would mix up the sizes of different runs."""
        return ()

    def attention_by_hand(self, module: nn.Module) -> Iterable[tuple[Any, str, Any]]:
        """(object, attribute, value) of what makes a module compute attention itself that is fused now."""
        return ()

    # -- numbers that nothing in forward reads -------------------------------------------------------------

    def sums(self, model: nn.Module) -> dict[Attr, tuple[str, ...]]:
        """Numbers that say how many inputs some weights (their second dimensions) have together."""
        return {}

    def measurable(self, model: nn.Module) -> dict[Attr, int]:
        """Numbers that say how wide the results of other methods than forward are."""
        return {}

    def measured(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Attr, int]:
        """What these are, told by running the methods; nothing where they do not run."""
        return {}

    def twin(self, owner: object, attr: Attr) -> Attr | None:
        """The number from which copies of its owner, a module, take one that it computes with."""
        return None

    # -- how a model is made, and kept ---------------------------------------------------------------------

    def maker(self, name: str) -> Callable[[], nn.Module]:
        """What makes the model that has a name here (see `check_name`); asked only where there is a prefix."""
        raise ElastifyError(
            f"{self.package or 'this library'} makes no models by name", fix=f"not {name!r}, but a model"
        )

    def guard(self, model: nn.Module) -> None:
        """Let an elastic or extracted model be saved in the library's own way only where that is right."""

    def notes(self, model: nn.Module) -> dict[str, Any] | None:
        """The `name` of a full-size model and other plain data from which `build_like` makes it; None if unknown."""
        return None

    def build_like(self, name: str, notes: Mapping[str, Any]) -> nn.Module | None:
        """A model of the same sizes, weights arbitrary; None for a name that is not listed here.

        Names come from a file: they are looked up in the library's own list and never imported.
        """
        return None

    def describe(self, model: nn.Module) -> dict[str, Any] | None:
        """The notes, and whose they are; a user's class that inherits from one of the library's is not listed there."""
        notes = self.notes(model) if _home(type(model)) == self.package else None
        return notes and {"kind": self.package, **notes}


LIBRARIES: dict[str, Library] = {}
"""By package; each subclass of `Library` that names a package puts itself here."""
UNKNOWN = Library()


def named(package: str) -> Library:
    """The library of a package; one that knows nothing if it is unknown."""
    return LIBRARIES.get(package, UNKNOWN)


def of(model: object) -> Library:
    """The library that the class of a model or a part of it comes from, or inherits from."""
    return next(filter(None, (LIBRARIES.get(_home(cls)) for cls in type(model).__mro__)), UNKNOWN)


def guard(model: nn.Module) -> None:
    """Ask the libraries of all parts of a model to guard it."""
    one_of_each = {type(module): module for module in model.modules()}
    for library in {of(module) for module in one_of_each.values()}:
        library.guard(model)


def attention_by_hand(model: nn.Module) -> Iterator[tuple[Any, str, Any]]:
    """What makes the parts of a model compute attention themselves, as their libraries say."""
    for module in model.modules():
        yield from of(module).attention_by_hand(module)


def build_like(source: Any, tensors: Collection[Tensor] = ()) -> nn.Module | None:
    """The full-size model that `describe` has noted; None where the notes are missing or unknown.

    Where there are `tensors` of a smaller one, what the notes count (layers, labels) is compared with them first.
    """
    if not isinstance(source, dict) or not isinstance(source.get("name"), str):
        return None
    most = max([_SMALL, len(tensors), *(size for tensor in tensors for size in tensor.shape)])
    for name, count in _counts(source) if tensors else ():
        if count > most:
            raise ElastifyError("the model is too large", why=f"{name} = {count}, and no tensor has so many entries")
    return named(str(source.get("kind"))).build_like(source["name"], source)


def _counts(notes: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Numbers of things that a constructor makes one by one, and in the lists under such a name."""
    if isinstance(notes, dict):
        for key, inside in notes.items():
            yield from _counts(inside, str(key))
    elif isinstance(notes, list):
        for inside in notes:
            yield from _counts(inside, name)
    elif isinstance(notes, (int, float)) and _COUNTED.search(name):
        yield name, int(notes)


def _home(kind: type) -> str:
    return kind.__module__.partition(".")[0]
