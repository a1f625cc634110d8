"""Samples of products: linear, convolution, matmul, einsum, attention, recurrence, matrices."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .harness import Sample, T


def rnn(kind: str, gates: int, *, both: bool = False, layers: int = 1, bias: bool = True, project: int = 0) -> Sample:
    """A recurrent layer called through its kernel: input 5, hidden 3."""
    hidden = 7 if project else 3
    out = project or hidden
    weights, width = [], 5
    for _ in range(layers):
        for _ in range(1 + both):
            weights += [T((gates * hidden, width)), T((gates * hidden, out))]
            weights += [T((gates * hidden,))] * 2 * bias + [T((project, hidden))] * bool(project)
        width = out * (1 + both)
    states = [T((layers * (1 + both), 2, out))] + [T((layers * (1 + both), 2, hidden))] * (kind == "lstm")

    def call(m: object, x: torch.Tensor, *rest: torch.Tensor) -> object:
        state = rest[: len(states)] if kind == "lstm" else rest[0]
        return getattr(torch, kind)(x, state, rest[len(states) :], bias, layers, 0.0, False, both, True)

    free = (2, 3, 5) if not project else (2, 2, 5, 7)
    return Sample(kind, call, (T((2, 7, 5)), *states, *weights), free)


def cell(kind: str, gates: int) -> Sample:
    def call(m: object, x: torch.Tensor, *rest: torch.Tensor) -> object:
        states, weights = (rest[:2], rest[2:]) if kind == "lstm_cell" else (rest[0], rest[1:])
        return getattr(torch, kind)(x, states, *weights)

    states = [T((2, 3))] * (1 + (kind == "lstm_cell"))
    weights = [T((gates * 3, 5)), T((gates * 3, 3)), T((gates * 3,)), T((gates * 3,))]
    return Sample(kind, call, (T((2, 5)), *states, *weights), (2, 3, 5))


def packed(m: object, x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
    sequence = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([7, 4]), batch_first=True)
    zeros = torch.zeros(1, 2, weights[1].shape[1], dtype=x.dtype)
    data, state = torch.gru(sequence.data, sequence.batch_sizes, zeros, weights, True, 1, 0.0, False, False)
    unpacked = nn.utils.rnn.PackedSequence(data, sequence.batch_sizes)
    return nn.utils.rnn.pad_packed_sequence(unpacked, batch_first=True)[0].sum(1) + state[0]


def convolution(transposed: bool) -> Sample:
    """Two groups of three channels in and five out."""

    def call(m: object, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.convolution(x, w, None, [2], [1], [1], transposed, [0], 2)

    return Sample("convolution", call, (T((2, 6, 7)), T((6, 5, 3)) if transposed else T((10, 3, 3))), (2, 3, 5))


def conv(name: str, space: tuple[int, ...], groups: int = 1, *, attribute: bool = False) -> Sample:
    taps = (3,) * len(space)
    function = getattr(F, name)
    attributes = {"groups": groups} if attribute else {}

    def call(m: object, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return function(x, w, b, groups=m.groups if attribute else groups)  # type: ignore[attr-defined]

    if name.startswith("conv_transpose"):
        tensors = (T((2, 5 * groups, *space)), T((5 * groups, 3, *taps)), T((3 * groups,)))
    else:
        tensors = (T((2, 5 * groups, *space)), T((3 * groups, 5, *taps)), T((3 * groups,)))
    return Sample(name, call, tensors, (2, 3, 5, *([groups] if attribute else [])), attributes)


SAMPLES = [
    Sample("linear", lambda m, x, w, b: F.linear(x, w, b), (T((2, 3, 5)), T((7, 5)), T((7,))), (2, 3, 5, 7)),
    Sample("linear", lambda m, x, w: F.linear(x, w), (T((5,)), T((7, 5))), (5, 7)),
    Sample("linear", lambda m, x, w: F.linear(x, w), (T((3, 5)), T((5,))), (3, 5)),
    Sample(
        "linear", lambda m, x, w, b: F.linear(bias=b, weight=w, input=x), (T((3, 7)), T((7, 7)), T((7,))), (3, 7, 7)
    ),
    Sample(
        "bilinear",
        lambda m, x, y, w, b: F.bilinear(x, y, w, b),
        (T((2, 3)), T((2, 5)), T((7, 3, 5)), T((7,))),
        (2, 3, 5, 7),
    ),
    Sample("bmm", lambda m, x, y: x.bmm(y), (T((2, 3, 5)), T((2, 5, 7))), (2, 3, 5, 7)),
    Sample("mm", lambda m, x, y: x.mm(y), (T((3, 5)), T((5, 7))), (3, 5, 7)),
    Sample("mv", lambda m, x, y: x.mv(y), (T((3, 5)), T((5,))), (3, 5)),
    Sample("outer", lambda m, x, y: torch.outer(x, y), (T((3,)), T((5,))), (3, 5)),
    Sample("ger", lambda m, x, y: torch.ger(x, y), (T((3,)), T((5,))), (3, 5)),
    Sample("dot", lambda m, x, y: x.dot(y), (T((5,)), T((5,))), (5,)),
    Sample("vdot", lambda m, x, y: torch.vdot(x, y), (T((5,)), T((5,))), (5,)),
    Sample("inner", lambda m, x, y: torch.inner(x, y), (T((2, 5)), T((3, 5))), (2, 3, 5)),
    Sample("addmm", lambda m, b, x, y: torch.addmm(b, x, y), (T((7,)), T((3, 5)), T((5, 7))), (3, 5, 7)),
    Sample("addmv", lambda m, b, x, y: torch.addmv(b, x, y), (T((3,)), T((3, 5)), T((5,))), (3, 5)),
    Sample("addr", lambda m, b, x, y: torch.addr(b, x, y), (T((3, 5)), T((3,)), T((5,))), (3, 5)),
    Sample(
        "baddbmm",
        lambda m, b, x, y: torch.baddbmm(b, x, y),
        (T((2, 1, 7)), T((2, 3, 5)), T((2, 5, 7))),
        (2, 3, 5, 7),
    ),
    Sample("addbmm", lambda m, b, x, y: torch.addbmm(b, x, y), (T((3, 7)), T((2, 3, 5)), T((2, 5, 7))), (2, 3, 5, 7)),
    Sample("matmul", lambda m, x, y: x @ y, (T((2, 3, 5)), T((5, 7))), (2, 3, 5, 7)),
    Sample("matmul", lambda m, x, y: x @ y, (T((2, 3, 5)), T((5,))), (2, 3, 5)),
    Sample("matmul", lambda m, x, y: x @ y, (T((5,)), T((2, 5, 3))), (2, 3, 5)),
    Sample("matmul", lambda m, x, y: x @ y, (T((1, 3, 5)), T((2, 5, 7))), (2, 3, 5, 7)),
    Sample("linalg_matmul", lambda m, x, y: torch.linalg.matmul(x, y), (T((3, 5)), T((5, 7))), (3, 5, 7)),
    Sample("einsum", lambda m, x, y: torch.einsum("bhd,hde->bhe", x, y), (T((2, 3, 5)), T((3, 5, 7))), (2, 3, 5, 7)),
    Sample("einsum", lambda m, x, y: torch.einsum("...d,de", x, y), (T((2, 3, 5)), T((5, 7))), (2, 3, 5, 7)),
    Sample("einsum", lambda m, x, y: torch.einsum("bc...,dc->bd...", x, y), (T((2, 3, 5)), T((7, 3))), (2, 3, 5, 7)),
    Sample("einsum", lambda m, x, y: torch.einsum("b...d,de->b...e", x, y), (T((2, 3, 5)), T((5, 7))), (2, 3, 5, 7)),
    Sample("einsum", lambda m, x: torch.einsum("ii->i", x), (T((5, 5)),), ()),
    Sample("einsum", lambda m, x, y: torch.einsum("...d,de->e", x, y), (T((2, 3, 5)), T((5, 7))), (2, 3, 5, 7)),
    Sample(
        "_grouped_mm",
        lambda m, x, y: F.grouped_mm(x, y, offs=torch.tensor([4, 8], dtype=torch.int32)),
        (T((8, 32), kind=torch.bfloat16), T((2, 32, 64), kind=torch.bfloat16)),
        (32, 64),
    ),
    conv("conv1d", (7,)),
    *(convolution(transposed) for transposed in (False, True)),
    conv("conv1d", (7,), 3, attribute=True),
    conv("conv2d", (7, 7), 3, attribute=True),
    conv("conv2d", (7, 7), 2),
    conv("conv3d", (4, 4, 4)),
    Sample("conv1d", lambda m, x, w: F.conv1d(x, w), (T((2, 3, 7)), T((5, 3, 1))), (2, 3, 5, 7)),
    Sample(
        "conv2d",
        lambda m, x, w: F.conv2d(x, w, padding="same"),
        (T((2, 3, 7, 11)), T((5, 3, 1, 3))),
        (2, 3, 5, 7),
    ),
    Sample("conv1d", lambda m, x, w: F.conv1d(x, w, stride=2), (T((2, 3, 7)), T((5, 3, 1))), (2, 3, 5)),
    Sample("conv1d", lambda m, x, w: F.conv1d(x, w, None, 2, 3), (T((2, 3, 7)), T((5, 3, 1))), (2, 3, 5)),
    Sample("conv_transpose1d", lambda m, x, w: F.conv_transpose1d(x, w), (T((2, 3, 7)), T((3, 5, 1))), (2, 3, 5, 7)),
    conv("conv_transpose1d", (7,)),
    conv("conv_transpose2d", (3, 3), 3, attribute=True),
    conv("conv_transpose3d", (3, 3, 3), 2),
    Sample("embedding", lambda m, i, w: F.embedding(i, w), (T((2, 3), below=5), T((5, 7))), (2, 3, 7)),
    Sample(
        "embedding_bag",
        lambda m, i, w: F.embedding_bag(i, w, mode="mean"),
        (T((2, 3), below=5), T((5, 7))),
        (7,),
    ),
    Sample(
        "scaled_dot_product_attention",
        lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v),
        (T((2, 3, 5, 7)), T((2, 3, 11, 7)), T((2, 3, 11, 13))),
        (2, 3, 5, 7, 11, 13),
    ),
    Sample(
        "scaled_dot_product_attention",
        lambda m, q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True),
        (T((2, 6, 5, 7)), T((2, 3, 11, 7)), T((2, 3, 11, 7)), T((6, 5, 11))),
        (2, 2, 3, 5, 7, 7, 11),
    ),
    Sample(
        "scaled_dot_product_attention",
        lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        (T((2, 5, 7)), T((2, 11, 7)), T((2, 11, 3))),
        (2, 3, 7),
    ),
    rnn("lstm", 4),
    rnn("lstm", 4, both=True, layers=2),
    rnn("lstm", 4, bias=False),
    rnn("lstm", 4, project=2, both=True),
    rnn("gru", 3, both=True),
    rnn("rnn_tanh", 1, layers=2),
    rnn("rnn_relu", 1),
    *(
        Sample(op, packed, (T((2, 7, 5)), T((9, 5)), T((9, 3)), T((9,)), T((9,))), (3, 5))
        for op in ("gru", "_pack_padded_sequence", "_pad_packed_sequence")
    ),
    cell("lstm_cell", 4),
    cell("gru_cell", 3),
    cell("rnn_tanh_cell", 1),
    cell("rnn_relu_cell", 1),
    # matrices
    Sample("diagonal", lambda m, x: x.diagonal(), (T((5, 5, 3)),), (3, 5)),
    Sample("diagonal", lambda m, x: x.diagonal(1), (T((5, 5, 3)),), (3,)),
    Sample("linalg_diagonal", lambda m, x: torch.linalg.diagonal(x), (T((3, 5, 5)),), (3, 5)),
    Sample("diag_embed", lambda m, x: torch.diag_embed(x), (T((3, 5)),), (3, 5)),
    Sample("diag_embed", lambda m, x: torch.diag_embed(x, 1), (T((3, 5)),), (3,)),
    Sample("diag", lambda m, x: x.diag(), (T((5,)),), (5,)),
    Sample("diag", lambda m, x: x.diag(), (T((5, 5)),), (5,)),
    Sample("diag", lambda m, x: x.diag(-1), (T((5, 5)),), ()),
    Sample("trace", lambda m, x: x.trace(), (T((5, 5)),), (5,)),
    Sample("trace", lambda m, x: x.trace(), (T((5, 3)),), ()),
    Sample("cdist", lambda m, x, y: torch.cdist(x, y), (T((2, 3, 5)), T((2, 7, 5))), (2, 3, 5, 7)),
    Sample("cosine_similarity", lambda m, x, y: F.cosine_similarity(x, y), (T((2, 3, 5)), T((3, 5))), (2, 3, 5)),
    Sample(
        "cosine_similarity", lambda m, x, y: F.cosine_similarity(x, y, dim=-1), (T((2, 3, 5)), T((2, 3, 5))), (2, 3, 5)
    ),
    Sample("pairwise_distance", lambda m, x, y: F.pairwise_distance(x, y, eps=0.0), (T((3, 5)), T((3, 5))), (3, 5)),
    Sample("linalg_vecdot", lambda m, x, y: torch.linalg.vecdot(x, y), (T((3, 5)), T((3, 5))), (3, 5)),
    Sample(
        "chain_matmul", lambda m, x, y, z: torch.chain_matmul(x, y, z), (T((2, 3)), T((3, 5)), T((5, 7))), (2, 3, 5, 7)
    ),
    Sample("linalg_multi_dot", lambda m, x, y: torch.linalg.multi_dot([x, y]), (T((2, 3)), T((3, 5))), (2, 3, 5)),
    Sample("tensordot", lambda m, x, y: torch.tensordot(x, y, 2), (T((2, 3, 5)), T((3, 5, 7))), (2, 3, 5, 7)),
    Sample(
        "tensordot", lambda m, x, y: torch.tensordot(x, y, ([1], [-1])), (T((2, 3, 5)), T((5, 7, 3))), (2, 3, 5, 5, 7)
    ),
    Sample("kron", lambda m, x, y: torch.kron(x, y), (T((2, 3)), T((5, 7))), (2, 3, 5, 7)),
    Sample("kron", lambda m, x, y: torch.kron(x, y), (T((3,)), T((5, 7))), (3, 5, 7)),
    Sample("block_diag", lambda m, x, y: torch.block_diag(x, y), (T((2, 3)), T((5, 7))), (2, 3, 5, 7)),
    Sample("cov", lambda m, x: torch.cov(x), (T((3, 5)),), (3, 5)),
    Sample("cov", lambda m, x, w: torch.cov(x, aweights=w.abs()), (T((3, 5)), T((5,))), (3, 5)),
    Sample("corrcoef", lambda m, x: torch.corrcoef(x), (T((3, 5)),), (3, 5)),
    Sample("cross", lambda m, x, y: torch.cross(x, y, dim=1), (T((2, 3, 5)), T((2, 3, 5))), (2, 5)),
    Sample("linalg_cross", lambda m, x, y: torch.linalg.cross(x, y), (T((2, 5, 3)), T((2, 5, 3))), (2, 5)),
    *(
        Sample(
            name,
            lambda m, x, n=name: getattr(torch, n)(x @ x.mT + 9 * torch.eye(3, dtype=x.dtype)),
            (T((2, 3, 5)),),
            (2, 5),
        )
        for name in "inverse pinverse det logdet slogdet svd matrix_exp".split()
    ),
    *(
        Sample(
            f"linalg_{name}",
            lambda m, x, n=name: getattr(torch.linalg, n)(x @ x.mT + 9 * torch.eye(3, dtype=x.dtype)),
            (T((2, 3, 5)),),
            (2, 5),
        )
        for name in "inv inv_ex pinv det slogdet cholesky cholesky_ex qr svd svdvals eigh eigvalsh eig eigvals lu "
        "matrix_exp matrix_rank".split()
    ),
    Sample("linalg_solve", lambda m, x, y: torch.linalg.solve(x, y), (T((2, 3, 3)), T((2, 3, 5))), (2,)),
    Sample("linalg_matrix_power", lambda m, x: torch.linalg.matrix_power(x, 3), (T((2, 3, 3)),), (2,)),
    Sample("matrix_power", lambda m, x: torch.matrix_power(x, 3), (T((2, 3, 3)),), (2,)),
]
