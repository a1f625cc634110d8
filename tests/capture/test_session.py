"""Capture: what is recorded, and where integers come from."""

import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from elastify._capture.examples import Example
from elastify._capture.session import capture, capture_all
from elastify._errors import ElastifyError
from elastify._ir.ints import Attr, Dim, Int, Op

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


def exprs(item):
    return [getattr(n, "expr", n) for n in item]


# -- operations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "op", "args"),
    [
        (lambda s, x: x + 2, "add", ("x", 2)),
        (lambda s, x: 2 + x, "add", ("x", 2)),
        (lambda s, x: 2 - x, "sub", (2, "x")),
        (lambda s, x: torch.sub(x, 2), "sub", ("x", 2)),
        (lambda s, x: x.__itruediv__(2), "div", ("x", 2)),
        (lambda s, x: x / 2, "div", ("x", 2)),
        (lambda s, x: x % 2, "remainder", ("x", 2)),
        (lambda s, x: 2**x, "pow", (2, "x")),
        (lambda s, x: -x, "neg", ("x",)),
        (lambda s, x: x @ x.view(4, 2), "matmul", ("x", "")),
        (lambda s, x: torch.relu_(x), "relu", ("x",)),
        (lambda s, x: torch.ops.aten.relu(x), "relu", ("x",)),
        (lambda s, x: F.gelu(x, approximate="tanh"), "gelu", ("x",)),
        (lambda s, x: x.mT, "mT", ("x",)),
        (lambda s, x: x.split([1, 3], 1)[1], "split", ("x", [1, 3], 1)),
        (lambda s, x: x[:, 1:], "getitem", ("x", (slice(None), slice(1, None)))),
        (lambda s, x: torch.concat([x, x]), "cat", (["x", "x"],)),
    ],
)
def test_one_name_for_one_meaning(body, op, args):
    call = record(body).calls[-1]

    def names(item):
        if isinstance(item, (tuple, list)):
            return type(item)(names(x) for x in item)
        return item.name if hasattr(item, "dtype") else item

    assert call.op == op
    assert names(call.args) == args


def test_functions_written_in_python_are_seen_from_inside():
    layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1)
    graph = capture(layer, Example((torch.zeros(2, 5, 16),)))
    assert ops(graph).count("linear") == 4
    assert "scaled_dot_product_attention" in ops(graph)
    assert torch.backends.mha.get_fastpath_enabled()


def test_questions_and_identities_leave_no_trace():
    def body(s, x):
        assert (x.dim(), x.dtype, x.device.type, x.is_floating_point(), x.stride()) == (2, X.dtype, "cpu", True, (4, 1))
        return F.dropout(x.contiguous().clone().detach().data.to(X.dtype), training=False)

    graph = record(body)
    assert graph.calls == []
    assert graph.outputs == graph.inputs


def test_a_tensor_changed_in_place_is_a_new_value():
    def body(s, x):
        y = s.linear(x)
        alias = y
        y += 1
        y.relu_()
        y[:, :2] = 0
        return torch.add(alias, 1, out=y)

    graph = record(body)
    assert ops(graph) == ["linear", "add", "relu", "setitem", "add.out"]
    assert [call.inplace for call in graph.calls] == [False, True, True, True, True]
    for before, after in zip(graph.calls, graph.calls[1:], strict=False):
        assert after.args[0] is before.out
    assert graph.outputs == [graph.calls[-1].out]


def test_an_id_is_never_used_twice():
    def body(s, x):
        for _ in range(50):
            x = s.linear(x) * 2  # the linear output dies at once
        return x

    graph = record(body)
    assert [c.args[0].id for c in graph.calls[1:]] == [c.out.id for c in graph.calls[:-1]]
    assert len({c.out.id for c in graph.calls}) == 100


@torch.no_grad()
def test_scripted_code_is_recorded_as_unseen():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        scripted = torch.jit.script(_swish)
    graph = record(lambda s, x: s.linear(scripted(s.linear(x))))
    assert ops(graph) == ["linear", "unseen:aten.sigmoid", "unseen:aten.mul", "linear"]
    assert graph.calls[2].out is graph.calls[3].args[0]
    assert graph.constants == []


def _swish(x: torch.Tensor):
    return x * torch.sigmoid(x)


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


