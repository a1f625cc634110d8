"""The table of operations: what is known of each, in one place.

An operation is known by its canonical name (`x + y`, `x.add(y)` and `torch.add(x, y)` are `add`). Its entry has
the rule that says what it implies for dimensions, how its multiplications are counted, and a few facts that others
ask for: the search for residual blocks, the recorder, the planner, the proofs. Nobody else keeps a list of names. The
families (`elementwise`, `views`, ...) fill the table with `rule`; a name without an entry is an operation of which
nothing is known.

Products are written in an axis notation, one word per operand, a letter per dimension, `...` for any number of
dimensions: `"... i, o i, o -> ... o"` is a linear layer. Equal letters are the same units; the rule and the number of
multiplications both follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from elastify._ir import Layout, RecordedCall, Value

Rule = Callable[..., None]
"""`rule(facts, out, *args, **kwargs)`: states facts about a call (`facts.py`)."""
Mixed = Iterable[tuple[Value, int]]
"""Dimensions of tensors along which numbers meet."""
Dims = Callable[[Value], tuple[Layout, ...]]
"""The layouts of a tensor's dimensions."""
Layouts = list[tuple[Layout, ...]]
"""Groups of layouts: the sizes of each, multiplied, and the products added up, are a number of MACs."""


class Contraction(NamedTuple):
    """A product of tensors in axis notation; an operand that is None is left out.

    `added` is a tensor that is broadcast to the result. A product over dimensions of size 1 alone is free where
    `free_ones`: einsum multiplies element by element then.
    """

    spec: str
    operands: Sequence[Value | None]
    added: Value | None = None
    free_ones: bool = False


@dataclass(frozen=True, slots=True)
class Op:
    """What is known of an operation."""

    rule: Rule | None = None
    elementwise: bool = False  # a number of the result depends on the numbers at its own place alone
    unary: bool = False  # so it does, on those of one tensor, and floating-point numbers keep their type
    keeps: bool = False  # the result is the first tensor once more, its numbers changed in view of each other (a norm)
    same: bool = False  # nothing is new: the numbers of the first tensor at the places where they were
    view: Literal["", "all", "part", "repeated"] = ""  # the numbers of the first tensor in other dimensions
    sums: bool = False  # the result is the sum of tensors (with weights)
    joins: bool = False  # the result has all its tensors side by side
    scales: bool = False  # a float among its arguments is a factor
    fills: bool = False  # a number among its arguments is what the result is full of
    linear: bool = False  # the result is linear in the first tensor, with the second as the weight
    convolves: bool = False  # so it is, along places
    matrices: bool = False  # the product of matrices, one or a batch
    looks_up: bool = False  # the rows of a table that whole numbers name
    drops: bool = False  # in training some numbers of the first tensor become 0, otherwise it stays as it is
    reads: bool = False  # what comes out are Python's numbers
    statistics: tuple[
        tuple[int, str], ...
    ] = ()  # arguments, by place or name, that it moves in training for evaluation
    mode: type | None = None  # of the argument that tells training from evaluation
    notation: Callable[..., Contraction] | None = None  # the product that it is, from the arguments
    macs: Callable[..., Layouts] | None = None  # (dims, out, *args, **kwargs): its MACs, where no notation has them
    mixes: Callable[..., Mixed] | None = None  # dimensions, from the arguments, along which a number of the result may
    # depend on others, or is moved to another place; of those that are gone from the result nothing need be said

    @property
    def follows(self) -> bool:
        """Whether the result stands for what went in (the first tensor; all of them if `elementwise`).

        Such operations may come after a residual sum: `act(x + branch(x))` is still `x`, changed by a branch.
        """
        return self.elementwise or self.keeps or self.view in ("all", "part")

    @property
    def operands(self) -> bool:
        """Whether it computes with the numbers among its arguments, as it does with tensors."""
        return self.elementwise or self.scales or self.fills

    @property
    def multiplies(self) -> bool:
        return self.notation is not None or self.macs is not None

    @property
    def maps(self) -> bool:
        """Whether it makes units: those of the result are of a weight or a table."""
        return self.multiplies or self.looks_up

    def meets(self, *args: Any, **kwargs: Any) -> Mixed | None:
        """Dimensions of the arguments along which numbers of the result depend on one another; None where nobody knows.

        >>> x = Value(0, (2, 5, 7))
        >>> operation("softmax").meets(x, -1), operation("view").meets(x, 10, 7), operation("frobnicate").meets(x)
        ([(%0[2, 5, 7], -1)], [], None)
        """
        if self.mixes is not None:
            return list(self.mixes(*args, **kwargs))
        if self.notation is not None:
            operands, result = labelled(self.notation(*args, **kwargs))
            return [(x, dim) for labels, x in operands for dim, label in enumerate(labels) if label not in result]
        return [] if self.elementwise or self.view or self.joins else None


