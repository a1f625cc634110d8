"""A run as a `torch.fx.Graph`: what was called, in the order in which it was called, on what.

A writer listens to a recorder. The record has canonical names and values for the analysis; the writer keeps what it
takes to run again: the very function that was called, calls that gave back what they were given (`contiguous`), and
the structure of what the model takes and returns. A tensor is told by its identity. What is changed in place is the
same tensor afterwards, and nodes run in the order in which they were written, so views and writes come out as they
did. Integers that came from sizes become nodes that ask for the size; others are numbers. `node.meta` says where a
call stands and where its integers came from.

What cannot run again is written all the same, and `refused` says why it must not.
"""

from __future__ import annotations

import inspect
import operator
import sys
import types
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.graph import _is_from_torch
from torch.fx.node import _get_qualified_name
from torch.fx.passes.shape_prop import TensorMetadata

from elastify._capture.fx_checks import cannot_run, check_input, check_same, check_value, check_way
from elastify._capture.sources import source_line
from elastify._capture.trees import tensors
from elastify._ir import Attr, Dim, Expr, Guard, Int, Op, inside, leaves

_ATOMS = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%", "pow": "**"}


@dataclass(frozen=True)
class _Opaque:
    """What a graph cannot hold."""

    kind: str


class FxWriter:
    """Writes nodes while a recorder runs; `graph` is complete after `end`."""

    def __init__(self, lookup: Callable[[Attr], Any], originals: dict[int, Tensor], where: Callable[[], str]) -> None:
        self.graph = fx.Graph()
        self.owned: dict[str, Tensor] = {}  # what the `get_attr` nodes mean
        self.refused = ""
        self.limits: dict[str, None] = {}
        self.foreign: set[str] = set()  # of these, those that are no attributes of the model
        self._lookup, self._originals, self._where = lookup, originals, where
        self._names: dict[int, str] = {}
        self._nodes: dict[int, fx.Node] = {}
        self._sizes: dict[tuple[int, int], fx.Node] = {}
        self._numbers: dict[Expr, fx.Node] = {}
        self._asked: set[Guard] = set()
        self._first: fx.Node | None = None  # the last of the nodes at the start
        self._autocast = _autocast()
        self._custom = frozenset(_custom_forwards())

    # -- what goes in and out ----------------------------------------------------------------------------------

    def name(self, tensor: Tensor, name: str) -> None:
        """A parameter or buffer of the model, by its first name."""
        self._names.setdefault(id(tensor), name)

    def begin(self, bound: inspect.BoundArguments) -> None:
        """Placeholders for the arguments that forward is given, and what holds of them."""
        given = list(bound.arguments.items())
        plain = [not any(True for _ in tensors(item)) for _, item in given]
        places: dict[str, fx.Node] = {}
        for number, (name, item) in enumerate(given):
            kind = bound.signature.parameters[name].kind
            mark = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(kind, "")
            default = item if all(plain[number:]) and not mark and isinstance(item, _ATOMS) else inspect.Parameter.empty
            self._first = places[name] = self.graph.placeholder(mark + name, default_value=default)
        for name, item in given:
            self._take(places[name], item, name)

    def _take(self, node: fx.Node, item: Any, name: str) -> None:
        if isinstance(item, Tensor):
            self._describe(node, item)
            same = self._nodes.setdefault(id(item), node)
            if same is not node:
                self.graph.call_function(check_same, (same, node, name))
            self.graph.call_function(check_input, (node, name, tuple(item.shape), item.dtype))
        elif isinstance(item, (tuple, list, dict)):
            length = self.graph.call_function(len, (node,))
            self.graph.call_function(check_value, (length, f"len({name})", len(item)))
            for key, part in item.items() if isinstance(item, dict) else enumerate(item):
                if isinstance(part, (Tensor, tuple, list, dict)):
                    self._take(self.graph.call_function(operator.getitem, (node, key)), part, f"{name}.{key}")
        elif isinstance(item, _ATOMS):
            self.graph.call_function(check_value, (node, name, item))
        else:
            self.refuse(f"the argument {name} is a {type(item).__name__}")

    def end(self, out: Any) -> None:
        """The output, and no sizes and parts that nobody asked for."""
        self.graph.output(self._given_back(out, "the output"))
        self.clean()
        self._nodes.clear()
        self._names.clear()

    def clean(self) -> None:
        """Take out sizes, numbers and parts that nobody asks for."""
        for node in reversed(list(self.graph.nodes)):
            if not node.users and "unasked" in node.meta:
                self.graph.erase_node(node)

    def refuse_to_run(self) -> None:
        """Let the graph say why it must not run, before anything else."""
        first = next(node for node in self.graph.nodes if node.op not in ("placeholder", "get_attr"))
        with self.graph.inserting_before(first):
            self.graph.call_function(cannot_run, (self.refused,))

    def _given_back(self, item: Any, name: str) -> Any:
        if isinstance(item, Tensor):
            return self._node(item)
        if isinstance(item, _ATOMS):
            return self._argument(item)
        if is_dataclass(item) and not isinstance(item, type):
            names = [field.name for field in fields(item) if field.init]
            parts = {part: self._given_back(getattr(item, part, None), f"{name}.{part}") for part in names}
            return self.graph.call_function(type(item), (), {k: v for k, v in parts.items() if v is not None})
        if isinstance(item, dict):
            found = {key: self._given_back(part, f"{name}.{key}") for key, part in item.items()}
            return found if type(item) is dict else self.graph.call_function(type(item), (found,))
        if isinstance(item, (tuple, list)):
            items = [self._given_back(part, f"{name}.{n}") for n, part in enumerate(item)]
            return type(item)(*items) if hasattr(item, "_fields") else type(item)(items)
        self.limits[f"{name} is a {type(item).__name__}: it is None in the graph"] = None
        return None

    # -- what runs ---------------------------------------------------------------------------------------------

    def ran(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, values: list[int]) -> None:
        """A call has run: its node, and one for each tensor in what it returned; these are `values` of the record."""
        op, target = _target(func)
        origins: dict[str, str] = {}
        given = tuple(self._argument(item, f"args[{n}]", origins) for n, item in enumerate(args))
        named = {key: self._argument(item, key, origins) for key, item in kwargs.items()}
        if isinstance(target, _Property):
            target, given = target.verb, (given[0], target.name, *given[1:])
        if target is None:
            target = func
            self.refuse(f"torch gives {func} no name")
        node = self.graph.create_node(op, target, given, named)
        node.meta.update(self._place(node.name), integers=origins)
        self._results(node, out, iter(values))
        for opaque in inside((given, named), _Opaque):
            self.refuse(f"{node.name} is given a {opaque.kind}")
        if _autocast() != self._autocast:
            self.refuse("forward enters or leaves autocast")
        if _runs_in(self._custom):
            self.limits["gradients of custom autograd functions are those of the operations inside them"] = None

    def _results(self, node: fx.Node, out: Any, values: Iterator[int]) -> None:
        if isinstance(out, Tensor):
            self._describe(node, out)
            node.meta["value"] = next(values)
            self._nodes[id(out)] = node
        elif isinstance(out, (tuple, list)):
            for number, part in enumerate(out):
                if isinstance(part, (Tensor, tuple, list)):
                    inner = self.graph.call_function(operator.getitem, (node, number))
                    inner.meta.update(node.meta, integers={}, unasked=True)
                    self._results(inner, part, values)

    def measured(self, tensor: Tensor, value: int) -> None:
        """The sizes of a tensor are handed out: nodes that ask for them."""
        node = self._node(tensor)
        for dim, size in enumerate(tensor.shape):
            asked = self._sizes[value, dim] = self.graph.call_method("size", (node, dim))
            asked.meta.update(self._place("size"), val=int(size), unasked=True)

    def compared(self, guard: Guard) -> None:
        """forward has compared sizes."""
        if guard in self._asked or not any(isinstance(leaf, Dim) for arg in guard.args for leaf in leaves(arg)):
            return
        self._asked.add(guard)
        sizes = [self._number(arg) for arg in guard.args]
        if not any(size is None for size in sizes):
            node = self.graph.call_function(check_way, (guard.fn, sizes, guard.result, guard.source))
            node.meta.update(self._place(guard.fn), source=guard.source)

    # -- arguments ---------------------------------------------------------------------------------------------

    def _argument(self, item: Any, place: str = "", origins: dict[str, str] | None = None) -> Any:
        """An argument as a node can have it."""
        if isinstance(item, Tensor):
            return self._node(item)
        if type(item) is Int:
            found = self._number(item.expr) if any(isinstance(x, Dim) for x in leaves(item.expr)) else None
            known = found is not None and self._worth(found) == item.real
            if origins is not None:
                origins[place] = self._origin(item.expr)
            return found if known else item.real
        if type(item) is int and origins is not None:
            origins[place] = "literal"
        if isinstance(item, float):
            return float.__float__(item)  # without the sizes that a `Ratio` remembers
        if isinstance(item, _ATOMS) or item is ...:
            return item
        if isinstance(item, (tuple, list)):
            items = [self._argument(part, f"{place}[{n}]", origins) for n, part in enumerate(item)]
            return items if isinstance(item, list) else tuple(items)
        if isinstance(item, dict):
            return {key: self._argument(part, f"{place}[{key!r}]", origins) for key, part in item.items()}
        if isinstance(item, slice):
            ends = ("start", "stop", "step")
            return slice(*(self._argument(getattr(item, end), f"{place}.{end}", origins) for end in ends))
        try:
            return operator.index(item)  # integers of numpy
        except TypeError:
            return _Opaque(type(item).__name__)

    def _node(self, tensor: Tensor) -> fx.Node:
        """The node of a tensor; of one from outside, a `get_attr` node."""
        found = self._nodes.get(id(tensor))
        if found is not None:
            return found
        name = self._names.get(id(tensor))
        original = self._originals.get(id(tensor), tensor)
        if name is None:
            name = f"constant_{sum(n.startswith('constant_') for n in self.owned)}"
            if original is tensor:
                self.foreign.add(name)
            if isinstance(original, FakeTensor):
                self.refuse(f"where the tensor {list(tensor.shape)} comes from, was not recorded ({source_line()})")
        self.owned[name] = original
        last = self._first  # what is owned stands after the placeholders, in the order of its use
        with self.graph.inserting_after(last) if last is not None else self.graph.inserting_before(None):
            found = self._nodes[id(tensor)] = self._first = self.graph.create_node("get_attr", name)
        self._describe(found, tensor)
        found.meta["module"] = name.rpartition(".")[0]
        return found

    def _number(self, expr: Expr) -> Any:
        """A number that sizes decide, as a node; None where a size is not at hand."""
        if isinstance(expr, Dim):
            return self._sizes.get((expr.value, expr.dim))
        if isinstance(expr, Attr):
            try:
                return int(self._lookup(expr).real)
            except (AttributeError, KeyError, IndexError, TypeError):
                return None
        if not isinstance(expr, Op):
            return expr
        if expr not in self._numbers:
            parts = [self._number(arg) for arg in expr.args]
            if any(part is None for part in parts):
                return None
            function = getattr(operator, expr.fn)
            if not any(isinstance(part, fx.Node) for part in parts):
                return function(*parts)
            node = self._numbers[expr] = self.graph.call_function(function, tuple(parts))
            node.meta.update(self._place(expr.fn), val=function(*map(self._worth, parts)), unasked=True)
        return self._numbers[expr]

    def _worth(self, part: Any) -> Any:
        return part.meta["val"] if isinstance(part, fx.Node) else part

    def _origin(self, expr: Expr) -> str:
        if isinstance(expr, Dim):
            node = self._sizes.get((expr.value, expr.dim))
            return f"{node.args[0]}.size({expr.dim})" if node is not None else "a number read out of a tensor"
        if isinstance(expr, Op):
            parts = [self._origin(arg) for arg in expr.args]
            sign = _SIGNS.get(expr.fn)
            return f"({f' {sign} '.join(parts)})" if sign else f"{expr.fn}({', '.join(parts)})"
        return str(expr)

    # -- what is said of a node --------------------------------------------------------------------------------

    def _place(self, called: str) -> dict[str, Any]:
        module, source = self._where(), source_line()
        file, _, line = source.rpartition(":")
        trace = f'File "{file}", line {line}, in {module or "the model"}\n  {called}'  # as print_readable expects it
        return {"module": module, "source": source, "stack_trace": trace}

    def _describe(self, node: fx.Node, tensor: Tensor) -> None:
        shape, strided = torch.Size(map(int, tensor.shape)), tensor.layout is torch.strided
        stride = tuple(map(int, tensor.stride())) if strided else ()
        node.meta["tensor_meta"] = TensorMetadata(shape, tensor.dtype, tensor.requires_grad, stride, None, False, {})
        node.meta["shape"], node.meta["dtype"] = tuple(shape), tensor.dtype

    def refuse(self, why: str) -> None:
        """Say why the graph must not run."""
        self.refused = self.refused or why


