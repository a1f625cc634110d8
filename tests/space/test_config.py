"""Configurations as values and as JSON, and the ladders of legal sizes."""

from __future__ import annotations

import pytest

from elastify._errors import ElastifyError
from elastify._plan.choices import build_choices
from elastify._space.config import SubnetConfig


def test_configurations_are_values():
    hidden = {f"blocks.{b}.mlp.hidden": 96 if b else 48 for b in (10, 2, 0)}
    config = SubnetConfig.of({"width": 96, **hidden}, {"blocks": [0, 2, 10]}, "abc")
    again = SubnetConfig.from_json(config.to_json())
    assert again == config
    assert hash(again) == hash(config)
    assert again.space == "abc"
    assert again != SubnetConfig.of(config.sizes, config.depths, "other")
    with pytest.raises(TypeError):
        config.sizes["width"] = 3
    with pytest.raises(AttributeError):
        config.space = "other"


def test_configurations_print_shortly():
    hidden = {f"blocks.{b}.mlp.hidden": 96 if b else 48 for b in (10, 2, 0)}
    config = SubnetConfig.of({"width": 96, **hidden, "a.1.h": 7, "a.2.h": 7}, {"blocks": range(3), "other": [0, 2]})
    assert repr(config) == (
        "SubnetConfig(a.*.h=7, blocks.*.mlp.hidden=[48, 96, 96], width=96, blocks=3 blocks, other=blocks [0, 2])"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{}",
        '{"elastify_config": 2}',
        '{"elastify_config": 1, "sizes": {"a": 1.5}, "depths": {}, "space": ""}',
        '{"elastify_config": 1, "sizes": {"a": 1}, "depths": {"b": 3}, "space": ""}',
        '{"elastify_config": 1, "sizes": {"a": true}, "depths": {}, "space": ""}',
    ],
)
def test_foreign_json_is_refused(text):
    with pytest.raises(ElastifyError, match="this is not a configuration"):
        SubnetConfig.from_json(text)


@pytest.mark.parametrize(
    ("args", "choices"),
    [
        ((64,), (16, 24, 32, 40, 48, 56, 64)),
        ((65,), (24, 32, 40, 48, 56, 64, 65)),
        ((10,), (3, 4, 5, 6, 7, 8, 9, 10)),
        ((96, "heads"), tuple(range(24, 97))),
        ((8, "hidden", 1.0), (8,)),
        ((24, "hidden", 0.5, 6), (12, 18, 24)),
        ((12, "heads", 0.5, 4), tuple(range(6, 13))),
        ((1,), (1,)),
        ((100, "hidden", 0.25, None, [0.333, 64, 100]), (34, 64, 100)),
        ((16, "hidden", 0.25, 32), (16,)),
    ],
)
def test_choices(args, choices):
    assert build_choices(*args) == choices


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"min_ratio": 0}, "min_ratio must be above 0"),
        ({"min_ratio": 1.5}, "min_ratio must be above 0"),
        ({"multiple_of": 0}, "multiple_of must be a whole number"),
        ({"explicit": [200]}, "200 is not a possible size"),
        ({"explicit": [0]}, "0 is not a possible size"),
        ({"explicit": [1.5]}, "1.5 is not a possible ratio"),
        ({"explicit": ["a"]}, "'a' is neither a size nor a ratio"),
        ({"explicit": [True]}, "True is neither"),
    ],
)
def test_bad_choices_are_explained(kwargs, text):
    with pytest.raises(ElastifyError) as error:
        build_choices(64, name="mlp.hidden", **kwargs)
    assert text in str(error.value)
    assert "where: mlp.hidden" in str(error.value)
