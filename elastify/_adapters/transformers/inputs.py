"""Dummy inputs for whatever a model's `main_input_name` says it takes.

Token models get 128 tokens (fewer where there are fewer positions), pictures and sounds the size that the
configuration names. Caches are switched off: they are state of a generation, not part of the network.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from elastify._adapters.library import Inputs
from elastify._adapters.noise import noise

_TOKENS = 128
_POSITIONS = ("max_position_embeddings", "n_positions", "max_target_positions", "seq_length", "max_seq_len")


def example_inputs(model: nn.Module) -> Inputs | None:
    """(args, kwargs) for a model that says what it takes; None for one that does not."""
    config: Any = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    if config is None or not isinstance(main, str):
        return None
    accepted = inspect.signature(model.forward).parameters
    kinds = getattr(model, "input_modalities", "text")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    inputs: dict[str, Any] = {}

    def give(name: str) -> None:
        if name in accepted and name in _MAKE and name not in inputs:
            inputs[name] = _MAKE[name](model, config)

    give(main)
    if not inputs:
        return None
    if "text" in kinds:
        give("input_ids")
    if "image" in kinds and _sees_whole_pictures(model, accepted):
        give("pixel_values")
        if "pixel_values" in inputs and "input_ids" in inputs:
            inputs["input_ids"] = _with_places(model, config, inputs)
    if "decoder_input_ids" in accepted and (config.is_encoder_decoder or hasattr(model, "decoder")):
        give("decoder_input_ids")
    if "bbox" in accepted:
        give("bbox")
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    return (), inputs


def _sees_whole_pictures(model: Any, accepted: Any) -> bool:
    """Whether pictures come as they are; some models want them cut into patches, and do well with text alone."""
    return "pixel_values" in accepted and not {"image_grid_thw", "target_sizes", "pixel_position_ids"} & set(accepted)


def _with_places(model: Any, config: Any, inputs: dict[str, Any]) -> Tensor:
    """Tokens with a place for every part of the pictures, for models that put these among the words."""
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    names = ("image_token_id", "image_token_index")
    token = next((n for n in (getattr(config, name, None) for name in names) if isinstance(n, int)), None)
    owners = (model, getattr(model, "model", None))
    look = next(filter(None, (getattr(owner, "get_image_features", None) for owner in owners)), None)
    if token is None or look is None or any(p.is_meta for p in model.parameters()):
        return ids
    try:
        with torch.no_grad():
            found = look(pixel_values=pixels)
    except (RuntimeError, TypeError, ValueError, AttributeError):  # it wants more than pixels: text alone will do
        del inputs["pixel_values"]
        return ids
    found = getattr(found, "pooler_output", found)
    found = torch.cat([part.flatten(0, -2) for part in found]) if isinstance(found, (tuple, list)) else found
    places = found.numel() // found.shape[-1] // len(ids)
    ids = torch.where(ids == token, token - 1, ids)
    return torch.cat([ids[:, :1], ids.new_full((len(ids), places), token), ids[:, 1:17]], 1)


def _tokens(model: Any, config: Any) -> Tensor:
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    positions = [getattr(text, name) for name in _POSITIONS if isinstance(getattr(text, name, None), int)]
    length = min([_TOKENS, *(n - _first_position(model) for n in positions if n > 0)])
    vocabulary = int(getattr(text, "vocab_size", 0) or 0)
    if not vocabulary:
        table = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
        vocabulary = table.num_embeddings if table is not None else 2
    return (torch.arange(2 * length) % max(vocabulary - 3, 1) + min(3, vocabulary - 1)).view(2, length)


def _boxes(model: Any, config: Any) -> Tensor:
    """A box per token: left, top, right, bottom."""
    length = _tokens(model, config).shape[1]
    return torch.tensor([10, 20, 30, 40]).repeat(2, length, 1)


def _first_position(model: nn.Module) -> int:
    """Some models count positions from the one after the padding index."""
    tables = (m for name, m in model.named_modules() if name.endswith("position_embeddings"))
    paddings = (getattr(m, "padding_idx", None) for m in tables)
    return next((index + 1 for index in paddings if isinstance(index, int)), 0)


def _picture(model: Any, config: Any) -> Tensor:
    config = getattr(config, "vlm_config", config)
    vision = _part(config, "image_size", "vision_config", "image_config", "encoder", "backbone_config")
    size = getattr(vision, "image_size", None) or 224
    if isinstance(size, dict):
        size = (size["height"], size["width"])
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    frames = getattr(vision, "num_frames", None)
    shape = (getattr(vision, "num_channels", None) or 3, int(height), int(width))
    several = "pixel_attention_mask" in inspect.signature(model.forward).parameters  # pictures per sample
    extra = (int(frames),) if isinstance(frames, int) else (1,) if several else ()
    return noise(2, *extra, *shape)


def _part(config: Any, name: str, *parts: str) -> Any:
    """The first part of a configuration that has a value of the name; the configuration itself if none has."""
    found = (getattr(config, part, None) for part in parts)
    return next((part for part in found if getattr(part, name, None)), config)


def _features(model: Any, config: Any) -> Tensor:
    if not getattr(config, "num_mel_bins", None):
        config = _part(config, "num_mel_bins", "encoder_config", "audio_config", "encoder")
    source = getattr(config, "max_source_positions", None)
    bins = getattr(config, "num_mel_bins", None)
    first = next((m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d))), None)
    if bins and isinstance(first, nn.Conv1d) and first.in_channels == bins:  # channels first
        return noise(2, int(bins), 2 * int(source or 64))
    return noise(2, 128, int(getattr(config, "input_feat_per_channel", None) or bins or 80))


def _sound(model: Any, config: Any) -> Tensor:
    if getattr(config, "num_mel_bins", None) and getattr(config, "max_length", None):  # spectrogram transformer
        return noise(2, int(config.max_length), int(config.num_mel_bins))
    second = int(getattr(config, "sampling_rate", None) or 16000)
    channels = getattr(config, "audio_channels", None)
    return noise(2, int(channels), second) if channels else noise(2, second)


_MAKE = {
    "input_ids": _tokens,
    "decoder_input_ids": _tokens,
    "pixel_values": _picture,
    "pixel_values_videos": _picture,
    "input_features": _features,
    "input_values": _sound,
    "bbox": _boxes,
}
