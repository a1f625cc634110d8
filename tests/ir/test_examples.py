"""A description of an example as JSON: it comes back as it was, and nothing else is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elastify._errors import ElastifyError
from elastify._ir.examples import ExampleSpec, TensorSpec, Unknown

IMAGE = TensorSpec((2, 3, 8, 8), "float32", (0,), (-1.5, 2.0))
IDS = TensorSpec((2, 9), "int64", (0,), (0, 99))
SPEC = ExampleSpec((IMAGE, [None, True, 3], {"a": (1.5, "text"), 7: IDS}), {"mask": Unknown("Mask")}, 2)


def tensor(*parts: Any) -> dict[str, Any]:
    return {"args": {"tuple": [{"tensor": list(parts)}]}, "kwargs": {"dict": []}, "count": 1}


def test_it_comes_back_as_it_was() -> None:
    assert ExampleSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC
    assert ExampleSpec.from_json(ExampleSpec().to_json()) == ExampleSpec()
    assert ExampleSpec.from_json(tensor([2, 3], "float32", [0], None)).args == (TensorSpec((2, 3), "float32", (0,)),)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {**SPEC.to_json(), "count": 0},
        {**SPEC.to_json(), "count": True},
        {**SPEC.to_json(), "args": {"list": []}},
        {**SPEC.to_json(), "kwargs": {"dict": [[3, None]]}},
        {**SPEC.to_json(), "args": {"tuple": [{"module": "os"}]}},
        {**SPEC.to_json(), "args": {"tuple": [{"tuple": 3}]}},
        {**SPEC.to_json(), "args": {"tuple": [{"dict": [[["key"], 3]]}]}},
        {**SPEC.to_json(), "args": {"tuple": [{"dict": [3]}]}},
        {**SPEC.to_json(), "args": {"tuple": [{"list": [], "tuple": []}]}},
        {**SPEC.to_json(), "args": {"tuple": ["x" * 1000]}},
        {**SPEC.to_json(), "args": {"tuple": [0] * 10_000}},
        tensor([2], "float32", [0]),
        tensor(2, "float32", [0], None),
        tensor([2], 32, [0], None),
        tensor([2], "load", [0], None),
        tensor([-2], "float32", [], None),
        tensor([2.0], "float32", [], None),
        tensor([True], "float32", [], None),
        tensor([1] * 40, "float32", [], None),
        tensor([2**20, 2**20], "float32", [], None),
        tensor([2], "float32", [1], None),
        tensor([2], "float32", ["0"], None),
        tensor([2], "int64", [], [0, 1.5]),
        tensor([2], "int64", [], [3, 2]),
        tensor([2], "int64", [], [3]),
        tensor([2], "uint8", [], [0, 256]),
        tensor([2], "bool", [], [0, 2]),
        tensor([2], "float32", [], [float("nan"), 1.0]),
        tensor([2], "float32", [], "ab"),
    ],
)
def test_nothing_else_is_read(data: Any) -> None:
    with pytest.raises(ElastifyError, match="not a description of an example"):
        ExampleSpec.from_json(data)


def test_many_tensors_together_are_bounded_and_nesting_is() -> None:
    one = {"tensor": [[2**20, 2**10], "float32", [], None]}
    with pytest.raises(ElastifyError, match="too large"):
        ExampleSpec.from_json({**SPEC.to_json(), "args": {"tuple": [one] * 4}})
    deep: Any = None
    for _ in range(50):
        deep = {"tuple": [deep]}
    with pytest.raises(ElastifyError, match="too large"):
        ExampleSpec.from_json({**SPEC.to_json(), "args": deep})
