"""Samples of operations that work element by element, and of those that only look so."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from .harness import Sample, T

X = T((2, 3, 5))
B = T((2, 3, 5), kind=torch.bool)
I = T((2, 3, 5), below=7)  # noqa: E741 - integers
C = T((2, 3, 5), kind=torch.complex128)

_METHODS = """
abs acos acosh angle arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh bfloat16 bool ceil cos
cosh deg2rad digamma erf erfc erfinv exp exp2 expm1 fix float floor frac frexp half i0 isfinite isinf isnan
isneginf isposinf isreal lgamma log log10 log1p log2 logical_not logit nan_to_num neg rad2deg reciprocal relu
round rsqrt sgn sigmoid sign signbit sin sinc sinh sqrt square tan tanh trunc
"""
_FUNCTIONS = """
celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu mish relu6 selu silu softplus softshrink
"""
_SPECIAL = """
bessel_j0 bessel_j1 bessel_y0 bessel_y1 digamma entr erf erfc erfcx erfinv exp2 expm1 gammaln i0 i0e i1 i1e
log1p log_ndtr logit ndtr ndtri psi round sinc
"""
_IN_PLACE = """cauchy exponential geometric log_normal random uniform"""
_LIKE = "zeros ones empty full rand randint randn"
_BINARY = """
add atan2 arctan2 copysign div eq float_power floor_divide fmax fmin fmod ge gt heaviside hypot isclose le
logaddexp logaddexp2 logical_and logical_or logical_xor lt maximum minimum mul ne nextafter pow remainder sub
xlogy igamma igammac
"""
_INTEGERS = """bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift gcd lcm"""
_SPECIAL_BINARY = "gammainc gammaincc xlog1py xlogy zeta"


def method(name: str, *args: Any) -> Any:
    return lambda m, x: getattr(x, name)(*args)


def in_place(name: str, *args: Any) -> Any:
    return lambda m, x: getattr(torch.empty_like(x), name + "_")(*args)


def like(name: str) -> Any:
    args = {"full": (2.0,), "randint": (9,)}.get(name, ())
    return lambda m, x: getattr(torch, name + "_like")(x, *args)


def binary(where: Any, name: str) -> Any:
    return lambda m, x, y: getattr(where, name)(x, y)


SAMPLES = [
    *(Sample(name, method(name), (X,), (2, 3, 5)) for name in _METHODS.split()),
    *(Sample(name, lambda m, x, n=name: getattr(F, n)(x), (X,), (2, 3, 5)) for name in _FUNCTIONS.split()),
    *(
        Sample(f"special_{name}", lambda m, x, n=name: getattr(torch.special, n)(x), (X,), (2, 3, 5))
        for name in _SPECIAL.split()
    ),
    *(
        Sample(name, in_place(name, *((0.5,) if name == "geometric" else ())), (X,), (2, 3, 5), exact=False)
        for name in _IN_PLACE.split()
    ),
    *(
        Sample(f"{name}_like", like(name), (X,), (2, 3, 5), exact=name in ("zeros", "ones", "full"))
        for name in _LIKE.split()
    ),
    *(Sample(name, binary(torch, name), (X, T((3, 5))), (2, 3, 5)) for name in _BINARY.split()),
    *(Sample(name, binary(torch, name), (I, T((5,), below=4)), (2, 3, 5)) for name in _INTEGERS.split()),
    *(
        Sample(f"special_{name}", binary(torch.special, name), (X, T((3, 5))), (2, 3, 5))
        for name in _SPECIAL_BINARY.split()
    ),
    # one argument
    Sample("byte", method("byte"), (I,), (2, 3, 5)),
    Sample("char", method("char"), (I,), (2, 3, 5)),
    Sample("short", method("short"), (I,), (2, 3, 5)),
    Sample("int", method("int"), (X,), (2, 3, 5)),
    Sample("long", method("long"), (X,), (2, 3, 5)),
    Sample("cfloat", method("cfloat"), (X,), (2, 3, 5)),
    Sample("cdouble", method("cdouble"), (T((2, 3), kind=torch.float32),), (2, 3)),
    Sample("chalf", method("chalf"), (X,), (2, 3, 5)),
    Sample("double", method("double"), (T((2, 3), kind=torch.float32),), (2, 3)),
    Sample("to", lambda m, x: x.to(torch.float32), (X,), (2, 3, 5)),
    Sample("type", lambda m, x: x.type(torch.float32), (X,), (2, 3, 5)),
    Sample("type_as", lambda m, x, y: x.type_as(y), (X, T((7,), kind=torch.float32)), (2, 3, 5, 7)),
    Sample("bitwise_not", lambda m, x: ~x, (B,), (2, 3, 5)),
    Sample("conj", lambda m, x: x.conj() * 2, (C,), (2, 3, 5)),
    Sample("conj_physical", method("conj_physical"), (C,), (2, 3, 5)),
    Sample("resolve_conj", lambda m, x: x.conj().resolve_conj(), (C,), (2, 3, 5)),
    Sample("resolve_neg", lambda m, x: x.conj().imag.resolve_neg(), (C,), (2, 3, 5)),
    Sample("real", lambda m, x: x.real, (C,), (2, 3, 5)),
    Sample("imag", lambda m, x: x.imag, (C,), (2, 3, 5)),
    Sample("zero", lambda m, x: torch.relu(x).zero_(), (X,), (2, 3, 5)),
    Sample("fill", lambda m, x: torch.relu(x).fill_(2.0), (X,), (2, 3, 5)),
    Sample("log_sigmoid", lambda m, x: F.logsigmoid(x), (X,), (2, 3, 5)),
    Sample("log_softmax", lambda m, x: x.log_softmax(1), (X,), (2, 3, 5)),
    Sample("softmax", lambda m, x: F.softmax(x, 1), (X,), (2, 3, 5)),
    Sample("special_softmax", lambda m, x: torch.special.softmax(x, 1), (X,), (2, 3, 5)),
    Sample("special_log_softmax", lambda m, x: torch.special.log_softmax(x, 1), (X,), (2, 3, 5)),
    Sample("threshold", lambda m, x: F.threshold(x, 0.1, -1.0), (X,), (2, 3, 5)),
    Sample("mvlgamma", lambda m, x: torch.mvlgamma(x.abs() + 2, 2), (X,), (2, 3, 5)),
    Sample("special_multigammaln", lambda m, x: torch.special.multigammaln(x.abs() + 2, 2), (X,), (2, 3, 5)),
    Sample("polygamma", lambda m, x: torch.polygamma(1, x), (X,), (2, 3, 5)),
    Sample("special_polygamma", lambda m, x: torch.special.polygamma(1, x), (X,), (2, 3, 5)),
    Sample("rrelu", lambda m, x: F.rrelu(x), (X,), (2, 3, 5)),
    Sample("renorm", lambda m, x: x.renorm(2, 1, 0.5), (X,), (2, 3, 5)),
    Sample("prelu", lambda m, x, w: F.prelu(x, w), (X, T((3,))), (2, 3, 5)),
    Sample("prelu", lambda m, x, w: F.prelu(x, w), (X, T((1,))), (2, 3, 5)),
    # random numbers: only sizes can be compared
    Sample("dropout", lambda m, x: F.dropout(x, 0.5, True), (X,), (2, 3, 5), exact=False),
    Sample("alpha_dropout", lambda m, x: F.alpha_dropout(x, 0.5, True), (X,), (2, 3, 5), exact=False),
    Sample("feature_dropout", lambda m, x: F.dropout1d(x, 0.5, True), (X,), (2, 3, 5), exact=False),
    Sample("feature_alpha_dropout", lambda m, x: F.feature_alpha_dropout(x, 0.5, True), (X,), (2, 3, 5), exact=False),
    Sample("native_dropout", lambda m, x: torch.native_dropout(x, 0.5, True), (X,), (2, 3, 5), exact=False),
    Sample("bernoulli", lambda m, x: torch.bernoulli(x.sigmoid()), (X,), (2, 3, 5), exact=False),
    Sample("bernoulli", lambda m, x, p: x.relu().bernoulli_(p.sigmoid()), (X, T((3, 5))), (2, 3, 5), exact=False),
    Sample("poisson", lambda m, x: torch.poisson(x.abs()), (X,), (2, 3, 5), exact=False),
    Sample("normal", lambda m, x, y: torch.normal(x, y.abs()), (X, T((3, 5))), (2, 3, 5), exact=False),
    Sample("normal", in_place("normal", 0.0, 1.0), (X,), (2, 3, 5), exact=False),
    # the same tensor once more
    Sample("clone", lambda m, x: torch.clone(input=x), (X,), (2, 3, 5)),
    Sample("detach", lambda m, x: (x + 0).detach_(), (X,), (2, 3, 5)),
    # several arguments
    Sample("where", lambda m, x, c, y: torch.where(c, x, y), (X, T((3, 5), kind=torch.bool), T((5,))), (2, 3, 5)),
    Sample("lerp", lambda m, x, y, w: torch.lerp(x, y, w), (X, T((3, 5)), T((5,))), (2, 3, 5)),
    Sample("addcmul", lambda m, x, y, z: torch.addcmul(x, y, z), (X, T((3, 5)), T((5,))), (2, 3, 5)),
    Sample("addcdiv", lambda m, x, y, z: torch.addcdiv(x, y, z), (X, T((3, 5)), T((5,))), (2, 3, 5)),
    Sample("masked_fill", lambda m, x, c: x.masked_fill(c, 2.0), (X, T((3, 1), kind=torch.bool)), (2, 3, 5)),
    Sample("copy", lambda m, x, y: torch.relu(x).copy_(y), (X, T((5,))), (2, 3, 5)),
    Sample("polar", lambda m, x, y: torch.polar(x, y), (X, X), (2, 3, 5)),
    Sample("complex", lambda m, x, y: torch.complex(x, y), (X, X), (2, 3, 5)),
    Sample("ldexp", lambda m, x, y: torch.ldexp(x, y), (X, T((5,), below=4)), (2, 3, 5)),
    Sample("clamp", lambda m, x, y: torch.clamp(x, min=y), (X, T((5,))), (2, 3, 5)),
    Sample("clamp", lambda m, x: x.clip(-0.5, 0.5), (X,), (2, 3, 5)),
    Sample("clamp_max", lambda m, x, y: torch.clamp_max(x, y), (X, T((5,))), (2, 3, 5)),
    Sample("clamp_min", lambda m, x, y: torch.clamp_min(x, y), (X, T((5,))), (2, 3, 5)),
    Sample("broadcast_tensors", lambda m, x, y: torch.broadcast_tensors(x, y), (X, T((3, 1))), (2, 3, 5)),
    Sample("_weight_norm", lambda m, v, g: torch._weight_norm(v, g, 0), (T((3, 5)), T((3, 1))), (3, 5)),
    Sample("sub", lambda m, x: 1 - x, (X,), (2, 3, 5)),
    Sample("add", lambda m, x, y: x.relu().add_(y), (X, T((3, 1))), (2, 3, 5)),
    # gates
    Sample("glu", lambda m, x: F.glu(x, 1), (T((2, 6, 5)),), (2, 3, 5)),
    # losses
    *(
        Sample(name, lambda m, x, y, n=name: getattr(F, n)(x, y), (X, X), (2, 3, 5))
        for name in "mse_loss l1_loss smooth_l1_loss huber_loss soft_margin_loss kl_div poisson_nll_loss".split()
    ),
    Sample("mse_loss", lambda m, x, y: F.mse_loss(x, y, reduction="none"), (X, X), (2, 3, 5)),
    Sample("binary_cross_entropy", lambda m, x, y: F.binary_cross_entropy(x.sigmoid(), y.sigmoid()), (X, X), (2, 3, 5)),
    Sample(
        "binary_cross_entropy_with_logits", lambda m, x, y: F.binary_cross_entropy_with_logits(x, y), (X, X), (2, 3, 5)
    ),
    Sample("cross_entropy_loss", lambda m, x, t: F.cross_entropy(x, t), (T((5, 7)), T((5,), below=7)), (5,)),
    Sample(
        "cross_entropy_loss",
        lambda m, x, t, w: F.cross_entropy(x, t, w.abs(), reduction="none"),
        (T((5, 7, 3)), T((5, 3), below=7), T((7,))),
        (3, 5),
    ),
    Sample("nll_loss_nd", lambda m, x, t: F.nll_loss(x, t), (T((5, 7)), T((5,), below=7)), (5,)),
    # operations that depend on the order of units
    Sample("tril", lambda m, x: x.tril(), (X,), (2,)),
    Sample("triu", lambda m, x: x.triu(1), (X,), (2,)),
    *(Sample(name, method(name, 1), (X,), (2, 5)) for name in "cumsum cumprod logcumsumexp cummax cummin".split()),
    Sample("cumsum", lambda m, x: x.cumsum(dim=-1), (X,), (2, 3)),
    Sample("diff", lambda m, x: x.diff(), (X,), (2, 3)),
    Sample("diff", lambda m, x, y: x.diff(1, 1, prepend=y), (X, T((2, 2, 5))), (2, 5)),
    Sample("trapezoid", lambda m, x, t: torch.trapezoid(x, t), (X, T((5,))), (2, 3)),
    Sample("trapz", lambda m, x: torch.trapz(x, dim=1), (X,), (2, 5)),
    Sample("cumulative_trapezoid", lambda m, x: torch.cumulative_trapezoid(x, dim=1), (X,), (2, 5)),
    Sample("flip", lambda m, x: x.flip(0, 1), (X,), (5,)),
    Sample("flip", lambda m, x: x.flip([-1]), (X,), (2, 3)),
    Sample("fliplr", lambda m, x: torch.fliplr(x), (X,), (2, 5)),
    Sample("flipud", lambda m, x: torch.flipud(x), (X,), (3, 5)),
    Sample("roll", lambda m, x: x.roll(1), (X,), ()),
    Sample("roll", lambda m, x: x.roll(1, 1), (X,), (2, 5)),
    Sample("roll", lambda m, x: torch.roll(x, shifts=(1, 2), dims=(0, 1)), (X,), (5,)),
    Sample("rot90", lambda m, x: x.rot90(1, (0, 1)), (X,), (5,)),
    Sample("rot90", lambda m, x: x.rot90(), (X,), (5,)),
]
