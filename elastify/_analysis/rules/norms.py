"""Rules of normalisations and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elastify._analysis.facts import Facts, flat_sizes
from elastify._analysis.rules.ops import Mixed, apart, every, rule
from elastify._analysis.terms import Term
from elastify._ir import Value, values


def _vectors(f: Facts, channels: Term, *tensors: Any) -> None:
    for tensor in values(tensors):
        f.same(f.dims(tensor)[0], channels)


_STATISTICS = ((3, "running_mean"), (4, "running_var"))


def _over_samples(input: Value, *args: Any, training: bool = True, **_: Any) -> Mixed:
    learns = next((arg for arg in args if isinstance(arg, bool)), training)
    return [(x, dim) for x, dim in every(input) if learns and dim != 1]


@rule("batch_norm", keeps=True, mode=bool, statistics=_STATISTICS, mixes=_over_samples)
def batch_norm(f: Facts, out: Value, input: Value, *args: Any, **kwargs: Any) -> None:
    vectors = [v for v in values((args, kwargs)) if len(v.shape) == 1]
    _vectors(f, f.dims(input)[1], *vectors)
    f.give(out, f.dims(input))


def _over_space(input: Value, *_: Any, **__: Any) -> Mixed:
    return every(input, start=2)


def _over_channels(input: Value, *_: Any, **__: Any) -> Mixed:
    return every(input, start=1)


def _over_last(input: Value, normalized_shape: Any, *_: Any, **__: Any) -> Mixed:
    return every(input, start=-len(flat_sizes([normalized_shape])))


@rule("instance_norm", keeps=True, mode=bool, statistics=_STATISTICS, mixes=_over_space)
def instance_norm(f: Facts, out: Value, input: Value, *args: Any, **kwargs: Any) -> None:
    for term in f.dims(input)[2:]:
        f.freeze(term, "normalised over space")
    batch_norm(f, out, input, *args, **kwargs)


@rule("group_norm", keeps=True, mixes=_over_channels)
def group_norm(
    f: Facts, out: Value, input: Value, num_groups: Any, weight: Any = None, bias: Any = None, *_: Any, **__: Any
) -> None:
    """Channels are `groups * per`: both whole groups and units inside all groups may go."""
    channels, groups = f.dims(input)[1], f.leaf(int(num_groups))
    f.require(num_groups, groups)
    if int(num_groups) != 1:
        f.same(channels, f.product(groups, f.leaf(channels.size // int(num_groups))))
    _vectors(f, channels, weight, bias)
    f.give(out, f.dims(input))


@rule("layer_norm rms_norm", keeps=True, mixes=_over_last)
def layer_norm(f: Facts, out: Value, input: Value, normalized_shape: Any, *params: Any, **kwargs: Any) -> None:
    sizes = flat_sizes([normalized_shape])
    last = f.dims(input)[-len(sizes) :]
    for tensor in values((params, kwargs)):
        f.all_same(f.dims(tensor), last)
    f.give(out, f.dims(input))
    for number, term in zip(sizes, last, strict=True):
        f.require(number, term)


def _reduced(f: Facts, out: Any, dims: Sequence[Term], dim: Any, keepdim: bool) -> list[Term]:
    gone = {int(i) % len(dims) for i in (range(len(dims)) if dim is None else flat_sizes([dim]))}
    if dim is not None and not gone:
        gone = set(range(len(dims)))
    kept = [f.leaf(1) if i in gone else term for i, term in enumerate(dims) if keepdim or i not in gone]
    for value in values(out):
        f.give(value, kept)
    return [dims[i] for i in gone]


def _dims_of(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, bool]:
    dim = kwargs.get("dim", kwargs.get("axis"))
    rest = [a for a in args if a is None or isinstance(a, (int, tuple, list))]
    if "dim" not in kwargs and "axis" not in kwargs and rest and not isinstance(rest[0], bool):
        dim = rest.pop(0)
    keep = kwargs.get("keepdim", next((a for a in rest if isinstance(a, bool)), False))
    return dim, bool(keep)


@rule(
    """sum mean amax amin prod logsumexp special_logsumexp nansum nanmean std var var_mean std_mean all any
    count_nonzero aminmax""",
    mixes=apart,
)
def reduction(f: Facts, out: Any, input: Value, *args: Any, **kwargs: Any) -> None:
    dim, keep = _dims_of(args, kwargs)
    if len(next(values(out)).shape) == len(input.shape) and len(input.shape) > 0:
        keep = True
    _reduced(f, out, f.dims(input), dim, keep)


@rule("norm linalg_vector_norm linalg_norm linalg_matrix_norm", mixes=apart)
def vector_norm(
    f: Facts, out: Any, input: Value, ord: Any = 2, dim: Any = None, keepdim: bool = False, **kw: Any
) -> None:
    keep = bool(keepdim) or len(next(values(out)).shape) == len(input.shape) > 0
    if dim is None and f.why.op == "linalg_matrix_norm":
        dim = (-2, -1)
    _reduced(f, out, f.dims(input), dim, keep)


@rule("norm_except_dim")
def norm_except(f: Facts, out: Value, input: Value, pow: int = 2, dim: int = 0) -> None:
    dims = f.dims(input)
    f.give(out, [term if i == dim % len(dims) else f.leaf(1) for i, term in enumerate(dims)] if dim != -1 else [])


@rule("argmax argmin", mixes=apart)
def position(f: Facts, out: Any, input: Value, *args: Any, **kwargs: Any) -> None:
    """Positions are numbers of units: what they count is fixed."""
    dim, keep = _dims_of(args, kwargs)
    for term in _reduced(f, out, f.dims(input), dim, keep):
        f.freeze(term, "the operation returns positions")


@rule("max min", mixes=apart)
def extremum(f: Facts, out: Any, input: Value, *args: Any, **kwargs: Any) -> None:
    """Of two tensors, of a whole tensor, or along a dimension (then with positions)."""
    if any(True for _ in values((args, kwargs))):
        f.give(out, f.broadcast([f.dims(value) for value in values((input, args, kwargs))]))
    elif args or kwargs:
        position(f, out, input, *args, **kwargs)
    else:
        f.give(out, [])


@rule("quantile nanquantile")
def quantile(
    f: Facts, out: Value, input: Value, q: Any, dim: int | None = None, keepdim: bool = False, **_: Any
) -> None:
    """Sorted inside, but what comes out does not depend on the order."""
    dims = f.dims(input)
    gone = range(len(dims)) if dim is None else [int(dim) % len(dims)]
    kept = [f.leaf(1) if i in gone else term for i, term in enumerate(dims) if keepdim or i not in gone]
    f.give(out, [*(f.dims(q) if isinstance(q, Value) else []), *kept])


@rule("dist")
def distance(f: Facts, out: Value, input: Value, other: Value, *_: Any, **__: Any) -> None:
    f.broadcast([f.dims(input), f.dims(other)])
    f.give(out, [])