OPS: dict[str, Op] = {}
_NOTHING = Op()


def operation(name: str) -> Op:
    """The entry of an operation.

    >>> operation("selu").elementwise, operation("softmax").elementwise, operation("frobnicate").rule
    (True, False, None)
    """
    return OPS.get(name, _NOTHING)


def names(fact: Callable[[Op], Any]) -> frozenset[str]:
    """The operations of which a fact holds.

    >>> sorted(names(lambda op: op.sums))
    ['add', 'lerp']
    """
    return frozenset(name for name, op in OPS.items() if fact(op))


def apart(*_: Any, **__: Any) -> Mixed:
    """`mixes` of an operation that keeps the entries of every dimension apart that its result has."""
    return ()


def along(number: int, name: str = "dim", default: int | None = None) -> Callable[..., Mixed]:
    """`mixes` of an operation along one dimension of its first tensor, which argument `number`, or that `name`, is."""

    def mixes(input: Value, *args: Any, **kwargs: Any) -> Mixed:
        dim = kwargs.get(name, args[number - 1] if len(args) >= number else default)
        return every(input) if dim is None else [(input, int(dim))]

    return mixes


def every(*tensors: Value, start: int = 0, **_: Any) -> Mixed:
    """All dimensions of some tensors, or the last ones from `start` (counted from the back if negative)."""
    return [(x, dim) for x in tensors for dim in range(len(x.shape))[start:]]


def rule(text: str, **facts: Any) -> Callable[[Rule], Rule]:
    """Enter operations, named in a text, with this rule and these facts; a name taken twice is a mistake."""

    def register(function: Rule) -> Rule:
        for name in text.split():
            if name in OPS:
                raise ValueError(f"two rules for {name!r}")
            OPS[name] = Op(function, **facts)
        return function

    return register


def without_out(call: RecordedCall) -> tuple[str, dict[str, Any]]:
    """The operation of a call and its keyword arguments, leaving aside that the result goes to a tensor `out`."""
    name, _, form = call.op.partition(".")
    if form != "out":
        return call.op, call.kwargs
    return name, {key: item for key, item in call.kwargs.items() if key != "out"}


Labels = list[Any]


def labelled(product: Contraction) -> tuple[list[tuple[Labels, Value]], Labels]:
    """A label for every dimension of the operands, and those of the result; dimensions under `...` are counted from the
    right. Raises ValueError where a tensor does not fit its word.

    >>> labelled(Contraction("... i, o i, o -> ... o", (Value(0, (2, 5, 3)), Value(1, (4, 3)), None)))
    ([([-2, -1, 'i'], %0[2, 5, 3]), (['o', 'i'], %1[4, 3])], [-2, -1, 'o'])
    """
    inputs, result = product.spec.split("->")
    found = [
        (_labels(words, len(value.shape)), value)
        for words, value in zip(inputs.split(","), product.operands, strict=True)
        if value is not None
    ]
    letters = result.split()
    most = max((sum(isinstance(label, int) for label in labels) for labels, _ in found), default=0)
    return found, _labels(result, len(letters) - 1 + most if "..." in letters else len(letters))


def _labels(words: str, rank: int) -> Labels:
    letters: Labels = words.split()
    if "..." in letters:
        at = letters.index("...")
        letters[at : at + 1] = range(len(letters) - 1 - rank, 0)
    if len(letters) != rank:
        raise ValueError(f"{words.strip()!r} does not fit a tensor of {rank} dimensions")
    return letters
