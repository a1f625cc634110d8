"""Canonical names of operations.

`x + y`, `x.add(y)`, `torch.add(x, y)`, `x += y` and `y.__radd__(x)` mean the same; rules are written once, for
`add`. A name is what is left of a callable's `__name__` without underscores, in-place and reflection marks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from elastify._adapters import named


@dataclass(frozen=True, slots=True)
class OpName:
    """`kind` is "size" for questions about sizes, "fact" for others about a tensor as a whole, else "call"; `reflected`
    swaps the first two arguments."""

    op: str
    inplace: bool = False
    reflected: bool = False
    kind: str = "call"


# How Python and torch spell what has a name of its own; what the operations are stands in the table of the analysis.
_SIZES = {"shape": "shape", "size": "size", "numel": "numel", "nelement": "numel"}
_FACTS = frozenset(
    "ndim dim dtype layout device is_cpu is_cuda is_meta is_leaf is_floating_point is_complex is_sparse _assert".split()
)
_SAME = {
    "absolute": "abs",
    "and": "bitwise_and",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "divide": "div",
    "dropout1d": "feature_dropout",
    "dropout2d": "feature_dropout",
    "dropout3d": "feature_dropout",
    "floordiv": "floor_divide",
    "greater": "gt",
    "greater_equal": "ge",
    "idiv": "div",
    "invert": "bitwise_not",
    "less": "lt",
    "less_equal": "le",
    "lshift": "bitwise_left_shift",
    "mod": "remainder",
    "moveaxis": "movedim",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "or": "bitwise_or",
    "pos": "positive",
    "rshift": "bitwise_right_shift",
    "special_expit": "sigmoid",
    "split_with_sizes": "split",
    "subtract": "sub",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "true_divide": "div",
    "truediv": "div",
    "unsafe_chunk": "chunk",
    "unsafe_split": "split",
    "unsafe_split_with_sizes": "split",
    "xor": "bitwise_xor",
}
_REFLECTED = {
    "radd": "add",
    "rsub": "sub",
    "rmul": "mul",
    "rdiv": "div",
    "rtruediv": "div",
    "rfloordiv": "floor_divide",
    "rmod": "remainder",
    "rpow": "pow",
    "rmatmul": "matmul",
    "rand": "bitwise_and",
    "ror": "bitwise_or",
    "rxor": "bitwise_xor",
}
_OPERATORS = ("add", "sub", "mul", "truediv", "div", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift")
_INPLACE = frozenset([f"i{name}" for name in (*_OPERATORS, "rshift")] + ["setitem"])
# In form in place, but only about metadata.
_METADATA = frozenset({"requires_grad_", "retain_grad", "share_memory_", "rename_"})
_names: dict[Any, OpName] = {}


def op_name(func: Any) -> OpName:
    """The canonical name of anything that a torch-function mode is handed.

    >>> import torch
    >>> op_name(torch.Tensor.__iadd__)
    OpName(op='add', inplace=True, reflected=False, kind='call')
    """
    try:
        found = _names.get(func)
    except TypeError:  # not hashable
        return _parse(func)
    if found is None:
        found = _names[func] = _parse(func)
    return found


def _parse(func: Any) -> OpName:
    name = getattr(func, "__name__", type(func).__name__)
    if name == "__get__":
        name = getattr(func.__self__, "__name__", "get")
        if name == "shape":
            return OpName("shape", kind="size")
        return OpName(_SAME.get(name, name), kind="fact" if name in _FACTS else "call")
    if name == "__set__":
        field = getattr(func.__self__, "__name__", "")
        return OpName(f"set_{field}", inplace=field == "data")
    packet = getattr(func, "_qualified_op_name", None) or getattr(getattr(func, "_schema", None), "name", None)
    if packet is not None:
        space, _, name = packet.partition("::")
        if space != "aten":
            return OpName(name if name in named(space).operators else f"{space}.{name}")
    if name in _SIZES:
        return OpName(_SIZES[name], kind="size")
    if name in _FACTS:
        return OpName(name, kind="fact")
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        if name in _REFLECTED:
            return OpName(_REFLECTED[name], reflected=True)
        if name in _INPLACE:
            name = name if name == "setitem" else name[1:]
            return OpName(_SAME.get(name, name), inplace=True)
        return OpName(_SAME.get(name, name))
    if name in _METADATA:
        return OpName(name.rstrip("_"))
    if name == "rsub":
        return OpName("sub", reflected=True)
    inplace = name.endswith("_") and not name.endswith("__")
    name = name[:-1] if inplace else name
    return OpName(_SAME.get(name, name), inplace=inplace)
