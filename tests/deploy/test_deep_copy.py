"""Copies of models are what `copy.deepcopy` makes of them."""

from __future__ import annotations

import contextvars
import copy
import math
import multiprocessing
import queue
import socket
import sqlite3
import sys
import tempfile
import threading
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import ElastifyError, activate, elastify, extract
from elastify._deploy.deep_copy import DeepCopy


class Odd(nn.Module):
    """All that a module may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Conv2d(1, 2, 3)
        self.rnn, self.attention, self.again = nn.LSTM(4, 4), nn.MultiheadAttention(4, 2), self.a
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.a.weight
        self.names, self.table, self.pair = ["x", [1]], {(1, 2): OrderedDict(y={"z": torch.ones(2)})}, (self.a, 3)
        self.register_buffer("cache", torch.zeros(3), persistent=False)
        self.a.register_forward_hook(lambda *args: None)
        self.whole = {"self": self}


class Own(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> Own:
        made = Own(self.in_features, self.out_features)
        made.__dict__["told"] = True
        return made


def same(a: Any, b: Any, seen: set[int]) -> bool:
    """Equal in all that is held, but no object in both that could be changed."""
    if id(a) in seen:
        return True
    seen.add(id(a))
    if isinstance(a, Tensor):
        return a is not b and torch.equal(a, b) and (a.requires_grad, type(a)) == (b.requires_grad, type(b))
    if isinstance(a, nn.Module):
        return type(a) is type(b) and a is not b and same(vars(a), vars(b), seen)
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[key], b[key], seen) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(lambda x, y: same(x, y, seen), a, b))
    return type(a) is type(b)


def test_as_the_standard_library_copies() -> None:
    net = Odd()
    made, expected = DeepCopy({})(net), copy.deepcopy(net)
    assert same(expected, made, set())
    held = {id(part) for part in (*net.modules(), *net.parameters(), *net.buffers(), net.names[1], net.table)}
    assert held.isdisjoint(map(id, (*made.modules(), *made.parameters(), *made.buffers(), made.names[1], made.table)))
    assert made.again is made.a is made.pair[0]
    assert made.tied.weight is made.a.weight
    assert made.whole["self"] is made
    assert made.rnn._flat_weights[0] is made.rnn.weight_ih_l0
    x = torch.ones(1, 4)
    torch.testing.assert_close(made.rnn(x)[0], net.rnn(x)[0])


def test_what_has_a_way_of_its_own_takes_it() -> None:
    made = DeepCopy({})(nn.Sequential(Own(2, 3), torch.jit.script(nn.Linear(2, 2))))
    assert made[0].told
    assert isinstance(made[1], torch.jit.ScriptModule)


class Numbered(nn.Module):
    def __new__(cls, number: int) -> Numbered:
        made = super().__new__(cls)
        made.__dict__["number"] = number
        return made

    def __init__(self, number: int) -> None:
        super().__init__()

    def __getnewargs__(self) -> tuple[int]:
        return (self.number,)


def test_classes_that_are_made_with_arguments_are_given_them() -> None:
    assert DeepCopy({})(Numbered(3)).number == 3


def test_tables_keep_what_they_hold_beside_their_items() -> None:
    net = nn.Linear(2, 2)
    net.saved = net.state_dict()
    assert DeepCopy({})(net).saved._metadata == net.saved._metadata


def test_tensors_with_a_history_lose_it() -> None:
    net = nn.Linear(2, 2)
    net.computed = net.weight * 2
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(net)
    made = DeepCopy({})(net)
    assert made.computed.is_leaf
    assert torch.equal(made.computed, net.computed)


def test_classes_and_attributes_can_be_others() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2))
    net[0].__dict__["_mark"] = net[1].__dict__["_mark"] = object()
    made = DeepCopy({}, lambda cls: nn.Identity if cls is nn.Linear else cls, lambda name: name == "_mark")(net)
    assert type(made[0]) is nn.Identity
    assert "_mark" not in vars(made[0])
    assert "_mark" not in vars(made[1])
    assert torch.equal(made.get_parameter("0.weight"), net.get_parameter("0.weight"))


FILE = Path(__file__)


class Helper:
    """An object of the user's that a model holds."""

    def __init__(self, thing: Any) -> None:
        self.thing, self.table = thing, {"seen": 3}


class Guarded(Helper):
    """One that deletes something at its end."""

    def __del__(self) -> None:
        self.thing.close()


def made_elastic(thing: Any, *, verify: bool) -> tuple[Any, Any]:
    """What an elastic model holds, and what the model extracted from it does."""
    net, x = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3)), torch.randn(6, 4)
    net[0].thing = thing
    small: Any = extract(elastify(net, x, verify=verify), 0.5)
    assert small(x).shape == (6, 3)
    return net[0].thing, small[0].thing


SHARED = {
    "lock": threading.Lock,
    "reentrant lock": threading.RLock,
    "lock of processes": multiprocessing.Lock,
    "file": lambda: FILE.open(),
    "bytes": lambda: FILE.open("rb"),
    "socket": socket.socket,
    "standard error": lambda: sys.stderr,
    "database": lambda: sqlite3.connect(":memory:"),
    "Python module": lambda: math,
    "context": lambda: contextvars.ContextVar("held"),
    "locals of threads": threading.local,
    "view of a dict": lambda: types.MappingProxyType({"a": 1}),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
def test_what_has_no_copy_is_shared(make: Any, verify: bool) -> None:
    thing = make()
    before, after = made_elastic(thing, verify=verify)
    assert after is before is thing


@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
def test_in_lists_too(make: Any) -> None:
    before, after = made_elastic([make(), {"in": (make(), [1])}], verify=True)
    assert after is not before
    assert after[0] is before[0]
    assert after[1]["in"][0] is before[1]["in"][0]
    assert after[1]["in"][1] is not before[1]["in"][1]


@pytest.mark.parametrize("make", [threading.Lock, lambda: math, threading.Event, queue.Queue])
def test_objects_with_locks_are_copied(make: Any) -> None:
    before, after = made_elastic(Helper(make()), verify=True)
    assert after is not before
    assert after.table is not before.table


def test_tensors_with_a_history_in_lists_are_copied_without_it() -> None:
    computed = nn.Linear(2, 2).weight * 2
    before, after = made_elastic(Helper([computed]), verify=True)
    assert before.thing[0] is computed
    assert after.thing[0].is_leaf
    assert torch.equal(after.thing[0], computed)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: (i for i in "ab"),
        lambda: {"letters": (i for i in "ab")},
        lambda: Helper(FILE.open()),
        lambda: Guarded(FILE.open()),
        tempfile.NamedTemporaryFile,
    ],
    ids=["generator", "generator in a dict", "file of an object", "file that is closed", "temporary file"],
)
def test_what_a_copy_would_use_up_or_close_is_refused_by_name(make: Any, verify: bool) -> None:
    thing = make()
    with pytest.raises(ElastifyError, match="'thing' of this Linear cannot be copied"):
        made_elastic(thing, verify=verify)
    file = getattr(thing, "thing", None) or getattr(thing, "file", None)
    assert file is None or not file.closed


@pytest.mark.parametrize("first", [True, False])
def test_a_model_that_was_compiled_in_place_gives_plain_submodels(first: bool) -> None:
    net, x = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3)), torch.randn(6, 4)
    if first:
        net.compile(backend="eager")
    elastify(net, x)
    if not first:
        net.compile(backend="eager")
    small = extract(net, 0.5)
    with activate(net, 0.5):
        want = net(x)
    torch.testing.assert_close(small(x), want)
    assert small._compiled_call_impl is None
    assert not torch.allclose(net(x), want)
