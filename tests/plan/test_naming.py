"""Names of axes: readable, stable, and never two alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from elastify import elastify, space
from elastify._plan.naming import Draft, enclosing, name_axes, role_of


def named(*drafts: Draft) -> list[tuple[str, str]]:
    return list(name_axes(drafts).values())


@pytest.mark.parametrize(
    ("attributes", "changes", "role"),
    [
        (set(), {}, "hidden"),
        (set(), {"spans_blocks": True}, "width"),
        ({"num_heads"}, {"factor": True}, "heads"),
        ({"num_attention_heads", "num_key_value_heads"}, {}, "heads"),
        ({"head_dim"}, {}, "head_dim"),
        ({"attention_head_size"}, {}, "head_dim"),
        ({"groups"}, {"factor": True}, "groups"),
        ({"groups"}, {}, "hidden"),
        ({"embed_dim"}, {"spans_blocks": True}, "width"),
        ({"out_features"}, {"between": True}, "rank"),
        ({"num_heads"}, {"between": True}, "heads"),
    ],
)
def test_the_role_comes_from_the_attribute_or_the_reach(attributes: set[str], changes: dict, role: str) -> None:
    assert role_of(Draft(0, 8, [("a.weight", 0)], attributes, **changes)) == role


def test_two_factors_without_attributes_are_heads_and_head_dim() -> None:
    outer = Draft(0, 4, [("attn.q.weight", 0)], factor=True)
    inner = Draft(1, 16, [("attn.q.weight", 0)], inside={0}, factor=True)
    assert named(outer, inner) == [("attn.q.heads", "heads"), ("attn.q.head_dim", "head_dim")]


def test_an_axis_is_named_after_the_module_that_encloses_its_members() -> None:
    hidden = Draft(0, 8, [("blocks.3.mlp.fc1.weight", 0), ("blocks.3.mlp.fc1.bias", 0), ("blocks.3.mlp.fc2.weight", 1)])
    width = Draft(1, 8, [("blocks.0.fc.weight", 0), ("blocks.1.fc.weight", 0), ("head.weight", 1)], spans_blocks=True)
    assert named(hidden, width) == [("blocks.3.mlp.hidden", "hidden"), ("width", "width")]


def test_two_of_a_name_are_called_after_what_makes_their_units() -> None:
    first = Draft(0, 8, [("b.0.weight", 0), ("b.1.weight", 1)])
    second = Draft(1, 8, [("b.1.weight", 0), ("b.2.weight", 1)])
    assert named(first, second) == [("b.0.hidden", "hidden"), ("b.1.hidden", "hidden")]


def test_numbers_are_the_last_resort() -> None:
    twins = [Draft(i, 8, [("fc.weight", 0)]) for i in range(2)]
    assert named(*twins) == [("fc.hidden0", "hidden"), ("fc.hidden1", "hidden")]


def test_the_longest_common_path() -> None:
    assert enclosing(["a.b.c", "a.b.d"]) == "a.b"
    assert enclosing(["a.bc", "a.bd"]) == "a"
    assert enclosing(["a.b", ""]) == ""
    assert enclosing(["a.b"]) == "a.b"


PATHS = st.lists(st.sampled_from("ab01"), max_size=3).map(lambda parts: ".".join([*parts, "weight"]))
DRAFTS = st.lists(
    st.tuples(st.lists(st.tuples(PATHS, st.integers(0, 1)), min_size=1, max_size=3), st.booleans(), st.booleans()),
    min_size=1,
    max_size=8,
)


@given(DRAFTS)
@settings(max_examples=100, deadline=None)
def test_names_are_distinct_and_do_not_depend_on_the_run(rows: list) -> None:
    def drafts() -> list[Draft]:
        return [
            Draft(i, 8, members, {"num_heads"} if h else set(), spans_blocks=s)
            for i, (members, h, s) in enumerate(rows)
        ]

    names = [name for name, _ in named(*drafts())]
    assert len(set(names)) == len(names)
    assert names == [name for name, _ in named(*drafts())]


class Pairs(nn.Module):
    """Heads whose features come in pairs, as rotary embeddings take them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.project, self.out = nn.Linear(6, 24), nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        pairs = self.project(x).view(x.shape[0], self.num_heads, -1, 2)
        return self.out((pairs[..., :1] * pairs).flatten(1))


def test_a_fixed_factor_inside_a_head_does_not_hide_its_width() -> None:
    model = elastify(Pairs(), torch.zeros(2, 6))
    assert [(axis.name, axis.role, axis.size) for axis in space(model).axes] == [
        ("heads", "heads", 4),
        ("head_dim", "head_dim", 3),
    ]
