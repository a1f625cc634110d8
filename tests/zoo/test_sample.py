"""The whole check on twenty models from the other suites: what CI runs of them."""

from __future__ import annotations

import pytest
import torch
from zoo_entry import Entry, missing
from zoo_suites import SUITES

from elastify.testing import check_model

NAMES = """
timm:test_byobnet timm:test_convnext timm:test_efficientnet timm:test_mambaout timm:test_nfnet timm:test_vit
timm:levit_128s timm:pit_ti_224 timm:resnest14d timm:shvit_s1
torchvision:lraspp_mobilenet_v3_large torchvision:raft_small
hf:clip hf:deberta-v2 hf:mamba hf:mixtral hf:qwen3
audio:demucs audio:open_unmix audio:bs_roformer
""".split()
ENTRIES = {entry.name: entry for suite in SUITES.values() for entry in suite if not entry.light}


@pytest.mark.slow
@pytest.mark.parametrize("entry", [ENTRIES[name] for name in NAMES], ids=lambda entry: entry.name)
def test_model(entry: Entry) -> None:
    torch.set_num_threads(1)
    model, args, kwargs = entry.make()
    report = check_model(model, args, example_kwargs=kwargs, configurations=8, **entry.options)
    report.assert_passed()
    assert report.space is not None
    assert report.space.verified
    assert missing(entry, [name for name, _ in model.named_parameters()], report.space) == []
    assert entry.also is None or entry.also(model, args, kwargs) == []
