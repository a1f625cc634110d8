"""Whether a second run, in training mode, is made: where a module that asks for its mode does something else then."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from elastify import elastify, space
from elastify._capture.examples import Example
from elastify._capture.session import capture, capture_all

X = torch.randn(2, 4, 6, 6)


class Asking(nn.Module):
    """A convolution and whatever `body(self, x)` does with its result."""

    def __init__(self, body, **attributes):
        super().__init__()
        self.conv, self.scale, self.drop = nn.Conv2d(4, 4, 1), nn.Parameter(torch.ones(4, 1, 1)), nn.Dropout(0.1)
        self.body, self.kept = body, None
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.body(self, self.conv(x))


def graphs(*bodies, **attributes):
    model = nn.Sequential(*[Asking(body, **attributes) for body in bodies], nn.Conv2d(4, 4, 1)).eval()
    found = capture_all(model, Example((X,)))
    first = capture(model, Example((X,)))
    assert not any(graph.real for graph in found)
    assert [call.op for call in found[0].calls] == [call.op for call in first.calls]
    assert len(found[0].values) == len(first.values)
    assert found[0].guards == first.guards
    assert len(found[0].modules) == len(first.modules)
    assert not any(m.training for m in model.modules())
    return len(found)


def batch_norm(s, x):
    if s.training:
        s.count.add_(1)
    mean, variance = (s.mean, s.variance) if not s.training or s.tracks else (None, None)
    return F.batch_norm(x, mean, variance, s.scale.flatten(), None, s.training or not s.tracks, 0.1)


def attention(s, x):
    x = x.flatten(2).mT
    return F.scaled_dot_product_attention(x, x, x, dropout_p=s.drop.p if s.training else 0.0).mT.reshape(X.shape)


SAME = {
    "dropout": lambda s, x: s.drop(F.dropout(x, 0.1, s.training)).relu_(),
    "dropout in place": lambda s, x: F.dropout(x, 0.1, s.training, inplace=True) + x,
    "attention": attention,
    "sizes": lambda s, x: x.view(x.shape[0], -1).view(x.shape) if s.training is not None else x,
}


@pytest.mark.parametrize("body", SAME.values(), ids=SAME)
def test_modules_that_do_the_same_in_training_mode(body):
    assert graphs(body, body) == 1


def test_a_module_may_hold_anything():
    assert graphs(SAME["dropout"], names={"a", 3}, table={"k": {1}, "l": [set(), frozenset()]}, other=object()) == 1


def test_a_list_in_itself_cannot_be_compared_and_nothing_is_lost():
    own: list = []
    own.append(own)
    assert graphs(SAME["dropout"], names=own) == 2


def test_a_batch_norm_of_somebody_else():
    owned = {"mean": torch.zeros(4), "variance": torch.ones(4), "count": torch.tensor(0), "tracks": True}
    assert graphs(batch_norm, **owned) == 1


def keeps(s, x):
    if s.training:
        s.kept = x
    return x + 0


DIFFERENT = {
    "a parameter": lambda s, x: x * s.scale if s.training else x,
    "another one": lambda s, x: x * (s.scale if s.training else s.conv.bias.view(4, 1, 1)),
    "noise": lambda s, x: x + torch.rand_like(x) if s.training else x,
    "order": lambda s, x: x.relu().abs() if s.training else x.abs().relu(),
    "shape": lambda s, x: x.view(2, -1)[:, :100].sum() + x if s.training else x.view(2, -1)[:, :90].sum() + x,
    "number": lambda s, x: x.sum(2 if s.training else 3, keepdim=True) + x,
    "what it was given": lambda s, x: x + (x.relu() if s.training else x),
    "what is kept": keeps,
    "comparison": lambda s, x: x + 0 if not s.training or x.shape[1] > 3 else x,
    "result": lambda s, x: s.conv(x) if not s.training else [s.conv(x), x][1],
    "an error": lambda s, x: x.relu() if not s.training else x @ torch.zeros(5, 5),
}


@pytest.mark.parametrize("body", DIFFERENT.values(), ids=DIFFERENT)
@pytest.mark.filterwarnings("ignore:training mode was not captured")
def test_modules_that_do_something_else(body):
    model = nn.Sequential(nn.Conv2d(4, 4, 1), Asking(body)).eval()
    called = []
    model[1].conv.register_forward_hook(lambda module, *_: called.append(module.training))
    capture_all(model, Example((X,)))
    assert called[-1] is True
    assert len(called) >= 3


def test_each_of_several_modules_is_asked_unless_they_are_alike():
    def body(s, x):
        return x * s.scale if s.training and s.learns else x + 0

    model = nn.Sequential(*[Asking(body, learns=False) for _ in range(3)]).eval()
    assert len(capture_all(model, Example((X,)))) == 1
    model[2].learns = True
    assert len(capture_all(model, Example((X,)))) == 2
    model[2].learns, model[1].drop = False, nn.Linear(2, 2)
    assert len(capture_all(model, Example((X,)))) == 1


def test_alike_modules_are_run_once():
    called = []

    def body(s, x):
        called.append(s.training)
        return F.dropout(x, 0.1, s.training)

    model = nn.Sequential(*[Asking(body) for _ in range(5)]).eval()
    assert len(capture_all(model, Example((X,)))) == 1
    assert called == [False] * 5 + [True]


def test_what_only_training_uses_is_elastic_still():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow, self.extra = nn.Linear(4, 16), nn.Linear(16, 4), nn.Linear(16, 3)

        def forward(self, x):
            x = self.wide(x)
            return (self.narrow(x), self.extra(x)) if self.training else self.narrow(x)

    model = elastify(nn.Sequential(Auxiliary()), torch.randn(2, 4))
    assert [axis.size for axis in space(model).axes] == [16]
    assert ("0.extra.weight", 1) in space(model).axes[0].members
