"""Rules of operations on matrices: diagonals, distances, chains of products, factorisations.

Permuting both dimensions of a square matrix alike permutes its diagonal and keeps its trace; a distance keeps its
rows. A factorisation looks at all units at once and in order, so it freezes the matrix.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from elastify._analysis.facts import Facts
from elastify._analysis.rules.contractions import contract
from elastify._analysis.rules.ops import rule
from elastify._ir import Value, values


@rule("diagonal linalg_diagonal")
def diagonal(
    f: Facts, out: Value, input: Value, offset: int = 0, dim1: int | None = None, dim2: int | None = None
) -> None:
    first, second = (0, 1) if f.why.op == "diagonal" else (-2, -1)
    dims = list(f.dims(input))
    a, b = (int(d) % len(dims) for d in (first if dim1 is None else dim1, second if dim2 is None else dim2))
    rest = [term for i, term in enumerate(dims) if i not in (a, b)]
    f.give(out, [*rest, _paired(f, dims[a], dims[b], offset, out.shape[-1])])


def _paired(f: Facts, rows: Any, columns: Any, offset: int, size: int) -> Any:
    """The units of a diagonal: those of both dimensions."""
    if offset == 0 and rows.size == columns.size:
        f.same(rows, columns)
        return rows
    for term in (rows, columns):
        f.freeze(term, "a diagonal beside the main one")
    return f.fixed(size)


@rule("diag_embed")
def diag_embed(f: Facts, out: Value, input: Value, offset: int = 0, dim1: int = -2, dim2: int = -1) -> None:
    *rest, units = f.dims(input)
    rank = len(out.shape)
    a, b = sorted((int(dim1) % rank, int(dim2) % rank))
    if offset != 0:
        f.freeze(units, "a diagonal beside the main one")
    for place in (a, b):
        rest.insert(place, units if offset == 0 else f.fixed(out.shape[place]))
    f.give(out, rest)


@rule("diag")
def diag(f: Facts, out: Value, input: Value, diagonal: int = 0) -> None:
    dims = f.dims(input)
    if len(dims) == 1:
        diag_embed(f, out, input, diagonal)
    else:
        f.give(out, [_paired(f, dims[0], dims[1], diagonal, out.shape[0])])


@rule("trace")
def trace(f: Facts, out: Value, input: Value) -> None:
    rows, columns = f.dims(input)
    _paired(f, rows, columns, 0, 0)
    f.give(out, [])


@rule("cdist")
def cdist(f: Facts, out: Value, x1: Value, x2: Value, *_: Any, **__: Any) -> None:
    contract(f, "... n d, ... m d -> ... n m", (x1, x2), out)


@rule("cosine_similarity pairwise_distance")
def rowwise(f: Facts, out: Value, x1: Value, x2: Value, *args: Any, **kwargs: Any) -> None:
    """One number per row: broadcast, then reduced along a dimension."""
    dims = f.broadcast([f.dims(x1), f.dims(x2)])
    dim = -1
    if f.why.op == "cosine_similarity":
        dim = int(kwargs.get("dim", args[0] if args else 1))
    keep = len(out.shape) == len(dims)
    gone = dim % len(dims)
    f.give(out, [f.leaf(1) if i == gone else term for i, term in enumerate(dims) if keep or i != gone])


@rule("linalg_vecdot")
def vecdot(f: Facts, out: Value, x: Value, y: Value, *, dim: int = -1, **_: Any) -> None:
    dims = f.broadcast([f.dims(x), f.dims(y)])
    del dims[dim]
    f.give(out, dims)


@rule("chain_matmul linalg_multi_dot")
def chain(f: Facts, out: Value, *matrices: Any, **_: Any) -> None:
    operands = list(values(matrices))
    for left, right in pairwise(operands):
        f.same(f.dims(left)[-1], f.dims(right)[0])
    f.give(out, [*f.dims(operands[0])[:-1], *f.dims(operands[-1])[1:]])


@rule("kron")
def kron(f: Facts, out: Value, input: Value, other: Value) -> None:
    rank = len(out.shape)
    padded = [[f.leaf(1)] * (rank - len(v.shape)) + list(f.dims(v)) for v in (input, other)]
    f.give(out, [f.product(a, b) for a, b in zip(*padded, strict=True)])


@rule("block_diag")
def block_diag(f: Facts, out: Value, *tensors: Any) -> None:
    pairs = [([f.leaf(1)] * (2 - len(v.shape)) + list(f.dims(v))) for v in values(tensors)]
    f.give(out, [f.concat([pair[side] for pair in pairs]) for side in (0, 1)])


@rule("cov corrcoef")
def covariance(f: Facts, out: Value, input: Value, **kwargs: Any) -> None:
    """Rows are variables, columns observations."""
    for value in values(kwargs):
        f.same(f.dims(value)[0], f.dims(input)[-1])
    f.give(out, [f.dims(input)[0]] * len(out.shape))


@rule("cross linalg_cross")
def cross(f: Facts, out: Value, input: Value, other: Value, *args: Any, **kwargs: Any) -> None:
    dims = f.broadcast([f.dims(input), f.dims(other)])
    number = kwargs.get("dim", args[0] if args else None)
    last = -1 if f.why.op == "linalg_cross" else next((i for i, t in enumerate(dims) if t.size == 3), -1)
    f.freeze(dims[last if number is None else int(number)], "the components of a vector in space")
    f.give(out, dims)


@rule(
    """linalg_inv linalg_inv_ex inverse linalg_pinv pinverse linalg_det det logdet slogdet linalg_slogdet
    linalg_cholesky linalg_cholesky_ex linalg_qr linalg_svd svd linalg_svdvals linalg_eigh linalg_eigvalsh
    linalg_eig linalg_eigvals linalg_solve linalg_lu linalg_matrix_exp matrix_exp linalg_matrix_power
    matrix_power linalg_matrix_rank"""
)
def factorisation(f: Facts, out: Any, *args: Any, **kwargs: Any) -> None:
    """Batch dimensions pass, matrices are fixed."""
    operands = [v for v in values((args, kwargs)) if len(v.shape) > 1]
    lead = f.broadcast([f.dims(v)[:-2] for v in operands])
    for value in operands:
        for term in f.dims(value)[-2:]:
            f.freeze(term, "a matrix is factorised")
    for value in values(out):
        f.give(value, [*lead, *(f.fixed(n) for n in value.shape[len(lead) :])])
