"""Rules of normalisations, reductions, pooling and resampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elastify._graph import Value, values
from elastify._rules._facts import Facts, flat_sizes, rule
from elastify._terms import Term


def _vectors(f: Facts, channels: Term, *tensors: Any) -> None:
    for tensor in values(tensors):
        f.same(f.dims(tensor)[0], channels)


@rule("batch_norm")
def batch_norm(f: Facts, out: Value, input: Value, *args: Any, **kwargs: Any) -> None:
    vectors = [v for v in values((args, kwargs)) if len(v.shape) == 1]
    _vectors(f, f.dims(input)[1], *vectors)
    f.give(out, f.dims(input))


@rule("instance_norm")
def instance_norm(f: Facts, out: Value, input: Value, *args: Any, **kwargs: Any) -> None:
    for term in f.dims(input)[2:]:
        f.freeze(term, "normalised over space")
    batch_norm(f, out, input, *args, **kwargs)


@rule("group_norm")
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


@rule("layer_norm rms_norm")
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


@rule("sum mean amax amin prod logsumexp nansum nanmean std var var_mean std_mean all any count_nonzero aminmax")
def reduction(f: Facts, out: Any, input: Value, *args: Any, **kwargs: Any) -> None:
    dim, keep = _dims_of(args, kwargs)
    if len(next(values(out)).shape) == len(input.shape) and len(input.shape) > 0:
        keep = True
    _reduced(f, out, f.dims(input), dim, keep)


@rule("norm linalg_vector_norm vector_norm linalg_norm")
def vector_norm(
    f: Facts, out: Any, input: Value, ord: Any = 2, dim: Any = None, keepdim: bool = False, **kw: Any
) -> None:
    keep = bool(keepdim) or len(next(values(out)).shape) == len(input.shape) > 0
    _reduced(f, out, f.dims(input), dim, keep)


@rule("_ordered_reduction argmax argmin")
def ordered_reduction(f: Facts, out: Any, input: Value, *args: Any, **kwargs: Any) -> None:
    """max(dim) and argmax return positions, so the reduced dimension is fixed."""
    dim, keep = _dims_of(args, kwargs)
    for term in _reduced(f, out, f.dims(input), dim, keep) if dim is not None else ():
        f.freeze(term, "the operation returns positions")
    if dim is None:
        _reduced(f, out, f.dims(input), None, False)


@rule(
    """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_bilinear2d upsample_linear1d upsample_bicubic2d upsample_trilinear3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    fractional_max_pool2d replication_pad1d reflection_pad1d"""
)
def resample(f: Facts, out: Any, input: Value, *_: Any, **__: Any) -> None:
    """Space in, space out; batch and channels pass through."""
    rank = len(input.shape)
    space = 3 if rank == 5 else 1 if rank == 2 else rank - 2
    for term in f.dims(input)[rank - space :]:
        f.freeze(term, "pooled or resampled along it")
    for value in values(out):
        f.give(value, [*f.dims(input)[: rank - space], *(f.fixed(n) for n in value.shape[rank - space :])])


@rule("stft")
def stft(f: Facts, out: Value, input: Value, *_: Any, **__: Any) -> None:
    f.freeze(f.dims(input)[-1], "a Fourier transform runs along it")
    lead = f.dims(input)[:-1]
    f.give(out, [*lead, *(f.fixed(n) for n in out.shape[len(lead) :])])


@rule("istft")
def istft(f: Facts, out: Value, input: Value, *_: Any, **__: Any) -> None:
    for term in f.dims(input)[-2:]:
        f.freeze(term, "a Fourier transform runs along it")
    lead = f.dims(input)[:-2]
    f.give(out, [*lead, *(f.fixed(n) for n in out.shape[len(lead) :])])
