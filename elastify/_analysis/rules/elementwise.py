"""Rules of operations that treat all units alike: element by element, with broadcasting."""

from __future__ import annotations

from typing import Any

from elastify._analysis.facts import Facts, flat_sizes
from elastify._analysis.rules.ops import along, apart, every, rule
from elastify._ir import Value, values

# Of one tensor, whose type they keep if it is floating-point.
_FUNCTIONS = """
abs acos acosh arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh ceil celu cos cosh deg2rad digamma elu
erf erfc erfinv exp exp2 expm1 fix floor frac gelu hardshrink hardsigmoid hardswish hardtanh i0 leaky_relu lgamma log
log10 log1p log2 log_sigmoid logit mish nan_to_num neg rad2deg reciprocal relu relu6 round rsqrt selu sgn sigmoid sign
silu sin sinc sinh softplus softshrink sqrt square tan tanh trunc special_bessel_j0 special_bessel_j1 special_bessel_y0
special_bessel_y1 special_digamma special_entr special_erf special_erfc special_erfcx special_erfinv special_exp2
special_expm1 special_gammaln special_i0 special_i0e special_i1 special_i1e special_log1p special_log_ndtr special_logit
special_ndtr special_ndtri special_psi special_round special_sinc
"""
# Of one tensor, too, but they need numbers beside it or change its type.
_OTHERS = """
angle bfloat16 bitwise_not bool byte cdouble cfloat chalf char conj conj_physical cpu cuda double float frexp half imag
int isfinite isinf isnan isneginf isposinf isreal logical_not long mvlgamma poisson real resolve_conj resolve_neg rrelu
short signbit special_multigammaln threshold to type type_as
"""
_SAME = "alias clone contiguous data detach lift_fresh positive requires_grad"
_SOFTMAX = "log_softmax softmax special_log_softmax special_softmax"
_DROPOUT = "alpha_dropout dropout feature_alpha_dropout feature_dropout"
_NUMBERS_LOST = """
cauchy empty_like exponential geometric log_normal ones_like rand_like randint_like randn_like random uniform
zero zeros_like
"""

_BROADCAST = """
sub floor_divide fmod remainder maximum minimum fmax fmin eq ne lt le gt ge logical_and logical_or logical_xor
bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift addcmul addcdiv masked_fill atan2 arctan2
hypot copysign isclose polar complex xlogy logaddexp logaddexp2 float_power heaviside nextafter ldexp gcd lcm igamma
igammac special_gammainc special_gammaincc special_xlog1py special_xlogy special_zeta clamp clamp_max clamp_min
bernoulli polygamma special_polygamma
"""


@rule(_FUNCTIONS, elementwise=True, unary=True)
@rule(_OTHERS, elementwise=True)
@rule(_SAME, elementwise=True, same=True)
@rule(_SOFTMAX, keeps=True, mixes=along(1))
@rule("native_dropout renorm", keeps=True)
@rule(_DROPOUT, keeps=True, drops=True, mixes=apart)
@rule(_NUMBERS_LOST, mixes=apart)
@rule("full_like", fills=True)
def same_shape(f: Facts, out: Any, input: Value, *_: Any, **__: Any) -> None:
    for value in values(out):
        f.give(value, f.dims(input))


@rule(_BROADCAST, elementwise=True)
@rule("add lerp", elementwise=True, sums=True)
@rule("mul div pow", elementwise=True, scales=True)
@rule("copy fill", fills=True)
@rule("_weight_norm")
def broadcast(f: Facts, out: Any, *args: Any, **kwargs: Any) -> None:
    f.give(out, f.broadcast([f.dims(value) for value in values((args, kwargs))]))


@rule("broadcast_tensors", mixes=apart)
def broadcast_tensors(f: Facts, out: Any, *tensors: Any) -> None:
    shared = f.broadcast([f.dims(value) for value in values(tensors)])
    for value in values(out):
        f.give(value, shared)


@rule(
    """mse_loss l1_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy binary_cross_entropy_with_logits
    kl_div poisson_nll_loss"""
)
def pointwise_loss(f: Facts, out: Value, *args: Any, **kwargs: Any) -> None:
    """Element by element, then one number or not."""
    shared = f.broadcast([f.dims(value) for value in values((args, kwargs))])
    f.give(out, shared if out.shape else [])


