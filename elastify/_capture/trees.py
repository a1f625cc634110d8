"""Nested values that go in and out of forward: tuples, lists, dicts and the tensors in them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from elastify._capture.stand_ins import Convert
from elastify._errors import ElastifyError

_INPUTS = "example inputs are a tensor, a tuple of positional arguments or a dict of keyword arguments"


def _map(tree: Any, convert: Convert) -> Any:
    if isinstance(tree, Tensor):
        return convert(tree)
    if isinstance(tree, tuple):
        items = [_map(x, convert) for x in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, list):
        return [_map(x, convert) for x in tree]
    if isinstance(tree, dict):
        return {key: _map(x, convert) for key, x in tree.items()}
    return tree


def _named(arguments: dict[Any, Any], signature: inspect.Signature | None = None, prefix: str = "") -> Any:
    """(name, tensor) of every input: its parameter, then keys and positions inside it."""
    for key, item in arguments.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(item, Tensor):
            yield name, item
        elif isinstance(item, dict):
            spread = signature and signature.parameters[key].kind is inspect.Parameter.VAR_KEYWORD
            yield from _named(item, prefix="" if spread else name)
        elif isinstance(item, (tuple, list)):
            yield from _named(dict(enumerate(item)), prefix=name)


def _describe(item: Any) -> str:
    if isinstance(item, Tensor):
        return f"{str(item.dtype).removeprefix('torch.')}{list(item.shape)}"
    if isinstance(item, (tuple, list)):
        return f"[{', '.join(_describe(x) for x in item)}]"
    if isinstance(item, dict):
        return f"{{{', '.join(f'{k}: {_describe(x)}' for k, x in item.items())}}}"
    return repr(item) if isinstance(item, (int, float, str, bool, type(None))) else type(item).__name__


def prepare_inputs(args: Any, kwargs: dict[str, Any] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as (args, kwargs); a batch of one is doubled, so that it cannot be mistaken for a broadcast.

    >>> import torch
    >>> args, kwargs = prepare_inputs(torch.zeros(1, 3, 8, 8))
    >>> args[0].shape, kwargs
    (torch.Size([2, 3, 8, 8]), {})
    """
    if isinstance(args, Tensor):
        args = (args,)
    elif isinstance(args, dict):
        args, kwargs = (), {**args, **(kwargs or {})}
    elif args is None:
        args = ()
    if not isinstance(args, (tuple, list)) or not isinstance(kwargs or {}, dict):
        raise ElastifyError(f"example inputs are a {type(args).__name__}", where="example_inputs", fix=_INPUTS)
    args, kwargs = tuple(args), dict(kwargs or {})
    found = list(tensors((args, kwargs)))
    batched = next((t for t in found if t.ndim > 1), found[0] if found else None)
    if batched is not None and batched.ndim and batched.size(0) == 1:
        return _map((args, kwargs), lambda t: t.repeat(2, *[1] * (t.ndim - 1)) if t.ndim and t.size(0) == 1 else t)
    return args, kwargs


def tensors(item: Any) -> Iterator[Tensor]:
    """Every tensor inside nested tuples, lists and dicts."""
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, (tuple, list)):
        for x in item:
            yield from tensors(x)
    elif isinstance(item, dict):
        for x in item.values():
            yield from tensors(x)
