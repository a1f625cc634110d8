"""What forward writes: statistics belong to a configuration, everything else is shared like weights.

Every net is tried with every configuration of a few: activated equals extracted in outputs and written buffers, in
training mode; units that are not active are untouched, and so are the statistics of the full network.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastify import ElastifyError, activate, elastify, extract, space
from elastify._rewrite import elastic_state
from elastify.testing import check_model
from elastify.train import Sandwich, sort_channels
from tests.every_axis import every_axis

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Averaging(nn.Module):
    """Heads of units in one dimension; a moving average of them is subtracted, `write` says how it is moved."""

    def __init__(self, write: Callable[[Any, Tensor], None], heads: int = 4, dim: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.write, self.heads = write, heads
        self.a, self.b = nn.Linear(4, heads * dim), nn.Linear(heads * dim, 2)
        self.register_buffer("ema", torch.rand(heads * dim))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).view(len(x), self.heads, -1).softmax(1).flatten(1)
        if self.training:
            self.write(self, y.detach().mean(0))
            self.steps += 1
        return self.b(y - self.ema)


def _lerp(m: Any, mean: Tensor) -> None:
    m.ema.lerp_(mean, 0.5)


def _data(m: Any, mean: Tensor) -> None:
    m.ema.data.mul_(0.5).add_(mean, alpha=0.5)


def _out(m: Any, mean: Tensor) -> None:
    torch.lerp(m.ema, mean, 0.5, out=m.ema)


def _copy(m: Any, mean: Tensor) -> None:
    m.ema.copy_(m.ema * 0.5 + mean * 0.5)


def _slice(m: Any, mean: Tensor) -> None:
    m.ema[:] = m.ema * 0.5 + mean * 0.5


def _view(m: Any, mean: Tensor) -> None:
    m.ema.view(m.heads, -1).mul_(0.5)
    m.ema.add_(mean, alpha=0.5)


def _assigned(m: Any, mean: Tensor) -> None:
    m.ema = m.ema * 0.5 + mean * 0.5


def _registered(m: Any, mean: Tensor) -> None:
    m.register_buffer("ema", m.ema * 0.5 + mean * 0.5)


def _twice(m: Any, mean: Tensor) -> None:
    m.ema = m.ema * 0.5
    m.ema.add_(mean * 0.5)


def _both(m: Any, mean: Tensor) -> None:
    m.ema.mul_(0.5)
    m.ema = m.ema + mean * 0.5


WRITES = [_lerp, _data, _out, _copy, _slice, _view, _assigned, _registered, _twice, _both]


class Always(Averaging):
    """The same in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).view(len(x), self.heads, -1).softmax(1).flatten(1)
        self.write(self, y.detach().mean(0))
        return self.b(y - self.ema)


class Streaming(nn.Module):
    """A state that goes on from call to call."""

    def __init__(self, assigned: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.assigned = assigned
        self.a, self.b, self.c = nn.Linear(4, 12), nn.Linear(12, 12), nn.Linear(12, 2)
        self.register_buffer("state", torch.zeros(6, 12), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x) + self.b(self.state))
        if self.assigned:
            self.state = h.detach()
        else:
            self.state[:, :] = h.detach()
        return self.c(h)


class Concat(nn.Module):
    """Two layers side by side, with a running mean of both."""

    def __init__(self, assigned: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.assigned = assigned
        self.a, self.c, self.b = nn.Linear(4, 6), nn.Linear(4, 8), nn.Linear(14, 2)
        self.register_buffer("ema", torch.rand(14))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x).relu(), self.c(x).sigmoid()], 1)
        if self.training and self.assigned:
            self.ema = 0.9 * self.ema + 0.1 * y.detach().mean(0)
        elif self.training:
            self.ema.mul_(0.9).add_(y.detach().mean(0), alpha=0.1)
        return self.b(y - self.ema)


class Codebook(nn.Module):
    """A vector quantiser that moves its codes towards what they stand for, over codes and channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 12), nn.Linear(12, 2)
        self.register_buffer("codes", torch.randn(5, 12))
        self.register_buffer("counts", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        index = torch.cdist(h, self.codes).argmin(1)
        if self.training:
            with torch.no_grad():
                hot = F.one_hot(index, 5).to(h)
                self.counts.mul_(0.9).add_(hot.sum(0), alpha=0.1)
                self.codes.mul_(0.9).add_(hot.t() @ h, alpha=0.1)
        return self.b(h + (F.embedding(index, self.codes) - h).detach())


class Spectral(nn.Module):
    """The spectral norm of torch, by parametrization."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 12))
        self.b = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


