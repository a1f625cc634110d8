"""The short ways of operations on fake tensors give what torch gives, or leave it to torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from elastify._analysis.rules.ops import names
from elastify._capture.kernels import _QUICK, fake_tensor, result
from elastify._capture.op_names import op_name

PICTURE, CHANNELS, TOKENS, VECTOR = (torch.zeros(*n) for n in ((2, 6, 4, 4), (6, 1, 1), (2, 5, 6), (6,)))
LAST = PICTURE.to(memory_format=torch.channels_last)
WHOLE, HALF, ONE = torch.zeros(2, 5, 6, dtype=torch.long), torch.zeros(6, dtype=torch.bfloat16), torch.zeros(())
CASES: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    *((op, pair, {}) for op in (torch.add, torch.sub, Tensor.mul, Tensor.__truediv__) for pair in (
        (PICTURE, PICTURE), (PICTURE, CHANNELS), (CHANNELS, PICTURE), (LAST, LAST), (LAST, CHANNELS), (PICTURE, LAST),
        (TOKENS, VECTOR), (VECTOR, TOKENS), (TOKENS, HALF), (TOKENS, WHOLE), (WHOLE, TOKENS), (WHOLE, WHOLE),
        (TOKENS, ONE), (ONE, TOKENS), (TOKENS, 2), (TOKENS, 0.5), (WHOLE, 2), (WHOLE, 0.5), (HALF, 0.5), (HALF, 2),
        (TOKENS, True), (TOKENS, 1j), (TOKENS[:, :1], TOKENS[..., :1]), (TOKENS.transpose(1, 2), torch.zeros(5)),
        (TOKENS, TOKENS[:, :1]), (torch.zeros(2, 5, 1), torch.zeros(2, 1, 6)), (torch.zeros(1, 6), torch.zeros(5, 1)),
    )),
    (torch.add, (TOKENS, VECTOR), {"alpha": 2}),
    (torch.add, (TOKENS, 2, TOKENS), {}),
    (Tensor.__rsub__, (TOKENS, 1), {}),
    *((op, (data,), {})
      for op in (F.relu, F.gelu, F.silu, torch.sigmoid, Tensor.tanh, F.hardswish, F.hardsigmoid, F.relu6)
      for data in (PICTURE, LAST, TOKENS.transpose(1, 2), HALF)),
    (torch.sigmoid, (WHOLE,), {}),
    (F.gelu, (TOKENS,), {"approximate": "tanh"}),
    *((F.linear, (data, torch.zeros(3, 6), *bias), {}) for data in (TOKENS, VECTOR, PICTURE.transpose(1, 3), TOKENS[0])
      for bias in ((), (torch.zeros(3),), (None,))),
    (F.linear, (TOKENS, VECTOR), {}),
    *((torch.conv2d, (data, torch.zeros(4, 6 // groups, *kernel), *bias), {"groups": groups, **options})
      for data in (PICTURE, LAST, torch.zeros(2, 6, 1, 1), torch.zeros(1, 6, 9, 5)) for kernel in ((1, 1), (3, 2))
      for groups in (1, 2) for bias in ((), (torch.zeros(4),))
      for options in ({"padding": 1}, {"padding": (1, 2), "stride": 2, "dilation": (1, 1)}, {"padding": "same"})),
    (torch.conv2d, (torch.zeros(2, 1, 8, 8), torch.zeros(1, 1, 1, 1), None, [2, 1], [0, 1]), {}),
    (torch.conv2d, (PICTURE[0], torch.zeros(4, 6, 3, 3)), {}),
    (torch.conv1d, (TOKENS, torch.zeros(3, 5, 2), None, (2,), (1,), (1,), 1), {}),
    (torch.conv3d, (torch.zeros(2, 1, 5, 6, 7), torch.zeros(2, 1, 3, 3, 3)), {"stride": (1, 2, 3)}),
    (F.layer_norm, (TOKENS, (6,), VECTOR, VECTOR), {}),
    (F.layer_norm, (TOKENS.transpose(1, 2), (5,)), {}),
    *((torch.cat, ([PICTURE, other], 1), {}) for other in (PICTURE, LAST, PICTURE[:, :2], PICTURE[:, ::2])),
    (torch.cat, ([TOKENS, WHOLE], -1), {}),
]  # fmt: skip
WRONG: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (torch.add, (TOKENS, PICTURE)),
    (torch.mul, (TOKENS, torch.zeros(5))),
    (torch.add, (VECTOR, torch.zeros(7))),
    (F.linear, (TOKENS, torch.zeros(3, 5))),
    (F.linear, (TOKENS, torch.zeros(3, 6), torch.zeros(2))),
    (torch.cat, ([TOKENS, PICTURE],)),
    (torch.conv2d, (PICTURE, torch.zeros(4, 5, 3, 3))),
    (torch.conv2d, (PICTURE, torch.zeros(4, 6, 5, 5))),
    (torch.conv2d, (PICTURE, torch.zeros(4, 6, 3, 3), torch.zeros(3))),
    (torch.conv2d, (PICTURE, torch.zeros(3, 3, 3, 3), None, 1, 0, 1, 2)),
    (torch.conv2d, (PICTURE, torch.zeros(4, 6, 3, 3), None, 0)),
]


def both(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """What the short way and what torch makes of the same fake tensors."""
    mode = FakeTensorMode()

    def fake(item: Any) -> Any:
        return (
            [*map(fake, item)] if type(item) is list else mode.from_tensor(item) if isinstance(item, Tensor) else item
        )

    given = [fake(item) for item in args]
    with torch.no_grad():
        return result(op_name(func), func, tuple(given), kwargs), func(*given, **kwargs)


@pytest.mark.parametrize(("func", "args", "kwargs"), CASES)
def test_as_torch(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    short, long = both(func, args, kwargs)
    assert type(short) is type(long) is FakeTensor
    assert (short.shape, short.dtype, short.device) == (long.shape, long.dtype, long.device)
    assert short.stride() == long.stride()


@pytest.mark.parametrize(("func", "args"), WRONG)
def test_what_does_not_fit_is_an_error(func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        both(func, args, {})


@pytest.mark.parametrize("func", [F.relu, F.silu, F.hardswish])
def test_in_place_stays_in_place(func: Callable[..., Any]) -> None:
    mode = FakeTensorMode()
    data = mode.from_tensor(PICTURE)
    with torch.no_grad():
        assert result(op_name(func), func, (data,), {"inplace": True}) is data


def test_what_is_written_into_a_tensor_stays_there() -> None:
    mode = FakeTensorMode()
    data, out = mode.from_tensor(PICTURE), mode.from_tensor(LAST)
    with torch.no_grad():
        assert result(op_name(torch.sigmoid), torch.sigmoid, (data,), {"out": out}) is out


def test_numbers_that_are_known_stay_known() -> None:
    with FakeTensorMode(), torch.no_grad():
        scale = torch.tensor(2.0)
        assert result(op_name(torch.mul), torch.mul, (scale, 3), {}).item() == 6
        assert result(op_name(torch.sigmoid), torch.sigmoid, (scale * 0,), {}).item() == 0.5


def function(name: str) -> Callable[[Tensor], Tensor]:
    homes = (torch.special, name.removeprefix("special_")), (torch, name), (F, name), (torch._C._nn, name)
    found = (getattr(home, short, None) for home, short in homes)
    return next(func for func in found if func is not None and op_name(func).op == name)


@pytest.mark.parametrize("name", sorted(names(lambda op: op.unary)))
def test_functions_of_one_tensor_are_as_torchs(name: str) -> None:
    for data in (PICTURE, LAST, PICTURE.double(), PICTURE.permute(0, 2, 1, 3)):
        short, long = both(function(name), (data,), {})
        assert (short.shape, short.dtype, short.stride()) == (long.shape, long.dtype, long.stride())


def test_every_short_way_is_taken() -> None:
    taken = {op_name(func).op for func, _, _ in CASES} | names(lambda op: op.unary)
    assert set(_QUICK) - taken <= {"batch_norm"}  # compared in test_memo.py


def test_fake_tensors_are_like_torchs_own() -> None:
    mode, cpu = FakeTensorMode(), torch.device("cpu")
    for shape in ((2, 3), (4,), ()):
        empty = torch.empty(shape, device="meta", dtype=torch.bfloat16).requires_grad_()
        made, like = fake_tensor(mode, empty, cpu), FakeTensor(mode, empty, cpu)
        assert vars(made) == vars(like)
        assert (type(made), made.shape, made.dtype, made.device) == (FakeTensor, like.shape, like.dtype, cpu)
        assert made.requires_grad
        assert torch._C._dispatch_keys(made) == torch._C._dispatch_keys(like)
    other = FakeTensorMode()
    assert fake_tensor(other, torch.empty(2, device="meta"), cpu).fake_mode is other
