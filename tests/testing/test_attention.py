"""Fused attention and the same by hand: where the original does not care, no subnet may."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from elastify import elastify, testing
from elastify._plan import planner
from elastify.testing import check_model
from elastify.testing.attention import by_hand, other_ways

X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))


class Flagged(nn.Module):
    """Asks torch which kernels may run, as some code does."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if torch.backends.cuda.flash_sdp_enabled():
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q * self.scale @ k.mT).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 2)


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=16, depth=1, num_heads=2, num_classes=3)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=20
    )
    return transformers.BertModel(config)


WRONG = "a subnet gives something else with attention by hand"
NETS: dict[str, tuple[Any, Any]] = {
    "a flag of torch": (Flagged, X),
    "torch": (encoder, X),
    "timm": (vit, torch.randn(2, 3, 32, 32)),
    "transformers": (bert, {"input_ids": torch.arange(10).view(2, 5)}),
}


@pytest.mark.parametrize("name", NETS)
def test_both_ways_agree(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = NETS[name]
    check_model(make(), inputs, configurations=1).assert_passed()


def test_a_scale_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "find_scales", lambda *_: ({}, {}))
    for name in ("a flag of torch", "timm"):
        torch.manual_seed(0)
        make, inputs = NETS[name]
        failures = check_model(make(), inputs, configurations=1, min_ratio=0.5).failures
        assert [text.partition(", by")[0] for text in failures] == [
            "a subnet gives something else with attention by hand"
        ]


def test_a_model_that_cannot_is_not_asked() -> None:
    class Only(Flagged):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.backends.cuda.flash_sdp_enabled():
                raise RuntimeError("needs a fast kernel")
            return super().forward(x)

    check_model(Only(), X, configurations=1, costs=0).assert_passed()  # costs are counted with plain kernels


def test_everything_is_put_back() -> None:
    for make, attribute in ((vit, "blocks.0.attn"), (bert, "config")):
        model: Any = make()
        with by_hand(model):
            assert not torch.backends.cuda.flash_sdp_enabled()
            inside = model.get_submodule(attribute).fused_attn if make is vit else model.config._attn_implementation
            assert inside in (False, "eager")
        inside = model.get_submodule(attribute).fused_attn if make is vit else model.config._attn_implementation
        assert inside in (True, "sdpa")
        assert torch.backends.cuda.flash_sdp_enabled()


def test_networks_without_attention_have_one_way() -> None:
    model = elastify(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)), X)
    assert not list(other_ways(model, {"linear", "relu"}))
    assert testing.check_model(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)), X).failures == []
