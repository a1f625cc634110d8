"""The suite of transformers: its small models, and what is compared of the text that they write."""

from __future__ import annotations

import pytest
import torch
from hf_generate import check_generation
from hf_shrink import small_config
from suite_hf import HF, LEFT_OUT, class_names, tiny
from torch import nn

from elastify import elastify, space


def test_there_is_an_entry_or_a_reason_for_every_model_type() -> None:
    names = [entry.name for entry in HF]
    assert len(set(names)) == len(names) > 400
    assert {*names, *LEFT_OUT} == {f"hf:{kind}" for kind in class_names()}
    assert {"hf:bert", "hf:llama", "hf:t5", "hf:whisper", "hf:llava", "hf:detr"} <= set(names)


@pytest.mark.parametrize("kind", ["llama", "t5", "gemma3_text"])
def test_small_configurations_keep_what_belongs_together(kind: str) -> None:
    config = small_config(kind)
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (96, 6, 3)
    assert config.vocab_size == 1000
    if kind == "gemma3_text":
        assert (config.num_key_value_heads, config.head_dim) == (3, 16)
        assert config.layer_types == ["sliding_attention", "sliding_attention", "full_attention"]


def test_subnets_write_what_extracted_models_write() -> None:
    model, args, kwargs = tiny("gpt2")
    assert check_generation(model, args, kwargs, draws=1) == []


def test_a_hybrid_keeps_a_layer_that_its_cache_asks() -> None:
    """A cache is as long as that of its attention: extracted, a model without such a layer could not write."""
    model, args, kwargs = tiny("nemotron_h")
    assert model.config.layers_block_type == ["linear_attention", "moe", "full_attention", "mlp"]
    (stage,) = space(elastify(model, args, example_kwargs=kwargs, min_ratio=0.25)).stages
    assert stage.choices == (3, 4)
    assert "`get_seq_length` can only be called on Attention layers" in stage.prefix
    assert "(model, transformers/cache_utils.py:" in stage.prefix


def test_a_model_that_cannot_write_is_not_asked() -> None:
    assert check_generation(nn.Linear(2, 2), (torch.zeros(1, 2),), {}) == []


def test_a_subnet_that_writes_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import hf_generate

    calls = iter(range(100))
    monkeypatch.setattr(hf_generate, "_write", lambda *_, **__: torch.tensor([next(calls)]))
    model, args, kwargs = tiny("gpt2")
    faults = check_generation(model, args, kwargs, draws=0)
    assert faults[0] == "the full model writes otherwise"
    assert "generate() writes [3] activated, [4] extracted" in faults[1]
