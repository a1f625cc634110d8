"""Integers with provenance: values as ever, expressions beside them, comparisons logged."""

import copy
import json
import math
import operator
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastify._ir.ints import Attr, Dim, Int, Op, evaluate, expr_of, guard_log, leaves

HEADS, WIDTH = Attr("attn", "num_heads"), Dim(3, 1)


def ints():
    return Int(12, HEADS), Int(768, WIDTH)


@pytest.mark.parametrize(
    ("made", "value", "expr"),
    [
        (lambda h, w: w // h, 64, Op("floordiv", (WIDTH, HEADS))),
        (lambda h, w: w % h, 0, Op("mod", (WIDTH, HEADS))),
        (lambda h, w: 2 * h, 24, Op("mul", (2, HEADS))),
        (lambda h, w: 1000 - w, 232, Op("sub", (1000, WIDTH))),
        (lambda h, w: 1000 // h, 83, Op("floordiv", (1000, HEADS))),
        (lambda h, w: h + h, 24, Op("add", (HEADS, HEADS))),
        (lambda h, w: -h, -12, Op("neg", (HEADS,))),
        (lambda h, w: h**2, 144, Op("pow", (HEADS, 2))),
        (lambda h, w: divmod(w, h)[0], 64, Op("floordiv", (WIDTH, HEADS))),
        (lambda h, w: divmod(770, h)[1], 2, Op("mod", (770, HEADS))),
        (lambda h, w: math.prod((h, 3)), 36, Op("mul", (HEADS, 3))),
        (lambda h, w: sum((h, 3)), 15, Op("add", (HEADS, 3))),
        (lambda h, w: math.floor(h), 12, HEADS),
        (lambda h, w: round(h), 12, HEADS),
        (lambda h, w: max(h, 3), 12, HEADS),
        (lambda h, w: 1 * h + 0, 12, HEADS),
        (lambda h, w: w // 1 - 0, 768, WIDTH),
        (lambda h, w: 0 - h, -12, Op("sub", (0, HEADS))),
        (lambda h, w: 1 // h, 0, Op("floordiv", (1, HEADS))),
    ],
)
def test_arithmetic_keeps_value_and_expression(made, value, expr):
    result = made(*ints())
    assert result == value
    assert result.expr == expr


@pytest.mark.parametrize("made", [lambda h: h / 2, lambda h: h**0.5, lambda h: h * 1.5, lambda h: math.sqrt(h), int])
def test_what_cannot_carry_provenance_is_plain(made):
    assert not isinstance(made(ints()[0]), Int)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "sub", "mul", "floordiv", "mod"]), st.integers(1, 50), st.booleans()),
        max_size=8,
    ),
    st.integers(1, 1000),
)
def test_evaluating_the_expression_gives_the_value(steps, start):
    number = Int(start, WIDTH)
    for name, other, swap in steps:
        left, right = (other, number) if swap else (number, other)
        if right != 0 or name in ("add", "sub", "mul"):
            number = getattr(operator, name)(left, right)
    assert type(number) is Int
    assert evaluate(number.expr, {WIDTH: start}.__getitem__) == number


def test_comparisons_are_logged_in_every_form():
    heads, width = ints()
    log = []
    with guard_log(lambda *entry: log.append(entry)):
        assert width == 768
        assert 12 != width  # noqa: SIM300 - the reflected form is the point
        assert width > heads
        assert bool(heads)
        assert heads < 12.5
        assert heads is not None
        assert heads != "12"
    assert log == [
        ("eq", (WIDTH, 768), True),
        ("ne", (WIDTH, 12), True),
        ("gt", (WIDTH, HEADS), True),
        ("truth", (HEADS,), True),
        ("lt", (HEADS, 12.5), True),
    ]
    assert heads == 12
    assert len(log) == 5


def test_an_int_is_an_int_everywhere_else():
    heads, _ = ints()
    assert {12: "a"}[heads] == "a"
    assert hash(heads) == hash(12)
    assert json.dumps([heads]) == "[12]"
    assert list(range(heads))[-1] == 11
    assert f"{heads:03d} {heads!r}" == "012 12"
    assert copy.deepcopy(heads) is heads
    assert type(pickle.loads(pickle.dumps(heads))) is int  # noqa: S301 - no such file leaves the test


def test_expressions_of_numbers_and_their_leaves():
    heads, width = ints()
    assert [expr_of(x) for x in (heads, 7, True, 2.5)] == [HEADS, 7, 1, 2.5]
    assert list(leaves((width // heads * 3).expr)) == [WIDTH, HEADS]
    assert str(Attr("a.b", "size", (0, "x"))) == "a.b.size[0]['x']"
    assert str(Attr("", "size")) == "size"


N = Int(12, Attr("", "n"))


@pytest.mark.parametrize(
    ("whole", "value", "expr"),
    [
        (lambda: math.floor(N / 4), 3, Op("floordiv", (Attr("", "n"), 4))),
        (lambda: math.ceil(N / 4), 3, Op("floordiv", (Attr("", "n"), 4))),
        (lambda: round(N * 0.25), 3, Op("floordiv", (Attr("", "n"), 4))),
        (lambda: round(N * 0.75), 9, Op("floordiv", (Op("mul", (Attr("", "n"), 3)), 4))),
        (lambda: math.floor(N / 2 / 3), 2, Op("floordiv", (Attr("", "n"), 6))),
        (lambda: round(N / N * 2), 2, Op("floordiv", (Op("mul", (Attr("", "n"), 2)), Attr("", "n")))),
        (lambda: math.floor(N / 5), 2, Op("floordiv", (Attr("", "n"), 5))),
    ],
)
def test_a_ratio_made_whole_again_knows_its_origin(whole: Any, value: int, expr: Op) -> None:
    found = whole()
    assert found == value
    assert found.expr == expr


def test_a_ratio_is_a_float() -> None:
    half = N / 2
    assert isinstance(half, float)
    assert half == 6.0
    assert (half + 1, half * math.pi, half / 0.5, math.sqrt(half * 6)) == (7.0, 6 * math.pi, 12.0, 6.0)
    assert type(half * math.pi) is float
    assert type(round(N / 5)) is int
    assert math.ceil(N / 5) == 3
    assert copy.deepcopy(half) == 6.0
    assert round(N / 5, 1) == 2.4


@pytest.mark.parametrize("number", [N, N / 2, N * 0.5])
def test_int_hands_out_a_plain_number_and_says_so(number: Any) -> None:
    seen: list[Any] = []
    with guard_log(lambda *guard: seen.append(guard)):
        plain = int(number)
    assert type(plain) is int
    assert [(fn, result) for fn, _, result in seen] == [("int", plain)]
