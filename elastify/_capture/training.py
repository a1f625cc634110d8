"""Whether a run in training mode would tell anything new.

It can only differ from one in evaluation mode from the first line on that reads `module.training`. Layers of torch.nn
read it, too, but whatever they do then (dropout, statistics of the batch) has the dimensions that it has otherwise.
Modules by others that read it run once more, alone, in training mode, right after the run in evaluation mode and on
the same tensors; what runs inside them and does not ask is not run again (`replay`). Where each does again
what it did, but for what the layers of torch.nn may do, the run in training mode is left out. Where the model itself
does something else, it has been recorded by then.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from elastify._analysis import operation
from elastify._capture.recorder import Asker, Recorder
from elastify._capture.replay import Replay
from elastify._ir import Attr, Dim, Expr, Graph, Guard, Int, ModuleCall, Op, RecordedCall, Value, guard_log, leaves

_LAYERS = os.path.dirname(nn.modules.__file__) + os.sep
_TORCH = os.path.dirname(torch.__file__) + os.sep
_ATOMS = frozenset({bool, int, float, str, type(None), torch.dtype, torch.device})
_TABLES = frozenset({dict, OrderedDict, set})


@contextmanager
def mode_reads(model: nn.Module, tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` whenever code outside torch.nn reads `module.training` inside the block, in this thread.

    Meanwhile `training` is a property of nn.Module; the flags stay in the instances. A class that has a `training` of
    its own hides the property, so it is told of at the start.
    """

    here = threading.get_ident()

    def read(module: nn.Module) -> bool:
        if not sys._getframe(1).f_code.co_filename.startswith(_LAYERS) and threading.get_ident() == here:
            tell()
        try:
            return module.__dict__["training"]
        except KeyError:
            raise AttributeError("training") from None  # a scripted module, which answers itself

    def write(module: nn.Module, value: Any) -> None:
        module.__dict__["training"] = value

    if any("training" in vars(cls) for cls in {c for m in model.modules() for c in type(m).__mro__}):
        tell()
    nn.Module.training = property(read, write)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        del nn.Module.training


def in_training(recorder: Recorder, model: nn.Module) -> list[Graph] | None:
    """What the model does in training mode that it has not done in the recorded run, inside which this is asked.

    Nothing where all modules that asked for their mode do again what they did; the whole run where the model asked
    itself; None: it has to be captured on its own. The model is left in training mode, and the record as it was.
    """
    graph, guards = recorder.graph, dict(recorder.guards)
    whole = [asker for asker in recorder.askers if asker.call in graph.roots]
    if None in recorder.asking or len(whole) < sum(call in recorder.asking for call in graph.roots) or len(whole) > 1:
        return None
    for module in model.modules():
        if "training" in vars(module):
            vars(module)["training"] = True
    lists = (graph.calls, graph.values, graph.modules, graph.constants)
    ends = [len(items) for items in lists]
    try:
        with torch._C.DisableTorchFunction():
            asked = whole or {_likeness(graph, asker): asker for asker in recorder.askers}.values()
        if all(_same(recorder, asker) for asker in asked):
            return []
        return [_tail(recorder, ends[0], ends[2])] if whole else None
    except Exception:  # noqa: BLE001 - whatever it is, the whole run in training mode will meet it
        return None
    finally:
        for items, end in zip(lists, ends, strict=True):
            del items[end:]
        recorder.guards = guards


def _same(recorder: Recorder, asker: Asker) -> bool:
    """Whether one module does what it did; an error where it does not leave everything in its place."""
    graph, parts = recorder.graph, list(asker.module.modules())
    begun, known, before = len(graph.calls), len(recorder.guards), [_owned(part) for part in parts]
    replay = Replay(recorder, asker.call)
    with guard_log(lambda *fact: None if _by_torch() else recorder.guard(*fact)), replay.active():
        out = asker.module(*asker.args, **asker.kwargs)
    if not all(map(_identical, map(_owned, parts), before)):
        raise RuntimeError("forward has changed what a module holds")
    with torch._C.DisableTorchFunction():
        again = recorder.tree(out)
    old, now = graph.calls[asker.call.start : asker.call.stop], graph.calls[begun:]
    alike = next((n for n, (a, b) in enumerate(zip(old, now, strict=False)) if a is not b), min(len(old), len(now)))
    first, second = _Trace(recorder.before), _Trace(recorder.before)
    if first.calls(old[alike:]) != second.calls(now[alike:]):
        return False
    guards = list(recorder.guards)
    new = [second.guard(guard) for guard in guards[known:]]
    past = [first.guard(guard) for guard in guards[:known]] if new else []
    return first.of(asker.call.out) == second.of(again) and all(guard in past for guard in new)