SHARED: dict[str, Callable[[], nn.Module]] = {
    **{write.__name__.strip("_"): lambda write=write: Averaging(write) for write in WRITES},
    **{f"always {write.__name__.strip('_')}": lambda write=write: Always(write) for write in (_lerp, _both)},
    "streaming": lambda: Streaming(True),
    "streaming in place": lambda: Streaming(False),
    "concat": Concat,
    "concat assigned": lambda: Concat(assigned=True),
    "codebook": Codebook,
    "spectral": Spectral,
}


def configurations(model: nn.Module) -> list[Any]:
    names = [axis.name for axis in space(model).axes]
    return [0.5, *({name: 0.5} for name in names), space(model).max]


HALF_HEADS = {"head_dim": 0.5}
"""Half of the units within heads: the part of a buffer is a copy."""


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("name", SHARED)
def test_a_subnet_writes_its_own_units(name: str) -> None:
    model = every_axis(SHARED[name](), X).train()
    assert space(model).plan.written
    state = elastic_state(model)
    for config in configurations(model):
        small, before = extract(model, config).train(), buffers(model)
        expected = small(X)
        with activate(model, config):
            torch.testing.assert_close(model(X), expected)
            after, active = buffers(model), state.active
            theirs = dict(small.named_buffers())
            for key, value in after.items():
                torch.testing.assert_close(model.get_buffer(key), theirs[key])
                if active is not None and key in state.plan.tensors:
                    cut = state.slice(active, key)
                    torch.testing.assert_close(cut(value), theirs[key])
                    for same in (value, before[key]):
                        cut.put(same, torch.zeros_like(theirs[key]))
                    assert torch.equal(value, before[key])  # the others


@pytest.mark.parametrize("name", SHARED)
def test_the_full_network_is_as_ever(name: str) -> None:
    plain, model = SHARED[name]().train(), every_axis(SHARED[name]().train(), X)
    for _ in range(2):
        assert torch.equal(plain(X), model(X))
    assert all(map(torch.equal, plain.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize("name", sorted(SHARED.keys() - {"streaming in place"}))  # which has no backward
def test_strategies_train_it(name: str) -> None:
    model = every_axis(SHARED[name](), X).train()
    before = buffers(model)
    labels = torch.tensor([0, 1] * 3)
    Sandwich(model, cycle=False).step(lambda: model(X), lambda out: F.cross_entropy(out, labels))
    assert any(not torch.equal(before[key], value) for key, value in model.named_buffers())


def test_writes_are_stored_when_the_pass_ends() -> None:
    model = every_axis(Averaging(_lerp), X).train()
    activate(model, HALF_HEADS)
    before = buffers(model)["ema"]
    model(X)
    once = model._buffers["ema"].clone()
    assert 0 < int((once != before).sum()) < 12
    with pytest.raises(RuntimeError):
        model(X[:, :3])  # a pass that fails
    model.ema.zero_()  # outside of any pass
    assert torch.equal(model._buffers["ema"], once)
    assert int((model.state_dict()["ema"] == 0).sum()) == model.ema.numel()
    model.load_state_dict({**model.state_dict(), "ema": once})
    assert torch.equal(model.ema, extract(model).ema)
    model._buffers["ema"].fill_(3.0)
    assert bool((model.ema == 3).all())


def test_reading_moves_nothing() -> None:
    model = every_axis(Averaging(_lerp), X).eval()
    before = model._buffers["ema"].clone()
    with activate(model, 0.5), torch.inference_mode():
        model(X)
    with activate(model, 0.5):
        model(X).sum().backward()
        model(X).sum().backward()
    version = model._buffers["ema"]._version
    with activate(model, 0.5):
        model(X)
    assert model._buffers["ema"]._version == version
    assert torch.equal(model._buffers["ema"], before)


def test_a_graph_that_keeps_the_old_value_is_right() -> None:
    class Net(Averaging):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (self.a.bias * self.ema).sum()

    model = every_axis(Net(_assigned), X).train()
    first = model(X).sum()
    with activate(model, 0.5):
        model(X).sum().backward()
    kept = model.a.bias.grad.clone()
    first.backward()  # what it has kept was not written to
    assert not torch.equal(model.a.bias.grad, kept)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])  # noqa: S301
@pytest.mark.parametrize("write", [_lerp, _assigned])
def test_copies_of_an_active_subnet(twin: Callable[[Any], Any], write: Any) -> None:
    model = every_axis(Averaging(write), X).train()
    with activate(model, HALF_HEADS):
        model(X)
        model.ema.mul_(2)
        other = twin(model)
        expected = model(X)
        assert torch.equal(other(X), expected)
    activate(other, None)
    assert torch.equal(other.ema, model.ema)


@pytest.mark.parametrize("value", [torch.zeros(12), torch.zeros(5), torch.zeros(6, 1), None])
def test_what_does_not_fit_is_refused(value: Any) -> None:
    model = every_axis(Averaging(_assigned), X).train()
    before = buffers(model)
    with activate(model, HALF_HEADS), pytest.raises(ElastifyError, match="cannot be replaced while a subnet"):
        model.ema = value
    assert all(torch.equal(before[key], value) for key, value in model.named_buffers())


