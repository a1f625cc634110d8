"""What has been changed since `elastify` is noticed by name, and `plain` is the way on."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import ElastifyError, activate, cost, elastify, extract, graph, plain, search, space
from elastify.train import GumbelMask, Supermask, sort_channels

X = torch.randn(6, 4)


class Block(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 24), nn.Linear(24, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    """A stem, a norm, blocks, a head and a part whose sizes stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(4, 16), nn.BatchNorm1d(16)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.act, self.head = nn.ReLU(), nn.Linear(16, 3)
        self.last = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.last(self.head(self.act(x)))


class Lora(nn.Module):
    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.a, self.b = (
            nn.Linear(inner.in_features, 4, bias=False),
            nn.Linear(4, inner.out_features, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.b(self.a(x))


def wrapped(net: Net) -> None:
    net.stem = Lora(net.stem)  # type: ignore[assignment]


def reshaped(net: Net) -> None:
    net.head.weight.data, net.head.bias.data = torch.randn(5, 16), torch.randn(5)
    net.last = nn.Linear(5, 3)


def replaced_parameter(net: Net) -> None:
    net.head.weight, net.head.bias = nn.Parameter(torch.randn(5, 16)), nn.Parameter(torch.randn(5))
    net.last = nn.Linear(5, 3)


def tied(net: Net) -> None:
    net.blocks[1].up.weight = net.blocks[0].up.weight  # type: ignore[union-attr,assignment]


CHANGES: dict[str, tuple[Callable[[Net], Any], str]] = {
    "a head of another size": (lambda n: setattr(n, "head", nn.Linear(16, 3)), "head is another Linear"),
    "a wrapped layer": (wrapped, "stem was Linear, is Lora"),
    "another norm": (lambda n: setattr(n, "norm", nn.SyncBatchNorm(16)), "norm was BatchNorm1d, is SyncBatchNorm"),
    "a converted norm": (
        lambda n: nn.SyncBatchNorm.convert_sync_batchnorm(n),
        "norm was BatchNorm1d, is SyncBatchNorm",
    ),
    "a compiled block": (
        lambda n: n.blocks.__setitem__(1, torch.compile(n.blocks[1], backend="eager")),
        r"blocks\.1 was Block, is OptimizedModule",
    ),
    "one block more": (lambda n: n.blocks.append(Block()), r"blocks\.3 \(Block\) is new"),
    "one block less": (lambda n: n.blocks.__delitem__(2), r"blocks\.2 \(Block\) is gone"),
    "another block": (lambda n: n.blocks.__setitem__(0, Block()), r"blocks\.0\.up is another Linear"),
    "a bias less": (lambda n: setattr(n.stem, "bias", None), r"stem\.bias is gone"),
    "other shapes": (reshaped, r"head\.weight was \[3, 16\], is \[5, 16\]; head\.bias was \[3\], is \[5\]"),
    "other parameters": (replaced_parameter, r"head\.weight was \[3, 16\], is \[5, 16\]"),
}
ELSEWHERE: dict[str, tuple[Callable[[Net], Any], str]] = {
    "a part that stays": (lambda n: setattr(n, "last", nn.Identity()), "last was Linear, is Identity"),
    "another activation": (lambda n: setattr(n, "act", nn.GELU()), "act was ReLU, is GELU"),
    "a module more": (lambda n: setattr(n, "more", nn.Linear(3, 3)), r"more \(Linear\) is new"),
    "a parameter more": (lambda n: n.register_parameter("more", nn.Parameter(torch.ones(3))), "more is new"),
    "a tie": (tied, r"blocks\.1\.up\.weight and blocks\.0\.up\.weight are one tensor now"),
}
FINE: dict[str, Callable[[Net], Any]] = {
    "nothing": lambda n: None,
    "an equal activation": lambda n: setattr(n, "act", nn.ReLU()),
    "other weights": lambda n: n.load_state_dict(Net().state_dict()),
    "other tensors": lambda n: n.load_state_dict(Net().state_dict(), assign=True),
    "a buffer of the user's": lambda n: n.register_buffer("seen", torch.zeros(3)),
    "another dtype": lambda n: n.double(),
    "frozen weights": lambda n: n.requires_grad_(False),
    "compiled in place": lambda n: n.compile(backend="eager"),
    "a hook": lambda n: n.stem.register_forward_hook(lambda *args: None),
}
ALL = {**CHANGES, **ELSEWHERE}


@functools.cache
def original() -> Net:
    return fresh()


def fresh() -> Net:
    return elastify(Net().eval(), X, freeze=["last"])


def made(change: Callable[[Net], Any] = lambda net: None) -> Net:
    """An elastic model, changed."""
    net = copy.deepcopy(original())
    change(net)
    return net


def verbs(net: Net) -> dict[str, Callable[[], Any]]:
    return {
        "cost": lambda: cost(net, 0.5),
        "extract": lambda: extract(net, 0.5),
        "search": lambda: search(net, "60%", progress=False),
        "graph": lambda: graph(net, X),
    }


@pytest.mark.parametrize(("change", "text"), ALL.values(), ids=ALL)
@pytest.mark.parametrize("copied", [False, True])
def test_changes_are_named(change: Callable[[Net], Any], text: str, copied: bool) -> None:
    net = made(change) if copied else fresh()
    if not copied:
        change(net)
    net = copy.deepcopy(net) if copied else net
    for verb in verbs(net).values():
        with pytest.raises(ElastifyError, match=f"changed since(?s:.*){text}(?s:.*)plain\\(model\\)"):
            verb()


@pytest.mark.parametrize(("change", "text"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("before", [False, True])
def test_activate_names_what_it_touches(change: Callable[[Net], Any], text: str, before: bool) -> None:
    net = fresh()
    if before:
        activate(net, 0.5)
        activate(net, None)
    change(net)
    with pytest.raises(ElastifyError, match=text):
        activate(net, 0.5)
    activate(net, None)  # the full network is what it is


@pytest.mark.parametrize(("change", "_"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_activate_asks_for_nothing_else(change: Callable[[Net], Any], _: str) -> None:
    net = made(change)
    with activate(net, 0.5):
        assert net(X).shape == (6, 3)


@pytest.mark.parametrize("change", FINE.values(), ids=FINE)
def test_what_changes_no_network_is_no_change(change: Callable[[Net], Any]) -> None:
    net = made(change)
    x = X.to(net.stem.weight.dtype)
    with torch.no_grad(), activate(net, 0.5):
        want = net(x)
    torch.testing.assert_close(extract(net, 0.5)(x), want)
    assert cost(net, 0.5).macs < cost(net).macs
    assert search(net, "60%", progress=False).model(x).shape == (6, 3)


def test_a_refused_call_changes_nothing() -> None:
    net = made()
    head, other = net.head, nn.Linear(16, 3)
    activate(net, 0.5)
    shape = net.stem.weight.shape
    net.head = other
    for verb in (lambda: activate(net, 0.7), lambda: extract(net, 0.5), lambda: cost(net)):
        with pytest.raises(ElastifyError, match="changed since"):
            verb()
    assert net.stem.weight.shape == shape
    net.head = head  # put back
    assert extract(net)(X).shape == (6, 3)


def test_many_changes_are_counted() -> None:
    net = made(lambda net: [net.register_parameter(f"p{i}", nn.Parameter(torch.ones(1))) for i in range(9)])
    with pytest.raises(ElastifyError, match="p3 is new; and 5 more"):
        cost(net)


# -- and the way on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("change", "_"), ALL.values(), ids=ALL)
@pytest.mark.parametrize("active", [False, True])
def test_plain_and_elastic_again(change: Callable[[Net], Any], _: str, active: bool) -> None:
    net = made()
    if active:
        activate(net, 0.5)
        plain(net)
        change(net)
    else:
        change(net)
        plain(net)
    inside = [part for part in net.modules() if any(name.startswith("_elastify") for name in vars(part))]
    assert not inside
    want = copy.deepcopy(net).eval()(X)
    if isinstance(net.blocks[1], Block):  # else compiled
        elastify(net, X)
        assert torch.equal(net.eval()(X), want)
        with torch.no_grad(), activate(net, 0.5):
            small = net(X)
        torch.testing.assert_close(extract(net, 0.5)(X), small)
        fresh = sum(p.numel() for p in net.parameters())
        assert cost(net).params == fresh


def test_plain_gives_the_model_back_as_it_was() -> None:
    net = Net().eval()
    kinds, numbers = [type(part) for part in net.modules()], vars(net.stem).copy()
    state, want = copy.deepcopy(net.state_dict()), net(X)
    activate(elastify(net, X), 0.5)
    assert plain(net) is net
    assert [type(part) for part in net.modules()] == kinds
    assert vars(net.stem).keys() == numbers.keys()
    assert (net.stem.out_features, len(net.blocks)) == (16, 3)
    assert torch.equal(net(X), want)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert b"elastify" not in pickle.dumps(net)
    with pytest.raises(ElastifyError, match="this Net is not elastic"):
        space(net)


def test_what_was_trained_and_sorted_stays() -> None:
    net = made()
    want = net(X)
    sort_channels(net)
    order = net.stem.weight.detach().clone()
    torch.testing.assert_close(plain(net)(X), want)
    assert torch.equal(net.stem.weight, order)


@pytest.mark.parametrize("strategy", [Supermask, GumbelMask])
def test_plain_refuses_what_a_strategy_has_added(strategy: Any) -> None:
    net = made()
    strategy(net).prepare()
    with pytest.raises(ElastifyError, match=r"a strategy has added(?s:.*)extract"):
        plain(net)
    assert space(net).axes
    assert extract(net, space(net).max)(X).shape == (6, 3)
    assert cost(net).params == sum(p.numel() for p in extract(net, space(net).max).parameters())


def test_plain_is_for_elastic_models() -> None:
    for model in (Net(), extract(made(), 0.5)):
        with pytest.raises(ElastifyError, match="not elastic"):
            plain(model)


def test_a_part_of_an_elastic_model_is_named() -> None:
    net = made()
    with pytest.raises(ElastifyError, match=r"already elastic(?s:.*)where: 0"):
        elastify(nn.Sequential(net.stem, nn.ReLU(), nn.Linear(16, 3)), X)
    plain(net)
    assert space(elastify(nn.Sequential(net.stem, nn.ReLU(), nn.Linear(16, 3)), X)).axes


# -- bytes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
@pytest.mark.parametrize("config", [None, 0.5])
def test_bytes_follow_the_dtype(dtype: torch.dtype, config: Any) -> None:
    net = made()
    for to in (torch.float16, dtype):
        net.to(to)
        small = extract(net, space(net).max if config is None else config)
        tensors = [*small.parameters(), *small.buffers()]
        assert cost(net, config).bytes == sum(t.numel() * t.element_size() for t in tensors)
        assert cost(net, [config or 1.0]).bytes.tolist() == [cost(net, config).bytes]
        encoded = space(net).encode([space(net).config(config or 1.0)])
        assert cost(net, encoded).bytes.tolist() == [cost(net, config).bytes]


def test_bytes_of_parts_in_other_dtypes() -> None:
    net = made()
    full = cost(net)
    net.blocks.half()
    half = sum(p.numel() for p in net.blocks.parameters())
    assert cost(net).bytes == full.bytes - 2 * half
    assert (cost(net).macs, cost(net).params) == (full.macs, full.params)
    assert cost(copy.deepcopy(net)).bytes == cost(net).bytes
    found = search(net.float(), budget_bytes="50%", progress=False)
    assert found.cost.bytes <= full.bytes // 2
    assert search(net.half(), budget_bytes=full.bytes * 2 // 3, progress=False).config == space(net).max


# -- wrappers ---------------------------------------------------------------------------------------------------


WRAPPERS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "compiled": (lambda m: torch.compile(m, backend="eager"), "_orig_mod"),  # type: ignore[return-value]
    "parallel": (nn.DataParallel, "module"),
    "averaged": (torch.optim.swa_utils.AveragedModel, "module"),
}


@pytest.mark.parametrize(("wrap", "inner"), WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_are_named(wrap: Callable[[nn.Module], nn.Module], inner: str) -> None:
    around: Any = wrap(elastify(Net().eval(), X))
    kind = type(around).__name__
    for verb in (space, cost, activate, extract, plain, lambda m: search(m, "60%")):
        with pytest.raises(ElastifyError, match=f"this {kind} is not elastic, the model in it is(?s:.*)model.{inner}"):
            verb(around)
    with pytest.raises(ElastifyError, match=f"holds a model that is already elastic(?s:.*)model.{inner}"):
        elastify(around, X)
    net = getattr(around, inner)
    torch.testing.assert_close(extract(net, space(net).max)(X), around(X))


@pytest.mark.parametrize(("wrap", "inner"), WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapper_of_a_plain_model_is_not_made_elastic(wrap: Callable[[nn.Module], nn.Module], inner: str) -> None:
    around: Any = wrap(Net().eval())
    with pytest.raises(ElastifyError, match=rf"is a wrapper(?s:.*)elastify\(model\.{inner}, example_inputs\)"):
        elastify(around, X)
    with pytest.raises(ElastifyError, match=rf"is not elastic(?s:.*)elastify\(model\.{inner}"):
        space(around)
    assert space(elastify(getattr(around, inner), X)).axes


def test_a_model_inside_another_is_named() -> None:
    with pytest.raises(ElastifyError, match=r"pass model\.get_submodule\('0'\)"):
        cost(nn.Sequential(made()))
