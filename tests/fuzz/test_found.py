"""What random networks have found, as small as it gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from elastify import space
from elastify._elastify import elastify
from elastify.testing import check_model


class Net(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = [forward]
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function[0](self, x)


def test_an_lstm_keeps_its_state_larger_than_its_projection() -> None:
    """With both equal, the kernel takes it that nothing is projected, and refuses the weights."""
    net = Net(lambda m, x: m.fc(m.rnn(x)[0]), rnn=nn.LSTM(3, 6, proj_size=4), fc=nn.Linear(4, 2))
    check_model(net, torch.randn(5, 2, 3)).assert_passed()
    found = space(elastify(net, torch.randn(5, 2, 3), verify=False))
    assert sorted(axis.size for axis in found.axes) == [4, 6]
    hidden, seen = sorted(found.axes, key=lambda axis: -axis.size)
    configs = [found.sample(seed) for seed in range(30)]
    assert all(config.sizes[hidden.name] > config.sizes[seen.name] for config in configs)


def test_counting_from_one_numbers_as_many_units_as_there_are() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x).view(x.shape[0], m.heads, -1)
        return m.b((y / torch.arange(1, y.shape[1] + 1)[:, None]).flatten(1))

    net = Net(forward, a=nn.Linear(4, 12), b=nn.Linear(12, 2), heads=3)
    report = check_model(net, torch.randn(2, 4))
    report.assert_passed()
    assert report.space is not None
    assert [axis.size for axis in report.space.axes] == [4]


def test_a_dimension_held_in_an_attribute_is_not_taken_for_a_size() -> None:
    """`dims = [2]` names the dimension of time; that there are two channels does not make it their number."""
    net = Net(lambda m, x: m.fc(m.conv(m.point(x)).mean(m.dims)), point=nn.Conv1d(3, 6, 1), dims=[2])
    net.conv, net.fc = nn.Conv1d(6, 2, 3, groups=2), nn.Linear(2, 3)
    check_model(net, torch.randn(2, 3, 9)).assert_passed()