@rule("cross_entropy_loss nll_loss_nd")
def class_loss(
    f: Facts, out: Value, input: Value, target: Value, weight: Value | None = None, *_: Any, **__: Any
) -> None:
    """The target names classes by their position."""
    batch, classes, space = f.dims(input)[:1], f.dims(input)[min(1, len(input.shape) - 1)], f.dims(input)[2:]
    f.freeze(classes, "a class is named by its position")
    for other in values(weight):
        f.same(f.dims(other)[0], classes)
    lead = [*batch, *space] if len(input.shape) > 1 else []
    if len(target.shape) == len(lead):
        f.all_same(f.dims(target), lead)
    else:
        f.all_same(f.dims(target), f.dims(input))
    f.give(out, lead if out.shape else [])


@rule("prelu", keeps=True, mixes=apart)
def prelu(f: Facts, out: Value, input: Value, weight: Value) -> None:
    dims = f.dims(input)
    if weight.shape and weight.shape[0] != 1:
        f.same(dims[1 if len(dims) > 1 else 0], f.dims(weight)[0])
    f.give(out, dims)


@rule("glu", mixes=along(1, default=-1))
def glu(f: Facts, out: Value, input: Value, dim: int = -1) -> None:
    dims = list(f.dims(input))
    half = f.leaf(out.shape[dim])
    f.same(dims[dim], f.concat([half, half]))
    dims[dim] = half
    f.give(out, dims)


@rule("tril triu", mixes=apart)
def triangle(f: Facts, out: Value, input: Value, *_: Any, **__: Any) -> None:
    for term in f.dims(input)[-2:]:
        f.freeze(term, "the position of a unit decides what is masked")
    f.give(out, f.dims(input))


_ORDER = "the operation depends on the order of units"


@rule("cumsum cumprod logcumsumexp cummax cummin", mixes=along(1))
@rule("diff trapezoid trapz cumulative_trapezoid")
def ordered(f: Facts, out: Any, input: Value, *args: Any, **kwargs: Any) -> None:
    """Running operations depend on the order of the units along their dimension; some make it shorter."""
    dims = list(f.dims(input))
    numbers = [a for a in args if isinstance(a, int)]
    if f.why.op == "diff":  # the first number says how often
        numbers = numbers[1:]
    dim = int(kwargs.get("dim", numbers[0] if numbers else -1)) % len(dims)
    f.freeze(dims[dim], _ORDER)
    for other in (f.dims(value) for value in values((args, kwargs))):
        for i, term in enumerate(other, len(dims) - len(other)):
            if i == dim:
                f.freeze(term, _ORDER)
            else:
                f.broadcast([[dims[i]], [term]])
    for value in values(out):
        rest = [t for i, t in enumerate(dims) if i != dim or len(value.shape) == len(dims)]
        f.give(value, [t if t.size == n else f.fixed(n) for t, n in zip(rest, value.shape, strict=True)])


def _rolled(input: Value, shifts: Any, dims: Any = None) -> Any:
    return every(input) if dims is None else [(input, int(dim)) for dim in flat_sizes([dims])]


@rule("roll", mixes=_rolled)
@rule("flip fliplr flipud rot90")
def moved(f: Facts, out: Any, input: Value, *args: Any, **kwargs: Any) -> None:
    """Reversing and rotating move units to the places of others."""
    dims = list(f.dims(input))
    op = f.why.op
    if op == "flip":
        along = flat_sizes(kwargs.get("dims", args))
    elif op == "rot90":
        along = kwargs.get("dims", args[1] if len(args) > 1 else (0, 1))
    elif op == "roll":
        along = flat_sizes([kwargs.get("dims", args[1] if len(args) > 1 else ())]) or range(len(dims))
    else:
        along = [1] if op == "fliplr" else [0]
    for dim in along:
        f.freeze(dims[int(dim)], _ORDER)
    if op == "rot90" and int(kwargs.get("k", args[0] if args else 1)) % 2:
        a, b = map(int, along)
        dims[a], dims[b] = dims[b], dims[a]
    f.give(out, dims)
