"""transformers: dummy inputs for whatever a model's `main_input_name` says it takes.

Token models get 128 tokens (fewer where there are fewer positions), pictures and sounds the size that the
configuration names. Caches are switched off: they are state of a generation, not part of the network.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from elastify._adapters._noise import noise

_HIDDEN = ("hidden_states", "attentions")
AUXILIARY_OUTPUTS = frozenset(
    ["past_key_values", "encoder_last_hidden_state", "cross_attentions", *_HIDDEN]
    + [f"{part}_{name}" for part in ("encoder", "decoder", "vision", "image") for name in _HIDDEN]
)
_TOKENS = 128
_POSITIONS = ("max_position_embeddings", "n_positions", "max_target_positions", "seq_length", "max_seq_len")


def example_inputs(model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    config: Any = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    if config is None or not isinstance(main, str):
        return None
    accepted = inspect.signature(model.forward).parameters
    make = {"input_ids": _tokens, "pixel_values": _picture, "input_features": _features, "input_values": _sound}
    if main not in make:
        return None
    inputs: dict[str, Any] = {main: make[main](model, config)}
    if isinstance(getattr(model, "logit_scale", None), Tensor):  # two towers, compared
        for name in ("input_ids", "pixel_values"):
            if name in accepted:
                inputs[name] = make[name](model, config)
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        inputs["decoder_input_ids"] = _tokens(model, config)
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    return (), inputs


def _tokens(model: Any, config: Any) -> Tensor:
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    positions = [getattr(text, name) for name in _POSITIONS if isinstance(getattr(text, name, None), int)]
    length = min([_TOKENS, *(n - _first_position(model) for n in positions if n > 0)])
    vocabulary = int(getattr(text, "vocab_size", 0) or model.get_input_embeddings().num_embeddings)
    return (torch.arange(2 * length) % max(vocabulary - 3, 1) + min(3, vocabulary - 1)).view(2, length)


def _first_position(model: nn.Module) -> int:
    """Some models count positions from the one after the padding index."""
    tables = (m for name, m in model.named_modules() if name.endswith("position_embeddings"))
    paddings = (getattr(m, "padding_idx", None) for m in tables)
    return next((index + 1 for index in paddings if isinstance(index, int)), 0)


def _picture(model: Any, config: Any) -> Tensor:
    vision = getattr(config, "vision_config", None) or getattr(config, "encoder", None) or config
    size = getattr(vision, "image_size", None) or 224
    if isinstance(size, dict):
        size = (size["height"], size["width"])
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    frames = getattr(vision, "num_frames", None)
    shape = (getattr(vision, "num_channels", None) or 3, int(height), int(width))
    return noise(2, *((int(frames),) if isinstance(frames, int) else ()), *shape)


def _features(model: Any, config: Any) -> Tensor:
    source = getattr(config, "max_source_positions", None)
    bins = getattr(config, "num_mel_bins", None)
    if source and bins:
        return noise(2, int(bins), 2 * int(source))
    return noise(2, 128, int(getattr(config, "input_feat_per_channel", None) or bins or 80))


def _sound(model: Any, config: Any) -> Tensor:
    if getattr(config, "num_mel_bins", None) and getattr(config, "max_length", None):  # spectrogram transformer
        return noise(2, int(config.max_length), int(config.num_mel_bins))
    second = int(getattr(config, "sampling_rate", None) or 16000)
    channels = getattr(config, "audio_channels", None)
    return noise(2, int(channels), second) if channels else noise(2, second)
