"""What the code of a model may read and write, whether a run has come by or not.

A record shows one path. `if x.shape[1] > self.longest: ...` reads other numbers at a longer input. So the code of the
model's classes is looked through, from `forward` on: each word in it may be the name of a method of one of the classes,
or of a function of the same package, and those are looked through as well. Nothing is run.

Names are words: `self.scale`, `module.scale`, `config["scale"]` and `getattr(self, "scale")` all read `scale`.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from functools import cache, cached_property
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from elastify._capture.sources import short_path

_FOREIGN = frozenset({"torch", "builtins"})
_READS = frozenset({"LOAD_ATTR", "LOAD_METHOD", "LOAD_CONST"})
_dict_of, _mro_of = (type.__dict__[name].__get__ for name in ("__dict__", "__mro__"))  # whatever a metaclass answers


class Code:
    """The code that forward may run of each class of a model, and of the functions around them."""

    def __init__(self, model: nn.Module) -> None:
        self._found: dict[type | None, list[tuple[CodeType, str]]] = {}
        self._seen: set[FunctionType] = set()
        kinds = {type(module) for module in model.modules()}
        self._packages = {_package(cls) for kind in kinds for cls in _mro_of(kind)} - _FOREIGN
        members: dict[str, list[tuple[type, FunctionType]]] = {}
        for kind in kinds:
            for name, function in _methods(kind):
                members.setdefault(name, []).append((kind, function))
        words, waiting = {"forward", "__call__"}, ["forward", "__call__"]
        while waiting:
            for kind, function in members.get(waiting.pop(), ()):
                new = self._add(kind, function) - words
                words |= new
                waiting += new

    def line(self, kind: type | None, name: str) -> str:
        """`file:line` where code of a class or of a function reads a name, "" for nowhere; of all classes for None."""
        own = self._found.get(kind, []) if kind else [pair for found in self._found.values() for pair in found]
        for code, home in [*own, *self._found.get(None, [])]:
            if name in _words(code):
                for instruction in dis.get_instructions(code):
                    if instruction.argval == name and instruction.opname in _READS:
                        return f"{short_path(code.co_filename, home)}:{_line(code, instruction.offset)}"
        return ""

    def writes(self, kind: type) -> frozenset[str]:
        """Names that code of a class assigns to, and all words in it: `register_buffer` takes a name as a word."""
        return frozenset().union(*(_written(code) for code, _ in self._found.get(kind, ())))

    def _add(self, kind: type | None, function: FunctionType) -> frozenset[str]:
        """The words of a function, of those inside it and of those that it calls by name."""
        words: frozenset[str] = frozenset()
        stack: list[tuple[type | None, FunctionType]] = [(kind, function)]
        while stack:
            kind, function = stack.pop()
            if function in self._seen:
                continue
            self._seen.add(function)
            for code in _codes(function.__code__):
                self._found.setdefault(kind, []).append((code, function.__module__ or ""))
                words |= _words(code)
                called = [function.__globals__.get(name) for name in code.co_names]
                stack += [(None, item) for item in called if type(item) is FunctionType and self._is_own(item)]
            for inner in _held(function):  # what a decorator has put a function of its own around
                stack.append((kind, inner))
        return words

    def _is_own(self, function: FunctionType) -> bool:
        return (function.__module__ or "").partition(".")[0] in self._packages


def _package(cls: type) -> str:
    return str(_dict_of(cls).get("__module__", "")).partition(".")[0]


def _methods(kind: type) -> Iterator[tuple[str, FunctionType]]:
    """The methods and properties of a class that are not torch's."""
    for cls in _mro_of(kind):
        for name, item in _dict_of(cls).items() if _package(cls) not in _FOREIGN else ():
            if type(item) is property:
                item = item.fget
            elif type(item) in (staticmethod, classmethod):
                item = item.__func__
            elif type(item) is cached_property:
                item = item.func
            if type(item) is FunctionType:
                yield name, item


def _held(function: FunctionType) -> Iterator[FunctionType]:
    for cell in function.__closure__ or ():
        try:
            item: Any = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if type(item) is FunctionType:
            yield item


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


@cache
def _words(code: CodeType) -> frozenset[str]:
    return frozenset(code.co_names).union(word for word in code.co_consts if isinstance(word, str))


@cache
def _written(code: CodeType) -> frozenset[str]:
    words = (word for word in code.co_consts if isinstance(word, str))
    return frozenset(words).union(i.argval for i in dis.get_instructions(code) if i.opname == "STORE_ATTR")


def _line(code: CodeType, offset: int) -> int:
    lines = (line for start, stop, line in code.co_lines() if line is not None and start <= offset < stop)
    return next(lines, code.co_firstlineno)
