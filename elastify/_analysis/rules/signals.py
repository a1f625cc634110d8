"""Rules of operations along space and time: pooling, resampling, patches, Fourier transforms."""

from __future__ import annotations

from math import prod
from typing import Any

from elastify._analysis.facts import Facts, flat_sizes
from elastify._analysis.rules.ops import Mixed, every, rule
from elastify._ir import Value, values


def _space(rank: int) -> int:
    """How many dimensions of space a tensor has."""
    return 3 if rank == 5 else 1 if rank == 2 else rank - 2


def _over_space(input: Value, *_: Any, **__: Any) -> Mixed:
    return every(input, start=len(input.shape) - _space(len(input.shape)))


@rule(
    """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_pool1d_with_indices
    max_pool2d_with_indices max_pool3d_with_indices upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_bilinear2d upsample_linear1d upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    fractional_max_pool2d fractional_max_pool3d""",
    mixes=_over_space,
)
def resample(f: Facts, out: Any, input: Value, *_: Any, **__: Any) -> None:
    """Space in, space out; batch and channels pass through."""
    rank = len(input.shape)
    space = _space(rank)
    along = "pooled or resampled along it"
    for term in f.dims(input)[rank - space :]:
        f.freeze(term, along)
    for value in values(out):
        f.give(value, [*f.dims(input)[: rank - space], *(f.fixed(n, along) for n in value.shape[rank - space :])])


_FOURIER = "a Fourier transform runs along it"


@rule("stft", mixes=lambda input, *_, **__: [(input, -1)])
def stft(f: Facts, out: Value, input: Value, *_: Any, **__: Any) -> None:
    f.freeze(f.dims(input)[-1], _FOURIER)
    lead = f.dims(input)[:-1]
    f.give(out, [*lead, *(f.fixed(n, _FOURIER) for n in out.shape[len(lead) :])])


@rule("istft", mixes=lambda input, *_, **__: every(input, start=-2))
def istft(f: Facts, out: Value, input: Value, *_: Any, **__: Any) -> None:
    for term in f.dims(input)[-2:]:
        f.freeze(term, _FOURIER)
    lead = f.dims(input)[:-2]
    f.give(out, [*lead, *(f.fixed(n, _FOURIER) for n in out.shape[len(lead) :])])


@rule("max_unpool2d max_unpool3d")
def unpool(f: Facts, out: Value, input: Value, indices: Value, *_: Any, **__: Any) -> None:
    f.all_same(f.dims(indices), f.dims(input))
    resample(f, out, input)


@rule("grid_sampler")
def grid_sampler(f: Facts, out: Value, input: Value, grid: Value, *_: Any, **__: Any) -> None:
    """x [b, c, space], places [b, new space, coordinates] -> [b, c, new space]."""
    batch, channels, *space = f.dims(input)
    for term in (*space, *f.dims(grid)[1:]):
        f.freeze(term, "sampled by coordinates")
    f.same(batch, f.dims(grid)[0])
    f.give(out, [batch, channels, *f.dims(grid)[1:-1]])


@rule("roi_align roi_pool")
def regions(f: Facts, out: Any, input: Value, rois: Value, *_: Any, **__: Any) -> None:
    """x [b, c, space], boxes [k, 5] -> [k, c, pooled space]; `roi_pool` also returns where each maximum was."""
    batch, channels, *space = f.dims(input)
    for term in (batch, *space, *f.dims(rois)):
        f.freeze(term, "cut out by coordinates")
    for value in values(out):
        f.give(value, [f.dims(rois)[0], channels, *(f.fixed(n) for n in value.shape[2:])])


@rule("affine_grid_generator")
def affine_grid(f: Facts, out: Value, theta: Value, size: Any, *_: Any, **__: Any) -> None:
    batch, *matrix = f.dims(theta)
    f.require(size[0], batch)
    for term in matrix:
        f.freeze(term, "coordinates")
    f.give(out, [batch, *(f.fixed(n) for n in out.shape[1:])])


@rule("im2col")
def im2col(f: Facts, out: Value, input: Value, kernel_size: Any, *_: Any, **__: Any) -> None:
    """Channels times taps, one column per place."""
    *lead, channels, height, width = f.dims(input)
    for term in (height, width):
        f.freeze(term, "cut into patches")
    f.give(out, [*lead, f.product(channels, _taps(f, kernel_size)), f.fixed(out.shape[-1])])


@rule("col2im")
def col2im(f: Facts, out: Value, input: Value, size: Any, kernel_size: Any, *_: Any, **__: Any) -> None:
    *lead, columns, places = f.dims(input)
    f.freeze(places, "put together from patches")
    channels = f.leaf(out.shape[-3])
    f.same(columns, f.product(channels, _taps(f, kernel_size)))
    f.give(out, [*lead, channels, f.fixed(out.shape[-2]), f.fixed(out.shape[-1])])


def _taps(f: Facts, kernel_size: Any) -> Any:
    sizes = flat_sizes([kernel_size])
    return f.fixed(prod(map(int, sizes * 2 if len(sizes) == 1 else sizes)), "the taps of a patch")


@rule("unfold")
def unfold(f: Facts, out: Value, input: Value, dimension: int, *_: Any, **__: Any) -> None:
    """Windows along a dimension; the places inside a window come last."""
    dims = list(f.dims(input))
    f.freeze(dims[dimension], "cut into windows")
    dims[dimension] = f.fixed(out.shape[dimension % len(dims)])
    f.give(out, [*dims, f.fixed(out.shape[-1])])


@rule(
    """fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_hfft2
    fft_ihfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_hfftn fft_ihfftn fft_fftshift fft_ifftshift"""
)
def fourier(f: Facts, out: Value, input: Value, s: Any = None, dim: Any = (), *_: Any, **kwargs: Any) -> None:
    dims = list(f.dims(input))
    if "shift" in f.why.op:
        s, dim = None, dim or s or None
    if dim == ():
        kind = f.why.op[-1]
        dim = (-2, -1) if kind == "2" else None if kind == "n" else -1
    if dim is None:
        dim = range(-len(flat_sizes([s])), 0) if s is not None else range(len(dims))
    for i in flat_sizes([dim]) if not isinstance(dim, range) else dim:
        f.freeze(dims[int(i)], _FOURIER)
        dims[int(i)] = f.fixed(out.shape[int(i)], _FOURIER)
    f.give(out, dims)
