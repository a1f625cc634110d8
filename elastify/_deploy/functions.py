"""Functions that a model holds and that hold the model: `self.head = lambda x: x @ self.table.weight.t()`.

Python copies no function, so in a copy of the model such a one would go on with the modules and weights of the
original. What a function has closed over stands in cells, its defaults in a tuple: a copy of the model gets a function
with the same code over cells of its own. Functions in lists and dicts, in partials and inside other functions are
found. Those in objects of other kinds are not; the proof of units notices that they run.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

_EMPTY = types.CellType()
_TABLES = (list, tuple, set, dict)
_MAX_ITEMS, _MAX_DEPTH = 4096, 8  # longer lists are data


class Functions:
    """The functions of one model; `copied` gives a copy of what they hold, `memo` has the copies that exist."""

    def __init__(self, model: nn.Module, copied: Callable[[Any], Any], memo: dict[int, Any]) -> None:
        self.copied, self.memo = copied, memo
        self._parts = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
        self._known: dict[int, tuple[Any, bool]] = {}

    def hold(self, item: Any, depth: int = 0) -> bool:
        """Whether a function, or a table with functions in it, holds a part of the model."""
        if id(item) in self._parts:
            return True
        if isinstance(item, (nn.Module, Tensor)) or depth > _MAX_DEPTH:
            return False
        if id(item) not in self._known:
            self._known[id(item)] = item, False  # a function may hold itself
            self._known[id(item)] = item, any(self.hold(held, depth + 1) for held in _held(item))
        return self._known[id(item)][1]

    def rebound(self, item: Any) -> Any:
        """The same over parts of the copy."""
        if isinstance(item, types.MethodType):
            return types.MethodType(self.copied(item.__func__), self.copied(item.__self__))
        if isinstance(item, functools.partial):
            made: Any = functools.partial(self.copied(item.func), *self.copied(item.args), **self.copied(item.keywords))
        elif isinstance(item, types.FunctionType):
            made = self._function(item)
        elif isinstance(item, list):
            made = self.memo[id(item)] = []
            made += map(self.copied, item)
            return made
        else:
            return tuple(map(self.copied, item))
        vars(made).update({name: self.copied(value) for name, value in vars(item).items()})
        return made

    def _function(self, item: types.FunctionType) -> types.FunctionType:
        cells, new = [], list[tuple[types.CellType, types.CellType]]()
        for cell in item.__closure__ or ():
            if id(cell) not in self.memo and cell != _EMPTY and self._is_own(cell.cell_contents):
                self.memo[id(cell)] = types.CellType()
                new.append((cell, self.memo[id(cell)]))
            cells.append(self.memo.get(id(cell), cell))
        made = types.FunctionType(item.__code__, item.__globals__, item.__name__, None, tuple(cells))
        self.memo[id(item)] = made
        for cell, own in new:
            own.cell_contents = self.copied(cell.cell_contents)
        made.__defaults__, made.__kwdefaults__ = self.copied(item.__defaults__), self.copied(item.__kwdefaults__)
        made.__qualname__, made.__module__, made.__doc__ = item.__qualname__, item.__module__, item.__doc__
        return made

    def _is_own(self, item: Any) -> bool:
        """Whether the function of a copy has another one: a part of the model, or a table that it may fill."""
        return self.hold(item) or type(item) in (list, dict, set)


def _held(item: Any) -> Iterable[Any]:
    """What can be followed from an object."""
    if isinstance(item, types.FunctionType):
        cells = [cell.cell_contents for cell in item.__closure__ or () if cell != _EMPTY]
        return [*cells, item.__defaults__, item.__kwdefaults__, *vars(item).values()]
    if isinstance(item, types.MethodType):
        return [item.__self__, item.__func__]
    if type(item) is functools.partial:
        return [item.func, item.args, item.keywords, *vars(item).values()]
    if type(item) in _TABLES and len(item) <= _MAX_ITEMS:
        return item.values() if isinstance(item, dict) else item
    return ()
