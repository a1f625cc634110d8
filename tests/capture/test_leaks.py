"""Capture: the model is as it was, difficult models are recorded, bad input gets a clear answer."""

# ruff: noqa: NPY002 - the legacy global generator is what a model may draw from
import contextlib
import functools
import random
import sys
import weakref
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from elastify import elastify, extract
from elastify._capture.examples import Example, prepare_inputs
from elastify._capture.leaks import _search
from elastify._capture.session import capture, capture_all
from elastify._errors import ElastifyError

T = TypeVar("T")
X = torch.linspace(-1, 1, 8).view(2, 4)


class Net(nn.Module):
    """A linear layer and whatever `body(self, x)` does."""

    def __init__(self, body, **attributes):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.body = body
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.body(self, x)


def record(body, x=X, *, training=False, **attributes):
    return capture(Net(body, **attributes), Example((x,)), training=training)


def ops(graph):
    return [call.op for call in graph.calls]


def snapshot(model):
    """Everything a module holds, by identity."""
    return {
        path: {**{k: id(v) for k, v in m.__dict__.items()}, **{k: id(v) for k, v in m._parameters.items()}}
        for path, m in model.named_modules()
    }


# -- nothing changes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fake", [True, False])
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_model_is_as_it_was_whatever_happens(fake, error):
    def body(s, x):
        s.cache = torch.arange(4.0)
        s.seen.append(x)
        s.sizes[0] += 1
        s.count += 1
        s.state.calls = s.state.calls + 1
        s.linear.weight.mul_(2)
        s.register_buffer("late", torch.ones(4))
        if error:
            raise error("in the middle")
        return s.norm(s.linear(x) + s.cache + torch.rand(4) + random.random() + np.random.rand())

    class State:
        calls = 0

    model = Net(body, norm=nn.BatchNorm1d(4), cache=None, seen=[], sizes=[1, 2], count=3, state=State())
    model.norm.eval()
    model.state.calls = 5
    before, values = snapshot(model), {k: v.clone() for k, v in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    expected = {None: None, RuntimeError: ElastifyError, KeyboardInterrupt: KeyboardInterrupt}[error]
    with pytest.raises(expected) if expected else contextlib.nullcontext():
        capture(model, Example((X,)), training=True, fake=fake)
    assert snapshot(model) == before
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    assert (model.seen, model.sizes, model.count, model.state.calls) == ([], [1, 2], 3, 5)
    assert (model.training, model.norm.training) == (True, False)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks
    assert F.has_torch_function is torch.overrides.has_torch_function


@functools.lru_cache
def _table(n, m):
    return {"positions": (torch.arange(n) * m,)}


def test_caches_outside_the_model_do_not_keep_fake_tensors():
    store = {}

    def body(s, x):
        if "ones" not in store:
            store["ones"] = torch.ones(4)
        return s.linear(x) + _table(x.shape[1], 2)["positions"][0] + store["ones"]

    _table.cache_clear()
    model = Net(body)
    assert len(capture_all(model, Example((X,)))) == 1
    assert store == {}
    assert _table.cache_info().currsize == 0
    assert type(model(X)) is torch.Tensor


def test_what_functions_outside_the_model_remember_is_recorded_all_the_same():
    model = Net(lambda s, x: s.linear(x) + _table(x.shape[1], 2)["positions"][0])
    model(X)
    runs = [[call.op for call in capture(model, Example((X,))).calls] for _ in range(2)]
    assert runs[0] == runs[1] == ["linear", "arange", "mul", "add"]


def test_a_function_that_a_notebook_defines_later_forgets_as_well(monkeypatch):
    main = sys.modules["__main__"]
    cell = type("Cell", (Net,), {"__module__": "__main__"})
    model = cell(lambda s, x: s.linear(x) + main.table(x.shape[1])[0])
    for factor in (2, 3):  # a second run of the cell puts another function in the place of the first
        monkeypatch.setattr(
            main, "table", functools.lru_cache(lambda n, factor=factor: (torch.arange(n) * factor,)), raising=False
        )
        model(X)
        assert main.table.cache_info().currsize == 1
        assert ops(capture(model, Example((X,)))) == ["linear", "arange", "mul", "add"]


class Trap:
    """A stand-in for something that is not installed: whatever it is asked, it raises."""

    def __getattr__(self, name):
        raise ImportError(name)


class Liar:
    """An object that lies about its class and its namespace."""

    __class__ = property(lambda self: 1 / 0)
    __dict__ = property(lambda self: 1 / 0)


class Meta(type):
    """A class of classes that answers for them."""

    def __getattribute__(cls, name):
        raise ImportError(name)


@dataclass(frozen=True, slots=True)
class Slotted:
    width: int = 3


class Named(NamedTuple):
    width: int = 3


class Generics(Generic[T]):
    """A base that is written in `typing`."""


class Shape(Protocol):
    """Another one."""

    width: int


ODD = {
    "slots": Slotted(),
    "a named tuple": Named(),
    "the type of functions": type(record),
    "a stand-in": Trap(),
    "a liar": Liar(),
    "a class that answers itself": Meta("Odd", (), {}),
    "an object of it": Meta("Odd", (), {})(),
    "a weak proxy of nothing": weakref.proxy(Net(None)),
    "a module": sys,
    "a generic alias": list[int],
    "a method descriptor": str.join,
    "a partial": functools.partial(len),
}


@pytest.mark.parametrize("kind", ODD)
def test_whatever_a_file_holds_is_not_asked_for_more_than_it_gives(kind, monkeypatch):
    @functools.lru_cache
    def table(n):
        return torch.arange(float(n))

    here = sys.modules[__name__]
    monkeypatch.setattr(here, "odd", ODD[kind], raising=False)
    monkeypatch.setattr(here, "found_beside_it", staticmethod(table), raising=False)
    cell = type("Cell", (Net,), {"__module__": __name__, "odd": ODD[kind]})
    assert table in _search(__name__)
    assert capture(cell(lambda s, x: s.linear(x)), Example((X,))).calls


@pytest.mark.parametrize("base", [Generics, Shape])
def test_classes_of_typing_are_bases_like_others(base):
    cell = type("Cell", (Net, base), {"__module__": __name__})
    assert capture(cell(lambda s, x: s.linear(x)), Example((X,))).calls


def test_hooks_that_a_first_run_registers_are_not_left_behind():
    seen = []

    def body(s, x):
        if not s.hooked:
            s.linear.register_forward_hook(lambda *_: seen.append(1))
            s.hooked = True
        return s.linear(x)

    model = Net(body, hooked=False)
    capture(model, Example((X,)))
    assert (len(model.linear._forward_hooks), len(seen)) == (0, 1)
    model(X)
    assert (len(model.linear._forward_hooks), len(seen)) == (1, 2)


def test_caches_filled_before_an_error_do_not_keep_fake_tensors():
    def body(s, x):
        y = s.linear(x) + _table(x.shape[1], 3)["positions"][0]
        return y if y.sum() < 1e9 else x

    _table.cache_clear()
    model = Net(body)
    with pytest.warns(UserWarning, match="depends on the values of tensors") as warned:
        assert capture(model, Example((X,))).real
    assert len(warned) == 1
    assert type(model(X)) is torch.Tensor


# -- difficult models and bad input ------------------------------------------------------------------------------


def test_a_model_on_the_meta_device():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).to("meta")
    graph = capture(model, Example((torch.zeros(2, 3, 8, 8),)), training=True)
    assert graph.outputs[0].shape == (2, 8, 6, 6)
    assert all(p.is_meta for p in model.parameters())