def test_vmap_checkpointing_and_autograd_functions():
    graph = record(lambda s, x: s.linear(torch.vmap(lambda row: row * s.linear.bias)(x)))
    assert ops(graph) == ["unseen:aten.mul", "linear"]
    assert graph.calls[0].inputs() == [graph.inputs[0], graph.tensors["linear.bias"]]
    for reentrant in (True, False):
        wrapped = record(lambda s, x, r=reentrant: torch.utils.checkpoint.checkpoint(s.linear, x, use_reentrant=r))
        assert ops(wrapped) == ["linear"]
    assert ops(record(lambda s, x: _Double.apply(s.linear(x)))) == ["linear", "mul"]


def test_compiled_models_run_eagerly():
    model = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    assert ops(capture(model, Example((X,)))) == ["linear", "relu"]


@pytest.mark.parametrize("extra", [{}, {"bias": False, "num_layers": 2}, {"bidirectional": True, "batch_first": True}])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, functools.partial(nn.LSTM, proj_size=3)])
def test_recurrent_layers_need_no_time_steps(kind, extra):
    model, x = kind(4, 6, **extra), torch.zeros(3, 5, 4)
    fake, real = (capture(model, Example((x,)), fake=fake) for fake in (True, False))
    assert repr(fake.calls) == repr(real.calls)


def test_recurrent_weights_that_do_not_fit_are_an_error():
    model = nn.GRU(4, 6)
    model.weight_hh_l0 = nn.Parameter(torch.zeros(18, 5))
    with pytest.raises(ElastifyError, match="does not run on the example inputs"):
        capture(model, Example((torch.zeros(3, 5, 4),)))
    with pytest.raises(ElastifyError, match=r"gru expects weights of the shapes \[\(18, 4\), \(18, 6\)"):
        capture(model.to("meta"), Example((torch.zeros(3, 5, 4),)))


# -- integers ----------------------------------------------------------------------------------------------------


def test_sizes_and_attributes_keep_their_origin():
    def body(s, x):
        _, width = x.shape
        y = s.linear(x).view(x.shape[:1] + (s.heads, width // s.heads))  # noqa: RUF005 - adding to a torch.Size is what is tested
        return y.reshape(x.numel() // width, x.size(-1)), torch.zeros(x.size()[0], s.nested["a"][1])

    graph = record(body, heads=2, nested={"a": (5, 6)})
    x = graph.inputs[0].id
    view, reshape, zeros = graph.calls[1:]
    heads = Attr("", "heads")
    assert exprs(view.args[1]) == [Dim(x, 0), heads, Op("floordiv", (Dim(x, 1), heads))]
    assert exprs(reshape.args[1:]) == [Op("floordiv", (Op("mul", (Dim(x, 1), Dim(x, 0))), Dim(x, 1))), Dim(x, 1)]
    assert exprs(zeros.args) == [Dim(x, 0), Attr("", "nested", ("a", 1))]


def test_attributes_of_torch_modules_and_of_a_shared_config():
    class Config:
        def __init__(self):
            self.hidden, self.sub = 4, None

    config = Config()
    config.sub = Config()

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.config, self.conv = config, nn.Conv1d(2, 2, 3, padding=1, groups=2)

        def forward(self, x):
            return self.conv(x.view(-1, 2, self.config.hidden)).view(-1, self.config.sub.hidden)

    model = nn.Sequential(Block(), Block())
    before = dict(config.__dict__)
    graph = capture(model, Example((torch.zeros(4, 8),)))
    views = [call.args[-1].expr for call in graph.calls if call.op == "view"]
    assert views == [Attr("0.config", "hidden"), Attr("0.config.sub", "hidden")] * 2
    conv = graph.calls[1]
    assert conv.args[-1].expr == Attr("0.conv", "groups")
    assert exprs(conv.args[4]) == [Attr("0.conv", "padding", (0,))]
    assert config.__dict__ == before
    assert type(config.hidden) is int


def test_comparisons_become_guards_with_their_place():
    lstm = nn.LSTM(4, 6, batch_first=True)
    graph = capture(lstm, Example((torch.zeros(2, 5, 4),)))
    guard = next(g for g in graph.guards if Attr("", "input_size") in g.args)
    assert (guard.fn, guard.args, guard.result) == ("ne", (Attr("", "input_size"), Dim(graph.inputs[0].id, 2)), False)
    assert guard.source.startswith("torch/nn/modules/rnn.py:")
    own = record(lambda s, x: x if x.shape[1] == s.linear.in_features else None).guards[0]
    assert own.source.startswith("tests/capture/test_session.py:")


def test_a_cache_outside_the_model_cannot_bring_back_old_sizes():
    sizes = {}

    def body(s, x):
        return x.view(sizes.setdefault("n", x.shape[0]), -1)

    model = Net(body)
    assert isinstance(capture(model, Example((X,))).calls[0].args[1], Int)
    assert type(capture(model, Example((X,))).calls[0].args[1]) is int


# -- structure ---------------------------------------------------------------------------------------------------


def test_modules_inputs_outputs_and_ties():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b, self.c = self.a, nn.Linear(4, 4)
            self.c.weight = self.a.weight
            self.register_buffer("scale", torch.ones(4), persistent=False)

        def forward(self, x, *, extra):
            return {
                "y": self.c(x=self.b(self.a(x))) if False else self.c(self.b(self.a(x))),
                "z": (extra * self.scale,),
            }

    graph = capture(Tied(), Example((X,), {"extra": X + 1}))
    assert [v.name for v in graph.inputs] == ["x", "extra"]
    assert graph.tensors["a.weight"] is graph.tensors["b.weight"] is graph.tensors["c.weight"]
    assert set(graph.tensors) == {"a.weight", "a.bias", "b.weight", "b.bias", "c.weight", "c.bias", "scale"}
    assert [(m.path, m.start, m.stop) for m in graph.modules] == [("", 0, 4), ("a", 0, 1), ("a", 1, 2), ("c", 2, 3)]
    root = graph.modules[0]
    assert root.out == {"y": graph.calls[2].out, "z": (graph.calls[3].out,)}
    assert root.kwargs == {"extra": graph.inputs[1]}
    assert graph.outputs == [graph.calls[2].out, graph.calls[3].out]
    assert [c.where for c in graph.calls] == ["a", "a", "c", ""]


def test_a_module_call_knows_its_arguments_as_they_came():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    graph = capture(model, Example((X,)))
    relu = graph.modules[2]
    assert relu.args == (graph.calls[0].out,)
    assert relu.out is graph.calls[1].out is not graph.calls[0].out


def test_tensors_from_outside_are_constants():
    table = torch.arange(4.0)
    graph = record(lambda s, x: s.linear(x) + table + s.plain, plain=torch.ones(4))
    assert graph.constants == [graph.calls[1].args[1], graph.calls[2].args[1]]
    assert [v.name for v in graph.constants] == ["", ""]


def test_both_modes_are_recorded_where_the_model_asks_for_its_mode():
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x) if self.training else x

    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), Noise()).eval()
    evaluation, training = capture_all(model, Example((X,)))
    assert ops(evaluation) == ["linear", "batch_norm"]
    assert ops(training) == ["linear", "dropout", "add", "batch_norm", "rand_like", "add"]
    assert (evaluation.training, training.training, model.training) == (False, True, False)
    assert "training" not in vars(nn.Module)


