"""What an operation gave once is what it gives again; whatever might depend on more than shapes is run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from elastify._capture.memo import Memo
from elastify._capture.op_names import op_name

PICTURE, VECTOR, TOKENS = torch.zeros(2, 6, 8, 8), torch.zeros(6), torch.zeros(2, 5, 6)
HEADS, IDS = torch.zeros(2, 3, 5, 4), torch.zeros(2, 5, dtype=torch.long)

REMEMBERED: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (torch.add, (PICTURE, 1), {}),
    (torch.add, (IDS, 1.0), {}),
    (torch.relu, (PICTURE,), {}),
    (torch.relu_, (PICTURE,), {}),
    (torch.conv2d, (PICTURE, torch.zeros(4, 6, 3, 3)), {"stride": 2}),
    (torch.batch_norm, (PICTURE, VECTOR, VECTOR, VECTOR, VECTOR, True, 0.1, 1e-5, False), {}),
    (torch.batch_norm, (PICTURE, None, None, VECTOR, VECTOR, False, 0.1, 1e-5, False), {}),
    (torch.layer_norm, (TOKENS, (6,), VECTOR, VECTOR), {}),
    (torch.cat, ([PICTURE, PICTURE],), {"dim": 1}),
    (torch.cat, ([PICTURE.to(memory_format=torch.channels_last)] * 2, 1), {}),
    (torch.cat, ([IDS, TOKENS[..., 0]], -1), {}),
    (torch.matmul, (TOKENS, torch.zeros(6, 3)), {}),
    (F.linear, (TOKENS, torch.zeros(4, 6), None), {}),
    (F.scaled_dot_product_attention, (HEADS, HEADS, HEADS), {"is_causal": True}),
    (torch.embedding, (torch.zeros(9, 4), IDS), {}),
    (torch.max_pool2d, (PICTURE, 2), {}),
    (Tensor.softmax, (TOKENS, -1), {}),
    (Tensor.mean, (PICTURE, (2, 3)), {"keepdim": True}),
    (torch.dropout, (TOKENS, 0.1, True), {}),
    (torch.dropout, (TOKENS, 0.1, False), {}),
]
RUN_AGAIN: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (Tensor.view, (PICTURE, 2, -1), {}),
    (Tensor.transpose, (TOKENS, 1, 2), {}),
    (Tensor.detach, (TOKENS,), {}),
    (Tensor.unsqueeze_, (TOKENS, 0), {}),
    (torch.max, (TOKENS, 1), {}),
    (torch.view_as_complex, (torch.zeros(3, 2),), {}),
]


def _case(row: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]) -> str:
    return f"{row[0].__name__}{len(row[1])}"


class Counted:
    """A function that counts its calls."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func, self.calls = func, 0
        self.__name__ = func.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.func(*args, **kwargs)


def _twice(
    func: Callable[..., Any], args: Any, kwargs: Any, inside: AbstractContextManager[Any] | None = None
) -> tuple[Any, Any, Any, int]:
    """The result without a memo, two with one, and how often the function ran for the second of these."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo, counted = Memo(mode), Counted(func)

    def fakes(item: Any) -> Any:
        if isinstance(item, (tuple, list)):
            return type(item)(map(fakes, item))
        return mode.from_tensor(item) if isinstance(item, Tensor) else item

    with torch.no_grad(), mode, inside or nullcontext():
        plain = func(*fakes(args), **kwargs)
        name = op_name(func)
        first = memo.run(name, counted, fakes(args), kwargs)
        before = counted.calls
        second = memo.run(name, counted, fakes(args), kwargs)
    return plain, first, second, counted.calls - before


def _looks(out: Any) -> list[Any]:
    tensors = [out] if isinstance(out, Tensor) else list(out)
    assert all(type(t) is FakeTensor for t in tensors)
    return [(t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in tensors]


@pytest.mark.parametrize("row", REMEMBERED, ids=_case)
def test_the_second_result_is_like_the_first_and_costs_no_call(row: Any) -> None:
    plain, first, second, calls = _twice(*row)
    assert _looks(plain) == _looks(first) == _looks(second)
    assert calls == 0


@pytest.mark.parametrize("row", RUN_AGAIN, ids=_case)
def test_views_and_named_results_are_run_again(row: Any) -> None:
    plain, first, second, calls = _twice(*row)
    assert _looks(plain) == _looks(first) == _looks(second)
    assert calls == 1


@pytest.mark.parametrize("inside", [torch.enable_grad(), torch.autocast("cpu", torch.bfloat16)], ids=["grad", "amp"])
def test_gradients_and_autocast_are_no_matter_of_shapes_alone(inside: Any) -> None:
    weight = torch.nn.Parameter(torch.zeros(4, 6))
    plain, first, second, calls = _twice(F.linear, (TOKENS, weight), {}, inside)
    assert _looks(plain) == _looks(first) == _looks(second)
    assert calls == 1


def test_a_result_in_place_is_the_tensor_that_went_in() -> None:
    mode = FakeTensorMode()
    memo, name = Memo(mode), op_name(Tensor.add_)
    with torch.no_grad(), mode:
        one, two = torch.zeros(3), torch.zeros(3)
        assert memo.run(name, Tensor.add_, (one, 1), {}) is one
        assert memo.run(name, Tensor.add_, (two, 1), {}) is two


def test_known_numbers_stay_known() -> None:
    mode = FakeTensorMode()
    memo, name = Memo(mode), op_name(torch.add)
    with torch.no_grad(), mode:
        numbers = [memo.run(name, torch.add, (torch.tensor(n), 1), {}).item() for n in (1, 2)]
    assert numbers == [2, 3]


def test_arguments_that_only_look_alike_are_told_apart() -> None:
    mode = FakeTensorMode()
    memo, name = Memo(mode), op_name(torch.mul)
    with torch.no_grad(), mode:
        ids = torch.zeros(3, dtype=torch.long)
        types = [memo.run(name, torch.mul, (ids, n), {}).dtype for n in (1, 1.0, True)]
    assert types == [torch.int64, torch.float32, torch.int64]


def test_sizes_that_disagree_are_an_error_every_time() -> None:
    mode = FakeTensorMode()
    memo = Memo(mode)
    with torch.no_grad(), mode:
        for func, args in (
            (torch.cat, ([torch.zeros(2, 3), torch.zeros(3, 4)],)),
            (F.linear, (torch.zeros(2, 6), torch.zeros(4, 5))),
        ):
            for _ in range(2):
                with pytest.raises(RuntimeError):
                    memo.run(op_name(func), func, args, {})
        with pytest.raises(IndexError):
            memo.run(op_name(torch.cat), torch.cat, ([torch.zeros(2, 3)] * 2, 5), {})
        named = {"normalized_shape": (3,)}
        assert memo.run(op_name(torch.layer_norm), torch.layer_norm, (torch.zeros(2, 3),), named).shape == (2, 3)
        wrong = (torch.zeros(2, 4), *[torch.zeros(3)] * 4, False, 0.1, 1e-5, False)
        with pytest.raises(RuntimeError):
            memo.run(op_name(torch.batch_norm), torch.batch_norm, wrong, {})