def test_control_flow_on_values_follows_the_example():
    def body(s, x):
        return s.linear(x) if x.sum() < 1e9 else x

    with pytest.warns(UserWarning, match=r"depends on the values of tensors at tests/capture/test_leaks.py:\d+"):
        graph = record(body)
    assert ops(graph) == ["sum", "lt", "linear"]


def test_fake_and_real_runs_agree():
    model = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.Flatten(), nn.Linear(30, 3))
    runs = [capture(model, Example((torch.zeros(2, 4, 5),)), fake=fake) for fake in (True, False)]
    assert repr(runs[0].calls) == repr(runs[1].calls)
    assert runs[0].guards == runs[1].guards


def test_inputs_that_do_not_fit():
    with pytest.raises(ElastifyError, match="example inputs do not fit forward") as error:
        capture(Net(lambda s, x: x), Example((X, X)))
    assert "too many positional arguments; given were (float32[2, 4], float32[2, 4])" in str(error.value)
    with pytest.raises(ElastifyError, match="does not run on the example inputs") as error:
        record(lambda s, x: s.linear(x), torch.zeros(2, 5))
    assert "where: linear, tests/capture/test_leaks.py:" in str(error.value)
    assert "(2x5 and 4x4); the inputs were (float32[2, 5])" in str(error.value)
    with pytest.raises(ElastifyError, match="example inputs are a str"):
        prepare_inputs("picture.png")


def test_models_that_cannot_be_captured():
    with pytest.raises(ElastifyError, match="parameters that are not initialised yet"):
        capture(nn.LazyLinear(3), Example((X,)))

    def only_plain_integers(s, x):
        return s.linear(x) if type(s.size) is int else 1 / 0

    with pytest.raises(ElastifyError, match="cannot be captured") as error:
        record(only_plain_integers, size=3)
    assert "ZeroDivisionError" in str(error.value)
    with pytest.raises(ElastifyError, match="cannot be captured"):
        capture(Net(lambda s, x: s.linear(x)[x.sum() > 0]).to("meta"), Example((X,)))


def test_a_batch_of_one_is_doubled():
    example = prepare_inputs((torch.zeros(1, 3, 8), [torch.zeros(1), 5]), {"mask": torch.zeros(3, 1)})
    args, kwargs = example.args, example.kwargs
    assert [args[0].shape, args[1][0].shape, args[1][1], kwargs["mask"].shape] == [(2, 3, 8), (2,), 5, (3, 1)]
    example = prepare_inputs({"ids": torch.zeros(4, 1)})
    assert (example.args, example.kwargs["ids"].shape) == ((), (4, 1))
    assert not list(prepare_inputs(None).tensors())


class Exchanging(nn.Module):
    """Puts another layer in its own place on its first run, as BigBird does for short texts."""

    def __init__(self):
        super().__init__()
        self.wide, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
        self.exchanged = False

    def forward(self, x):
        if not self.exchanged:
            weight, self.wide, self.exchanged = self.wide.weight, nn.Linear(4, 8), True
            self.wide.weight = weight
        return self.last(self.wide(x))


def test_a_model_that_exchanges_its_modules_is_refused_until_it_has_run():
    net, x = Exchanging(), torch.randn(2, 4)
    wide = net.wide
    with pytest.raises(ElastifyError, match=r"forward replaces modules(.|\n)*once before elastify"):
        elastify(net, x)
    assert net.wide is wide
    assert not net.exchanged
    net(x)
    small = extract(elastify(net, x), 0.5)
    assert small.wide.out_features == 4
