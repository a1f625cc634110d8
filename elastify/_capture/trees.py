"""Nested values that go in and out of forward: tuples, lists, dicts and the tensors in them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from torch import Tensor

from elastify._ir import inside


def mapped(tree: Any, change: Callable[[Tensor], Any], other: Callable[[Any], Any] = lambda item: item) -> Any:
    """The same nesting with every tensor changed by one function and everything else that is no container by another.

    >>> mapped((1, {"x": [2]}), lambda tensor: tensor, str)
    ('1', {'x': ['2']})
    """
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple):
        items = [mapped(item, change, other) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, list):
        return [mapped(item, change, other) for item in tree]
    if isinstance(tree, dict):
        return {key: mapped(item, change, other) for key, item in tree.items()}
    return other(tree)


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor inside nested tuples, lists and dicts."""
    return iter(inside(tree, Tensor))


def results(tree: Any, hidden: Collection[str] = ()) -> Iterator[Tensor]:
    """Every tensor that a model returned, in mappings and dataclasses too; entries that are `hidden` are left out."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for name, item in tree.items():
            if name not in hidden:
                yield from results(item, hidden)
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from results(item, hidden)
    elif hasattr(tree, "__dataclass_fields__"):
        yield from results({name: getattr(tree, name) for name in tree.__dataclass_fields__}, hidden)


def named_tensors(arguments: Mapping[Any, Any], signature: inspect.Signature | None = None, prefix: str = "") -> Any:
    """(name, tensor) of every input: its parameter, then keys and positions inside it."""
    for key, item in arguments.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(item, Tensor):
            yield name, item
        elif isinstance(item, dict):
            spread = signature and signature.parameters[key].kind is inspect.Parameter.VAR_KEYWORD
            yield from named_tensors(item, prefix="" if spread else name)
        elif isinstance(item, (tuple, list)):
            yield from named_tensors(dict(enumerate(item)), prefix=name)


def in_words(item: Any) -> str:
    """A nested value in an error message: tensors by dtype and shape."""
    if isinstance(item, Tensor):
        return f"{str(item.dtype).removeprefix('torch.')}{list(item.shape)}"
    if isinstance(item, (tuple, list)):
        return f"[{', '.join(map(in_words, item))}]"
    if isinstance(item, dict):
        return f"{{{', '.join(f'{key}: {in_words(value)}' for key, value in item.items())}}}"
    return repr(item) if isinstance(item, (int, float, str, bool, type(None))) else type(item).__name__
