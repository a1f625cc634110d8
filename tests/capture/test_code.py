"""What code may read and write is found from its words, whatever path a run takes."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify._capture import Code


def outside(module: Any, x: Tensor) -> Tensor:
    return x * module.by_a_function


def wrapping(function: Any) -> Any:
    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        return function(*args)

    return wrapped


class Base(nn.Module):
    inner: Any

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 100:
            return outside(self, self.other(x)) + self.inner.build(x)
        return (lambda y: y * self.in_a_lambda)(x) * self.by_property * self.held["by_key"]

    @property
    def by_property(self) -> float:
        return self.in_a_property

    @wrapping
    def other(self, x: Tensor) -> Tensor:
        self.written = x
        self.register_buffer("registered", x)
        return x * self.decorated * getattr(self, "by_getattr")  # noqa: B009

    def never(self) -> float:
        return self.unread


class Derived(Base):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.only_made = 1

    def other(self, x: Tensor) -> Tensor:
        return super().other(x) * self.derived


class Inner(nn.Module):
    def build(self, x: Tensor) -> Tensor:
        return x * self.asked_from_outside

    def forward(self, x: Tensor) -> Tensor:
        return x


READ = ["by_a_function", "in_a_lambda", "by_property", "by_key", "in_a_property", "decorated", "by_getattr", "derived"]


@pytest.mark.parametrize("name", READ)
def test_words_that_forward_may_read(name: str) -> None:
    assert Code(Derived()).line(Derived, name).startswith("tests/capture/test_code.py:")


def test_the_line_is_that_of_the_word() -> None:
    file, _, line = Code(Derived()).line(Derived, "by_getattr").rpartition(":")
    with open(file, encoding="utf-8") as source:
        assert "by_getattr" in source.readlines()[int(line) - 1]


@pytest.mark.parametrize("name", ["unread", "only_made", "written", "x", "missing"])
def test_other_words(name: str) -> None:
    assert Code(Derived()).line(Derived, name) == ""


def test_what_other_classes_call_may_run() -> None:
    code = Code(Derived())
    assert code.line(Inner, "asked_from_outside")
    assert not code.line(Derived, "asked_from_outside")
    assert code.line(None, "asked_from_outside")
    assert not Code(Inner()).line(Inner, "asked_from_outside")


def test_what_is_written() -> None:
    writes = Code(Derived()).writes(Derived)
    assert {"written", "registered"} <= writes
    assert "only_made" not in writes


def test_modules_of_torch_have_no_code_of_their_own() -> None:
    assert not Code(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))).line(nn.Linear, "in_features")
    assert torch.nn.Linear(2, 2).in_features == 2
