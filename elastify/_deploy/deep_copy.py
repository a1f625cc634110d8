"""Deep copies of models: `copy.deepcopy`, with a short way through modules and their many small tables.

A module is little but tables of other modules, tensors, numbers and hooks. The way of the standard library, which asks
every single object how it wants to be copied, takes much of the time in which a small subnet is extracted.

What has no copy (a lock, an open file, a Python module) is shared. What a run of the copy would use up (a generator) or
the end of the copy would close (an object that holds a file) is refused by name.
"""

from __future__ import annotations

import copy
import copyreg
import gc
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from elastify._deploy.functions import Functions
from elastify._errors import ElastifyError
from elastify._rewrite import original_class

_ATOMS = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device})
_CONTAINERS = (nn.Module, dict, list, tuple, set)
_USED_UP = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, types.FrameType)
_NOT_ENTERED = (type, types.FunctionType, Tensor, *_USED_UP)
_MANY = 200_000  # objects in which something without a copy is looked for
_FUNCTIONS = frozenset({types.FunctionType, types.MethodType, partial, list, tuple})
_PICKLED = "__reduce_ex__ __reduce__ __getstate__ __getnewargs__ __getnewargs_ex__ __deepcopy__ __slots__".split()


@dataclass
class DeepCopy:
    """`copy.deepcopy(item, memo)`; tensors with a history, which that refuses, are copied without it.

    `class_of` names the classes that copies of modules have, `left_out` the attributes that they do not have; modules
    in objects of other kinds stay as they are.

    >>> copied = DeepCopy({})(nn.Sequential(nn.Linear(2, 3)))
    >>> copied[0].weight.shape
    torch.Size([3, 2])
    """

    memo: dict[int, Any]
    class_of: Callable[[type], type] = lambda cls: cls
    left_out: Callable[[str], bool] = lambda name: False
    root: nn.Module | None = None

    @cached_property
    def functions(self) -> Functions:
        """Those that hold parts of the model that is copied, made when one is met."""
        assert self.root is not None
        return Functions(self.root, self, self.memo)

    def __call__(self, item: Any) -> Any:
        kind, memo = type(item), self.memo
        if kind in _ATOMS:
            return item
        found = memo.get(id(item), memo)
        if found is not memo:
            return found
        if kind in _FUNCTIONS and self.root is not None and self.functions.hold(item):
            return self.functions.rebound(item)
        if kind is dict or (kind is OrderedDict and not vars(item)):
            made = memo[id(item)] = kind()
            for key, value in item.items():
                made[key if type(key) is str else copy.deepcopy(key, memo)] = self(value)
            return made
        if isinstance(item, nn.Module):
            self.root = item if self.root is None else self.root
            return self.module(item)
        return self.as_it_says(item)

    def as_it_says(self, item: Any) -> Any:
        """A copy by the standard library, with what has none shared or cloned."""
        memo, known = self.memo, len(self.memo)
        try:
            return copy.deepcopy(item, memo)
        except Exception:  # noqa: BLE001 - classes of all kinds say in their own way that they have no copy
            for key in list(memo)[known:]:
                del memo[key]  # what was copied in part
            memo.update((id(part), _cloned(part) if isinstance(part, Tensor) else part) for part in _without_copy(item))
            return copy.deepcopy(item, memo)

    def module(self, module: nn.Module) -> Any:
        kind = self.class_of(type(module))
        if not _is_plain(kind):
            left = {name: value for name, value in vars(module).items() if self.left_out(name)}
            for value in left.values():
                self.memo.setdefault(id(value), value)
            made = self.as_it_says(module)
            for name in left:
                vars(made).pop(name, None)
            if type(made) is not kind:
                made.__class__ = kind
            return made
        made: Any = kind.__new__(kind)  # type: ignore[call-overload]
        self.memo[id(module)] = made
        made.__setstate__(
            {k: self.attribute(module, k, v) for k, v in module.__getstate__().items() if not self.left_out(k)}
        )
        return made

    def attribute(self, module: nn.Module, name: str, value: Any) -> Any:
        """A copy of what a module holds under a name; an error that tells the name where there is none."""
        try:
            return self(value)
        except (ElastifyError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ElastifyError(
                f"{name!r} of this {type(module).__name__} cannot be copied",
                why=f"it is or holds something that has no copy: {error}",
                fix="set it to None before elastify, or give its class a __deepcopy__",
            ) from error


def _is_plain(kind: type) -> bool:
    """Whether modules of a class are copied as any other: a new one of the class, with copies of what it holds."""
    kind = original_class(kind)
    own = any(getattr(kind, name, None) is not getattr(nn.Module, name, None) for name in _PICKLED)
    return not own and kind not in copyreg.dispatch_table


def _without_copy(item: Any) -> Iterator[Any]:
    """What stands in the place of its own copy, or can only be cloned, in what an object holds.

    Locks and Python modules are shared wherever they are. A file or a socket is where a model or its containers hold
    it; in an object of another kind it is not, for the copy may close it.
    """
    seen, left = {id(item)}, [(item, True)]
    while left and len(seen) < _MANY:
        part, held_by_model = left.pop()
        has_own_way = hasattr(type(part), "__deepcopy__") and not isinstance(part, nn.Module)
        if isinstance(part, types.ModuleType) or (isinstance(part, Tensor) and _is_odd(part)):
            yield part
        elif has_own_way or isinstance(part, _NOT_ENTERED):
            continue
        elif not _reduces(part):
            if held_by_model or _is_bare(part):
                yield part
        else:
            inside = [held for held in gc.get_referents(part) if id(held) not in seen]
            seen.update(map(id, inside))
            left += [(held, held_by_model and isinstance(part, _CONTAINERS)) for held in inside]


def _reduces(item: Any) -> bool:
    """Whether an object says how it is copied."""
    try:
        item.__reduce_ex__(4)
    except Exception:  # noqa: BLE001 - whatever it is, there is no copy
        return False
    return True


def _is_bare(item: Any) -> bool:
    """Whether an object refers to nothing but its type, so that copies can share it: a lock, say."""
    return not hasattr(item, "__dict__") and all(held is type(item) for held in gc.get_referents(item))


def _is_odd(tensor: Tensor) -> bool:
    """Whether a tensor is one that `copy.deepcopy` refuses."""
    return not tensor.is_leaf or tensor.layout is not torch.strided


def _cloned(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that holds what it computed from its weights (an old weight norm)."""
    return DeepCopy({})(model)
