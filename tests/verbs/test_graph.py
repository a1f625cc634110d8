"""`elastify.graph`: what an FX graph of a run computes, tells and refuses; torch's own tools work on it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import operator
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.utils.matcher_utils import SubgraphMatcher

from elastify import ElastifyError, activate, elastify, extract, graph
from elastify._capture import Example
from tests.constructs.construct import Fn, example
from tests.constructs.test_constructs import CONSTRUCTS
from tests.small_nets import Net

sys.path.insert(0, str(Path(__file__).parents[1] / "zoo"))
from suite_first import FIRST


@pytest.fixture(autouse=True)
def _as_it_is_written() -> Iterator[None]:
    """One thread, no gradients, and no kernel that fuses an encoder layer, of which a graph has the parts."""
    threads, fused = torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)
    torch.backends.mha.set_fastpath_enabled(fused)


def flat(item: Any) -> list[Tensor]:
    if isinstance(item, Tensor):
        return [item]
    if dataclasses.is_dataclass(item) and not isinstance(item, dict):
        item = vars(item)
    parts = item.values() if isinstance(item, dict) else item if isinstance(item, (tuple, list)) else ()
    return [tensor for part in parts for tensor in flat(part)]


def assert_alike(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    pairs = list(zip(flat(one), flat(other), strict=True))
    assert pairs, "nothing was compared"
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def seeded(run: Any, args: Any, kwargs: Any) -> Any:
    torch.manual_seed(3)
    return Example(args, kwargs)(run)  # in lists of its own: forward may write into them


def resized(item: Any, samples: int) -> Any:
    """The inputs with the first samples, or the first one once more."""
    if isinstance(item, Tensor):
        return torch.cat([item, item[:1]])[:samples] if item.ndim else item
    if isinstance(item, (tuple, list)):
        return type(item)(resized(part, samples) for part in item)
    return {key: resized(part, samples) for key, part in item.items()} if isinstance(item, dict) else item


@pytest.mark.parametrize("entry", FIRST, ids=lambda entry: entry.name)
def test_known_networks_are_computed_to_the_bit(entry: Any) -> None:
    model, args, kwargs = entry.make()
    view = graph(model, args or None, example_kwargs=kwargs)
    view.graph.lint()
    assert view.meta == {"batch": "", "limits": (), "cannot_run": ""}
    assert_alike(view(*args, **kwargs), model(*args, **kwargs))
    more, named = resized(args, 3), resized(kwargs, 3)
    assert_alike(view(*more, **named), model(*more, **named))


@pytest.mark.parametrize("construct", CONSTRUCTS, ids=str)
def test_constructs_hold_for_one_sample_more_or_are_refused(construct: Any) -> None:
    """`check_model` compares the graph of every construct on its example."""
    net, (args, kwargs) = construct.net().eval(), example(construct.inputs)
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    view = graph(net, args, example_kwargs=kwargs)
    more, named = resized(args, 3), resized(kwargs, 3)
    try:
        expected = seeded(net, more, named)
    except (RuntimeError, ValueError, AssertionError, IndexError):
        assert view.meta["batch"] or view.meta["cannot_run"]  # the model does not run
        return
    if view.meta["batch"] or view.meta["cannot_run"]:
        with pytest.raises(ElastifyError):
            view(*more, **named)
    else:
        assert_alike(seeded(view, more, named), expected)


def test_interpreter_and_copy_run_it() -> None:
    model, (x,), _ = next(entry for entry in FIRST if entry.name == "torchvision:resnet18").make()
    view = graph(model, x)
    expected = model(x)
    assert_alike(fx.Interpreter(view).run(x), expected)
    twin = copy.deepcopy(view)
    assert_alike(twin(x), expected)
    assert twin.meta == view.meta
    view.graph.eliminate_dead_code()
    view.recompile()
    assert_alike(view(x), expected)
    with pytest.raises(ElastifyError, match="other sizes of x"):
        view(x[..., :32])  # the check of the input is no dead code


def test_it_is_a_view_of_the_weights_of_the_model() -> None:
    net, x = Net(), torch.randn(2, 6)
    view = graph(net, x)
    for parameter in net.parameters():
        parameter.mul_(1.5)
    assert_alike(view(x), net(x))
    owned = {id(parameter) for parameter in net.parameters()}
    assert {id(parameter) for parameter in view.parameters()} == owned


def names(view: fx.GraphModule, key: str) -> dict[str, Any]:
    return {node.name: node.meta[key] for node in view.graph.nodes if key in node.meta}


def heads(m: Any, x: Tensor) -> Tensor:
    batch, tokens, _ = x.shape
    q = m.q(x).view(batch, tokens, m.size.heads, -1).transpose(1, 2)
    return m.last(q.reshape(batch, m.size.heads, -1)[..., : 2 * 3])


def test_nodes_say_where_everything_comes_from() -> None:
    net = Fn(heads, q=nn.Linear(6, 12), last=nn.Linear(6, 5), size=SimpleNamespace(heads=3))
    view = graph(net, torch.randn(2, 4, 6))
    node = next(node for node in view.graph.nodes if node.target == "view")
    assert node.meta["integers"] == {
        "args[1]": "getitem.size(0)",
        "args[2]": "getitem.size(1)",
        "args[3]": "size.heads",
        "args[4]": "literal",
    }
    assert node.meta["shape"] == (2, 4, 3, 4)
    assert node.meta["dtype"] == torch.float32
    assert node.meta["module"] == ""
    assert node.meta["source"].startswith("tests/verbs/test_graph.py:")
    assert isinstance(node.args[1], fx.Node)
    assert node.args[1].target == "size"
    assert node.args[3] == 3
    linear = next(node for node in view.graph.nodes if node.name == "linear")
    assert linear.meta["module"] == "q"
    assert linear.target is F.linear


def test_layouts_are_those_of_the_axes() -> None:
    net = elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), torch.randn(2, 4))
    layouts = names(graph(net, torch.randn(2, 4)), "layout")
    assert layouts["_0_weight"] == ("hidden", "4")
    assert layouts["relu"] == ("batch", "hidden")
    assert layouts["linear_1"] == ("batch", "3")


def test_of_an_elastic_model_it_is_the_network_as_it_runs_now() -> None:
    net, x = elastify(Net(), torch.randn(2, 6)), torch.randn(2, 6)
    assert_alike(graph(net, x)(x), net(x))
    with activate(net, 0.5) as config:
        view = graph(net, x)
    small = extract(net, config)
    assert_alike(view(x), small(x))
    planned = {name: tuple(tensor.shape) for name, tensor in small.named_parameters()}
    assert {name: tuple(tensor.shape) for name, tensor in view.named_parameters()} == planned
    assert names(view, "layout")["linear"] == ("batch", "width")


def test_torch_tools_read_it(tmp_path: Path) -> None:
    model, (x,), _ = next(entry for entry in FIRST if entry.name == "timm:deit_tiny_patch16_224").make()
    view = graph(model, x)
    text = view.print_readable(print_output=False)
    assert "class VisionTransformer" in text
    assert re.search(r'linear: "f32\[2, \d+, 576\]"', text)
    assert "timm/layers/attention.py" in text
    mlp = graph(nn.Sequential(nn.Linear(192, 768), nn.GELU(), nn.Linear(768, 192)), torch.randn(2, 197, 192))
    pattern = fx.Graph()
    given = [pattern.placeholder(name) for name in ("x", "weight", "bias")]
    gelu = next(node for node in mlp.graph.nodes if node.name == "gelu")
    linear = pattern.call_function(F.linear, tuple(given))
    pattern.output(pattern.call_function(gelu.target, (linear, *gelu.args[1:]), dict(gelu.kwargs)))
    found = SubgraphMatcher(pattern, match_output=False, match_placeholder=False).match(view.graph)
    assert len(found) == 12


def test_the_drawer_of_torch_draws_it() -> None:
    from torch.fx.passes.graph_drawer import FxGraphDrawer

    view = graph(Net(), torch.randn(2, 6))
    dot = FxGraphDrawer(view, "net").get_dot_graph()
    drawn = {node.get_name() for node in dot.get_nodes()}
    assert {node.name for node in view.graph.nodes} <= drawn


# -- what runs otherwise is refused ----------------------------------------------------------------------------


def test_inputs_of_another_kind_are_refused() -> None:
    view = graph(nn.Linear(4, 3), torch.randn(2, 4))
    with pytest.raises(ElastifyError, match="other sizes of input") as caught:
        view(torch.randn(2, 1, 4))
    assert "it takes [any, 4], it was given [2, 1, 4]" in str(caught.value)
    with pytest.raises(ElastifyError, match="another type of input"):
        view(torch.randn(2, 4, dtype=torch.float64))


class Scaled(nn.Linear):
    def forward(self, x: Tensor, scale: float = 1.0, flip: bool = False) -> Tensor:  # type: ignore[override]
        return super().forward(x.flip(1) if flip else x) * scale


def test_other_values_of_plain_arguments_are_refused() -> None:
    net = Scaled(4, 4)
    x = torch.randn(2, 4)
    view = graph(net, (x,), example_kwargs={"scale": 2.0, "flip": True})
    assert_alike(view(x, 2.0, flip=True), net(x, 2.0, flip=True))
    assert_alike(view(x, scale=2.0, flip=True), net(x, scale=2.0, flip=True))
    with pytest.raises(ElastifyError, match="recorded with"):
        view(x, scale=2.0, flip=False)


def test_a_branch_on_the_number_of_samples_is_refused() -> None:
    net = Fn(lambda m, x: m.l(x) if x.shape[0] > 1 else m.l(x) + 1, l=nn.Linear(4, 4))
    view = graph(net, torch.randn(2, 4))
    assert_alike(view(torch.ones(5, 4)), net(torch.ones(5, 4)))
    with pytest.raises(ElastifyError, match="goes another way") as caught:
        view(torch.ones(1, 4))
    assert "tests/verbs/test_graph.py:" in str(caught.value)


def test_a_loop_over_samples_holds_for_as_many() -> None:
    net = Fn(lambda m, x: torch.stack([m.l(x[i]) for i in range(x.shape[0])]), l=nn.Linear(4, 4))
    view = graph(net, torch.randn(2, 4))
    assert "getitem" in view.meta["batch"] or "there" in view.meta["batch"]
    x = torch.randn(2, 4)
    assert_alike(view(x), net(x))
    with pytest.raises(ElastifyError, match="other sizes"):
        view(torch.randn(3, 4))


def test_values_that_decide_the_way_cannot_run() -> None:
    net = Fn(lambda m, x: m.l(x) if x.sum() > 0 else -m.l(x), l=nn.Linear(4, 4))
    with pytest.warns(UserWarning, match="depends on the values"):
        view = graph(net, torch.ones(2, 4))
    assert "the values of tensors decide" in view.meta["cannot_run"]
    assert any(node.name == "linear" for node in view.graph.nodes)
    with pytest.raises(ElastifyError, match="can be read, but not run"):
        view(torch.ones(2, 4))
    with pytest.raises(ElastifyError, match="can be read, but not run"):
        fx.Interpreter(view).run(torch.ones(2, 4))


def test_copies_of_the_weights_are_gone_with_the_run() -> None:
    """A run on real tensors has copies, which no circle of objects may keep until the next collection."""

    def live() -> int:
        return sum(issubclass(type(item), Tensor) and item.shape == (3, 777) for item in gc.get_objects())

    model = Fn(lambda m, x: m.last(x) if x.sum() > 0 else x, last=nn.Linear(777, 3))
    gc.collect()
    gc.disable()
    try:
        before = live()
        view = graph(model, torch.ones(2, 777))
        assert (live(), bool(view.meta["cannot_run"])) == (before, True)
    finally:
        gc.enable()


def test_one_tensor_given_twice_stays_one() -> None:
    net = Fn(lambda m, a, b: m.l(a) * b, l=nn.Linear(4, 4))
    x = torch.randn(2, 4)
    view = graph(net, (x, x))
    assert_alike(view(x, x), net(x, x))
    with pytest.raises(ElastifyError, match="one tensor given twice"):
        view(x, x.clone())


def test_autocast_inside_forward_cannot_run() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return m.l(x).float()

    view = graph(Fn(forward, l=nn.Linear(4, 4)), torch.randn(2, 4))
    assert "autocast" in view.meta["cannot_run"]


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> Any:
        return grad[0] * 5


def test_custom_gradients_are_named() -> None:
    net = Fn(lambda m, x: Doubled.apply(m.l(x)), l=nn.Linear(4, 4))
    x = torch.randn(2, 4)
    view = graph(net, x)
    assert_alike(view(x), net(x))
    assert any("gradients of custom autograd functions" in text for text in view.meta["limits"])


def test_scripted_parts_are_their_operators() -> None:
    class Part(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) * 2 + x

    net = Fn(lambda m, x: m.part(m.l(x)), l=nn.Linear(4, 4), part=torch.jit.script(Part()))
    x = torch.randn(3, 4)
    assert_alike(graph(net, x)(x), net(x))


def test_tensors_from_outside_that_change_cannot_run() -> None:
    import numpy as np

    steady = Fn(lambda m, x: m.l(x) + torch.from_numpy(np.ones(4, np.float32)), l=nn.Linear(4, 4))
    x = torch.randn(2, 4)
    assert_alike(graph(steady, x)(x), steady(x))
    counter = iter(range(100))
    other = Fn(lambda m, x: m.l(x) + torch.from_numpy(np.full(4, next(counter), np.float32)), l=nn.Linear(4, 4))
    assert graph(other, x).meta["cannot_run"]


def test_writes_in_place_and_views_come_out_as_they_did() -> None:
    def forward(m: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = m.l(x)
        part = y[:, :2]
        y.relu_()
        y[:, 0] = 7
        m.count.add_(1)
        return part, {"y": y, "count": m.count.clone()}

    net = Fn(forward, l=nn.Linear(4, 4), count=torch.zeros(()))
    x = torch.randn(2, 4)
    view = graph(net, x)
    assert net.count == 0
    twin = copy.deepcopy(net)
    for _ in range(2):
        assert_alike(view(x), twin(x))
    assert net.count == 2


@pytest.mark.parametrize("made_elastic", [False, True])
def test_what_an_earlier_run_left_is_named(made_elastic: bool) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        if "scale" not in m.cache:
            m.cache["scale"] = m.table.exp()
        return m.o(m.l(x) * m.cache["scale"])

    net, x = Fn(forward, l=nn.Linear(4, 16), o=nn.Linear(16, 4), table=torch.zeros(())), torch.randn(2, 4)
    net.cache = {}
    if made_elastic:
        elastify(net, x)
    assert graph(net, x).meta["limits"] == ("forward leaves tensors in cache for its next call, the graph does not",)
    net(x)
    assert graph(net, x).meta["limits"] == ("what an earlier run has left in cache is a constant of the graph",)


class Decays(nn.Module):
    """A table beside the weights that code of the module replaces: when it is too short, or never here."""

    def __init__(self, made: bool) -> None:
        super().__init__()
        self.made, self.l = made, nn.Linear(4, 4)
        self.register_buffer("decay", None if made else self.table(5), persistent=False)

    @staticmethod
    def table(length: int) -> Tensor:
        return 0.5 ** torch.arange(length)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        short = self.decay is None or len(self.decay) < x.shape[1]
        if short if self.made else x.shape[1] > 99:
            self.register_buffer("decay", self.table(x.shape[1]), persistent=False)
        return self.l(x) * self.decay


class Rooted(nn.Module):
    """Keeps what it makes of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.l, self.square = nn.Linear(4, 4), nn.Parameter(torch.full((), 4.0))

    @functools.cached_property
    def root(self) -> Tensor:
        return self.square.sqrt().detach()

    def forward(self, x: Tensor) -> Tensor:
        return self.l(x) * self.root


