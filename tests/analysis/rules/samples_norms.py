"""Samples of normalisations and reductions."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .harness import Sample, T

X = T((2, 3, 5))
V = T((3,))
_PLAIN = "sum mean amax amin logsumexp nansum nanmean std var all any"

SAMPLES = [
    Sample("batch_norm", lambda m, x, a, b, w, c: F.batch_norm(x, a, b.abs() + 1, w, c), (X, V, V, V, V), (2, 3, 5)),
    Sample("batch_norm", lambda m, x, a, b: F.batch_norm(x, a, b.abs() + 1), (X, V, V), (2, 3, 5)),
    Sample("batch_norm", lambda m, x, w, c: F.batch_norm(x, None, None, w, c, True), (X, V, V), (2, 3, 5)),
    Sample("instance_norm", lambda m, x, w, c: F.instance_norm(x, weight=w, bias=c), (X, V, V), (2, 3)),
    Sample(
        "group_norm",
        lambda m, x, w, c: F.group_norm(x, m.n, w, c),
        (T((2, 15, 7)), T((15,)), T((15,))),
        (2, 3, 5, 7),
        {"n": 3},
    ),
    Sample("group_norm", lambda m, x, w, c: F.group_norm(x, 1, w, c), (X, V, V), (2, 3, 5)),
    Sample("group_norm", lambda m, x, w, c: F.group_norm(x, 3, w, c), (T((2, 15, 7)), T((15,)), T((15,))), (2, 5, 7)),
    Sample(
        "layer_norm",
        lambda m, x, w, b: F.layer_norm(x, m.shape, w, b),
        (X, T((3, 5)), T((3, 5))),
        (2, 3, 5),
        {"shape": (3, 5)},
    ),
    Sample("layer_norm", lambda m, x, w: F.layer_norm(x, w.shape, w), (X, T((5,))), (2, 3, 5)),
    Sample("layer_norm", lambda m, x: F.layer_norm(x, (5,)), (X,), (2, 3)),
    Sample("rms_norm", lambda m, x, w: F.rms_norm(x, (x.shape[-1],), w), (X, T((5,))), (2, 3, 5)),
    *(Sample(name, lambda m, x, n=name: getattr(torch, n)(x, dim=1), (X,), (2, 3, 5)) for name in _PLAIN.split()),
    *(
        Sample(name, lambda m, x, n=name: getattr(torch, n)(x, 1, keepdim=True), (X,), (2, 3, 5))
        for name in _PLAIN.split()
    ),
    Sample("sum", lambda m, x: x.sum(), (X,), (2, 3, 5)),
    Sample("sum", lambda m, x: x.sum((0, -1)), (X,), (2, 3, 5)),
    Sample("mean", lambda m, x: x.mean([1, 2], True), (X,), (2, 3, 5)),
    Sample("special_logsumexp", lambda m, x: torch.special.logsumexp(x, 1), (X,), (2, 3, 5)),
    Sample("prod", lambda m, x: x.prod(1), (X,), (2, 3, 5)),
    Sample("prod", lambda m, x: x.prod(), (X,), (2, 3, 5)),
    Sample("var_mean", lambda m, x: torch.var_mean(x, 1), (X,), (2, 3, 5)),
    Sample("var_mean", lambda m, x: torch.var_mean(x, (0, 2), keepdim=True), (X,), (2, 3, 5)),
    Sample("std_mean", lambda m, x: torch.std_mean(x, dim=-1, keepdim=True), (X,), (2, 3, 5)),
    Sample("std", lambda m, x: torch.std(x, 2, False), (X,), (2, 3, 5)),
    Sample("std", lambda m, x: torch.std(x, False), (X,), (2, 3, 5)),
    Sample("count_nonzero", lambda m, x: torch.count_nonzero(x, 1), (X,), (2, 3, 5)),
    Sample("aminmax", lambda m, x: torch.aminmax(x, dim=1, keepdim=True), (X,), (2, 3, 5)),
    Sample("norm", lambda m, x: torch.ops.aten.norm(x, 2), (X,), (2, 3, 5)),
    Sample("linalg_vector_norm", lambda m, x: torch.linalg.vector_norm(x, 3, 1), (X,), (2, 3, 5)),
    Sample("linalg_vector_norm", lambda m, x: x.norm(p=2, dim=(1, 2), keepdim=True), (X,), (2, 3, 5)),
    Sample("linalg_vector_norm", lambda m, x: F.normalize(x), (X,), (2, 3, 5)),
    Sample("linalg_norm", lambda m, x: torch.linalg.norm(x, dim=-1), (X,), (2, 3, 5)),
    Sample("linalg_norm", lambda m, x: torch.linalg.norm(x, "nuc", (1, 2)), (X,), (2, 3, 5)),
    Sample("linalg_matrix_norm", lambda m, x: torch.linalg.matrix_norm(x), (X,), (2, 3, 5)),
    Sample("norm_except_dim", lambda m, x: torch.norm_except_dim(x, 2, 0), (X,), (2, 3, 5)),
    Sample("dist", lambda m, x, y: torch.dist(x, y), (X, X), (2, 3, 5)),
    Sample("quantile", lambda m, x: torch.quantile(x, 0.3, 1), (X,), (2, 3, 5)),
    Sample("quantile", lambda m, x, q: torch.quantile(x, q.sigmoid(), 1, True), (X, T((7,))), (2, 3, 5, 7)),
    Sample("nanquantile", lambda m, x: torch.nanquantile(x, 0.3), (X,), (2, 3, 5)),
    Sample("max", lambda m, x: x.max(), (X,), (2, 3, 5)),
    Sample("max", lambda m, x: x.max(1), (X,), (2, 5)),
    Sample("max", lambda m, x, y: torch.max(x, y), (X, T((3, 5))), (2, 3, 5)),
    Sample("min", lambda m, x: x.min(dim=-1, keepdim=True), (X,), (2, 3)),
    Sample("argmax", lambda m, x: x.argmax(), (X,), ()),
    Sample("argmax", lambda m, x: x.argmax(1), (X,), (2, 5)),
    Sample("argmin", lambda m, x: x.argmin(-1, keepdim=True), (X,), (2, 3)),
]
