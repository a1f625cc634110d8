"""Integers that remember where they came from.

`x.reshape(B, N, 3, self.num_heads, self.head_dim)` must be run again with other numbers once a network
has been sliced. So during capture every integer that a module owns, and every size that a tensor reports, is
an `Int`: a plain `int` that also carries an expression over attributes and tensor sizes. Arithmetic builds
larger expressions; a comparison is a fact that every smaller network must reproduce, so it is logged as a
guard. Whatever reaches an operation without an expression is a literal of the source code. A quotient is a `Ratio`
until `round`, `math.floor` or `math.ceil` makes it whole again; `int()` and `float()` can only give plain numbers, so
they are logged, too.

No torch here: the analysis and the tests use these values without a model.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from elastify._ir.trees import inside


@dataclass(frozen=True, slots=True)
class Attr:
    """`module.name`, or `module.name[index]…` for an integer inside a tuple, list or config object.

    `owner` is the module's path ("" is the root); for an attribute of a shared config object the path is that
    of the object: `"config"` is looked up as `root.config`.
    """

    owner: str
    name: str
    index: tuple[int | str, ...] = ()

    def __str__(self) -> str:
        path = f"{self.owner}.{self.name}" if self.owner else self.name
        return path + "".join(f"[{i!r}]" for i in self.index)


@dataclass(frozen=True, slots=True)
class Dim:
    """Size of dimension `dim` of the graph value number `value`."""

    value: int
    dim: int


@dataclass(frozen=True, slots=True)
class Op:
    """Arithmetic on expressions; `fn` is the name of a function of the operator module."""

    fn: str
    args: tuple[Expr, ...]


Expr = Attr | Dim | Op | int | float


@dataclass(frozen=True, slots=True)
class Guard:
    """A comparison made during the run: `fn(*args)` gave `result` and must give it for every subnet. `inside` says that
    a library function made it, not the code at `source`; `where` is the module path."""

    fn: str
    args: tuple[Expr, ...]
    result: bool | int
    source: str
    inside: bool = False
    where: str = field(default="", compare=False)


_guards: ContextVar[Callable[[str, tuple[Expr, ...], Any], None] | None] = ContextVar("guards", default=None)


@contextmanager
def guard_log(log: Callable[[str, tuple[Expr, ...], Any], None]) -> Iterator[None]:
    """Send every comparison between provenance integers to `log(fn, args, result)` inside the block."""
    token = _guards.set(log)
    try:
        yield
    finally:
        _guards.reset(token)


def expr_of(value: Any) -> Expr:
    """The expression behind a number; a plain number is its own (a literal)."""
    if isinstance(value, Int):
        return value.expr
    return value if isinstance(value, float) else int(value)


def evaluate(expr: Expr, leaf: Callable[[Attr | Dim], Any]) -> Any:
    """Value of an expression; `leaf` gives the value of an attribute or dimension (arrays are fine)."""
    if isinstance(expr, Op):
        return getattr(operator, expr.fn)(*(evaluate(arg, leaf) for arg in expr.args))
    return expr if isinstance(expr, (int, float)) else leaf(expr)


def leaves(expr: Expr) -> Iterator[Attr | Dim]:
    """Attributes and dimensions that an expression mentions."""
    if isinstance(expr, Op):
        for arg in expr.args:
            yield from leaves(arg)
    elif not isinstance(expr, (int, float)):
        yield expr


def exprs(tree: Any) -> list[Expr]:
    """The expressions behind the numbers in nested tuples, lists, dicts and slices that have one."""
    return [number.expr for number in inside(tree, Int)]


class Int(int):
    """An `int` with an expression.

    >>> heads = Int(12, Attr("attn", "num_heads"))
    >>> (768 // heads).expr
    Op(fn='floordiv', args=(768, Attr(owner='attn', name='num_heads', index=())))
    """

    expr: Expr

    def __new__(cls, value: int, expr: Expr) -> Int:
        self = super().__new__(cls, value)
        self.expr = expr
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Int:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, (int(self),))

    def __repr__(self) -> str:
        return int.__repr__(self)

    __hash__ = int.__hash__


_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "floordiv": 1, "pow": 1}
_ONE_WAY = ("sub", "floordiv")


def _arithmetic(name: str, fn: str, *, reflected: bool = False) -> None:
    plain = getattr(int, name)
    neutral = _NEUTRAL.get(fn)

    def method(self: Int, *others: Any) -> Any:
        if fn == "mul" and isinstance(others[0], float):
            return Ratio(self, 1) * others[0]
        if fn == "pow" and isinstance(others[0], float):
            return float(self) ** others[0]
        result = plain(self, *others)
        if type(result) is float:  # a negative power
            _scaled_by(self, *others)
        if type(result) is not int or not all(isinstance(other, int) for other in others):
            return result
        if others and type(others[0]) is int and others[0] == neutral and not (reflected and fn in _ONE_WAY):
            return Int(result, self.expr)
        if fn == "mul" and type(others[0]) is int and not others[0]:
            return result  # nothing, whatever the size is
        args = (self.expr, *map(expr_of, others))
        return Int(result, Op(fn, args[::-1] if reflected else args))

    setattr(Int, name, method)


def _comparison(name: str, fn: str) -> None:
    plain = getattr(int, name)

    def method(self: Int, other: Any) -> Any:
        result = getattr(float, name)(float(self.real), other) if isinstance(other, float) else plain(self, other)
        log = _guards.get()
        if log is not None and result is not NotImplemented:
            log(fn, (self.expr, expr_of(other)), bool(result))
        return result

    setattr(Int, name, method)


for _fn in ("add", "sub", "mul", "floordiv", "mod"):
    _arithmetic(f"__{_fn}__", _fn)
    _arithmetic(f"__r{_fn}__", _fn, reflected=True)
_arithmetic("__pow__", "pow")
for _fn in ("neg", "abs", "pos"):
    _arithmetic(f"__{_fn}__", _fn)
for _fn in ("eq", "ne", "lt", "le", "gt", "ge"):
    _comparison(f"__{_fn}__", _fn)


for _name, _swap in (("__divmod__", False), ("__rdivmod__", True)):

    def _divmod(self: Int, other: Any, swap: bool = _swap) -> Any:
        return (other // self, other % self) if swap else (self // other, self % other)

    setattr(Int, _name, _divmod)


for _name in ("__floor__", "__ceil__", "__round__", "__trunc__"):
    setattr(Int, _name, lambda self, *_: self)


class Ratio(float):
    """A float that is one size divided by another, for `round(C * 0.5)` and `math.ceil(n / 2)`.

    >>> half = Int(12, Attr("", "width")) * 0.5
    >>> half, round(half).expr
    (6.0, Op(fn='floordiv', args=(Attr(owner='', name='width', index=()), 2)))
    """

    above: int
    below: int

    def __new__(cls, above: int, below: int) -> Ratio:
        _scaled_by(above, below)
        self = super().__new__(cls, above.real / below.real)
        self.above, self.below = above, below
        return self

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, float):
            factor = Fraction(other).limit_denominator(1000) if math.isfinite(other) else Fraction(0)
            if not factor or float(factor) != other:
                return float(self) * other
            return Ratio(self.above * factor.numerator, self.below * factor.denominator)
        return Ratio(self.above * other, self.below) if isinstance(other, int) and other else float(self) * other

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return Ratio(self.above, self.below * other) if isinstance(other, int) and other else float(self) / other

    def __floor__(self) -> int:
        return self.above // self.below

    def __ceil__(self) -> int:
        return self.above // self.below if self.is_integer() else -(-self.above // self.below)

    def __round__(self, digits: Any = None) -> Any:
        if digits is not None:
            return float.__round__(self, digits)
        return self.above // self.below if self.is_integer() else int(float.__round__(self))

    def __int__(self) -> int:
        _converted(expr_of(self.above // self.below), result := int(float.__trunc__(self)))
        return result

    __trunc__ = __int__

    def __deepcopy__(self, memo: dict[int, Any]) -> Ratio:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (float, (float.__float__(self),))


def _divided(self: Int, other: Any) -> Any:
    if isinstance(other, int) and other.real:
        return Ratio(self, other)
    return int.__truediv__(self, other)


def _rdivided(self: Int, other: Any) -> Any:
    if isinstance(other, int) and self.real:
        return Ratio(other, self)
    return int.__rtruediv__(self, other)


def _to_int(self: Int) -> int:
    _converted(self.expr, self.real)
    return self.real


def _to_float(self: Int) -> float:
    _scaled_by(self)
    return float(self.real)


setattr(Int, "__float__", _to_float)  # noqa: B010
setattr(Int, "__truediv__", _divided)  # noqa: B010 - special methods, set late so that the class body stays plain
setattr(Int, "__rtruediv__", _rdivided)  # noqa: B010
setattr(Int, "__int__", _to_int)  # noqa: B010


def _converted(expr: Expr, result: int) -> None:
    """`int()` hands out a plain number that does not know its origin: it must stay what it is."""
    log = _guards.get()
    if log is not None:
        log("int", (expr,), result)


def _scaled_by(*numbers: int) -> None:
    """A number that became a float may scale what the network computes: nothing but a layout may change it."""
    log = _guards.get()
    for number in numbers if log is not None else ():
        if isinstance(number, Int) and any(isinstance(leaf, Attr) for leaf in leaves(number.expr)):
            log("float", (number.expr,), number.real)  # type: ignore[misc]


def _bool(self: Int) -> bool:
    result = int.__bool__(self)
    log = _guards.get()
    if log is not None:
        log("truth", (self.expr,), result)
    return result


setattr(Int, "__bool__", _bool)  # noqa: B010
