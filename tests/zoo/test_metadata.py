"""What timm does with the numbers that its models show, on extracted models."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import timm
import torch
from timm_metadata import ITEMS, RESULTS, check, counts, table

from elastify import elastify, extract, space

SWIN = {"img_size": 56, "embed_dim": 32, "depths": (2, 2, 2), "num_heads": (2, 4, 8)}
MODELS: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet18": (64, {}),
    "test_vit": (160, {}),
    "test_convnext": (160, {}),
    "mobilenetv4_conv_small_035": (64, {}),
    "efficientnet_lite0": (64, {}),
    "repvit_m0_9": (64, {}),
    "fastvit_t8": (64, {}),
    "swin_tiny_patch4_window7_224": (56, SWIN),
    "coat_tiny": (64, {"img_size": 64}),  # all of its widths are equal, and it names lists that are never called
    "crossvit_tiny_240": (64, {}),  # several classifiers side by side
    "dpn48b": (64, {}),  # places of features that look like their sizes
    "hrnet_w18_small": (64, {}),  # its features are no module's
    "mvitv2_tiny": (64, {"img_size": 64}),  # it names modules that are not there
}


@pytest.mark.parametrize("name", MODELS)
def test_what_it_shows_is_what_it_is(name: str) -> None:
    """Of the smallest subnet of a model, and of one of every other size."""
    size, options = MODELS[name]
    torch.manual_seed(0)
    x = torch.randn(2, 3, size, size)
    full = timm.create_model(name, **options).eval()
    model = elastify(copy.deepcopy(full), x, verify=False)
    subnets = {str(config): extract(model, config) for config in (space(model).min, space(model).sample(1))}
    results = list(check(full, subnets, x))
    assert {item for item, *_ in results} >= {"head_hidden_size", "reset_classifier", "reparameterize"}
    assert {item for item, *_ in results} & {"feature_info", "forward_intermediates"}
    assert {item for item, *_ in results} <= ITEMS.keys()
    assert [(item, config, result) for item, config, result in results if result != "right"] == []


def test_results_are_counted_by_item() -> None:
    found = {
        "a": [("num_features", "half", "right"), ("num_features", "smallest", "wrong: {}")],
        "b": [("num_features", "half", "right"), ("num_features", "uneven", "raises: TypeError: x")],
    }
    assert counts(found) == {"num_features": [2, 2, 0, 0, 1, 1]}
    assert list(table(counts(found)))[2:] == ["| `num_features` | 2 | 2 | 0 | 0 | 1 | 1 |"]


def test_the_table_of_the_documentation_is_that_of_the_results() -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert set(rows) <= {"forward", *ITEMS}
    assert "\n".join(table(rows)) in RESULTS.with_name("coverage.md").read_text(encoding="utf-8")
