"""Which dimensions count samples: costs of one sample against the kernels of a call with one, and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import ElastifyError, cost, elastify, extract, graph, search, space
from elastify._space.state import state
from elastify.testing import check_model
from elastify.testing.oracle import oracle_macs


class Net(nn.Module):
    """Layers under their names, and a function of the net and the inputs."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.i, self.o = nn.Linear(5, 16), nn.Linear(16, 3)


class Tokens(Net):
    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


class Masked(Net):
    def forward(self, x: Tensor, mask: Tensor) -> Any:
        return self.run(self, x, mask)


class Translator(Net):
    def forward(self, src: Tensor, tgt: Tensor, tgt_mask: Tensor | None = None) -> Any:
        return self.run(self, src, tgt, tgt_mask)


class Recurrent(Net):
    def forward(self, x: Tensor, h0: Tensor) -> Any:
        return self.run(self, x, h0)


class Noisy(nn.Module):
    """Pictures with a time step for each."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.t, self.o = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(8, 16), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        steps = self.t(torch.cos(t[:, None] * torch.arange(8)))
        return self.o(torch.relu(self.c(x) + steps[:, :, None, None]))


class Towers(nn.Module):
    """Two kinds of inputs, compared with one another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(5, 16), nn.Linear(16, 8), nn.Linear(7, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        one, two = self.b(torch.relu(self.a(x))), self.d(torch.relu(self.c(y)))
        return one @ two.T, two @ one.T


class Gated(nn.Module):
    """Attention whose result a gate of zeros hides, as a new diffusion transformer has it."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.m, self.o = nn.Linear(5, 16), nn.MultiheadAttention(16, 2), nn.Linear(16, 3)
        self.gate = nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        return self.o(x + self.gate * self.m(x, x, x)[0])


class Expert(nn.Module):
    """Tokens that a choice sends to one layer or another: other samples change how many rows a product has."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.route, self.o = nn.Linear(5, 16), nn.Linear(16, 2), nn.Linear(16, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.i(x).flatten(0, 1)
        chosen, out = self.route(flat).argmax(-1), torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero()[:, 0]
            out = out.index_add(0, rows, expert(flat[rows]))
        return self.o(out).view(x.shape[0], x.shape[1], 3)


class Pictured(nn.Module):
    """Features of pictures in the places of words."""

    def __init__(self, shown: bool) -> None:
        super().__init__()
        self.e, self.v, self.i, self.o = nn.Embedding(9, 16), nn.Linear(12, 16), nn.Linear(16, 20), nn.Linear(20, 3)
        self.shown = shown

    def forward(self, ids: Tensor, pictures: Tensor) -> Any:
        features, words = torch.relu(self.v(pictures)), self.e(ids)
        words = words.masked_scatter((ids == 0)[..., None].expand_as(words), features)
        out = self.o(torch.relu(self.i(words.cumsum(1))))
        return (out, features) if self.shown else out


def faint() -> nn.Module:
    """Weights that are so small that a bias of one hides the input."""
    model = perceptron()
    for parameter in model.parameters():
        parameter.data.mul_(1e-12)
    return model


def attention(**options: Any) -> nn.Module:
    return nn.MultiheadAttention(16, 2, **options)


def attend(m: Any, x: Tensor) -> Tensor:
    x = m.i(x)
    return m.o(m.m(x, x, x)[0])


def by_hand(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    x = m.i(x)
    return m.o((m.q(x) @ m.k(x).transpose(-2, -1) + mask).softmax(-1) @ m.v(x))


def translate(m: Any, src: Tensor, tgt: Tensor, mask: Tensor | None) -> Tensor:
    return m.o(m.t(m.i(src), m.i(tgt), tgt_mask=mask))


def convolve(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    return m.o(torch.relu(mask @ m.i(x)))


def convolve_twice(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    return m.o(torch.relu(mask @ m.c(torch.relu(mask @ m.i(x)))))


def with_grid(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    return m.o(torch.relu(m.i(x) + m.p(mask)))


def to_others(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    x, others = m.i(x), m.i(mask)
    return m.o(m.m(x, others, others)[0])


def recur(m: Any, x: Tensor, h0: Tensor) -> Tensor:
    return m.o(m.r(m.e(x), h0)[0])


def at_places(m: Any, x: Tensor, edges: Tensor) -> Tensor:
    h = m.i(x)
    return m.o(torch.relu(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]])))


def in_a_loop(m: Any, x: Tensor) -> Tensor:
    return m.o(torch.stack([m.i(x[k]) for k in range(int(x.shape[0]))]))


def masked() -> Masked:
    return Masked(by_hand, q=nn.Linear(16, 16), k=nn.Linear(16, 16), v=nn.Linear(16, 16))


def translator(**options: Any) -> Translator:
    return Translator(translate, t=nn.Transformer(16, 2, 1, 1, 32, **options))


def recurrent(kind: type[nn.RNNBase], **options: Any) -> Recurrent:
    return Recurrent(recur, e=nn.Linear(5, 12), r=kind(12, 16, **options))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))


R = torch.randn
CAUSAL = torch.full((7, 7), float("-inf")).triu(1)
EDGES = torch.randint(0, 6, (2, 9), generator=torch.Generator().manual_seed(0))
WORDS = torch.tensor([[0, 3, 5, 1], [2, 0, 4, 4]])
Case = tuple[Callable[[], nn.Module], tuple[Tensor, ...], dict[str, tuple[int, ...]]]
# a model, an example, and the dimensions that count samples ({} where one call is one sample)
CASES: dict[str, Case] = {
    "a mask of tokens": (masked, (R(2, 32, 5), torch.zeros(32, 32)), {"x": (0,)}),
    "a mask of as many tokens as samples": (masked, (R(4, 4, 5), torch.zeros(4, 4)), {"x": (0,)}),
    "a mask for each sample": (masked, (R(2, 6, 5), torch.zeros(2, 1, 6)), {"x": (0,), "mask": (0,)}),
    "nn.Transformer": (translator, (R(6, 2, 5), R(7, 2, 5), CAUSAL), {"src": (1,), "tgt": (1,)}),
    "nn.Transformer, batch first": (
        lambda: translator(batch_first=True),
        (R(2, 6, 5), R(2, 7, 5), CAUSAL),
        {"src": (0,), "tgt": (0,)},
    ),
    "nn.Transformer without a batch": (translator, (R(6, 5), R(7, 5), CAUSAL), {}),
    "tokens first": (lambda: Tokens(attend, m=attention()), (R(6, 2, 5),), {"x": (1,)}),
    "samples first": (lambda: Tokens(attend, m=attention(batch_first=True)), (R(2, 6, 5),), {"x": (0,)}),
    "tokens alone": (lambda: Tokens(attend, m=attention()), (R(6, 5),), {}),
    "a gate of zeros": (Gated, (R(6, 5),), {}),
    "queries to others": (
        lambda: Masked(to_others, m=attention()),
        (R(6, 2, 5), R(7, 2, 5)),
        {"x": (1,), "mask": (1,)},
    ),
    "queries to others without a batch": (lambda: Masked(to_others, m=attention()), (R(6, 5), R(7, 5)), {}),
    "a graph": (lambda: Masked(convolve), (R(6, 5), torch.rand(6, 6)), {}),
    "a graph without edges": (lambda: Masked(convolve), (R(6, 5), torch.zeros(6, 6)), {}),
    "a graph, twice": (lambda: Masked(convolve_twice, c=nn.Linear(16, 16)), (R(6, 5), torch.eye(6)), {}),
    "a batch of graphs": (lambda: Masked(convolve), (R(2, 6, 5), torch.rand(2, 6, 6)), {"x": (0,), "mask": (0,)}),
    "one graph for a batch": (lambda: Masked(convolve), (R(2, 6, 5), torch.rand(6, 6)), {"x": (0,)}),
    "a list of edges": (lambda: Masked(at_places), (R(6, 5), EDGES), {}),
    "a grid of positions": (lambda: Masked(with_grid, p=nn.Linear(2, 16)), (R(2, 6, 5), R(6, 2)), {"x": (0,)}),
    "a grid of as many positions": (
        lambda: Masked(with_grid, p=nn.Linear(2, 16)),
        (R(6, 6, 5), R(6, 2)),
        {"x": (0,)},
    ),
    "nn.GRU": (lambda: recurrent(nn.GRU), (R(6, 2, 5), torch.zeros(1, 2, 16)), {"x": (1,), "h0": (1,)}),
    "nn.RNN, batch first": (
        lambda: recurrent(nn.RNN, batch_first=True),
        (R(2, 6, 5), R(1, 2, 16)),
        {"x": (0,), "h0": (1,)},
    ),
    "nn.GRU without a batch": (lambda: recurrent(nn.GRU), (R(6, 5), R(1, 16)), {}),
    "steps of pictures": (Noisy, (R(2, 3, 8, 8), torch.tensor([3, 900])), {"x": (0,), "t": (0,)}),
    "a picture": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 3, 3)),
        (R(3, 8, 8),),
        {},
    ),
    "two towers": (Towers, (R(3, 5), R(3, 7)), {"x": (0,), "y": (0,)}),
    "two towers of different sizes": (Towers, (R(3, 5), R(2, 7)), {}),
    "no mixing at all": (perceptron, (R(2, 6, 5),), {"input": (0,)}),
    "a vector": (perceptron, (R(5),), {}),
    "a loop over samples": (lambda: Tokens(in_a_loop), (R(3, 4, 5),), {"x": (0,)}),
    "pictures among words": (lambda: Pictured(False), (WORDS, R(2, 12)), {"ids": (0,), "pictures": (0,)}),
    "pictures among words, and alone": (lambda: Pictured(True), (WORDS, R(2, 12)), {"ids": (0,), "pictures": (0,)}),
    "a faint signal": (faint, (R(2, 5),), {"input": (0,)}),
    "experts": (Expert, (R(3, 4, 5),), {"x": (0,)}),
    "in double precision": (lambda: perceptron().double(), (R(2, 5).double(),), {"input": (0,)}),
    "in half precision": (lambda: perceptron().bfloat16(), (R(2, 5).bfloat16(),), {"input": (0,)}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*depends on the values:UserWarning")
def test_a_cost_is_that_of_one_sample(case: str) -> None:
    torch.manual_seed(0)
    make, inputs, dims = CASES[case]
    model = elastify(make().eval(), inputs)
    assert {name: own for name, own in state(model).batch.items() if own} == dims
    assert bool(space(model).doubt) == (not dims) == ("one call is one sample" in str(space(model)))
    one = list(inputs)
    for name, counting in dims.items():
        position = list(state(model).batch).index(name)
        for dim in counting:
            one[position] = one[position].narrow(dim, 0, 1)
    if case != "experts":  # there the data decide how many rows an expert has, on average over the samples here
        small = space(model).min
        assert cost(model, space(model).max).macs == oracle_macs(extract(model, space(model).max), tuple(one))
        assert cost(model, small).macs == oracle_macs(extract(model, small), tuple(one))


@pytest.mark.parametrize("case", ["nn.Transformer", "a mask of tokens", "nn.GRU", "a graph", "steps of pictures"])
def test_check_model_counts_such_inputs_too(case: str) -> None:
    make, inputs, _ = CASES[case]
    check_model(make().eval(), inputs, costs=2).assert_passed()


def test_masked_attention_by_hand() -> None:
    tokens, width = 32, 16
    model = elastify(masked(), (R(2, tokens, 5), torch.zeros(tokens, tokens)))
    layers = tokens * (5 * width + 3 * width * width + width * 3)
    assert cost(model).macs == layers + 2 * tokens * tokens * width


def test_a_graph_by_hand() -> None:
    model = elastify(Masked(convolve), (R(6, 5), torch.rand(6, 6)))
    assert cost(model).macs == 6 * 5 * 16 + 6 * 6 * 16 + 6 * 16 * 3
    assert "mask[0]: x[0], mask[1] is summed over" in space(model).doubt


def test_a_budget_means_what_one_sample_costs() -> None:
    model = elastify(masked(), (R(2, 32, 5), torch.zeros(32, 32)))
    found = search(model, budget_macs=30_000, progress=False)
    assert found.cost.macs <= 30_000 < cost(model).macs


# -- what the record tells without a run -----------------------------------------------------------------------


def in_place(m: Any, x: Tensor, dim: int) -> Tensor:
    out, h = torch.zeros(x.shape[0], x.shape[1], m.i.out_features), m.i(x)
    rows = out.transpose(0, dim)  # a view from before
    out.add_(h)
    return m.o(rows.transpose(0, dim) + rows.sum(0, keepdim=True).transpose(0, dim))


def placed(m: Any, x: Tensor, dim: int) -> Tensor:
    h = m.i(x).transpose(0, dim).clone()
    h[:, (h[:, 0].sum(-1) > 0).long()] = 0.0
    return m.o(h.transpose(0, dim))


ORDER = torch.tensor([1, 2, 3, 0])
# what is done along a dimension; the example has as many samples as tokens
ALONG: dict[str, Callable[[Any, Tensor, int], Tensor]] = {
    "softmax": lambda m, x, dim: m.o(m.i(x).softmax(dim)),
    "cumsum": lambda m, x, dim: m.o(m.i(x).cumsum(dim)),
    "roll": lambda m, x, dim: m.o(m.i(x).roll(1, dim)),
    "sum": lambda m, x, dim: m.o(m.i(x) + m.i(x).sum(dim, keepdim=True)),
    "a layer norm": lambda m, x, dim: m.o(
        torch.nn.functional.layer_norm(m.i(x).transpose(dim, 2), (4,)).transpose(dim, 2)
    ),
    "a norm over samples": lambda m, x, dim: m.o(
        torch.nn.functional.batch_norm(m.i(x).transpose(0, dim), None, None, training=True).transpose(0, dim)
    ),
    "another order": lambda m, x, dim: m.o(m.i(x).index_select(dim, ORDER)),
    "an index": lambda m, x, dim: m.o(m.i(x).transpose(0, dim)[ORDER].transpose(0, dim)),
    "attention": lambda m, x, dim: m.o(attend_to(m.i(x).transpose(1, dim)).transpose(1, dim)),
    "a convolution": lambda m, x, dim: m.o(
        torch.nn.functional.avg_pool1d(m.i(x).transpose(2, dim), 3, 1, 1).transpose(2, dim)
    ),
}


def attend_to(x: Tensor) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize("case", ALONG)
@pytest.mark.parametrize("dim", [0, 1])
def test_entries_are_samples_where_nothing_is_done_along_them(case: str, dim: int) -> None:
    model = elastify(Tokens(lambda m, x: ALONG[case](m, x, dim)).eval(), R(4, 4, 5), verify=False)
    assert state(model).batch == {"x": (1 - dim,)}


@pytest.mark.parametrize("case", [case for case in ALONG if case not in ("another order", "an index")])
def test_the_record_tells_it_without_a_run(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elastify._proofs.independence.Runs.against", lambda *_: "a run was made")
    for dim in (0, 1):
        model = elastify(Tokens(lambda m, x: ALONG[case](m, x, dim)).eval(), R(4, 4, 5), verify=False)  # noqa: B023
        assert state(model).batch == {"x": (1 - dim,)}


@pytest.mark.parametrize("dim", [0, 1])
def test_what_is_written_in_place_meets_what_was_there(dim: int) -> None:
    model = elastify(Tokens(lambda m, x: in_place(m, x, dim)).eval(), R(4, 4, 5), verify=False)
    assert state(model).batch == {"x": (1 - dim,)}


@pytest.mark.parametrize("run", [in_place, placed])
@pytest.mark.parametrize("dim", [0, 1])
def test_of_what_is_written_in_place_the_record_does_not_tell(
    run: Callable[..., Tensor], dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elastify._proofs.independence.Runs.against", lambda *_: "a run was made")
    model = elastify(Tokens(lambda m, x: run(m, x, dim)).eval(), R(4, 4, 5), verify=False)
    assert space(model).doubt.count("a run was made") == 2


# -- told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [{"y": None}, {1: None}, {"x": 0}, {0: -2}, {"x": 0, "y": None}])
def test_what_is_told_wins(told: dict[str | int, int | None]) -> None:
    model = elastify(Towers(), (R(3, 5), R(2, 7)), batch=told)
    assert state(model).batch == {"x": (0,), "y": ()}
    assert not space(model).doubt
    assert cost(model).macs == oracle_macs(extract(model, space(model).max), (R(1, 5), R(2, 7)))
    spec = state(model).examples[0]
    assert spec is not None
    assert spec.count == 3
    assert [tensor.samples for tensor in spec.args] == [(0,), ()]


def test_nothing_counts_samples_where_that_is_told() -> None:
    model = elastify(perceptron(), R(2, 6, 5), batch={"input": None})
    assert cost(model).macs == 2 * 6 * (5 * 16 + 16 * 3)
    assert "one call is one sample" in space(model).doubt


def test_a_list_of_inputs_is_told_at_once() -> None:
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 16), nn.Linear(16, 3)

        def forward(self, maps: list[Tensor]) -> Tensor:
            return self.b(torch.relu(sum(self.a(x) for x in maps)))

    model = elastify(Maps(), ([R(4, 2, 5), R(4, 2, 5)],), batch={"maps": 1})
    assert state(model).batch == {"maps.0": (1,), "maps.1": (1,)}
    assert cost(model).macs == 4 * (2 * 5 * 16 + 16 * 3)


REFUSED: dict[str, tuple[dict[Any, Any], tuple[str, ...]]] = {
    "an unknown name": ({"hO": 1}, ("'hO' is not an input", "where: batch", "h0")),
    "a position too far": ({5: 0}, ("5 is not an input", "x, h0")),
    "a dimension too far": ({"x": 3}, ("x has no dimension 3", "its shape is [2, 6, 5]", "an index, or None")),
    "no dimension": ({"x": "first"}, ("x has no dimension 'first'",)),
    "a dimension of one": ({"h0": 0}, ("h0[0] cannot count samples", "its size is 1")),
    "features": ({"x": 2}, ("x[2] cannot count samples", "units are those of a weight")),
    "different numbers": ({"x": 1, "h0": 1}, ("cannot count the same samples", "x[1] has 6, h0[1] has 2")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case: str) -> None:
    told, texts = REFUSED[case]
    model = recurrent(nn.RNN, batch_first=True)
    with pytest.raises(ElastifyError) as caught:
        elastify(model, (R(2, 6, 5), R(1, 2, 16)), batch=told)
    for text in texts:
        assert text in str(caught.value)
    assert len(space(elastify(model, (R(2, 6, 5), R(1, 2, 16)), batch={"x": 0, "h0": 1})).axes) >= 1


# -- where nothing can be run, and what else uses the answer ------------------------------------------------------


def test_without_weights_the_place_decides_and_the_space_says_so() -> None:
    with pytest.warns(UserWarning, match="no weights"):
        model = elastify(perceptron().to("meta"), torch.zeros(2, 6, 5, device="meta"))
    assert cost(model).macs == 6 * (5 * 16 + 16 * 3)
    assert "input[0] may count samples or not: the model has no weights to run" in str(space(model))


def test_the_graph_of_a_model_lets_the_same_dimension_be_any() -> None:
    model = elastify(Tokens(attend, m=attention()).eval(), R(6, 2, 5))
    view = graph(model)
    assert view.meta["batch"] == ""
    x = R(6, 3, 5)
    assert torch.equal(view(x), model(x))
    with pytest.raises(ElastifyError):
        view(R(7, 2, 5))


def test_what_was_drawn_anew_leaves_the_model_as_it_was() -> None:
    model = Gated()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    elastify(model, R(6, 5))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
