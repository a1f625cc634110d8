"""Neither must fake tensors outlive the capture, nor real ones come into it from an earlier run.

What a module stores is put back by `stand_ins`. But a function under `functools.lru_cache`, or a dict at
module level, may have kept a tensor of the run, and would hand a tensor without data to the next real one. So
after a run every tensor made in it should be gone; where one is not, the caches that hold it are emptied. Before a
run, functions with a cache forget, in all the Python modules in which the classes of the model are written: what
they remember would be missing in the record.
"""

from __future__ import annotations

import functools
import gc
import sys
import types
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

_LRU = type(functools.lru_cache(len))
_MAX_DEPTH = 4
_dict_of, _mro_of = (type.__dict__[name].__get__ for name in ("__dict__", "__mro__"))  # whatever a metaclass answers


def remembering(model: nn.Module) -> list[Any]:
    """Functions under `lru_cache` in the Python modules of the model's classes, also inside another decorator."""
    homes = {cls.__module__ for module in model.modules() for cls in type(module).__mro__}
    looks = {home: _search if home == "__main__" else _found for home in sorted(homes)}  # a notebook defines more later
    return [cached for home, look in looks.items() for cached in look(home)]


def remembering_methods(model: nn.Module) -> list[Any]:
    """Those among the methods of the classes: what they remember depends on the numbers of an object."""
    kinds = {cls for module in model.modules() for cls in _mro_of(type(module))}
    own = [cls for cls in kinds if str(_dict_of(cls).get("__module__")).partition(".")[0] not in ("torch", "builtins")]
    items = [function for cls in own for item in _dict_of(cls).values() for function in _inside(item)]
    return list({id(function): function for function in items if issubclass(type(function), _LRU)}.values())


def _search(home: str) -> tuple[Any, ...]:
    if home.partition(".")[0] in ("torch", "builtins"):
        return ()
    spaces: list[Mapping[str, Any]] = [vars(sys.modules[home])] if home in sys.modules else []
    spaces += [_namespace(item) for space in spaces for item in space.values() if _home(item) == home]
    items = [item for space in spaces for item in space.values()]
    found = [function for item in items for function in _inside(item) if issubclass(type(function), _LRU)]
    return tuple({id(function): function for function in found}.values())


def _namespace(item: Any) -> Mapping[str, Any]:
    """What an object holds by name, without running code of its own: stand-ins raise whatever they are asked."""
    for cls in _mro_of(type(item)):
        held = _dict_of(cls).get("__dict__")
        if held is not None:
            return held.__get__(item) if type(held) is types.GetSetDescriptorType else {}
    return {}


def _home(item: Any) -> Any:
    """The Python module in which a class or function, or the class of another object, is written."""
    if type(item) is types.FunctionType:
        return item.__module__
    cls = item if issubclass(type(item), type) else type(item)
    return _dict_of(cls).get("__module__")


def _inside(item: Any) -> list[Any]:
    """An object, or the function of a static or class method, and what that function has closed over."""
    if issubclass(type(item), (staticmethod, classmethod)):
        item = item.__func__
    cells = item.__closure__ or () if type(item) is types.FunctionType else ()
    return [item, *(cell.cell_contents for cell in cells if cell != types.CellType())]


_found = functools.cache(_search)


def forget_frames(error: BaseException | None) -> None:
    """Let go of all frames, with their variables, in which an error and those that led to it arose."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def release(made: Sequence[weakref.ref[Any]]) -> None:
    """Empty whatever still holds one of the tensors; warn where that is not possible."""
    if not any(ref() is not None for ref in made):
        return
    gc.collect()
    alive = [tensor for tensor in (ref() for ref in made) if tensor is not None]
    if alive:
        frozen = gc.get_freeze_count()
        gc.unfreeze()  # what is frozen could not be asked whom it refers to
        _empty_holders(alive)
        if frozen:
            gc.freeze()
        del alive
        if any(ref() is not None for ref in made):
            warnings.warn(
                "the model keeps tensors of its forward pass outside its modules, and still holds one without data "
                "from the capture: clear that cache before running the model",
                stacklevel=2,
            )


def _empty_holders(alive: list[Any]) -> None:
    held: list[Any] = alive
    seen = {id(alive)}
    for _ in range(_MAX_DEPTH):
        ids = {id(x) for x in held}
        # only containers can be a cache or a part of one; frames and this function's own lists are neither
        holders = [h for h in gc.get_referrers(*held) if isinstance(h, (_LRU, dict, list, tuple)) and h is not held]
        held = []
        for holder in holders:
            if id(holder) in seen:
                continue
            seen.add(id(holder))
            if isinstance(holder, _LRU):
                holder.cache_clear()
            else:
                held.append(holder)
                if type(holder) is dict and not _is_namespace(holder):
                    for key in [k for k, v in holder.items() if id(v) in ids]:
                        del holder[key]
        seen.add(id(held))
        if not held:
            return


def _is_namespace(space: dict[Any, Any]) -> bool:
    return "__name__" in space or any(getattr(h, "__dict__", None) is space for h in gc.get_referrers(space))