@pytest.mark.parametrize("name", ["decay", "root"])
def test_of_buffers_and_properties_too(name: str) -> None:
    model, x = Decays(True) if name == "decay" else Rooted(), torch.randn(2, 5, 4)
    assert graph(model, x).meta["limits"] == (
        f"forward leaves tensors in {name} for its next call, the graph does not",
    )
    expected, held = model(x), getattr(model, name)
    view = graph(model, x)
    assert view.meta["limits"] == (f"what an earlier run has left in {name} is a constant of the graph",)
    assert getattr(model, name) is held
    assert_alike(view(x), expected)


def test_what_no_run_fills_is_no_limit() -> None:
    model, x = Decays(False), torch.randn(2, 5, 4)
    held = model.decay
    view = graph(model, x)
    assert view.meta["limits"] == ()
    assert model.decay is held
    assert_alike(view(x), model(x))


def test_attributes_that_forward_leaves_are_named() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.kept = m.l(x)
        return m.kept * 2

    x = torch.randn(2, 4)
    view = graph(Fn(forward, l=nn.Linear(4, 4)), x)
    assert view.meta["limits"] == ("forward leaves tensors in kept for its next call, the graph does not",)


def test_a_model_that_needs_inputs_says_so() -> None:
    with pytest.raises(ElastifyError, match="needs example inputs"):
        graph(nn.Linear(4, 4))


def test_plain_arithmetic_is_written_with_operators() -> None:
    view = graph(Fn(lambda m, x: m.l(x)[:, : x.shape[1] // 2], l=nn.Linear(4, 4)), torch.randn(2, 4))
    targets = [node.target for node in view.graph.nodes]
    assert operator.getitem in targets
    assert operator.floordiv in targets
