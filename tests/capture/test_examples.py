"""What is remembered of an example, and the stand-ins that are made of it."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from elastify._capture.examples import Example, describe, example_like, prepare_inputs
from elastify._capture.trees import in_words, mapped
from elastify._errors import ElastifyError
from elastify._ir.examples import ExampleSpec, TensorSpec, Unknown

Pair = namedtuple("Pair", "one two")
DTYPES = "float64 float32 float16 bfloat16 complex64 int64 int32 int16 int8 uint8 uint16 bool".split()


def described(*args: Any, samples: dict[int, tuple[int, ...]] | None = None, **kwargs: Any) -> ExampleSpec:
    spec = describe(Example(args, kwargs), samples or {}, 2)
    assert spec is not None
    return spec


def shapes(tree: Any) -> Any:
    return mapped(tree, lambda tensor: (tuple(tensor.shape), tensor.dtype))


def test_the_tree_comes_back_with_other_numbers() -> None:
    x, ids = torch.randn(2, 3), torch.tensor([[3, 5], [4, 4]])
    example = Example((x, [ids, None, True], {"a": (1, 2.5, "text"), 3: x > 0}), {"size": torch.Size([4, 5])})
    again = example_like(described(*example.args, **example.kwargs))
    assert shapes((again.args, again.kwargs)) == shapes((example.args, {"size": (4, 5)}))
    assert not torch.equal(again.args[0], x)
    assert x.min() <= again.args[0].min()
    assert again.args[0].max() <= x.max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_ranges(dtype: str) -> None:
    x = torch.tensor([[1, 0], [1, 1]]).to(getattr(torch, dtype))
    (again,) = example_like(described(x)).args
    assert (again.dtype, again.shape) == (x.dtype, x.shape)
    assert set(again.flatten().tolist()) <= {0, 1} or x.is_floating_point() or x.is_complex()


def test_integers_stay_in_the_range_that_was_seen() -> None:
    ids = torch.tensor([[7, 30521], [12, 9]])
    (again,) = example_like(described(ids, samples={id(ids): (0,)}), batch=500).args
    assert again.shape == (500, 2)
    assert 7 <= again.min() < 3000 < 25000 < again.max() <= 30521
    mask = torch.ones(2, 5, dtype=torch.bool)
    assert example_like(described(mask)).args[0].all()
    assert not example_like(described(torch.zeros(2, 5, dtype=torch.int32))).args[0].any()
    least = torch.tensor([-(2**63), 2**63 - 1])
    assert example_like(described(least)).args[0].dtype == torch.int64


def test_zeros_become_noise_and_infinity_is_no_range() -> None:
    assert example_like(described(torch.zeros(2, 4))).args[0].std() > 0
    assert example_like(described(torch.tensor([0.0, -torch.inf]))).args[0].isfinite().all()
    assert described(torch.empty(0, 3)).args[0].range is None


def test_dimensions_that_count_samples_follow_the_batch() -> None:
    x, flat, table = torch.randn(2, 3), torch.randn(5, 6), torch.randn(2, 2)
    spec = described(x, flat, table, samples={id(x): (0,), id(flat): (1,)})
    assert [tuple(t.shape) for t in example_like(spec, batch=7).tensors()] == [(7, 3), (5, 21), (2, 2)]
    assert [tuple(t.shape) for t in example_like(spec).tensors()] == [(2, 3), (5, 6), (2, 2)]
    with pytest.raises(ElastifyError, match="counts samples"):
        example_like(described(x), batch=3)
    odd = torch.randn(3, 5)
    assert described(odd, samples={id(odd): (0,)}).args[0].samples == ()  # 3 is no multiple of 2 samples


def test_the_same_seed_gives_the_same_numbers() -> None:
    spec = described(torch.randn(2, 3))
    first, same, other = (example_like(spec, seed=seed).args[0] for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_no_data_is_kept() -> None:
    text = str(described(torch.tensor([[123456, 5], [777777, 999999]]), "s" * 300).to_json())
    assert "777777" not in text
    assert "123456" not in text
    assert "sss" not in text


@pytest.mark.parametrize("thing", [object(), {("a", "b"): 3}, Pair(1, 2), "x" * 300, torch.ones(2).to_sparse])
def test_what_cannot_be_made_again_is_named(thing: Any) -> None:
    spec = described(torch.randn(2, 3), thing)
    assert spec.args[1] == Unknown(type(thing).__name__)
    with pytest.raises(ElastifyError, match=f"a {type(thing).__name__}, which is not remembered"):
        example_like(spec)


def test_too_much_is_not_remembered() -> None:
    assert describe(Example(([0] * 5000,)), {}, 1) is None


def test_tensors_without_numbers_have_no_range() -> None:
    fake = FakeTensorMode().from_tensor(torch.zeros(2, 3))
    for tensor in (torch.zeros(2, 3, device="meta"), fake):
        assert described(tensor).args == (TensorSpec((2, 3), "float32"),)
    ids = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    assert not example_like(described(ids)).args[0].any()


def test_an_example_is_called_and_mapped() -> None:
    example = Example((torch.ones(2),), {"other": torch.ones(2)}).mapped(lambda t: t + 1)
    assert example(torch.add).tolist() == [4, 4]
    assert all(isinstance(tensor, Tensor) for tensor in prepare_inputs([torch.ones(3), 1]).tensors())


def test_each_call_is_given_containers_and_tensors_of_its_own() -> None:
    x = torch.ones(2)
    example = Example(([x, x], {"y": x}), {"more": bytearray(b"ab")})

    def write(xs: list[Tensor], ys: dict[str, Tensor], more: bytearray) -> Tensor:
        assert xs[0] is xs[1] is ys["y"]  # what is given twice is given twice
        more += b"c"
        xs.pop().add_(1)
        return ys.pop("y")

    assert [example(write).tolist() for _ in range(2)] == [[2, 2], [2, 2]]
    assert example.args == ([x, x], {"y": x})
    assert (x.tolist(), example.kwargs["more"]) == ([1, 1], b"ab")


def test_words_of_a_nested_value() -> None:
    assert in_words([torch.zeros(2, 3), {"a": (None, 2)}, object()]) == "[float32[2, 3], {a: [None, 2]}, object]"
