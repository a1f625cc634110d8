"""Rules of operations that treat all units alike: element by element, with broadcasting."""

from __future__ import annotations

from typing import Any

from elastify._graph import Value, values
from elastify._rules._facts import RULES, Facts, flat_sizes, rule

_SAME = """
abs acos acosh alias alpha_dropout angle asin asinh atan atanh bernoulli bfloat16 bool byte ceil celu clamp clamp_max
clamp_min clip clone contiguous cos cosh cpu cuda deg2rad detach detach_ digamma double dropout elu erf erfc erfinv exp
exp2 expm1 feature_alpha_dropout feature_dropout float floor frac gelu half hardshrink hardsigmoid hardswish hardtanh
imag int isfinite isinf isnan leaky_relu lgamma log log10 log1p log2 log_sigmoid log_softmax logical_not logit logsigmoid
long lift_fresh mish nan_to_num neg negative pin_memory positive rad2deg real reciprocal relu relu6 requires_grad_ rrelu
round rsqrt selu sgn sigmoid sign silu sin sinc sinh softmax softplus softshrink sqrt square tan tanh tanhshrink
threshold to trunc type type_as zero conj resolve_conj resolve_neg normal uniform fill data native_dropout fix
special_expit special_erf xlogy1 bitwise_not zeros_like ones_like empty_like full_like rand_like randn_like threshold_
exponential random trunc_normal conj_physical _conj cauchy softmin retain_grad __deepcopy__ deepcopy as_subclass
"""

_BROADCAST = """
add sub subtract mul multiply div divide true_divide floor_divide pow fmod remainder rsub where maximum minimum fmax fmin
eq ne lt le gt ge not_equal greater less greater_equal less_equal logical_and logical_or logical_xor bitwise_and
bitwise_or bitwise_xor __and__ __or__ __xor__ and or xor lerp addcmul addcdiv masked_fill atan2 hypot copy copysign
isclose polar complex xlogy logaddexp floordiv mod prelu1 clamp_ float_power heaviside bitwise_left_shift
bitwise_right_shift lshift rshift
"""


@rule(_SAME)
def same_shape(f: Facts, out: Any, input: Value, *_: Any, **__: Any) -> None:
    for value in values(out):
        f.give(value, f.dims(input))


@rule(_BROADCAST)
def broadcast(f: Facts, out: Any, *args: Any, **kwargs: Any) -> None:
    operands = [f.dims(value) for value in (*values(args), *values({k: v for k, v in kwargs.items() if k != "out"}))]
    f.give(out, f.broadcast(operands))


@rule("max min")
def extremum(f: Facts, out: Any, input: Value, *args: Any, **kwargs: Any) -> None:
    if any(True for _ in values((args, kwargs))):
        broadcast(f, out, input, *args, **kwargs)
    else:
        RULES["_ordered_reduction"](f, out, input, *args, **kwargs)


@rule("clamp_tensor meshgrid_broadcast broadcast_tensors")
def broadcast_tensors(f: Facts, out: Any, *tensors: Any) -> None:
    shared = f.broadcast([f.dims(value) for value in values(tensors)])
    for value in values(out):
        f.give(value, shared)


@rule("prelu")
def prelu(f: Facts, out: Value, input: Value, weight: Value) -> None:
    dims = f.dims(input)
    if weight.shape and weight.shape[0] != 1:
        f.same(dims[1 if len(dims) > 1 else 0], f.dims(weight)[0])
    f.give(out, dims)


@rule("glu")
def glu(f: Facts, out: Value, input: Value, dim: int = -1) -> None:
    dims = list(f.dims(input))
    half = f.leaf(out.shape[dim])
    f.same(dims[dim], f.concat([half, half]))
    dims[dim] = half
    f.give(out, dims)


@rule("tril triu")
def triangle(f: Facts, out: Value, input: Value, *_: Any, **__: Any) -> None:
    for term in f.dims(input)[-2:]:
        f.freeze(term, "the position of a unit decides what is masked")
    f.give(out, f.dims(input))


@rule("cumsum cumprod logcumsumexp cummax cummin flip fliplr flipud roll renorm")
def ordered(f: Facts, out: Any, input: Value, *args: Any, **kwargs: Any) -> None:
    """Running and reversing operations depend on the order of the units along their dimensions."""
    dims = f.dims(input)
    named = kwargs.get("dims", kwargs.get("dim", args[-1] if args else None))
    along = flat_sizes([named]) if named is not None else range(len(dims))
    for dim in along:
        f.freeze(dims[int(dim)], "the operation depends on the order of units")
    for value in values(out):
        f.give(value, dims)
