"""Names of axes: readable, stable, and never two alike."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from elastify import ElastifyError, SubnetConfig, elastify, search, space
from elastify._elastify import build
from elastify._plan.naming import Draft, enclosing, name_axes, words_of

from .named_nets import IDS, NAMES, NETS, Made, own_transformer


def named(*drafts: Draft) -> list[tuple[str, str]]:
    return list(name_axes(drafts).values())


@pytest.mark.parametrize(
    ("attributes", "changes", "word"),
    [
        (set(), {}, "hidden"),
        (set(), {"times": 2}, "width"),
        (set(), {"times": 1, "branch": (9, False)}, "hidden"),
        (set(), {"attends": True}, "heads"),
        (set(), {"of_heads": {"qk", "v"}}, "head_dim"),
        (set(), {"of_heads": {"qk", "v"}, "times": 2}, "width"),
        ({"num_heads"}, {"factor": True}, "heads"),
        ({"num_heads"}, {}, "hidden"),
        ({"head_dim"}, {"factor": True}, "head_dim"),
        ({"groups"}, {"factor": True}, "groups"),
        ({"groups"}, {}, "hidden"),
        ({"embed_dim"}, {"times": 2}, "width"),
        ({"out_features"}, {"between": True}, "rank"),
        (set(), {"makers": {"conv2d"}, "places": True}, "channels"),
        (set(), {"makers": {"conv2d"}, "places": True, "branch": (9, True)}, "bottleneck"),
        (set(), {"makers": {"linear"}, "places": True}, "hidden"),
        (set(), {"makers": {"embedding"}}, "embedding"),
        (set(), {"scanned": True}, "state"),
    ],
)
def test_the_word_comes_from_what_is_done(attributes: set[str], changes: dict, word: str) -> None:
    assert words_of([Draft(0, 8, [("a.weight", 0)], attributes, **changes)]) == {0: word}


@pytest.mark.parametrize(
    ("makers", "viewed", "names"),
    [
        ({"linear"}, True, ["mlp.up.heads", "mlp.up.head_dim"]),
        ({"linear"}, False, ["mlp.up.groups", "mlp.up.hidden"]),  # a norm has groups
        ({"conv2d"}, True, ["mlp.up.groups", "mlp.up.hidden"]),  # a shuffle
        ({"conv2d"}, False, ["mlp.up.groups", "mlp.up.hidden"]),
    ],
)
def test_an_outer_factor_that_does_nothing_else(makers: set[str], viewed: bool, names: list[str]) -> None:
    outer = Draft(0, 4, [("mlp.up.weight", 0)], factor=True, makers=makers, viewed=viewed)
    inner = Draft(1, 16, [("mlp.up.weight", 0)], inside={0}, factor=True, makers=makers)
    assert [name for name, _ in named(outer, inner)] == names


def test_of_the_units_of_heads_those_that_are_turned_have_their_own_name() -> None:
    heads = Draft(0, 4, [("attn.q.weight", 0)], attends=True)
    turned, rest = (Draft(i, 8, [("attn.q.weight", 0)], inside={0}, of_heads={"qk"}, turned=i == 1) for i in (1, 2))
    assert words_of([heads, turned, rest]) == {0: "heads", 1: "rotary_head_dim", 2: "head_dim"}
    assert words_of([heads, turned]) == {0: "heads", 1: "head_dim"}


def test_queries_share_the_heads_of_keys_and_values() -> None:
    shared = Draft(0, 2, [("attn.q.weight", 0), ("attn.k.weight", 0)], attends=True)
    each = Draft(1, 4, [("attn.q.weight", 0), ("attn.o.weight", 1)], inside={0}, attends=True)
    units = Draft(2, 8, [("attn.q.weight", 0), ("attn.k.weight", 0)], inside={0, 1}, of_heads={"qk"})
    assert [name for name, _ in named(shared, each, units)] == ["attn.kv_heads", "attn.q_per_kv", "attn.head_dim"]


def test_an_axis_is_named_after_the_module_that_encloses_its_members() -> None:
    hidden = Draft(0, 8, [("blocks.3.mlp.fc1.weight", 0), ("blocks.3.mlp.fc1.bias", 0), ("blocks.3.mlp.fc2.weight", 1)])
    width = Draft(1, 8, [("blocks.0.fc.weight", 0), ("head.weight", 1)], times=2, sums=["blocks.0", "blocks.1"])
    width.made = ["stem"]
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
            Draft(i, 8, members, {"num_heads"} if h else set(), factor=h, times=2 * s, sums=[members[0][0]])
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
    plan = space(elastify(Pairs(), torch.zeros(2, 6))).plan
    assert [(axis.name, axis.role, axis.size) for axis in plan.axes] == [
        ("heads", "heads", 4),
        ("head_dim", "head_dim", 3),
    ]


def axes_of(model: nn.Module, inputs: Any, **options: Any) -> dict[str, Any]:
    """What all axes go through, and their sizes, by their names."""
    given = {"example_kwargs": inputs} if isinstance(inputs, dict) else {"example_inputs": inputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of paths that depend on values
        build(model.eval(), **given, **{"verify": False, "every_axis": True, **options})
    return {axis.name: (axis.members, axis.size) for axis in space(model).axes}


@pytest.mark.parametrize("net", NETS)
def test_axes_are_called_what_people_call_them(net: str) -> None:
    model, inputs = NETS[net]()
    starred = dict.fromkeys(re.sub(r"\d+", "*", name) for name in axes_of(model, inputs))
    assert " ".join(starred) == NAMES[net]


@pytest.mark.parametrize(
    ("net", "block"),
    [("own transformer", "2"), ("own conformer", "2"), ("hf llama", "model.layers.1"), ("own unet", "middle")],
)
def test_names_depend_on_the_model_alone(net: str, block: str) -> None:
    model, inputs = NETS[net]()
    names = axes_of(model, inputs)
    asked = {"min_ratio": 0.9}, {"depth": False}, {"multiple_of": 4}, {"choices": {"*": [0.5]}}, {"verify": True}
    for options in (*asked, *({"freeze": [pattern]} for pattern in (block, *names))):
        other = axes_of(NETS[net]()[0], inputs, **options)
        assert other.items() <= names.items()


def test_names_do_not_depend_on_the_batch_or_the_length() -> None:
    names = axes_of(own_transformer()[0], IDS)
    assert names == axes_of(own_transformer()[0], IDS[:1, :3]) == axes_of(own_transformer()[0], IDS.repeat(3, 2))
    conv = axes_of(NETS["own unet"]()[0], torch.zeros(1, 3, 16, 16))
    assert conv == axes_of(*NETS["own unet"]())


def test_units_that_only_a_fixed_table_has_stay() -> None:
    model, inputs = NETS["own lookup"]()
    known = space(elastify(model, inputs))
    reason = next(frozen.reason for frozen in known.plan.frozen if (frozen.tensor, frozen.dim) == ("bias.0.weight", 1))
    assert reason == "its units are those of a fixed table, nothing computes them"
    assert [axis.size for axis in known.axes] == [4, 5, 16]


@pytest.fixture
def renamed(monkeypatch: pytest.MonkeyPatch) -> Made:
    """A network whose axes had other names in an earlier version: what a later rename adds to the library."""

    def before(drafts: Sequence[Draft], names: Mapping[int, str]) -> dict[int, str]:
        return {ident: name.replace("kv_heads", "groups") for ident, name in names.items() if "kv_heads" in name}

    monkeypatch.setattr("elastify._plan.naming.FORMER", (before,))
    model, inputs = own_transformer()
    return elastify(model, inputs, verify=False), inputs


def test_configurations_with_former_names_are_read(renamed: Made) -> None:
    model, _ = renamed
    known = space(model)
    sizes = {name.replace("kv_heads", "groups"): size for name, size in known.min.sizes.items()}
    mark = next(mark for mark in known.spellings if mark != known.fingerprint)
    assert sizes.keys() != known.min.sizes.keys()
    for written in (mark, ""):
        old = SubnetConfig.from_json(SubnetConfig.of(sizes, known.min.depths, written).to_json())
        assert known.config(old) == known.min
    assert known.config({"*.groups": 1}) == known.config({"*.kv_heads": 1}) != known.max
    with pytest.raises(ElastifyError, match="belongs to another model"):
        known.config(SubnetConfig.of(sizes, known.min.depths, "f" * 12))


def test_studies_with_former_names_go_on(renamed: Made, tmp_path: Path) -> None:
    model, _ = renamed
    known, path = space(model), tmp_path / "study.log"
    mark = next(mark for mark in known.spellings if mark != known.fingerprint)
    old = dict(zip(known.columns, known.spellings[mark], strict=True))

    def evaluate(model: nn.Module) -> float:
        return 1.0

    search(model, budget_macs="60%", evaluate=evaluate, n_trials=4, study=path)
    text = path.read_text().replace(known.fingerprint, mark)
    for name, former in old.items():
        text = text.replace(f'"{name}"', f'"{former}"').replace(f'\\"{name}\\"', f'\\"{former}\\"')
    path.write_text(re.sub(r', ?"crc32": ?\d+', "", text))  # earlier versions wrote none
    history = search(model, budget_macs="60%", evaluate=evaluate, n_trials=6, study=path).history
    assert len(history) == 6
    assert all(set(trial.config.sizes) < set(known.columns) for trial in history)


class Auxiliary(nn.Module):
    """A second head that runs in training only, as in GoogLeNet; its norm has buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)
        self.conv, self.norm, self.other = nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24), nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> object:
        x = self.stem(x)
        y = self.head(x.mean((2, 3)))
        return (y, self.other(self.norm(self.conv(x)).mean((2, 3)))) if self.training else y


def test_what_runs_in_training_only_is_computed_and_no_table() -> None:
    model = elastify(Auxiliary(), torch.randn(2, 3, 8, 8))
    assert [axis.size for axis in space(model).axes] == [16, 24]