# -- statistics ------------------------------------------------------------------------------------------------


class Norm(nn.Module):
    """Batch norms of the user's own."""

    def __init__(self, width: int, names: tuple[str, str], how: str) -> None:
        super().__init__()
        self.g, self.c = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.names, self.how = names, how
        if how == "rows":
            self.register_buffer("both", torch.stack([torch.zeros(width), torch.ones(width)]))
        else:
            self.register_buffer(names[0], torch.zeros(width))
            self.register_buffer(names[1], torch.ones(width))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        if self.how == "rows":
            return F.batch_norm(x, self.both[0], self.both[1], self.g, self.c, self.training, 0.1)
        mean, var = (getattr(self, name) for name in self.names)
        if self.how == "function":
            return F.batch_norm(x, mean, var, self.g, self.c, self.training, 0.1)
        if self.how == "words":
            return F.batch_norm(
                x, running_mean=mean, running_var=var, weight=self.g, bias=self.c, training=self.training
            )
        if self.training:
            now = x.mean(0), x.var(0, unbiased=False)
            for name, old, new in zip(self.names, (mean, var), now, strict=True):
                moved = old * 0.9 + new.detach() * 0.1
                if self.how == "by hand":
                    old.copy_(moved)
                else:
                    setattr(self, name, moved)
            mean, var = now
        return (x - mean) / (var + 1e-5).sqrt() * self.g + self.c


class Normed(nn.Module):
    def __init__(self, names: tuple[str, str], how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.n, self.o = nn.Linear(4, 12), Norm(12, names, how), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.n(self.a(x)).relu())


HOWS = ["function", "words", "rows", "by hand", "assigned"]


@pytest.mark.parametrize("names", [("m", "v"), ("running_mean", "running_var")])
@pytest.mark.parametrize("how", HOWS)
def test_statistics_belong_to_a_configuration(how: str, names: tuple[str, str]) -> None:
    model = elastify(Normed(names, how), X).train()
    found = space(model).plan
    assert found.statistics == {f"n.{name}" for name in ((*names, "seen") if how != "rows" else ("both", "seen"))}
    assert not found.written
    before, small = buffers(model), extract(model, 0.5).train()
    expected = small(X)
    with activate(model, 0.5):
        torch.testing.assert_close(model(X), expected)
        for key, value in small.named_buffers():
            torch.testing.assert_close(model.get_buffer(key), value)
    assert all(torch.equal(before[key], value) for key, value in model.named_buffers())
    model(X)
    assert not any(torch.equal(before[key], value) for key, value in model.named_buffers())


def test_what_an_output_of_training_depends_on_is_no_statistic() -> None:
    class Renorm(Norm):
        def forward(self, x: Tensor) -> Tensor:
            mean = self.m.clone()
            if self.training:
                self.m.lerp_(x.detach().mean(0), 0.1)
            return (x - mean) * self.g + self.c

    class Net(Normed):
        def __init__(self) -> None:
            super().__init__(("m", "v"), "function")
            self.n = Renorm(12, ("m", "v"), "function")

    plan = space(elastify(Net(), X)).plan
    assert not plan.statistics
    assert plan.written == {"n.m"}


def test_frozen_norms_write_nothing() -> None:
    class Frozen(Norm):
        def forward(self, x: Tensor) -> Tensor:
            return (x - self.running_mean) / self.running_var.sqrt() * self.g + self.c

    class Net(Normed):
        def __init__(self) -> None:
            super().__init__(("running_mean", "running_var"), "function")
            self.n = Frozen(12, ("running_mean", "running_var"), "function")

    plan = space(elastify(Net(), X)).plan
    assert not plan.statistics
    assert not plan.written


def test_statistics_of_a_subnet_are_not_assigned_from_outside() -> None:
    model = elastify(Normed(("m", "v"), "function"), X).eval()
    with activate(model, 0.5), pytest.raises(ElastifyError, match="belongs to the full network"):
        model.n.m = torch.zeros(6)
    model.train()
    with activate(model, 0.5), pytest.raises(ElastifyError, match=r"must have shape \[6\]"):
        model.n.m = torch.zeros(12)


CHECKED = ["lerp", "assigned", "always lerp", "always both", "streaming", "streaming in place", "concat", "codebook"]


@pytest.mark.parametrize("name", [*CHECKED, "spectral"])
def test_everything_else_holds(name: str) -> None:
    check_model(SHARED[name](), X, configurations=4).assert_passed()


# -- caches in buffers -----------------------------------------------------------------------------------------