def test_layers_of_torch_do_not_need_a_run_in_training_mode():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(3), nn.LSTM(4, 2)).eval()
    assert len(capture_all(model, Example((torch.zeros(2, 3, 4),)))) == 1
    assert len(capture_all(nn.Sequential(layer, nn.RReLU()), Example((torch.zeros(2, 3, 4),)))) == 1


def test_a_mode_kept_in_the_class_is_not_overlooked():
    class Fixed(nn.Linear):
        training = False

    assert len(capture_all(Fixed(4, 4), Example((X,)))) == 2


def test_a_training_run_that_fails_is_a_warning():
    def body(s, x):
        if s.training:
            raise ValueError("targets are missing")
        return s.linear(x)

    with pytest.warns(UserWarning, match="training mode was not captured.*targets are missing"):
        assert len(capture_all(Net(body), Example((X,)))) == 1


@pytest.mark.parametrize("options", [{}, {"length": 50}, {"center": False}, {"onesided": False}])
def test_an_inverse_fourier_transform_needs_no_numbers(options, recwarn):
    class Net(nn.Module):
        def forward(self, x):
            there = torch.stft(x, 16, 4, window=torch.ones(16), return_complex=True, onesided=options.get("onesided"))
            return torch.istft(there, 16, 4, window=torch.ones(16), **options)

    x = torch.randn(2, 64)
    assert capture(Net(), Example((x,))).outputs[0].shape == tuple(Net()(x).shape)
    assert not recwarn.list


def test_an_inverse_fourier_transform_of_another_size_is_refused():
    class Net(nn.Module):
        def forward(self, x):
            return torch.istft(torch.stft(x, 16, 4, window=torch.ones(16), return_complex=True), 32, 4)

    with pytest.raises(ElastifyError, match=r"istft"):
        capture(Net(), Example((torch.randn(2, 64),)))
