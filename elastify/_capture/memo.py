"""Results of operations on fake tensors that the capture has met before.

A network repeats itself: all blocks of a stage run the same operations on tensors of the same shapes, and the run in
training mode runs those of the run in evaluation mode again. What comes out depends on nothing but the operation, the
shapes, strides, types and devices of the tensors that go in, and the other arguments. So it is worked out once; after
that a result is an empty fake tensor, or the very tensor that went in where it was that at first. Whatever might depend
on more is left alone: views, tensors whose numbers are known, complex ones (which may be conjugated lazily), and runs
under autocast or with gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from elastify._capture.kernels import by_shape_alone, fake_tensor, is_view, result
from elastify._capture.op_names import OpName
from elastify._ir import Int

_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.memory_format, torch.layout)
_MISSING = object()
_Key = tuple[Any, ...]


class _Unknown(Exception):  # noqa: N818 - never leaves this file
    """An argument on whose kind a result may depend in other ways."""


@dataclass(frozen=True, slots=True)
class _Result:
    """An empty tensor, or the argument with this number among the tensors that went in."""

    argument: int | None
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass
class Memo:
    """What the operations of one capture gave."""

    mode: FakeTensorMode
    _known: dict[_Key, Any] = field(default_factory=dict)

    def run(self, name: OpName, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`func(*args, **kwargs)`, or the like of it from memory."""
        if is_view(name.op) or not by_shape_alone():
            return result(name, func, args, kwargs)
        given: list[FakeTensor] = []
        try:
            key = (func, torch.get_default_dtype(), _key(args, given), _key(kwargs, given))
            found = self._known.get(key, _MISSING)
        except (_Unknown, TypeError):  # TypeError: something in it has no hash
            return result(name, func, args, kwargs)
        if found is not _MISSING and found is not None:
            return self._made(found, given)
        out = result(name, func, args, kwargs)
        if found is _MISSING:
            same = key[2:] == (_key(args, []), _key(kwargs, []))  # not one that changes the shape of what it is given
            self._known[key] = _recipe(out, given) if same else None
        return out

    def _made(self, recipe: Any, given: list[FakeTensor]) -> Any:
        if not isinstance(recipe, _Result):
            kind, items = recipe
            return kind(self._made(item, given) for item in items)
        if recipe.argument is not None:
            return given[recipe.argument]
        with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
            empty = torch.empty_strided(recipe.shape, recipe.stride, dtype=recipe.dtype, device="meta")
        return fake_tensor(self.mode, empty, recipe.device)


def _key(item: Any, given: list[FakeTensor]) -> Any:
    """What a result may depend on, of one argument; its tensors are added to `given`."""
    kind = type(item)
    if kind is FakeTensor:
        if item.constant is not None or item.layout is not torch.strided or item.dtype.is_complex:
            raise _Unknown
        given.append(item)
        return item.shape, item.stride(), item.dtype, item.fake_device
    if kind is Int:
        return int, int(item)
    if kind in (tuple, list, torch.Size):
        return kind, tuple(_key(x, given) for x in item)
    if kind is dict:
        return tuple((name, _key(x, given)) for name, x in item.items())
    if kind is slice:
        return slice, _key((item.start, item.stop, item.step), given)
    if isinstance(item, _PLAIN):
        return kind, item
    raise _Unknown


def _recipe(out: Any, given: list[FakeTensor]) -> Any:
    """How to make this result again; None where it is more than empty tensors."""
    if type(out) in (tuple, list):
        items = [_recipe(item, given) for item in out]
        return None if not items or None in items else (type(out), tuple(items))
    if type(out) is not FakeTensor or out.constant is not None or out.dtype.is_complex:
        return None
    argument = next((i for i, tensor in enumerate(given) if tensor is out), None)
    if argument is None and not _owns(out, given):
        return None
    return _Result(argument, tuple(out.shape), out.stride(), out.dtype, out.fake_device)


def _owns(out: Tensor, given: list[FakeTensor]) -> bool:
    """Whether a tensor shares its storage with none of the others, and fills it."""
    storage = out.untyped_storage()
    return all(storage._cdata != tensor.untyped_storage()._cdata for tensor in given) and not out.storage_offset()