class Biased(nn.Module):
    """Attention with a bias in a buffer that grows with the inputs; `none` says whether there is none at first."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.heads, self.longest = how, 4, 0
        self.i, self.qkv, self.o = nn.Linear(5, 16), nn.Linear(16, 48), nn.Linear(16, 3)
        self.register_buffer("slope", torch.rand(4, 1, 1))
        self.register_buffer("bias", None, persistent=False)
        if how == "numbers":
            self.build(2)

    def build(self, n: int) -> None:
        self.longest = n
        places = torch.arange(n)
        bias = (places - places[:, None]).abs() * -self.slope[: self.heads]
        if self.how == "attribute":
            self.bias = bias
        else:
            self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        if n > self.longest if self.how == "numbers" else self.bias is None or self.bias.shape[-1] < n:
            self.build(n)
        q, k, v = self.qkv(self.i(x)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-1, -2) + self.bias[:, :n, :n]).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.o(y)


class Rotary(nn.Module):
    """A table of cosines over positions and half of the units, which grows."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.i, self.o = nn.Linear(5, 16), nn.Linear(16, 3)
        self.register_buffer("freq", torch.rand(8), persistent=False)
        self.longest = 0
        self.build(3)

    def build(self, n: int) -> None:
        self.longest = n
        angle = torch.arange(n)[:, None] * self.freq
        self.register_buffer("cos", torch.cat([angle, angle], -1).cos(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        if n > self.longest:
            self.build(n)
        return self.o(self.i(x) * self.cos[:n])


class Persistent(Rotary):
    """A table that is stored with the weights, so that nothing empties it."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.gain = nn.Parameter(torch.rand(16))
        self.register_buffer("cos", self.table(3))

    def table(self, n: int) -> Tensor:
        return (torch.arange(n)[:, None] * self.gain.detach()).cos()

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        if n > len(self.cos):
            self.cos = self.table(n)
        return self.o(self.i(x) * self.gain * self.cos[:n])


class Numbered(Biased):
    """A method that only `__init__` calls stores a number that the cache needs."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.prepare()

    def prepare(self) -> None:
        self.heads = 4


CACHES = [
    (Biased, "register"),
    (Biased, "attribute"),
    (Biased, "numbers"),
    (Numbered, "numbers"),
    (Rotary, ""),
    (Persistent, ""),
]


def tokens(n: int) -> Tensor:
    return torch.randn(2, n, 5, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("filled", [0, 4, 6, 9])
@pytest.mark.parametrize(("net", "how"), CACHES)
def test_caches_grow_while_a_subnet_is_active(net: Any, how: str, filled: int) -> None:
    model = net(how).eval()
    if filled:
        model(tokens(filled))
    ref = copy.deepcopy(model)
    elastify(model, tokens(6))
    assert space(model).axes
    sort_channels(model)
    for config in (0.5, 0.75):
        with activate(model, config):
            for n in (6, 20, 8, 31, 31):
                small = extract(model, config)
                torch.testing.assert_close(small(tokens(n)), model(tokens(n)))
        for n in (6, 20):
            torch.testing.assert_close(model(tokens(n)), ref(tokens(n)), rtol=1e-4, atol=1e-5)
    with activate(model, 0.5):  # now the full network has grown, too
        torch.testing.assert_close(extract(model)(tokens(18)), model(tokens(18)))
    torch.testing.assert_close(model(tokens(40)), ref(tokens(40)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("net", "how"), CACHES)
def test_copies_of_what_has_grown(net: Any, how: str) -> None:
    model = elastify(net(how).eval(), tokens(6))
    with activate(model, 0.5):
        model(tokens(12))
        other = copy.deepcopy(model)
        torch.testing.assert_close(other(tokens(12)), model(tokens(12)))
    activate(other, None)
    for n in (6, 12, 20):
        torch.testing.assert_close(other(tokens(n)), model(tokens(n)))


def test_the_space_lists_what_forward_writes() -> None:
    text = str(space(every_axis(Averaging(_lerp), X)))
    assert "buffers that forward writes, shared: a subnet writes its active units (2)\n  ema, steps\n" in text
    text = str(space(elastify(Normed(("m", "v"), "function"), X)))
    assert "statistics, which each configuration has for itself (3)\n  n.m, n.seen, n.v\n" in text


@pytest.mark.parametrize(("write", "whole"), [(_lerp, True), (_assigned, False)])
def test_compiled(write: Any, whole: bool) -> None:
    torch._dynamo.reset()
    model = every_axis(Averaging(write), X).train()
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, backend="eager", fullgraph=whole)
    for config in (None, HALF_HEADS, None):
        with activate(model, config), activate(plain, config):
            torch.testing.assert_close(compiled(X), plain(X))
            torch.testing.assert_close(model._buffers["ema"], plain._buffers["ema"])
