"""What only a later example runs is named by what it does there, and its numbers follow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from elastify import SearchSpace, elastify, extract, space
from tests.every_axis import every_axis


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        h = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return x + self.out(h.transpose(1, 2).flatten(2))


class Tower(nn.Module):
    def __init__(self, inputs: int, width: int, heads: int) -> None:
        super().__init__()
        self.num_features, self.hidden_size = width, 3 * width + 1
        self.stem, self.attention = nn.Linear(inputs, width), Attention(width, heads)
        self.up, self.down = nn.Linear(width, 3 * width + 1), nn.Linear(3 * width + 1, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(self.stem(x))
        return self.head((x + self.down(self.up(x).relu())).mean(1))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = Tower(6, 16, 4), Tower(9, 24, 3)

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> Tensor:
        found = [tower(x) for tower, x in ((self.image, image), (self.text, text)) if x is not None]
        return found[0] @ found[1].T if len(found) == 2 else found[0]


IMAGE, TEXT = torch.randn(2, 4, 6), torch.randn(2, 7, 9)


def named(found: SearchSpace) -> dict[str, str]:
    return {axis.name: axis.role for axis in found.axes}


@pytest.mark.parametrize("turned", [False, True])
def test_axes_are_named_by_the_example_that_runs_them(turned: bool) -> None:
    together = named(space(every_axis(Two(), (IMAGE, TEXT))))
    assert {"image.attention.heads", "text.attention.heads", "text.attention.head_dim"} <= together.keys()
    examples = [{"image": IMAGE}, {"text": TEXT}]
    del together["image.head.hidden"]  # one tower alone returns these
    assert named(space(every_axis(Two(), examples=examples[::-1] if turned else examples))) == together


@pytest.mark.parametrize("turned", [False, True])
def test_numbers_follow_in_parts_that_one_example_runs(turned: bool) -> None:
    examples = [{"image": IMAGE}, {"text": TEXT}]
    model = elastify(Two(), examples=examples[::-1] if turned else examples)
    for name in ("image", "text"):
        small = extract(model, {f"{name}.*": 0.5}).get_submodule(name)
        assert (small.num_features, small.hidden_size) == (small.stem.out_features, small.up.out_features)
        assert small.up.out_features < model.get_submodule(name).up.out_features
        other = extract(model, {f"{name}.*": 0.5}).get_submodule("text" if name == "image" else "image")
        assert other.num_features == {"image": 24, "text": 16}[name]
