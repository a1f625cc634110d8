"""Rules of operations that make tensors from sizes: a size is an integer like any other."""

from __future__ import annotations

from typing import Any

from elastify._analysis.facts import Facts, flat_sizes
from elastify._analysis.rules.ops import rule
from elastify._ir import Value, values


@rule(
    """zeros ones empty rand randn full normal new_zeros new_ones new_empty new_full empty_strided randint
    new_empty_strided""",
    fills=True,
)
def filled(f: Facts, out: Value, *args: Any, **kwargs: Any) -> None:
    if f.why.op == "normal" and any(True for _ in values(args)):  # mean and deviation are tensors, or x.normal_()
        return f.give(out, f.broadcast([f.dims(value) for value in values(args)]))
    sized = list(args[1:] if f.why.op.startswith("new_") else args)
    sizes: list[Any] | None = None
    if "size" in kwargs:
        sizes = list(kwargs["size"])
    elif any(isinstance(a, (tuple, list)) for a in sized):
        sizes = list(next(a for a in sized if isinstance(a, (tuple, list))))
    else:
        sizes = flat_sizes(sized)
    dims = f.dims(out)
    if len(sizes) != len(dims):
        raise TypeError("sizes that do not match the result")
    for number, term in zip(sizes, dims, strict=True):
        if isinstance(number, Value):
            f.same(term, f.count(term.size))
        else:
            f.require(number, term)


@rule("arange")
def arange(f: Facts, out: Value, *args: Any, **kwargs: Any) -> None:
    """Counting gives every unit a number of its own: the dimension is fixed."""
    (term,) = f.dims(out)
    f.freeze(term, "units are numbered")
    if any(True for _ in values((args, kwargs))):
        f.same(term, f.count(term.size))
    start, end, step = (*((0,) if len(args) == 1 else ()), *args, *((1,) if len(args) < 3 else ()))[:3]
    if all(isinstance(number, int) for number in (start, end, step)):
        span = end - start
        f.require(span if step == 1 else -(-span // step), term)


@rule(
    """tensor as_tensor asarray scalar_tensor new_tensor eye linspace logspace hann_window hamming_window
    blackman_window bartlett_window kaiser_window randperm tril_indices triu_indices fft_fftfreq fft_rfftfreq""",
    fills=True,
)
def constant(f: Facts, out: Any, *args: Any, **__: Any) -> None:
    for value in values(args[1:] if f.why.op == "new_tensor" else args):
        for term in f.dims(value):
            f.freeze(term, "copied into a constant")
    for value in values(out):
        for term in f.dims(value):
            f.freeze(term, "a constant made in forward")


@rule("meshgrid")
def meshgrid(f: Facts, out: Any, *tensors: Any, indexing: str = "ij", **_: Any) -> None:
    dims = [f.dims(value)[0] if value.shape else f.leaf(1) for value in values(tensors)]
    if indexing == "xy":
        dims[:2] = dims[1::-1]
    for value in values(out):
        f.give(value, dims)


@rule("cartesian_prod")
def cartesian_prod(f: Facts, out: Value, *tensors: Any) -> None:
    """All combinations, the last tensor running fastest, one column per tensor."""
    rows = f.product(*(f.dims(value)[0] for value in values(tensors)))
    f.give(out, [rows, *(f.fixed(n, "one column per tensor") for n in out.shape[1:])])