def _tail(recorder: Recorder, calls: int, modules: int) -> Graph:
    """The second run of a record that has two; what both have in common has the same numbers in both."""
    graph = recorder.graph
    owned = {value.id: value for value in (*graph.tensors.values(), *graph.inputs)}
    if any(old.id in owned for call in graph.calls[:calls] for old in _changed(recorder, call)):
        raise RuntimeError("the first run has changed a parameter, a buffer or an input")
    again = graph.calls[calls:]
    here = {*owned, *(v.id for v in graph.constants), *(v.id for call in again for v in call.outputs())}
    if any(value.id not in here for call in again for value in call.inputs()):
        raise RuntimeError("the second run uses what the first one has left")
    return Graph(
        calls=again,
        values=list(graph.values),
        tensors=dict(graph.tensors),
        inputs=list(graph.inputs),
        constants=list(graph.constants),
        modules=[
            ModuleCall(m.path, m.args, m.kwargs, m.out, m.start - calls, m.stop - calls)
            for m in graph.modules[modules:]
        ],
        guards=[guard for guard in recorder.guards if _dims(guard) <= here],
        caches=list(graph.caches),
        assigned=dict(graph.assigned),
        training=True,
    )


def _changed(recorder: Recorder, call: RecordedCall) -> Iterator[Value]:
    """What a call has changed in place, as it was."""
    return (recorder.before[value.id] for value in call.outputs() if value.id in recorder.before)


def _dims(guard: Guard) -> set[int]:
    """The values whose sizes a guard compares."""
    return {leaf.value for arg in guard.args for leaf in leaves(arg) if isinstance(leaf, Dim)}


def _likeness(graph: Graph, asker: Asker) -> Any:
    """What is equal of modules of which one tells how the others differ in training mode: their classes and those of
    their parts, all that they hold and were given but for the numbers in tensors, and what they did."""
    parts = tuple((type(part), *_held(vars(part))) for part in asker.module.modules())
    given = _plain((asker.args, tuple(asker.kwargs.items())))
    return parts, given, _Trace(None, asker.call.path).calls(graph.calls[asker.call.start : asker.call.stop])


def _held(space: dict[str, Any]) -> tuple[Any, ...]:
    children = space.get("_modules", ())
    full = (item for item in space.values() if item is not children and not (type(item) in _TABLES and not item))
    return tuple(space), tuple(children), tuple(map(_plain, full))


def _plain(item: Any) -> Any:
    """A value that can be compared: of tensors their shapes, of unknown objects which they are."""
    kind = type(item)
    if isinstance(item, Tensor):
        return item.shape, item.dtype
    if kind in (tuple, list):
        return kind, *map(_plain, item)
    if kind is set:
        return kind, frozenset(map(_plain, item))
    if kind in _TABLES:
        return kind, *map(_plain, item.items())
    return (kind, item.real) if kind is Int else (kind, item) if kind in _ATOMS else id(item)


def _by_torch() -> bool:
    """Whether torch itself compares two sizes (a batch norm that learns wants more than one value per channel)."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") == Int.__module__:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(_TORCH)


def _owned(module: nn.Module) -> dict[str, Any]:
    return {**vars(module), **module._parameters, **module._buffers}


def _identical(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[name] is item for name, item in other.items())


class _Trace:
    """What calls do. Values that they make are told by their order, others by what they were at first."""

    def __init__(self, before: dict[int, Value] | None, path: str = "") -> None:
        self.before = before  # what a value was before a change in place; None: others are told by their order, too
        self.path = path  # of the module from which attributes are told
        self.names: dict[int, Any] = {}
        self.numbers = count()

    def calls(self, calls: Iterable[RecordedCall]) -> tuple[Any, ...]:
        return tuple(done for call in calls if (done := self.call(call)) is not None)

    def call(self, call: RecordedCall) -> Any:
        """One call; None for what says nothing of dimensions: dropout, and work on single numbers."""
        results = call.outputs()
        op = operation(call.op)
        if op.drops and call.args and isinstance(call.args[0], Value):
            self.names.update((value.id, self.name(call.args[0].id)) for value in results)
            return None
        if not any(value.shape for value in (*call.inputs(), *results)):
            return None
        args, kwargs = call.args, call.kwargs
        if op.mode:
            args = tuple(None if type(item) is op.mode else item for item in args)
            kwargs = {name: None if type(item) is op.mode else item for name, item in kwargs.items()}
        given = self.of(args), self.of(kwargs)
        self.names.update((value.id, ("made", next(self.numbers))) for value in results)
        return call.op, call.inplace, given, self.of(call.out)

    def name(self, ident: int) -> Any:
        if ident in self.names:
            return self.names[ident]
        if self.before is None:
            return self.names.setdefault(ident, ("given", next(self.numbers)))
        while ident in self.before:
            ident = self.before[ident].id
        return ident

    def of(self, item: Any) -> Any:
        """An argument or result in a form that can be compared with others."""
        kind = type(item)
        if kind is Value:
            return self.name(item.id), item.shape, item.dtype
        if kind is Int:
            return item.real, self.expr(item.expr)
        if isinstance(item, (tuple, list)):
            return kind, *map(self.of, item)
        if kind is dict:
            return kind, *map(self.of, item.items())
        return (kind, *map(self.of, (item.start, item.stop, item.step))) if kind is slice else (kind, item)

    def expr(self, expr: Expr) -> Any:
        if isinstance(expr, Dim):
            return self.name(expr.value), expr.dim
        if isinstance(expr, Attr):
            return f"{expr.owner}.".removeprefix(f"{self.path}."), expr.name, expr.index
        return (expr.fn, *map(self.expr, expr.args)) if isinstance(expr, Op) else (type(expr), expr)

    def guard(self, guard: Guard) -> Any:
        return guard.fn, *map(self.expr, guard.args), guard.result
