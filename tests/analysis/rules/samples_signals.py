"""Samples of operations along space and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torchvision import ops

from .harness import Sample, T

S1, S2, S3 = T((2, 3, 8)), T((2, 3, 8, 8)), T((2, 3, 4, 4, 4))
_UP = {
    "upsample_nearest1d": ("nearest", S1),
    "upsample_nearest2d": ("nearest", S2),
    "upsample_nearest3d": ("nearest", S3),
    "upsample_linear1d": ("linear", S1),
    "upsample_bilinear2d": ("bilinear", S2),
    "upsample_bicubic2d": ("bicubic", S2),
    "upsample_trilinear3d": ("trilinear", S3),
    "_upsample_nearest_exact1d": ("nearest-exact", S1),
    "_upsample_nearest_exact2d": ("nearest-exact", S2),
    "_upsample_nearest_exact3d": ("nearest-exact", S3),
}


def fractional(m: object, x: torch.Tensor) -> torch.Tensor:
    samples = torch.full((*x.shape[:2], len(x.shape) - 2), 0.3, dtype=x.dtype)
    pool = F.fractional_max_pool2d if len(x.shape) == 4 else F.fractional_max_pool3d
    return pool(x, 2, 2, _random_samples=samples)


def unpooled(m: object, x: torch.Tensor) -> torch.Tensor:
    two = len(x.shape) == 4
    values, places = (F.max_pool2d if two else F.max_pool3d)(x, 2, return_indices=True)
    return (F.max_unpool2d if two else F.max_unpool3d)(values, places, 2)


def spectrum(m: object, x: torch.Tensor) -> torch.Tensor:
    return torch.stft(x, 4, 2, window=torch.ones(4, dtype=x.dtype), return_complex=True)


def there_and_back(m: object, x: torch.Tensor) -> torch.Tensor:
    window = torch.hann_window(4, dtype=x.dtype) + 0.1
    return torch.istft(torch.stft(x, 4, 2, window=window, return_complex=True), 4, 2, window=window)


def boxed(pool: Callable[..., Any]) -> Callable[[object, torch.Tensor], Any]:
    boxes = torch.tensor([[0.0, 1, 1, 5, 6], [1, 0, 2, 7, 7], [1, 2, 0, 4, 5], [0, 0, 0, 3, 3], [1, 1, 1, 6, 7]])
    return lambda m, x: pool(x, boxes.to(x.dtype), 2)


def kept_boxes(m: object, x: torch.Tensor) -> torch.Tensor:
    corners = x.abs()
    return ops.nms(torch.cat([corners, corners + 1], 1), corners[:, 0], 0.3)


SAMPLES = [
    Sample("roi_align", boxed(ops.roi_align), (S2,), (3,)),
    Sample("roi_pool", boxed(ops.roi_pool), (S2,), (3,)),
    Sample("nms", kept_boxes, (T((7, 2)),), ()),
    *(
        Sample(f"{kind}_pool{i}d", lambda m, x, n=f"{kind}_pool{i}d": getattr(F, n)(x, 2), (s,), (2, 3))
        for kind in ("max", "avg", "adaptive_avg", "adaptive_max")
        for i, s in ((1, S1), (2, S2), (3, S3))
    ),
    *(
        Sample(
            f"max_pool{i}d_with_indices",
            lambda m, x, n=f"max_pool{i}d": getattr(F, n)(x, 2, return_indices=True),
            (s,),
            (2, 3),
        )
        for i, s in ((1, S1), (2, S2), (3, S3))
    ),
    Sample("avg_pool1d", lambda m, x: F.avg_pool1d(x, 2), (T((3, 8)),), (3,)),
    *(
        Sample(op, lambda m, x, mode=mode: F.interpolate(x, scale_factor=2, mode=mode), (s,), (2, 3))
        for op, (mode, s) in _UP.items()
    ),
    *(
        Sample(
            f"_upsample_{mode}2d_aa",
            lambda m, x, n=mode: F.interpolate(x, size=(3, 3), mode=n, antialias=True),
            (S2,),
            (2, 3),
        )
        for mode in ("bilinear", "bicubic")
    ),
    Sample("fractional_max_pool2d", fractional, (S2,), (2, 3)),
    Sample("fractional_max_pool3d", fractional, (S3,), (2, 3)),
    Sample("max_unpool2d", unpooled, (S2,), (2, 3)),
    Sample("max_unpool3d", unpooled, (S3,), (2, 3)),
    Sample("grid_sampler", lambda m, x, g: F.grid_sample(x, g.tanh()), (S2, T((2, 5, 7, 2))), (2, 3)),
    Sample("affine_grid_generator", lambda m, t: F.affine_grid(t, [t.shape[0], 3, 5, 5]), (T((7, 2, 3)),), (7,)),
    Sample("im2col", lambda m, x: F.unfold(x, (2, 3)), (S2,), (2, 3)),
    Sample("im2col", lambda m, x: F.unfold(x, 2), (S2,), (2, 3)),
    Sample("col2im", lambda m, x: F.fold(x, (4, 4), 2), (T((2, 12, 9)),), (2, 3)),
    Sample("unfold", lambda m, x: x.unfold(2, 3, 2), (T((2, 5, 7)),), (2, 5)),
    Sample("unfold", lambda m, x: x.unfold(0, 3, 2), (T((7, 5)),), (5,)),
    Sample("stft", spectrum, (T((3, 16)),), (3,)),
    Sample("istft", there_and_back, (T((3, 16)),), (3,)),
    *(
        Sample(f"fft_{n}", lambda m, x, n=n: getattr(torch.fft, n)(x), (T((3, 5, 8)),), (3, 5))
        for n in "fft ifft rfft irfft hfft ihfft".split()
    ),
    *(
        Sample(f"fft_{n}", lambda m, x, n=n: getattr(torch.fft, n)(x), (T((3, 5, 8)),), (3,))
        for n in "fft2 ifft2 rfft2 irfft2 hfft2 ihfft2".split()
    ),
    *(
        Sample(f"fft_{n}", lambda m, x, n=n: getattr(torch.fft, n)(x, dim=(1, 2)), (T((3, 5, 8)),), (3,))
        for n in "fftn ifftn rfftn irfftn hfftn ihfftn fftshift ifftshift".split()
    ),
    Sample("fft_rfft", lambda m, x: torch.fft.rfft(x, 6, 1), (T((3, 8, 5)),), (3, 5)),
    Sample("fft_fftn", lambda m, x: torch.fft.fftn(x), (T((3, 8, 5)),), ()),
    Sample("fft_fftn", lambda m, x: torch.fft.fftn(x, (4,)), (T((3, 8, 5)),), (3, 8)),
    Sample("fft_fftshift", lambda m, x: torch.fft.fftshift(x), (T((3, 8, 5)),), ()),
]
