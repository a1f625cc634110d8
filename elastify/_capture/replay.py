"""Modules that have nothing new to say are not run again.

When a run is repeated in the same record (in training mode, say), a module that is given the very values that it was
given before does again what it did, unless it asks for its mode, changes what it was given, or is not as it was. Its
calls are then entered into the record once more, and it returns what it returned.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from elastify._capture.recorder import ModuleResult, Recorder
from elastify._capture.trees import tensors
from elastify._ir import ModuleCall, values

_ATOMS = frozenset({bool, float, str})
_FEW = 8  # so many modules are as quickly run again


class Replay:
    """The modules that ran inside one call of a module, and what they returned."""

    def __init__(self, recorder: Recorder, outer: ModuleCall) -> None:
        self.recorder, self.graph, self.ran = recorder, recorder.graph, recorder.ran
        self.calls: dict[nn.Module, list[ModuleCall]] = {}  # those that may be replayed
        self._states: dict[nn.Module, tuple[int, ...]] = {}
        first, inner = self.ran[outer].begin + 1, self.graph.modules[self.ran[outer].begin + 1 : self.ran[outer].end]
        self._inner = {self.ran[call].module for call in inner}
        if len(inner) < _FEW:
            return
        odd = [n for n, call in enumerate(inner, first) if call in recorder.asking or not self._is_calm(self.ran[call])]
        places, made = self._changes(outer)
        for call in inner:
            one = self.ran[call]
            low, high = bisect_left(places, call.start), bisect_left(places, call.stop)
            calm = bisect_left(odd, one.begin) == bisect_left(odd, one.end)
            if calm and not call.kwargs and _is_handed(one.output) and all(n >= call.start for n in made[low:high]):
                self.calls.setdefault(one.module, []).append(call)

    def _is_calm(self, ran: ModuleResult) -> bool:
        return ran.end >= 0 and _is_plain(ran.module)

    def _changes(self, outer: ModuleCall) -> tuple[list[int], list[int]]:
        """Numbers of the calls that change tensors in place, and of those that made these (-1: something before)."""
        maker: dict[int, int] = {}
        places, made = [], []
        for number, call in enumerate(self.graph.calls[outer.start : outer.stop], outer.start):
            if call.inplace:
                old = [self.recorder.before.get(value.id) for value in call.outputs()]
                places.append(number)
                made.append(min((maker.get(value.id, -1) if value else -1 for value in old), default=-1))
            maker.update((value.id, number) for value in call.outputs() if value.id not in maker)
        return places, made

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, they hand it out."""
        try:
            for module in self.calls:
                vars(module)["forward"] = partial(self._forward, module, module.forward)
            if self.calls:
                self._states = {module: _state(module) for module in self._inner if _is_plain(module, True)}
            yield
        finally:
            for module in self.calls:
                vars(module).pop("forward", None)

    def _forward(self, module: nn.Module, forward: Any, /, *args: Any, **kwargs: Any) -> Any:
        top, _, now, _ = self.recorder.stack[-1]
        if top is module and now is not None and not kwargs:
            with torch._C.DisableTorchFunction():
                found = next((call for call in self.calls[module] if self._is_again(call, now)), None)
                if found is not None:
                    return self._again(found)
        return forward(*args, **kwargs)

    def _is_again(self, call: ModuleCall, now: ModuleCall) -> bool:
        """Whether a module is given what it was given, and is as it was, with all that runs in it."""
        one = self.ran[call]
        if len(call.args) != len(now.args) or not all(map(_is_same, call.args, now.args)):
            return False
        pairs = zip(tensors(one.output), values(call.out), strict=True)
        inner = {self.ran[part].module for part in self.graph.modules[one.begin : one.end]}
        return all(t.shape == v.shape for t, v in pairs) and all(self._states[m] == _state(m) for m in inner)

    def _again(self, call: ModuleCall) -> Any:
        graph, one = self.graph, self.ran[call]
        shift = len(graph.calls) - call.start
        graph.calls += graph.calls[call.start : call.stop]
        graph.modules += [
            ModuleCall(part.path, part.args, part.kwargs, part.out, part.start + shift, part.stop + shift)
            for part in graph.modules[one.begin + 1 : one.end]
        ]
        for tensor, value in zip(tensors(one.output), values(call.out), strict=True):
            self.recorder.known[id(tensor)] = tensor, value
        return one.output


def _is_plain(module: nn.Module, replayed: bool = False) -> bool:
    """Whether all that a module does is in its class."""
    if isinstance(module, torch.jit.ScriptModule) or module._forward_hooks or module._forward_pre_hooks:
        return False
    return replayed or "forward" not in vars(module)


def _is_handed(output: Any) -> bool:
    """Nobody can change a tuple."""
    return isinstance(output, Tensor) or (type(output) is tuple and all(isinstance(item, Tensor) for item in output))


def _is_same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and type(a) in _ATOMS and a == b)


def _state(module: nn.Module) -> tuple[int, ...]:
    """Which objects a module holds, and which are in its tables and lists: forward may collect something in them."""
    held = list(vars(module).values())
    inside = (part for item in held if isinstance(item, (dict, list)) for part in _parts(item))
    return tuple(map(id, (*held, *inside)))


def _parts(item: dict[Any, Any] | list[Any]) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item
