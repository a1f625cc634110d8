"""Dotted paths into a model: reading and writing what stands at `encoder.layers.0.attn.num_heads`.

An owner is a module or an object that a module holds; an index goes on into tuples, lists, mappings and partials.
Tuples cannot be changed, so a write rebuilds them as their own type and stores the new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from functools import partial, reduce
from typing import Any

from torch import nn

from elastify._errors import ElastifyError
from elastify._ir import Attr


class Slot(MutableMapping[str, Any]):
    """Attributes of an object that keeps them elsewhere than in its `__dict__`, seen as a mapping."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __getitem__(self, name: str) -> Any:
        return getattr(self.owner, name)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self.owner, name, value)

    def __delitem__(self, name: str) -> None:
        delattr(self.owner, name)

    def __iter__(self) -> Iterator[str]:
        return iter(dir(self.owner))

    def __len__(self) -> int:
        return len(dir(self.owner))


def resolve(root: nn.Module, path: str) -> Any:
    """The object at a dotted path: modules, config objects, members of either.

    >>> resolve(nn.Sequential(nn.Linear(2, 3)), "0").out_features
    3
    """
    try:
        return reduce(_member, path.split("."), root) if path else root
    except AttributeError as error:
        raise ElastifyError(f"the model has no {path!r}", why=str(error)) from None


def _member(owner: Any, name: str) -> Any:
    """`getattr`, the short way where it is a module of a module."""
    children = owner.__dict__.get("_modules") if isinstance(owner, nn.Module) else None
    found = children.get(name) if type(children) is dict else None  # scripted modules have a table of another kind
    return getattr(owner, name) if found is None else found


def holder(owner: Any, name: str) -> MutableMapping[str, Any]:
    """The mapping in which `owner.name` can be read and written."""
    own = getattr(owner, "__dict__", None)
    return own if own is not None and name in own else Slot(owner)


def get_in(container: Any, index: tuple[int | str, ...]) -> Any:
    """The item at a path of indices, keys or member names."""
    return reduce(_item, index, container)


def _item(container: Any, step: Any) -> Any:
    return container[step] if isinstance(container, (tuple, list, Mapping)) else getattr(container, str(step))


def put_in(container: Any, index: tuple[int | str, ...], value: Any) -> Any:
    """`container` with one number replaced: in place where possible, tuples rebuilt as their own type.

    >>> put_in((1, [2, 3]), (1, 0), 5)
    (1, [5, 3])
    """
    if not index:
        return value
    step, rest = index[0], index[1:]
    inner = put_in(_item(container, step), rest, value)
    if isinstance(container, partial):
        given = {"args": container.args, "keywords": dict(container.keywords), str(step): inner}
        return type(container)(container.func, *given["args"], **given["keywords"])
    if isinstance(container, tuple):
        items = (*container[: int(step)], inner, *container[int(step) + 1 :])
        return type(container)(*items) if hasattr(container, "_fields") else type(container)(items)
    if isinstance(container, (list, MutableMapping)):
        container[step] = inner  # type: ignore[index]
    else:
        setattr(container, str(step), inner)
    return container


def read(model: nn.Module, attr: Attr) -> Any:
    """A number of a model."""
    return get_in(holder(resolve(model, attr.owner), attr.name)[attr.name], attr.index)


def write(model: nn.Module, attr: Attr, value: Any) -> None:
    """Set a number of a model."""
    where = holder(resolve(model, attr.owner), attr.name)
    where[attr.name] = put_in(where[attr.name], attr.index, value)


def attribute_value(model: nn.Module, attr: Attr) -> int:
    """The integer that an attribute holds in the full model."""
    return int(read(model, attr))


def parameter_names(model: nn.Module) -> set[str]:
    """All names of the parameters of a model; one that is shared has several."""
    return {name for name, _ in model.named_parameters(remove_duplicate=False)}