@dataclass(frozen=True)
class _Property:
    """An attribute of a tensor that is read or written."""

    name: str
    verb: Callable[..., Any]


def _target(func: Any) -> tuple[str, Any]:
    """The kind of node for a callable, and its target: what people would have written."""
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):
        return "call_function", _Property(func.__self__.__name__, getattr if name == "__get__" else setattr)
    own = getattr(Tensor, name, None)
    if own is func and isinstance(func, (types.MethodDescriptorType, types.WrapperDescriptorType, types.FunctionType)):
        written = getattr(operator, name, None) if name.startswith("__") else None
        return ("call_method", name) if written is None else ("call_function", written)
    return "call_function", func if _is_called(func) else getattr(torch.ops.aten, name, None)


def _is_called(func: Any) -> bool:
    """Whether the code of a graph, which names the functions of torch, means this one: `torch.stft` is a wrapper of a
    function that has the same name."""
    if not _is_from_torch(func):
        return True
    try:
        found: Any = reduce(getattr, _get_qualified_name(func).split(".")[1:], torch)
    except (AttributeError, RuntimeError):
        return False
    return found is func or found == func


def _autocast() -> tuple[bool, bool]:
    return torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")


def _custom_forwards(base: type = torch.autograd.Function) -> Iterator[types.CodeType]:
    """The code of every forward of a custom autograd function."""
    for function in base.__subclasses__():
        code = getattr(getattr(function, "forward", None), "__code__", None)
        if code is not None:
            yield code
        yield from _custom_forwards(function)


def _runs_in(codes: Collection[types.CodeType]) -> bool:
    """Whether the call that has just run stands inside one of these functions."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "run_recorded":
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False
