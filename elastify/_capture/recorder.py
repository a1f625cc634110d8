"""The recorder: a torch-function mode that writes down every operation as it happens.

Each call that returns tensors (or changes one in place) becomes a `RecordedCall`; sizes are handed out as `Int`s that
know the value and dimension they measure. A tensor changed in place is a new value from then on. Tensors are
told apart by identity and kept alive during the run, so that an id is never used twice. ATen operations that
reach the dispatcher outside any recorded call come from code that the mode cannot see; `unseen` records them.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from elastify._analysis import operation
from elastify._capture.fx_writer import FxWriter
from elastify._capture.memo import Memo
from elastify._capture.op_names import OpName, op_name
from elastify._capture.sources import inside_torch, source_line
from elastify._capture.trees import tensors
from elastify._ir import Dim, Graph, Guard, Int, ModuleCall, RecordedCall, Value, leaves

_NO_FUNCTION = torch._C.DisableTorchFunction
_vmap_level = torch._C._functorch.maybe_current_level  # type: ignore[attr-defined]
_dtype_names: dict[torch.dtype, str] = {}
_MAX_NUMBERS = 1024  # longer lists are data, not sizes


@dataclass(frozen=True, slots=True)
class Asker:
    """A module call in which the mode of a module was read, with what went in."""

    call: ModuleCall
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(slots=True)
class ModuleResult:
    """What a call of a module returned; it and those inside are `modules[begin:end]` of the graph (-1: it raised)."""

    module: nn.Module
    begin: int
    end: int = -1
    output: Any = None


class Recorder(TorchFunctionMode):
    """Fills `graph` while it is the active mode."""

    def __init__(self, graph: Graph, paths: dict[int, list[str]], memo: Memo | None = None) -> None:
        super().__init__()
        self.graph, self.paths = graph, paths
        self.thread = threading.get_ident()
        self.memo = memo  # None where the tensors are real
        self.busy = 0  # above 0 while a recorded operation runs
        self.known: dict[int, tuple[Tensor, Value]] = {}
        self.before: dict[int, Value] = {}  # value id -> what the tensor was before the change in place
        self.sizes: dict[int, torch.Size] = {}
        self.dims: dict[int, Dim] = {}
        self.stack: list[tuple[nn.Module, str, ModuleCall | None, int]] = []  # the last: number of values on entry
        self.guards: dict[Guard, None] = {}
        self.asking: set[ModuleCall | None] = set()  # calls in which the mode of a module was read; None outside any
        self.askers: list[Asker] = []
        self.ran: dict[ModuleCall, ModuleResult] = {}
        self.writer: FxWriter | None = None  # where the run is to be written as a graph that can be run

    # -- values ------------------------------------------------------------------------------------------------

    def new(self, tensor: Tensor, name: str = "") -> Value:
        """A fresh value, which the tensor is from now on."""
        dtype = tensor.dtype
        if dtype not in _dtype_names:
            _dtype_names[dtype] = str(dtype).removeprefix("torch.")
        value = Value(len(self.graph.values), tuple(tensor.shape), _dtype_names[dtype], name)
        self.graph.values.append(value)
        self.known[id(tensor)] = (tensor, value)
        return value

    def value(self, tensor: Tensor) -> Value:
        found = self.known.get(id(tensor))
        if found is not None:
            return found[1]
        value = self.new(tensor)
        self.graph.constants.append(value)
        return value

    def tree(self, item: Any, of: Callable[[Tensor], Value] | None = None) -> Any:
        """Nested arguments with tensors replaced by values and opaque objects by their type."""
        of = of or self.value
        if isinstance(item, Tensor):
            return of(item)
        if type(item) is Int:
            return item if self.current(item) else int(item)
        if item is None or isinstance(item, _LEAVES):
            return item
        if isinstance(item, tuple):
            items = [self.tree(x, of) for x in item]
            return torch.Size(items) if isinstance(item, torch.Size) else tuple(items)
        if isinstance(item, list):
            return [self.tree(x, of) for x in item]
        if isinstance(item, dict):
            return {key: self.tree(x, of) for key, x in item.items()}
        if isinstance(item, slice):
            return slice(self.tree(item.start, of), self.tree(item.stop, of), self.tree(item.step, of))
        if is_dataclass(item) and not isinstance(item, type):
            return {field.name: self.tree(getattr(item, field.name, None), of) for field in fields(item)}
        try:
            return operator.index(item)  # type: ignore[arg-type] - numpy integers
        except TypeError:
            return type(item)

    def current(self, number: Int) -> bool:
        """False for a size of an earlier run that some cache outside the model has kept."""
        return all(id(leaf) in self.dims for leaf in leaves(number.expr) if isinstance(leaf, Dim))

    def shape(self, tensor: Tensor) -> torch.Size:
        value = self.value(tensor)
        size = self.sizes.get(value.id)
        if size is None:
            dims = [Dim(value.id, i) for i in range(len(value.shape))]
            self.dims.update((id(dim), dim) for dim in dims)
            size = torch.Size([Int(n, dim) for n, dim in zip(value.shape, dims, strict=True)])
            self.sizes[value.id] = size
            if self.writer is not None:
                self.writer.measured(tensor, value.id)
        return size

    # -- operations --------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.busy or _vmap_level() is not None:
            return func(*args, **kwargs)  # inside vmap the tensors are wrappers: `unseen` records what they wrap
        name = op_name(func)
        if name.kind == "fact":
            return func(*args, **kwargs)
        self.busy += 1
        try:
            if self.memo is None or name.kind == "size" or "out" in kwargs:
                out = func(*args, **kwargs)
            else:
                out = self.memo.run(name, func, args, kwargs)
            if name.kind == "size":
                return self.measured(name.op, out, *args, **kwargs)
            if self.memo is None and operation(name.op).reads:
                self.asked(_VALUES, out)
                return self.told(name.op, args[0], out)
            if name.op in _ASKED and isinstance(out, _ANSWERS):
                self.asked(_ASKED[name.op], out)
            if name.inplace or "out" in kwargs or any(True for _ in tensors(out)):
                self.record(name, args, kwargs, out)
                if self.writer is not None:
                    self.writer.ran(func, args, kwargs, out, self.numbers(out))
        finally:
            self.busy -= 1
        return out

    def asked(self, what: str, answer: Any) -> None:
        """Note that forward asked something of a tensor, if it was not torch that did."""
        if not inside_torch():
            question = what, self.where(), source_line()
            self.graph.asked.setdefault(question, set()).add(answer if isinstance(answer, bool) else None)

    def numbers(self, out: Any) -> list[int]:
        """The values of the tensors in a result, by their numbers."""
        return [self.value(tensor).id for tensor in tensors(out)]

    def measured(self, op: str, out: Any, tensor: Tensor, dim: int | None = None) -> Any:
        """What `shape`, `size` and `numel` return, with provenance."""
        shape = self.shape(tensor)
        if op == "numel":
            total: int = 1
            for size in shape:
                total = size * total if isinstance(total, Int) else size
            return total
        return out if not len(shape) else shape if isinstance(out, tuple) else shape[int(dim)]  # type: ignore[arg-type]

    def told(self, op: str, tensor: Tensor, out: Any) -> Any:
        """Whole numbers read out of a tensor: each is the length of a value that the data decide, as of a `nonzero`."""
        made: list[Value] = []

        def count(item: Any) -> Any:
            if type(item) is list:
                return [count(x) for x in item]
            if type(item) is not int or item < 0:
                return item
            value, dim = Value(len(self.graph.values), (item,), "int64"), Dim(len(self.graph.values), 0)
            self.graph.values.append(value)
            self.dims[id(dim)] = dim
            made.append(value)
            return Int(item, dim)

        if tensor.numel() > _MAX_NUMBERS or not (found := count(out)):
            return out
        if made:
            self.graph.calls.append(RecordedCall(op, (self.value(tensor),), {}, made, self.where(), source_line()))
        return found

    def record(self, name: OpName, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        changed = list(tensors(args[:1])) if name.inplace else []
        op = name.op
        if kwargs.get("out") is not None:
            op, changed = f"{op}.out", [*changed, *tensors(kwargs["out"])]
        results = list(tensors(out))
        if not changed:
            fresh = [t for t in results if id(t) not in self.known]
            if not fresh:
                return  # the very tensors that went in: nothing happened
            if operation(op).same and len(results) == 1 and args and isinstance(args[0], Tensor):
                self.known[id(fresh[0])] = (fresh[0], self.value(args[0]))
                return
        call_args, call_kwargs = self.tree(args), self.tree(kwargs)
        if name.reflected:
            call_args = (call_args[1], call_args[0], *call_args[2:])
        for tensor in changed:
            old = self.value(tensor)
            self.before[self.new(tensor).id] = old
        call = RecordedCall(op, call_args, call_kwargs, None, self.where(), source_line(), bool(changed))
        call.out = self.tree(out, self.result)
        if changed and not results:
            call.out = self.tree(changed[0] if len(changed) == 1 else changed)
        self.graph.calls.append(call)

    def result(self, tensor: Tensor) -> Value:
        found = self.known.get(id(tensor))
        return found[1] if found is not None else self.new(tensor)

    def watched(self, func: Any, args: Any, kwargs: Any, run: Callable[..., Any]) -> Any:
        """Run an ATen operation, and record it where no recorded call contains it."""
        if self.busy:
            return run(*args, **kwargs)
        self.busy += 1
        try:
            out = run(*args, **kwargs)
            with _NO_FUNCTION():
                self.unseen(func, args, kwargs, out)
                if self.writer is not None and any(True for _ in tensors(out)):
                    self.writer.ran(func, args, kwargs, out, self.numbers(out))
        finally:
            self.busy -= 1
        return out

    def unseen(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Record an ATen operation that no recorded call contains."""
        schema = func._schema
        changed = [
            tensor
            for argument, given in zip(schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
            for tensor in tensors(given)
        ]
        results = list(tensors(out))
        if not changed and not any(id(t) not in self.known for t in results):
            return
        base = schema.name.partition("::")[2]
        if operation(base).same and not changed:
            self.known[id(results[0])] = (results[0], self.value(args[0]))
            return
        call_args, call_kwargs = self.tree(args), self.tree(kwargs)
        for tensor in changed:
            old = self.value(tensor)
            self.before[self.new(tensor).id] = old
        name = "unseen:" + schema.name.replace("::", ".")
        call = RecordedCall(name, tuple(call_args), call_kwargs, None, self.where(), source_line(), bool(changed))
        call.out = self.tree(out, self.result) if results else self.tree(changed)
        self.graph.calls.append(call)

    def guard(self, fn: str, args: tuple[Any, ...], result: Any) -> None:
        dims = [leaf for arg in args for leaf in leaves(arg) if isinstance(leaf, Dim)]
        if not self.busy and all(id(dim) in self.dims for dim in dims):
            guard = Guard(fn, args, result, source_line(), inside=inside_torch(), where=self.where())
            self.guards[guard] = None
            if self.writer is not None:
                self.writer.compared(guard)

    # -- modules -----------------------------------------------------------------------------------------------

    def where(self) -> str:
        return self.stack[-1][1] if self.stack else ""

    def is_here(self) -> bool:
        """Whether this is the thread of the run that is recorded: hooks of modules are asked in all."""
        return threading.get_ident() == self.thread

    @contextmanager
    def modules(self) -> Iterator[None]:
        """Follow every module call of this thread inside the block."""
        before = nn.modules.module.register_module_forward_pre_hook(self.enter)
        after = nn.modules.module.register_module_forward_hook(self.leave, with_kwargs=True, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()
            nn.modules.module._global_forward_hooks_with_kwargs.pop(after.id, None)  # which torch would leave there

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not self.is_here():
            return
        paths = self.paths.get(id(module))
        if paths is None:  # not part of the model
            self.stack.append((module, self.where(), None, 0))
            return
        path = paths[0]
        if len(paths) > 1 and self.stack:
            inside = self.where() + "."
            path = next((p for p in paths if p.startswith(inside)), path)
        with _NO_FUNCTION():
            call = ModuleCall(path, self.tree(args), {}, None, len(self.graph.calls), -1)
        self.ran[call] = ModuleResult(module, len(self.graph.modules))
        self.graph.modules.append(call)
        self.stack.append((module, path, call, len(self.graph.values)))

    def leave(self, module: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        if not self.is_here():
            return
        while self.stack:
            top, _, call, first = self.stack.pop()
            if top is module:
                break
        else:
            return
        if call is not None:
            call.stop = len(self.graph.calls)
            if len(rest) == 2:  # one only where forward raised
                if call in self.asking and self.asking.isdisjoint(outer for _, _, outer, _ in self.stack):
                    self.askers.append(Asker(call, module, args, rest[0]))
                with _NO_FUNCTION():
                    call.kwargs = self.tree(rest[0], lambda tensor: self.on_entry(tensor, first))
                    call.out = self.tree(rest[1])
                self.ran[call].output, self.ran[call].end = rest[1], len(self.graph.modules)

    def ask(self) -> None:
        """Note that the mode of a module is read."""
        self.asking.add(next((call for _, _, call, _ in reversed(self.stack) if call is not None), None))

    def on_entry(self, tensor: Tensor, first: int) -> Value:
        """What the tensor was when `first` values existed: forward may have changed it in place."""
        value = self.value(tensor)
        while value.id >= first and value.id in self.before:
            value = self.before[value.id]
        return value


_VALUES = "the values of tensors"
_ASKED = {
    "requires_grad": "whether tensors require gradients",
    **dict.fromkeys(("bool", "int", "float", "complex", "index", "equal", "allclose", "is_nonzero"), _VALUES),
}
_ANSWERS = (bool, int, float, complex)
_LEAVES = (
    int,
    float,
    complex,
    str,
    bytes,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    type(...),
    type,
)
