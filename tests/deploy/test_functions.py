"""Functions that a model holds, and that hold the model, belong to the copy in a copy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import ElastifyError, activate, elastify, extract, load, save, space
from elastify._deploy import copied
from elastify.testing import check_model

IDS = torch.randint(0, 20, (2, 5), generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """`add` gives it a function `head`, or something like one."""

    def __init__(self, add: Callable[[Any], Any]) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(20, 16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.head: Any = self.tied
        add(self)

    def tied(self, x: Tensor) -> Tensor:
        return x @ self.table.weight.t()

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.down(torch.relu(self.up(self.table(ids)))))


def a_lambda(m: Any) -> None:
    m.head = lambda x: x @ m.table.weight.t()


def a_part_in_a_lambda(m: Any) -> None:
    table = m.table
    m.up.note = lambda x: x @ table.weight.t()
    m.head = lambda x: m.up.note(x)


def a_default(m: Any) -> None:
    m.head = lambda x, net=m: x @ net.table.weight.t()


def a_keyword_default(m: Any) -> None:
    def head(x: Tensor, *, net: Any = m) -> Tensor:
        return x @ net.table.weight.t()

    m.head = head


def in_a_list(m: Any) -> None:
    m.heads = [(lambda x: x @ m.table.weight.t(), 1)]
    m.head = lambda x: m.heads[0][0](x)


def in_a_dict(m: Any) -> None:
    m.heads = {"tied": lambda x: x @ m.table.weight.t()}
    m.head = lambda x: m.heads["tied"](x)


def a_partial(m: Any) -> None:
    m.head = functools.partial(lambda net, x, by: x @ net.table.weight.t() * by, m, by=2.0)


def a_method(m: Any) -> None:
    m.head = m.tied


def a_decorated_function(m: Any) -> None:
    def inner(x: Tensor) -> Tensor:
        return x @ m.table.weight.t()

    @functools.wraps(inner)
    def outer(x: Tensor) -> Tensor:
        return 2 * inner(x)

    m.head = outer


def a_recursion(m: Any) -> None:
    def head(x: Tensor, rounds: int = 2) -> Tensor:
        return head(x, rounds - 1) if rounds else x @ m.table.weight.t()

    m.head = head


def two_over_one_variable(m: Any) -> None:
    count = [0]

    def head(x: Tensor) -> Tensor:
        count[0] += 1
        return x @ m.table.weight.t()

    m.head, m.counted = head, lambda: (count, m)


def a_hook(m: Any) -> None:
    m.down.register_forward_hook(lambda module, args, out: out @ m.table.weight.t())
    m.head = nn.Identity()


def a_hook_before(m: Any) -> None:
    m.down.register_forward_pre_hook(lambda module, args: (args[0] * m.up.bias,))


def another_forward(m: Any) -> None:
    old = m.down.forward
    m.down.forward = lambda x: 2 * old(x)


class Caller:
    """An object that holds the model."""

    def __init__(self, net: Any) -> None:
        self.net = net

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.net.table.weight.t()


def an_object(m: Any) -> None:
    m.head = Caller(m)


class Bag:
    """An object that holds a function."""

    def __init__(self, function: Any) -> None:
        self.function = function


def in_an_object(m: Any) -> None:
    bag = m.bag = Bag(lambda x: x @ m.table.weight.t())
    m.head = lambda x: bag.function(x)


class Descriptor(nn.Module):
    net: Any = None


def in_a_class(m: Any) -> None:
    Descriptor.net = m
    m.head = lambda x: x @ Descriptor.net.table.weight.t()


ADDED = [a_lambda, a_part_in_a_lambda, a_default, a_keyword_default, in_a_list, in_a_dict, a_partial, a_method]
ADDED += [a_decorated_function, a_recursion, two_over_one_variable, a_hook, a_hook_before, another_forward, an_object]
REFUSED = [in_an_object, in_a_class]


@pytest.mark.parametrize("add", ADDED)
def test_the_extracted_model_has_its_own(add: Callable[[Any], Any]) -> None:
    net = elastify(Net(add).eval(), IDS)
    assert len(space(net).axes) == 2
    small = extract(net, 0.5)
    want = small(IDS).detach().clone()
    with torch.no_grad(), activate(net, 0.5):
        torch.testing.assert_close(net(IDS), want)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(small(IDS), want)
    small(IDS).sum().backward()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert any(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("add", ADDED)
def test_the_full_check(add: Callable[[Any], Any]) -> None:
    check_model(Net(add), IDS, configurations=3, costs=2).assert_passed()


@pytest.mark.parametrize("add", REFUSED)
def test_what_cannot_follow_is_refused_with_its_line(add: Callable[[Any], Any]) -> None:
    net = Net(add).eval()
    line = add.__code__.co_firstlineno
    with pytest.raises(ElastifyError, match=r"copies of this model go on with its own table\.weight") as error:
        elastify(net, IDS)
    file, _, number = error.value.where.rpartition(":")
    assert file.endswith("test_functions.py")
    assert line < int(number) <= line + 3
    assert type(net.up) is nn.Linear


def test_check_model_tells_of_weights_of_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    def keeps(model: Any, config: Any = None) -> nn.Module:
        small: Any = extract(model, config)
        down = model.down.weight
        small.head = lambda x: x @ small.table.weight.t() + 0 * x.sum() + down.sum()
        return small

    monkeypatch.setattr("elastify.testing.extract", keeps)
    report = check_model(Net(a_method), IDS, configurations=1, tolerance=1e9)
    assert any("changes when weights of the original do" in text for text in report.failures)


@pytest.mark.parametrize("add", [a_lambda, a_hook, a_partial])
def test_a_loaded_model_has_its_own(add: Callable[[Any], Any], tmp_path: Any) -> None:
    small = extract(elastify(Net(add).eval(), IDS), 0.5)
    save(small, tmp_path)
    full = Net(add).eval()
    again = load(tmp_path, like=full)
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.zero_()
    assert torch.equal(again(IDS), small(IDS))


def test_what_functions_share_is_shared_in_the_copy() -> None:
    net: Any = Net(two_over_one_variable)
    twin: Any = copied(net)
    twin(IDS)
    assert twin.counted()[1] is twin
    assert net.counted()[1] is net
    assert (twin.counted()[0], net.counted()[0]) == ([1], [0])


def test_functions_that_hold_nothing_of_the_model_stay_what_they_are() -> None:
    outer = {"calls": 0}
    net: Any = Net(lambda m: None)
    net.note, net.act, net.keep = (lambda: outer), torch.relu, functools.partial(torch.add, 1)
    twin: Any = copied(net)
    assert twin.note is net.note
    assert twin.act is torch.relu
    assert twin.head.__self__ is twin
