"""What timm does with the numbers that its models show, on extracted models."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

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
}


@pytest.fixture(scope="module", params=MODELS)
def subnets(request: pytest.FixtureRequest) -> list[tuple[nn.Module, Tensor]]:
    """The smallest subnet of a model, and one of every other size."""
    size, options = MODELS[request.param]
    torch.manual_seed(0)
    x = torch.randn(2, 3, size, size)
    model = elastify(timm.create_model(request.param, **options).eval(), x, verify=False)
    return [(extract(model, config), x) for config in (space(model).min, space(model).sample(1))]


def test_features_and_a_new_classifier(subnets: list[tuple[Any, Tensor]]) -> None:
    for small, x in subnets:
        features = small.forward_features(x)
        assert small.num_features in features.shape
        small.reset_classifier(10)
        assert small(x).shape == (2, 10)
        assert small.head_hidden_size in small.forward_head(features, pre_logits=True).shape


def test_feature_info_tells_what_its_modules_give(subnets: list[tuple[Any, Tensor]]) -> None:
    for small, x in subnets:
        seen: dict[str, Tensor] = {}
        entries = [dict(entry) for entry in small.feature_info]
        modules = dict(small.named_modules())
        for entry in entries:
            name = entry["module"]
            modules[name].register_forward_hook(lambda _, __, out, name=name, seen=seen: seen.update({name: out}))
        small(x)
        assert entries
        for entry in entries:
            shape = seen[entry["module"]].shape
            assert entry["num_chs"] in (shape[1], shape[-1])


def test_branches_can_be_fused(subnets: list[tuple[nn.Module, Tensor]]) -> None:
    for small, x in subnets:
        with torch.no_grad():
            torch.testing.assert_close(reparameterize_model(small)(x), small(x), rtol=1e-3, atol=1e-4)
