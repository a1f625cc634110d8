"""The numbers that the modules of a model hold: read once, by name and place.

A module holds integers in its attributes, and in lists, dictionaries and objects there: `num_features`,
`feature_info[2]["num_chs"]`, `config.intermediate_size`. Only those are taken of which the name speaks of a size or of
a number of layers. Where a number stands says what it may describe. In an attribute of a module it describes that
module; in an object that several modules hold (a `config`) it may describe all of them; beside the name of a module,
as in `{"num_chs": 64, "module": "layer1"}`, it describes what that module gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import nn

from elastify._ir import Attr
from elastify._plan.nn_numbers import nn_sources

SIZES = re.compile(
    r"(^|_)(features?|channels?|chs|chans?|dims?|widths?|planes|filters|units|embed|embd|d_model|d_ff|d_kv|d_head|d_inner"
    r"|inner|(hidden|embedding|intermediate|head|ffn)_sizes?|heads?|groups?|num_groups)(_|\d|$)"
)
COUNTS = re.compile(r"(^|_)(depths?|layers?|blocks?)(_|$)")
OTHERS = re.compile(
    r"(^|_)(ends?|idx|index|indices|ids?|offsets?|stages?|max|min|kernel|stride|patch|image|window)(_|$)"
    r"|token|vocab|position|label"
)
_OWN = frozenset(nn.Module().__dict__)
_FOREIGN = frozenset({"torch", "numpy", "logging", "threading", "functools", "builtins"})
_TEXTS = frozenset({bool, str, type(None)})  # what holds no number
_MAX_DEPTH, _MAX_ITEMS = 3, 256


class Attribute(NamedTuple):
    """An attribute of the module at `path`, or of an object there: then `owner` is the path to that object."""

    path: str
    owner: str
    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class Number:
    """An integer that describes the module at `path`. `name` is the closest that speaks of a size, `beside` are the
    texts in the same dictionary. Its owner is another than `path` where an object holds it."""

    attr: Attr
    path: str
    name: str
    value: int
    beside: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether an object holds it, which may describe many modules at once."""
        return self.attr.owner != self.path


class Described:
    """What the modules of a model hold, read once: all attributes, and the numbers among them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.attributes = list(_attributes(model))

    @cached_property
    def numbers(self) -> list[Number]:
        """Every integer that may be a size or a count, also in lists, dictionaries and objects; what is shared once."""
        seen: set[int] = set()
        numbers: list[Number] = []
        for attribute in self.attributes:
            numbers += _numbers(attribute, attribute.value, (), (), seen)
        return numbers

    @cached_property
    def named_modules(self) -> set[str]:
        """Modules that entries of dictionaries name, as `feature_info` does."""
        return {joined(number.path, text) for number in self.numbers for text in number.beside}


def joined(path: str, name: str) -> str:
    """The path of a child."""
    return f"{path}.{name}" if path else name


def within(path: str, outer: str) -> bool:
    """Whether a module is another one, or part of it."""
    return not outer or path == outer or path.startswith(f"{outer}.")


def _attributes(model: nn.Module) -> Iterator[Attribute]:
    """All attributes of modules, then of the objects in these, and so on: an object in another one that a module
    holds as well describes that module."""
    level: list[Attribute] = []
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        told = nn_sources(module)
        for name, value in vars(module).items():
            if not (type(value) in _TEXTS or name in _OWN or name in told or name.startswith("_elastify")):
                level.append(Attribute(path, path, name, value))
    seen: set[int] = set()
    while level:
        yield from level
        inner: list[Attribute] = []
        for path, owner, name, value in level:
            if type(value) in (int, float) or not _is_plain_object(value) or id(value) in seen:
                continue
            own = getattr(value, "__dict__", None)
            if type(own) is dict:
                seen.add(id(value))
                inner += [Attribute(path, joined(owner, name), key, item) for key, item in own.items()]
        level = inner


def _is_plain_object(value: Any) -> bool:
    return (
        not isinstance(value, (str, bytes, tuple, list, dict, nn.Module, torch.Tensor, type))
        and type(value).__module__.partition(".")[0] not in _FOREIGN
    )


def _numbers(
    attribute: Attribute, value: Any, index: tuple[int | str, ...], beside: tuple[str, ...], seen: set[int]
) -> Iterator[Number]:
    """The numbers in the entry `index` of an attribute, `value`; `seen` are the containers read before, by id."""
    if type(value) is int:
        words = [attribute.name, *(step for step in index if isinstance(step, str))][::-1]
        words = words[:1] if beside else words  # the fields of a record are told by their own names
        telling = next((word for word in words if SIZES.search(word)), words[0])
        if beside or SIZES.search(telling) or COUNTS.search(telling):
            yield Number(Attr(attribute.owner, attribute.name, index), attribute.path, telling, value, beside)
    elif isinstance(value, (tuple, list, dict)) and len(index) <= _MAX_DEPTH and len(value) <= _MAX_ITEMS:
        if id(value) in seen:
            return
        seen.add(id(value))
        texts: tuple[str, ...] = ()
        if isinstance(value, dict):
            texts = tuple(item for item in value.values() if isinstance(item, str))
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, (int, str)):
                yield from _numbers(attribute, item, (*index, key), texts, seen)
