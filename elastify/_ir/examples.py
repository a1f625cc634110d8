"""What is remembered of an example: its tree, shapes, dtypes and ranges, never its data.

An elastic model, the folder that an extracted one is saved in, and the extracted model itself keep such a description,
so that they can be run again on stand-ins (`example_like` of `_capture`). It is written as JSON; what is read back is
checked first: known words, plain values and bounded sizes, or an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from elastify._errors import ElastifyError

_FLOATS = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 complex128 complex64 complex32".split()
_INTEGERS = {
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32)},
    "bool": (0, 1),
}
_PLAIN = (bool, int, float, str, type(None))
MAX_TEXT = 256  # characters; longer texts are data
_MAX_NODES, _MAX_NESTING, _MAX_DIMS, _MAX_ELEMENTS = 4096, 16, 16, 2**31


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of an example. `samples` are the dimensions that count samples, `range` is from the least to the largest
    value (None: not known)."""

    shape: tuple[int, ...]
    dtype: str
    samples: tuple[int, ...] = ()
    range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        whole = self.dtype in _INTEGERS
        low, high = _INTEGERS.get(self.dtype, (-math.inf, math.inf))
        wrong = ""
        if not whole and self.dtype not in _FLOATS:
            wrong = f"no dtype is called {self.dtype!r}"
        elif not all(type(size) is int and size >= 0 for size in self.shape) or len(self.shape) > _MAX_DIMS:
            wrong = f"{list(self.shape)} is not a shape"
        elif math.prod(self.shape) > _MAX_ELEMENTS:
            wrong = f"a tensor of shape {list(self.shape)} is too large"
        elif not all(type(dim) is int and 0 <= dim < len(self.shape) for dim in self.samples):
            wrong = f"{list(self.samples)} are no dimensions of {list(self.shape)}"
        elif self.range is not None:
            kinds = (int,) if whole else (int, float)
            ends = self.range if len(self.range) == 2 and all(type(end) in kinds for end in self.range) else (1, 0)
            if not low <= ends[0] <= ends[1] <= high:
                wrong = f"{list(self.range)} is not a range of {self.dtype}"
        if wrong:
            raise ElastifyError("this is not a description of an example", why=wrong)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something in an example that cannot be made again from plain values: an object of a class."""

    kind: str


@dataclass(frozen=True, slots=True)
class ExampleSpec:
    """A description of an example: nested tuples, lists and dicts with `TensorSpec`s for tensors. `count` is how many
    samples it has.

    >>> spec = ExampleSpec((TensorSpec((2, 9), "int64", (0,), (0, 99)),), {"mask": None}, 2)
    >>> ExampleSpec.from_json(spec.to_json()) == spec
    True
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1

    def to_json(self) -> dict[str, Any]:
        """Nested lists, dicts and plain values, as JSON has them."""
        return {"args": _written(self.args), "kwargs": _written(dict(self.kwargs)), "count": self.count}

    @classmethod
    def from_json(cls, data: Any) -> ExampleSpec:
        """What `to_json` gave; ElastifyError for anything else."""
        wrong = ElastifyError("this is not a description of an example", why="a part is missing or of another type")
        if not isinstance(data, dict) or type(data.get("count")) is not int or not 0 < data["count"] <= _MAX_ELEMENTS:
            raise wrong
        reader = _Reader()
        args, kwargs = (reader.read(data.get(name), 0) for name in ("args", "kwargs"))
        if type(args) is not tuple or type(kwargs) is not dict or not all(type(name) is str for name in kwargs):
            raise wrong
        return cls(args, kwargs, data["count"])


def _written(item: Any) -> Any:
    if isinstance(item, TensorSpec):
        range_ = None if item.range is None else list(item.range)
        return {"tensor": [list(item.shape), item.dtype, list(item.samples), range_]}
    if isinstance(item, Unknown):
        return {"unknown": item.kind}
    if isinstance(item, dict):
        return {"dict": [[key, _written(value)] for key, value in item.items()]}
    if isinstance(item, (tuple, list)):
        return {"tuple" if isinstance(item, tuple) else "list": [_written(value) for value in item]}
    return item


@dataclass(slots=True)
class _Reader:
    """Reads what was written; a file of anybody's can neither name code nor ask for much."""

    nodes: int = 0
    elements: int = 0

    def read(self, data: Any, nesting: int) -> Any:
        self.nodes += 1
        if self.nodes > _MAX_NODES or nesting > _MAX_NESTING or self.elements > _MAX_ELEMENTS:
            raise ElastifyError("this is not a description of an example", why="it is too large")
        if type(data) in _PLAIN:
            if isinstance(data, str) and len(data) > MAX_TEXT:
                raise ElastifyError("this is not a description of an example", why="it has a long text")
            return data
        if isinstance(data, dict) and len(data) == 1:
            ((kind, inside),) = data.items()
            if kind == "unknown" and isinstance(inside, str):
                return Unknown(inside[:MAX_TEXT])
            if kind == "tensor" and _are_lists(inside, 4) and all(isinstance(inside[n], list) for n in (0, 2)):
                shape, dtype, samples, range_ = inside
                if isinstance(dtype, str) and isinstance(range_, (list, type(None))):
                    spec = TensorSpec(tuple(shape), dtype, tuple(samples), None if range_ is None else tuple(range_))
                    self.elements += math.prod(spec.shape)
                    return spec
            if kind in ("tuple", "list") and isinstance(inside, list):
                items = [self.read(item, nesting + 1) for item in inside]
                return tuple(items) if kind == "tuple" else items
            pairs = kind == "dict" and isinstance(inside, list) and all(_are_lists(pair, 2) for pair in inside)
            if pairs and all(type(key) in _PLAIN for key, _ in inside):
                return {key: self.read(value, nesting + 1) for key, value in inside}
        raise ElastifyError("this is not a description of an example", why="it has a part of unknown kind")


def _are_lists(item: Any, length: int) -> bool:
    return isinstance(item, list) and len(item) == length
