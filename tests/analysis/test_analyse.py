"""From records of runs to layouts: what graphs share, what is held, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elastify._analysis.analyse import Analysis, analyse
from elastify._capture.examples import Example
from elastify._capture.paths import attribute_value
from elastify._capture.session import capture_all
from elastify._ir.layout import Axis, Concat, Product


class Net(nn.Module):
    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = [forward]
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function[0](self, *args, **kwargs)


def analysed(model: nn.Module, *args: Tensor, **options: Any) -> Analysis:
    graphs = capture_all(model, Example(args))
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return analyse(graphs, lambda attr: attribute_value(model, attr), names, **options)


def layouts(found: Analysis, name: str) -> list[Any]:
    return [found.terms.resolve(term) for term in found.tensor(name)]


def free(found: Analysis, name: str) -> list[bool]:
    return [not found.terms.is_frozen(term) for term in found.tensor(name)]


def mlp() -> Net:
    return Net(lambda m, x: m.b(torch.relu(m.a(x))), a=nn.Linear(6, 10), b=nn.Linear(10, 3))


X = torch.randn(2, 6)


def test_only_the_inside_of_a_network_is_free() -> None:
    found = analysed(mlp(), X)
    assert free(found, "a.weight") == [True, False]
    assert free(found, "b.weight") == [False, True]
    assert layouts(found, "a.weight")[0] == layouts(found, "a.bias")[0] == layouts(found, "b.weight")[1]


def test_outputs_are_free_on_request() -> None:
    found = analysed(mlp(), X, interface=lambda graph: ())
    assert free(found, "b.weight") == [True, True]


def test_the_dimensions_of_inputs_are_never_elastic() -> None:
    found = analysed(mlp(), X)
    assert all(found.terms.is_frozen(term) for term in found.dims[0][found.graphs[0].inputs[0].id])


def test_a_tensor_from_outside_is_held() -> None:
    table = torch.randn(10)
    found = analysed(Net(lambda m, x: m.b(m.a(x) + table), a=nn.Linear(6, 10), b=nn.Linear(10, 3)), X)
    assert free(found, "a.weight") == [False, False]
    assert "a tensor from outside the model" in str(found.tensor("a.weight")[0].frozen) or found.terms.is_frozen(
        found.tensor("a.weight")[0]
    )


def test_what_only_training_uses_is_seen_in_the_second_graph() -> None:
    def forward(m: Net, x: Tensor) -> Any:
        y = torch.relu(m.a(x))
        return (m.b(y), m.aux(y)) if m.training else m.b(y)

    found = analysed(Net(forward, a=nn.Linear(6, 10), b=nn.Linear(10, 3), aux=nn.Linear(10, 4)), X)
    assert layouts(found, "aux.weight")[1] == layouts(found, "a.weight")[0]
    assert free(found, "aux.weight") == [False, True]


def test_units_that_no_output_depends_on_are_held_and_what_they_read_is_not() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = torch.relu(m.a(x))
        m.pooler(y)
        return m.b(y)

    found = analysed(Net(forward, a=nn.Linear(6, 10), b=nn.Linear(10, 3), pooler=nn.Linear(10, 4)), X)
    assert free(found, "pooler.weight") == [False, True]
    assert free(found, "a.weight") == [True, False]
    assert "no output depends on it" in str(next(found.terms.leaves(found.tensor("pooler.bias")[0])).frozen)


def test_a_module_with_a_parameter_that_nothing_used_is_held() -> None:
    model = mlp()
    model.a.extra = nn.Parameter(torch.zeros(10))
    found = analysed(model, X)
    assert free(found, "a.weight") == [False, False]
    leaf = next(found.terms.leaves(found.tensor("a.weight")[0]))
    assert "its module has a parameter that no captured run used: unused in a" in str(leaf.frozen)


def test_a_buffer_that_nothing_used_holds_nothing() -> None:
    model = mlp()
    model.a.register_buffer("extra", torch.zeros(10))
    assert free(analysed(model, X), "a.weight") == [True, False]


def test_an_operation_without_a_rule_is_listed_with_its_place() -> None:
    model = Net(lambda m, x: m.b(torch.special.hermite_polynomial_h(m.a(x), 2)), a=nn.Linear(6, 10), b=nn.Linear(10, 3))
    found = analysed(model, X)
    assert list(found.facts.unknown) == ["special_hermite_polynomial_h"]
    assert "test_analyse.py:" in str(found.facts.unknown["special_hermite_polynomial_h"])
    assert free(found, "a.weight") == [False, False]


def test_merges_can_be_explained() -> None:
    found = analysed(mlp(), X)
    (axis,) = layouts(found, "a.bias")
    assert any("linear in b" in str(why) for why in found.terms.reasons()[axis.id])


def test_layouts_do_not_depend_on_the_order_of_the_graphs() -> None:
    model = Net(
        lambda m, x: m.d(torch.cat([m.a(x), m.b(m.a(x))], 1)), a=nn.Linear(6, 8), b=nn.Linear(8, 4), d=nn.Linear(12, 3)
    )
    graphs = capture_all(model, Example((X,)))
    names = {name for name, _ in model.named_parameters()}
    shapes = []
    for order in (graphs, graphs[::-1]):
        found = analyse(order, lambda attr: attribute_value(model, attr), names)
        first = {axis: i for i, axis in enumerate(dict.fromkeys(layouts(found, "d.weight")[1].parts))}
        shapes.append([[first.get(layout, str(type(layout))) for layout in layouts(found, n)] for n in sorted(names)])
    assert shapes[0] == shapes[1]


# -- constructs: what is expected of each ------------------------------------------------------------------------


def qkv_by(split: Callable[[Net, Tensor], Any]) -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = split(m, m.qkv(x))
        q, k, v = (t.unflatten(-1, (m.heads, -1)).transpose(1, 2) if t.dim() == 3 else t for t in (q, k, v))
        return m.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    return Net(forward, qkv=nn.Linear(6, 36), proj=nn.Linear(12, 3), heads=3, dim=4)


def by_attributes(m: Net, x: Tensor) -> Any:
    return x.view(*x.shape[:2], 3, m.heads, m.dim).permute(2, 0, 3, 1, 4)


QKV: dict[str, Callable[[Net, Tensor], Any]] = {
    "chunk": lambda m, x: x.chunk(3, -1),
    "split": lambda m, x: x.split(m.heads * m.dim, -1),
    "unflatten and unbind": lambda m, x: x.unflatten(-1, (3, -1)).unbind(-2),
    "view and unbind": lambda m, x: by_attributes(m, x).unbind(0),
    "view and indices": lambda m, x: [by_attributes(m, x)[i] for i in range(3)],
    "view and select": lambda m, x: [by_attributes(m, x).select(0, i) for i in range(3)],
    "slices": lambda m, x: [x[..., i * m.heads * m.dim : (i + 1) * m.heads * m.dim] for i in range(3)],
}


@pytest.mark.parametrize("way", QKV)
def test_queries_keys_and_values_of_one_matrix(way: str) -> None:
    found = analysed(qkv_by(QKV[way]), torch.randn(2, 5, 6))
    rows = layouts(found, "qkv.weight")[0]
    inner = layouts(found, "proj.weight")[1]
    assert [part.size for part in inner.parts] == [3, 4]
    assert all(isinstance(part, Axis) for part in inner.parts)
    assert free(found, "qkv.weight") == [True, False]
    if isinstance(rows, Concat):
        assert rows.parts[-1] == inner
    else:
        assert isinstance(rows, Product)
        assert rows.parts[1:] == inner.parts


def test_an_interleaved_matrix_has_its_heads_outside() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).view(2, 5, m.heads, 3, m.dim).permute(3, 0, 2, 1, 4).unbind(0)
        return m.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    found = analysed(Net(forward, qkv=nn.Linear(6, 36), proj=nn.Linear(12, 3), heads=3, dim=4), torch.randn(2, 5, 6))
    heads, three, dim = layouts(found, "qkv.weight")[0].parts
    assert (heads.size, three.size, dim.size) == (3, 3, 4)
    assert layouts(found, "proj.weight")[1] == Product((heads, dim))


def through(function: Callable[[Tensor], Tensor], width: int = 12, out: int | None = None) -> Net:
    return Net(lambda m, x: m.b(function(m.a(x))), a=nn.Linear(6, width), b=nn.Linear(out or width, 3))


ELASTIC: dict[str, Callable[[], Net]] = {
    "softmax over channels": lambda: through(lambda x: x.softmax(-1)),
    "a norm over channels": lambda: through(lambda x: F.normalize(x, dim=-1)),
    "mean and variance": lambda: through(lambda x: (x - x.mean(-1, True)) / x.std(-1, keepdim=True)),
    "a gate by chunk": lambda: through(lambda x: x.chunk(2, -1)[0] * x.chunk(2, -1)[1].sigmoid(), 12, 6),
    "GLU": lambda: through(lambda x: F.glu(x), 12, 6),
    "the same tensor twice": lambda: through(lambda x: torch.cat([x, x], -1), 12, 24),
    "space to depth": lambda: through(lambda x: torch.cat([x[..., ::2], x[..., 1::2]], -1)),
    "a Gram matrix": lambda: through(
        lambda x: ((x[:, :, None] @ x[:, None]).softmax(-1) @ x[:, :, None]).mean(1), 12, 1
    ),
    "in place": lambda: through(lambda x: x.relu_().mul_(2)),
    "no grad": lambda: through(lambda x: torch.no_grad()(lambda y: y.tanh())(x)),
    "autocast": lambda: through(lambda x: torch.autocast("cpu", enabled=False)(lambda y: y.tanh())(x)),
    "checkpointing": lambda: through(lambda x: torch.utils.checkpoint.checkpoint(torch.tanh, x, use_reentrant=False)),
    "einsum with an ellipsis": lambda: through(lambda x: torch.einsum("...c,...c->...c", x, x)),
    "complex numbers": lambda: through(lambda x: torch.complex(x, x.tanh()).abs()),
    "the first channel broadcast": lambda: through(lambda x: x * x[:, :1]),
    "a residual on the first channels": lambda: through(lambda x: torch.cat([x[:, :4] + 1, x[:, 4:]], 1)),
    "squeeze and excitation": lambda: through(lambda x: x * x.mean(-1, keepdim=True).sigmoid()),
    "zeros of that size": lambda: through(lambda x: x + torch.zeros(x.shape[-1])),
    "state in a loop": lambda: through(lambda x: sum((x.tanh() for _ in range(3)), start=x)),
}


@pytest.mark.parametrize("construct", ELASTIC)
def test_what_treats_units_alike_leaves_them_free(construct: str) -> None:
    model = ELASTIC[construct]()
    found = analysed(model, X)
    assert free(found, "a.weight")[0], str(next(found.terms.leaves(found.tensor("a.weight")[0])).frozen)
    assert found.facts.unknown == {}


FROZEN: dict[str, tuple[Callable[[], Net], str]] = {
    "cumsum": (lambda: through(lambda x: x.cumsum(-1)), "order of units: cumsum"),
    "flip": (lambda: through(lambda x: x.flip(-1)), "order of units: flip"),
    "roll": (lambda: through(lambda x: x.roll(1, -1)), "order of units: roll"),
    "a conv along channels": (
        lambda: through(lambda x: F.conv1d(x[:, None], torch.ones(1, 1, 3), padding=1)[:, 0]),
        "a convolution runs along it",
    ),
    "sorting": (lambda: through(lambda x: x.sort(-1)[0]), "ranks units"),
    "a Fourier transform": (lambda: through(lambda x: torch.fft.rfft(x).abs(), 12, 7), "a Fourier transform"),
    "picked channels": (lambda: through(lambda x: x[:, [3, 1, 2]], 12, 3), "picked by a list or mask"),
    "one channel": (lambda: through(lambda x: x[:, 3:4] * x[:, 5, None], 12, 1), "picked by its position"),
    "a literal reshape": (lambda: through(lambda x: x.view(2, 3, 4).amax(2), 12, 3), "written in the source"),
    "numbered units": (lambda: through(lambda x: x * torch.arange(x.shape[-1])), "units are numbered"),
    "triangles": (lambda: through(lambda x: (x[:, :, None] * x[:, None]).tril().sum(-1)), "position of a unit"),
    "the mask of a literal size": (lambda: through(lambda x: x * torch.ones(12)), "written in the source"),
    "a resampling of channels": (
        lambda: through(lambda x: F.interpolate(x[:, None], scale_factor=2)[:, 0], 12, 24), "pooled or resampled",
    ),
}  # fmt: skip


@pytest.mark.parametrize("construct", FROZEN)
def test_what_depends_on_the_order_of_units_freezes_them(construct: str) -> None:
    make, reason = FROZEN[construct]
    found = analysed(make(), X)
    leaves = list(found.terms.leaves(found.tensor("a.weight")[0]))
    frozen = [leaf for leaf in leaves if leaf.frozen is not None]
    assert any(reason in str(leaf.frozen) for leaf in frozen), [str(leaf.frozen) for leaf in leaves]
    assert found.facts.unknown == {}
    assert all("test_analyse.py:" in str(leaf.frozen) or "interface" in str(leaf.frozen) for leaf in frozen)
