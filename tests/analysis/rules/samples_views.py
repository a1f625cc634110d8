"""Samples of rearrangements and of tensors made from sizes."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .harness import Sample, T

X = T((2, 3, 5))
Q = T((2, 30, 7))
_SIZED = "zeros ones empty rand randn"
_WINDOWS = "hann hamming blackman bartlett kaiser"


def shape_of(m: object, x: torch.Tensor) -> torch.Tensor:
    return x.reshape(x.shape[0], 3, m.heads, m.dim, x.shape[2])  # type: ignore[attr-defined]


SAMPLES = [
    Sample("reshape", shape_of, (Q,), (2, 2, 5, 7), {"heads": 2, "dim": 5}),
    Sample("reshape", lambda m, x: x.reshape(-1, x.shape[-1]), (X,), (2, 3, 5)),
    Sample("reshape", lambda m, x: x.reshape(2, -1), (X,), (3, 5)),
    Sample("reshape", lambda m, x: x.reshape(10, 3), (X,), ()),
    Sample("view", lambda m, x: x.view(x.shape[0], m.n, -1, 7), (Q,), (2, 2, 15), {"n": 2}),
    Sample("_unsafe_view", lambda m, x: torch.ops.aten._unsafe_view(x, (6, 5)), (X,), ()),
    Sample("view_as", lambda m, x, y: x.view_as(y), (X, T((2, 15))), (2, 3, 5)),
    Sample("reshape_as", lambda m, x, y: x.reshape_as(y), (X, T((6, 5))), (2, 3, 5)),
    Sample("flatten", lambda m, x: x.flatten(1), (X,), (2, 3, 5)),
    Sample("flatten", lambda m, x: x.flatten(0, 1), (X,), (2, 3, 5)),
    Sample("ravel", lambda m, x: x.ravel(), (X,), (2, 3, 5)),
    Sample("unflatten", lambda m, x: x.unflatten(1, (3, m.n, -1)), (Q,), (2, 2, 5, 7), {"n": 2}),
    Sample("unflatten", lambda m, x: x.unflatten(-2, (3, -1)), (Q,), (2, 7, 10)),
    Sample("permute", lambda m, x: x.permute(2, 0, 1), (X,), (2, 3, 5)),
    Sample("permute", lambda m, x: torch.permute(x, dims=(1, 0, 2)), (X,), (2, 3, 5)),
    Sample("transpose", lambda m, x: x.transpose(0, -1), (X,), (2, 3, 5)),
    Sample("transpose", lambda m, x: x.swapaxes(0, 1), (X,), (2, 3, 5)),
    Sample("T", lambda m, x: x.T, (T((3, 5)),), (3, 5)),
    Sample("H", lambda m, x: x.H, (T((3, 5)),), (3, 5)),
    Sample("t", lambda m, x: x.t(), (T((3, 5)),), (3, 5)),
    Sample("mT", lambda m, x: x.mT, (X,), (2, 3, 5)),
    Sample("mH", lambda m, x: x.mH, (X,), (2, 3, 5)),
    Sample("adjoint", lambda m, x: x.adjoint(), (X,), (2, 3, 5)),
    Sample("movedim", lambda m, x: x.movedim(0, -1), (X,), (2, 3, 5)),
    Sample("movedim", lambda m, x: x.moveaxis((0, 1), (2, 0)), (X,), (2, 3, 5)),
    Sample("squeeze", lambda m, x: x.squeeze(), (T((2, 1, 5, 1)),), (2, 5)),
    Sample("squeeze", lambda m, x: x.squeeze(1), (T((2, 1, 5, 1)),), (2, 5)),
    Sample("squeeze", lambda m, x: x.squeeze(0), (X,), (2, 3, 5)),
    Sample("squeeze", lambda m, x: torch.squeeze(x, dim=(1, 3)), (T((2, 1, 5, 1)),), (2, 5)),
    Sample("unsqueeze", lambda m, x: x.unsqueeze(-1), (X,), (2, 3, 5)),
    Sample("expand", lambda m, x: x.expand(m.n, -1, -1, 5), (T((2, 3, 1)),), (2, 3, 7), {"n": 7}),
    Sample("expand", lambda m, x, y: x.expand(y.shape), (T((3, 1)), X), (2, 3, 5)),
    Sample("broadcast_to", lambda m, x, y: torch.broadcast_to(x, y.shape), (T((3, 1)), X), (2, 3, 5)),
    Sample("expand_as", lambda m, x, y: x.expand_as(y), (T((3, 1)), X), (2, 3, 5)),
    Sample("repeat", lambda m, x: x.repeat(1, m.n, 1), (X,), (2, 3, 5, 7), {"n": 7}),
    Sample("repeat", lambda m, x: x.repeat(4, 1, 1, 2), (X,), (2, 3, 5)),
    Sample("tile", lambda m, x: x.tile(2), (X,), (2, 3, 5)),
    Sample("tile", lambda m, x: torch.tile(x, (4, 1, 1, 2)), (X,), (2, 3, 5)),
    Sample("repeat_interleave", lambda m, x: x.repeat_interleave(m.n, 1), (X,), (2, 3, 5, 7), {"n": 7}),
    Sample("repeat_interleave", lambda m, x: x.repeat_interleave(2), (X,), (2, 3, 5)),
    Sample("cat", lambda m, x, y: torch.cat([x, y], 1), (X, T((2, 7, 5))), (2, 3, 5, 7)),
    Sample("cat", lambda m, x: torch.cat([x, x], dim=-1), (X,), (2, 3, 5)),
    Sample("cat", lambda m, x, y: torch.concatenate((x, y), axis=1), (X, T((2, 7, 5))), (2, 3, 5, 7)),
    Sample("hstack", lambda m, x, y: torch.hstack([x, y]), (X, T((2, 7, 5))), (2, 3, 5, 7)),
    Sample("hstack", lambda m, x, y: torch.hstack([x, y]), (T((3,)), T((7,))), (3, 7)),
    Sample("vstack", lambda m, x, y: torch.vstack([x, y]), (T((2, 5)), T((7, 5))), (2, 5, 7)),
    Sample("row_stack", lambda m, x, y: torch.row_stack([x, y]), (T((5,)), T((7, 5))), (5, 7)),
    Sample("dstack", lambda m, x, y: torch.dstack([x, y]), (T((2, 5, 3)), T((2, 5, 7))), (2, 3, 5, 7)),
    Sample("dstack", lambda m, x, y: torch.dstack([x, y]), (T((2, 5)), T((2, 5, 7))), (2, 5, 7)),
    Sample("column_stack", lambda m, x, y: torch.column_stack([x, y]), (T((2,)), T((2, 5))), (2, 5)),
    Sample("stack", lambda m, x, y: torch.stack([x, y], -1), (X, X), (2, 3, 5)),
    Sample("unbind", lambda m, x: x.unbind(1), (X,), (2, 5)),
    Sample("chunk", lambda m, x: x.chunk(2, 1), (T((2, 6, 5)),), (2, 3, 5)),
    Sample("chunk", lambda m, x: x.chunk(2, 1), (X,), (2, 5)),
    Sample("tensor_split", lambda m, x: x.tensor_split(3, dim=1), (T((2, 6, 5)),), (2, 2, 5)),
    Sample("tensor_split", lambda m, x: x.tensor_split((1, 3), dim=1), (T((2, 6, 5)),), (2, 3, 5)),
    Sample("split", lambda m, x: x.split(m.n, 1), (T((2, 6, 5)),), (2, 3, 5), {"n": 3}),
    Sample("split", lambda m, x: x.split(2, 1), (X,), (2, 5)),
    Sample("split", lambda m, x: x.split([m.a, m.b], dim=1), (T((2, 10, 5)),), (2, 3, 5, 7), {"a": 3, "b": 7}),
    Sample("split", lambda m, x: torch.split(x, split_size_or_sections=[1, 2], dim=1), (X,), (2, 5)),
    *(
        Sample(name, lambda m, x, n=name: getattr(torch, n)(x, 2), (T((4, 4, 4)),), (2, 4, 4))
        for name in ("hsplit", "vsplit", "dsplit")
    ),
    Sample("pad", lambda m, x: F.pad(x, (0, 0, 1, 2)), (X,), (2, 3, 5)),
    Sample("pad", lambda m, x: F.pad(x, (1, 1), mode="reflect"), (X,), (2, 3)),
    Sample("pad", lambda m, x: F.pad(x, (-1, 0)), (X,), (2, 3)),
    Sample("pixel_shuffle", lambda m, x: F.pixel_shuffle(x, 2), (T((2, 12, 5, 7)),), (2, 3, 5, 7)),
    Sample("pixel_unshuffle", lambda m, x: F.pixel_unshuffle(x, 2), (T((2, 3, 10, 14)),), (2, 3, 5, 7)),
    Sample(
        "channel_shuffle", lambda m, x: torch.channel_shuffle(x, m.n), (T((2, 15, 4, 4)),), (2, 3, 4, 4, 5), {"n": 3}
    ),
    Sample(
        "native_channel_shuffle", lambda m, x: torch.native_channel_shuffle(x, 3), (T((2, 15, 4, 4)),), (2, 4, 4, 5)
    ),
    Sample("view_as_real", lambda m, x: torch.view_as_real(x), (T((2, 3), kind=torch.complex128),), (2, 3)),
    Sample("view_as_complex", lambda m, x: torch.view_as_complex(x), (T((3, 5, 2)),), (3, 5)),
    Sample("atleast_1d", lambda m, x: torch.atleast_1d(x), (T(()),), ()),
    Sample("atleast_2d", lambda m, x: torch.atleast_2d(x), (T((5,)),), (5,)),
    Sample("atleast_3d", lambda m, x: torch.atleast_3d(x), (T((3, 5)),), (3, 5)),
    Sample("atleast_3d", lambda m, x: torch.atleast_3d(x), (T((5,)),), (5,)),
    # made from sizes
    *(
        Sample(
            name,
            lambda m, x, n=name: getattr(torch, n)(m.n, x.shape[1], 4) + x[:, :, :1],
            (T((7, 3, 5)),),
            (3, 4, 7),
            {"n": 7},
            exact=name in ("zeros", "ones"),
        )
        for name in _SIZED.split()
    ),
    Sample("full", lambda m, x: torch.full((m.n, x.shape[1]), 2.0), (X,), (2, 3, 5, 7), {"n": 7}),
    Sample("randint", lambda m, x: torch.randint(0, 9, (m.n, x.shape[1])), (X,), (2, 3, 5, 7), {"n": 7}, exact=False),
    Sample(
        "empty_strided", lambda m, x: torch.empty_strided((m.n, 3), (3, 1)), (X,), (2, 3, 5, 7), {"n": 7}, exact=False
    ),
    Sample("normal", lambda m, x: torch.normal(0.0, 1.0, (m.n, 3)), (X,), (2, 3, 5, 7), {"n": 7}, exact=False),
    *(
        Sample(
            f"new_{name}",
            lambda m, x, n=name: getattr(x, f"new_{n}")((m.n, x.shape[1])),
            (X,),
            (2, 3, 5, 7),
            {"n": 7},
            exact=name != "empty",
        )
        for name in ("zeros", "ones", "empty")
    ),
    Sample("new_full", lambda m, x: x.new_full((m.n, 3), 1.0), (X,), (2, 3, 5, 7), {"n": 7}),
    Sample(
        "new_empty_strided",
        lambda m, x: x.new_empty_strided((m.n, 3), (3, 1)),
        (X,),
        (2, 3, 5, 7),
        {"n": 7},
        exact=False,
    ),
    Sample("arange", lambda m, x: torch.arange(m.n) + x, (X,), (2, 3), {"n": 5}),
    Sample("arange", lambda m, x: torch.arange(0, x.shape[-1]) + x, (X,), (2, 3)),
    Sample("linspace", lambda m, x: torch.linspace(0, 1, 5) + x, (X,), (2, 3)),
    Sample("logspace", lambda m, x: torch.logspace(0, 1, 5) + x, (X,), (2, 3)),
    Sample("eye", lambda m, x: torch.eye(5) + x[:, :1], (T((3, 7, 5)),), (3, 6)),
    Sample("tensor", lambda m, x: torch.tensor([1.0, 2, 3, 4, 5]) + x, (X,), (2, 3)),
    Sample("scalar_tensor", lambda m, x: torch.scalar_tensor(2.0) + x, (X,), (2, 3, 5)),
    Sample("as_tensor", lambda m, x: torch.as_tensor([1.0, 2, 3, 4, 5]) + x, (X,), (2, 3)),
    Sample("asarray", lambda m, x: torch.asarray([1.0, 2, 3, 4, 5]) + x, (X,), (2, 3)),
    Sample("new_tensor", lambda m, x: x.new_tensor([1.0, 2, 3, 4, 5]) + x, (X,), (2, 3)),
    Sample("randperm", lambda m, x: torch.randperm(5) + x, (X,), (2, 3), exact=False),
    Sample("tril_indices", lambda m, x: torch.tril_indices(3, 2)[0] + x, (X,), (2, 3)),
    Sample("triu_indices", lambda m, x: torch.triu_indices(2, 3)[0] + x, (X,), (2, 3)),
    Sample("fft_fftfreq", lambda m, x: torch.fft.fftfreq(5) + x, (X,), (2, 3)),
    Sample("fft_rfftfreq", lambda m, x: torch.fft.rfftfreq(8) + x, (X,), (2, 3)),
    *(
        Sample(f"{name}_window", lambda m, x, n=name: getattr(torch, f"{n}_window")(5) + x, (X,), (2, 3))
        for name in _WINDOWS.split()
    ),
    Sample("meshgrid", lambda m, x, y: torch.meshgrid(x, y, indexing="ij"), (T((3,)), T((5,))), (3, 5)),
    Sample("meshgrid", lambda m, x, y: torch.meshgrid(x, y, indexing="xy"), (T((3,)), T((5,))), (3, 5)),
]
