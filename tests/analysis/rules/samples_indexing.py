"""Samples of indexing, gathering, scattering and ranking."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .harness import Sample, T

X = T((2, 3, 5))
W = T((2, 10, 5))
N = {"n": 3}


def written(index: object) -> object:
    def call(m: object, x: Tensor, y: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        z[index] = y
        return z

    return call


SAMPLES = [
    Sample("getitem", lambda m, x: x[:, 1], (X,), (2, 5)),
    Sample("getitem", lambda m, x: x[..., None, 0], (X,), (2, 3)),
    Sample("getitem", lambda m, x: x[:, : m.n], (W,), (2, 3, 5, 7), N),
    Sample("getitem", lambda m, x: x[:, m.n :], (W,), (2, 3, 5, 7), N),
    Sample("getitem", lambda m, x: x[:, m.n : m.n + m.k], (W,), (2, 2, 3, 5, 5), {"n": 3, "k": 2}),
    Sample("getitem", lambda m, x: x[:, :3], (W,), (2, 5, 7)),
    Sample("getitem", lambda m, x: x[:, -3:], (W,), (2, 5, 7)),
    Sample("getitem", lambda m, x: x[:, ::2], (W,), (2, 5, 5)),
    Sample("getitem", lambda m, x: x[:, 1::2], (W,), (2, 5, 5)),
    Sample("getitem", lambda m, x: x[:, ::3], (W,), (2, 5)),
    Sample("getitem", lambda m, x, i: x[:, i], (X, T((7,), below=3)), (2, 5, 7)),
    Sample("getitem", lambda m, x, i: x[i, :, i], (X, T((7,), below=2)), (3, 7)),
    Sample("getitem", lambda m, x, i, j: x[i, j], (X, T((7, 1), below=2), T((3,), below=3)), (3, 5, 7)),
    Sample("getitem", lambda m, x: x[:, [0, 2]], (X,), (2, 5)),
    Sample("getitem", lambda m, x, k: x[:, k], (T((2, 3, 5)), T((3,), kind=torch.bool)), (2, 5)),
    Sample("getitem", lambda m, x: x[None, ..., 0], (X,), (2, 3)),
    Sample("setitem", written((slice(None), slice(None), slice(None))), (X, T((3, 1))), (2, 3, 5)),
    Sample("setitem", written((slice(None), 0)), (X, T((2, 5))), (2, 5)),
    Sample("setitem", written((slice(None), slice(0, 2))), (X, T((2, 2, 5))), (2, 5)),
    Sample("setitem", written((Ellipsis, [0, 1])), (X, T((2, 3, 2))), (2, 3)),
    Sample("select", lambda m, x: x.select(1, 2), (X,), (2, 5)),
    Sample("slice", lambda m, x: torch.ops.aten.slice(x, 1, 0, 2), (X,), (2, 5)),
    Sample("narrow", lambda m, x: x.narrow(1, 0, m.n), (W,), (2, 3, 5, 7), N),
    Sample("narrow", lambda m, x: x.narrow(1, 2, 2), (W,), (2, 5, 6)),
    Sample("index_select", lambda m, x, i: x.index_select(1, i), (X, T((7,), below=3)), (2, 5, 7)),
    Sample("gather", lambda m, x, i: x.gather(1, i), (X, T((2, 7, 5), below=3)), (2, 5, 7)),
    Sample("gather", lambda m, x, i: x.gather(1, i), (X, T((2, 7, 4), below=3)), (2, 7)),
    Sample("take_along_dim", lambda m, x, i: torch.take_along_dim(x, i, dim=1), (X, T((2, 7, 5), below=3)), (2, 5, 7)),
    Sample("take", lambda m, x, i: torch.take(x, i), (X, T((7, 2), below=9)), (2, 7)),
    Sample("masked_select", lambda m, x: x.masked_select(x > 9), (X,), (), exact=False),
    Sample("scatter", lambda m, x, i, y: x.scatter(1, i, y), (X, T((2, 1, 5), below=3), T((2, 1, 5))), (2, 5)),
    Sample("scatter", lambda m, x, i: x.scatter(1, i, 1.0), (X, T((2, 1, 5), below=3)), (2, 5)),
    Sample(
        "scatter_add", lambda m, x, i, y: x.scatter_add(1, i, y), (X, T((2, 7, 5), below=3), T((2, 7, 5))), (2, 5, 7)
    ),
    Sample(
        "scatter_reduce",
        lambda m, x, i, y: x.scatter_reduce(1, i, y, "amax"),
        (X, T((2, 7, 5), below=3), T((2, 7, 5))),
        (2, 5, 7),
    ),
    Sample("scatter_add", lambda m, x, i, y: x.scatter_add(1, i, y), (X, T((2, 7, 4), below=3), T((2, 7, 5))), (2, 7)),
    Sample("index_add", lambda m, x, i, y: x.index_add(1, i, y), (X, T((7,), below=3), T((2, 7, 5))), (2, 5, 7)),
    Sample("index_copy", lambda m, x, i, y: x.index_copy(1, i, y), (X, T((1,), below=3), T((2, 1, 5))), (2, 5)),
    Sample("index_fill", lambda m, x, i: x.index_fill(1, i, 2.0), (X, T((7,), below=3)), (2, 5, 7)),
    Sample(
        "index_reduce",
        lambda m, x, i, y: x.index_reduce(1, i, y, "amax"),
        (X, T((7,), below=3), T((2, 7, 5))),
        (2, 5, 7),
    ),
    Sample("index_put", lambda m, x, i, y: x.index_put((i,), y), (X, T((1,), below=2), T((1, 3, 5))), (3, 5)),
    Sample(
        "index_put",
        lambda m, x, i, y: x.index_put((i,), y, accumulate=True),
        (X, T((7,), below=2), T((7, 3, 5))),
        (3, 5, 7),
    ),
    Sample("masked_scatter", lambda m, x, c, y: x.masked_scatter(c, y), (X, T((2, 3, 5), kind=torch.bool), X), ()),
    Sample(
        "masked_scatter",
        lambda m, x, c, y: x.masked_scatter(c.unsqueeze(-1).expand_as(x), y),
        (X, T((2, 3), kind=torch.bool), T((7, 5))),
        (5,),
    ),
    Sample("select_scatter", lambda m, x, y: x.select_scatter(y, 1, 0), (X, T((2, 5))), (2, 5)),
    Sample("slice_scatter", lambda m, x, y: x.slice_scatter(y, 1, 0, 2), (X, T((2, 2, 5))), (2, 5)),
    Sample("topk", lambda m, x: x.topk(2, 1), (X,), (2, 5)),
    Sample("topk", lambda m, x: torch.topk(x, k=2, dim=1, sorted=False), (X,), (2, 5)),
    Sample("topk", lambda m, x: x.topk(2), (X,), (2, 3)),
    Sample("sort", lambda m, x: x.sort(1), (X,), (2, 5)),
    Sample("sort", lambda m, x: torch.sort(x, dim=1, descending=True), (X,), (2, 5)),
    Sample("sort", lambda m, x: x.sort(descending=True), (X,), (2, 3)),
    Sample("msort", lambda m, x: x.msort(), (X,), (3, 5)),
    Sample("argsort", lambda m, x: x.argsort(1), (X,), (2, 5)),
    Sample("argsort", lambda m, x: x.argsort(1, True), (X,), (2, 5)),
    Sample("kthvalue", lambda m, x: x.kthvalue(2, 1), (X,), (2, 5)),
    Sample("mode", lambda m, x: x.mode(1), (X,), (2, 5)),
    Sample("median", lambda m, x: x.median(1), (X,), (2, 5)),
    Sample("median", lambda m, x: x.median(), (X,), (2, 3, 5)),
    Sample("nanmedian", lambda m, x: x.nanmedian(1, keepdim=True), (X,), (2, 5)),
    Sample("one_hot", lambda m, i: F.one_hot(i, 7), (T((2, 3), below=7),), (2, 3)),
    Sample("isin", lambda m, i, e: torch.isin(i, e), (T((2, 3), below=7), T((5,), below=7)), (2, 3, 5)),
    Sample("bucketize", lambda m, x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])), (X,), (2, 3, 5)),
    Sample("searchsorted", lambda m, s, x: torch.searchsorted(s.sort()[0], x), (T((2, 7)), T((2, 5))), ()),
    Sample("bincount", lambda m, i: torch.bincount(i, minlength=9), (T((7,), below=5),), (), exact=False),
    Sample("histc", lambda m, x: torch.histc(x, 4), (X,), ()),
    Sample("multinomial", lambda m, x: torch.multinomial(x.abs(), 2), (T((3, 5)),), (3,), exact=False),
    Sample("nonzero", lambda m, x: torch.nonzero(x > 9), (X,), (), exact=False),
    Sample("_unique2", lambda m, i: torch.unique(i), (T((7,), below=3),), (), exact=False),
    Sample("unique_consecutive", lambda m, i: torch.unique_consecutive(i), (T((7,), below=3),), (), exact=False),
    Sample("item", lambda m, i: torch.zeros(i.amax().item()), (T((7,), below=3),), (), exact=False),
    Sample("tolist", lambda m, i: torch.zeros(i.tolist()), (T((3,), below=5),), (), exact=False),
    Sample("argwhere", lambda m, x: torch.argwhere(x > 9), (X,), (), exact=False),
    Sample("histogram", lambda m, x: torch.histogram(x, 4), (X,), ()),
    Sample("cartesian_prod", lambda m, x, y: torch.cartesian_prod(x, y), (T((3,)), T((5,))), (3, 5)),
    Sample("as_strided", lambda m, x: x.as_strided((2, 2), (5, 1)), (X,), ()),
]
