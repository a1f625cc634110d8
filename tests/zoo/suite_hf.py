"""One small model, with random weights, of every transformers model type that has a task head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from hf_generate import check_generation
from hf_shrink import small_config
from zoo_entry import Entry, Made

TASKS = """
SEQ_TO_SEQ_CAUSAL_LM SPEECH_SEQ_2_SEQ IMAGE_TEXT_TO_TEXT MULTIMODAL_LM CAUSAL_LM MASKED_LM
ZERO_SHOT_IMAGE_CLASSIFICATION IMAGE_CLASSIFICATION VIDEO_CLASSIFICATION CTC OBJECT_DETECTION
ZERO_SHOT_OBJECT_DETECTION UNIVERSAL_SEGMENTATION SEMANTIC_SEGMENTATION DEPTH_ESTIMATION AUDIO_CLASSIFICATION
SEQUENCE_CLASSIFICATION QUESTION_ANSWERING
""".split()
"""What a model type is mostly used for comes first."""


def class_names() -> dict[str, str]:
    """The class with the main task head, by model type."""
    from transformers.models.auto import modeling_auto

    tables = {n: t for n, t in vars(modeling_auto).items() if n.startswith("MODEL_FOR_") and n.endswith("_NAMES")}
    order = [f"MODEL_FOR_{task}_MAPPING_NAMES" for task in TASKS]
    order += [n for n in tables if n not in order and "BACKBONE" not in n and "TEXT_ENCODING" not in n]
    found: dict[str, str] = {}
    for name in order:
        for kind, entry in tables[name].items():
            entry = entry if isinstance(entry, str) else entry[0]
            found.setdefault(kind, entry)
    return dict(sorted(found.items()))


def _prompt(config: Any, length: int = 16) -> torch.Tensor:
    return (torch.arange(2 * length) % 800 + 3).view(2, length)


def _flat_patches(config: Any) -> dict[str, Any]:
    """Pictures of four by four patches, each a row of numbers."""
    size = 3 * config.vision_config.patch_size**2
    shape = {"pixel_attention_mask": torch.ones(2, 16, dtype=torch.long), "spatial_shapes": torch.tensor([[4, 4]] * 2)}
    return {"pixel_values": torch.randn(2, 16, size), **shape}


def _speech_prompt(config: Any) -> dict[str, Any]:
    """Words, and the place of the first sound."""
    return {"input_ids": torch.cat([_prompt(config, 15) + 100, torch.full((2, 1), config.audio_bos_token_id)], 1)}


def _sounds_among_words(config: Any) -> dict[str, Any]:
    """Four sounds, of a code per codebook, in the middle of words."""
    words = _prompt(config, 16)
    words[:, 6:10] = config.audio_token_id
    codes = torch.arange(2 * 4 * config.num_codebooks).view(2, 4, config.num_codebooks) % config.codebook_size
    return {"input_ids": words, "audio_input_ids": codes, "audio_input_ids_mask": torch.ones(2, 4, dtype=torch.bool)}


INPUTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "colpali": lambda c: {
        "input_ids": torch.cat([torch.full((2, 16), c.vlm_config.image_token_index), _prompt(c)], 1),
        "pixel_values": torch.randn(2, 3, 32, 32),
    },
    "dac": lambda c: {"input_values": torch.randn(2, 1, 2048)},
    "dia": lambda c: {"input_ids": _prompt(c), "decoder_input_ids": _prompt(c, 9 * 8).view(2, 8, 9)},
    "fuyu": lambda c: {"input_ids": _prompt(c), "use_cache": False},
    "gradium_phonon_tts": _speech_prompt,
    "granite_speech5_ctc": lambda c: {"input_features": torch.randn(2, 128, 4 * c.encoder_config.num_mel_bins)},
    "higgs_audio_v2": _sounds_among_words,
    "idefics": lambda c: {"input_ids": _prompt(c), "pixel_values": torch.randn(2, 1, 3, 32, 32), "use_cache": False},
    "kosmos-2": lambda c: {
        "input_ids": _prompt(c),
        "pixel_values": torch.randn(2, 3, 32, 32),
        "image_embeds_position_mask": (torch.arange(16) < c.latent_query_num).repeat(2, 1),
        "use_cache": False,
    },
    "led": lambda c: {"input_ids": _prompt(c), "decoder_input_ids": _prompt(c), "use_cache": False},
    "lightglue": lambda c: {"pixel_values": torch.randn(2, 2, 3, 64, 64)},
    "lxmert": lambda c: {
        "input_ids": _prompt(c),
        "visual_feats": torch.randn(2, 10, c.visual_feat_dim),
        "visual_pos": torch.rand(2, 10, c.visual_pos_dim),
    },
    "mllama": lambda c: {"input_ids": _prompt(c), "use_cache": False},
    "oneformer": lambda c: {"pixel_values": torch.randn(2, 3, 64, 64), "task_inputs": _prompt(c, c.task_seq_len)},
    "patchtsmixer": lambda c: {"past_values": torch.randn(2, c.context_length, c.num_input_channels)},
    "patchtst": lambda c: {"past_values": torch.randn(2, c.context_length, c.num_input_channels)},
    "perceiver": lambda c: {"inputs": _prompt(c, c.max_position_embeddings) % c.vocab_size},
    "pocket_tts": _speech_prompt,
    "pop2piano": lambda c: {"input_features": torch.randn(2, 16, c.d_model), "decoder_input_ids": _prompt(c)},
    "prophetnet": lambda c: {"input_ids": _prompt(c), "decoder_input_ids": _prompt(c), "use_cache": False},
    "rwkv": lambda c: {"input_ids": _prompt(c, 8), "use_cache": False},
    "siglip2": lambda c: {"input_ids": _prompt(c), **_flat_patches(c)},
    "speech-encoder-decoder": lambda c: {"input_values": torch.randn(2, 4000), "decoder_input_ids": _prompt(c)},
    "superglue": lambda c: {"pixel_values": torch.randn(2, 2, 3, 64, 64)},
    "timesfm": lambda c: {"past_values": list(torch.randn(2, c.context_length))},
    "timesfm2_5": lambda c: {"past_values": list(torch.randn(2, c.context_length))},
    "vibevoice": lambda c: {"input_ids": _prompt(c), "attention_mask": torch.ones(2, 16, dtype=torch.long)},
    "vibevoice_acoustic_tokenizer": lambda c: {"input_values": torch.randn(2, 1, 3200)},
    "videomt": lambda c: {"pixel_values_videos": torch.randn(2, 2, 3, c.image_size, c.image_size)},
    "vjepa2": lambda c: {"pixel_values_videos": torch.randn(2, 4, 3, c.crop_size, c.crop_size)},
}
"""What a model type takes that no `main_input_name` tells."""


class Steps:
    """Diffusion in equal steps, for models that want a scheduler of their own."""

    timesteps = torch.arange(0)

    def set_timesteps(self, num_inference_steps: int) -> None:
        self.timesteps = torch.arange(num_inference_steps, 0, -1)

    def step(self, noise: torch.Tensor, timestep: Any, sample: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(prev_sample=sample - noise / len(self.timesteps))


GENERATION: dict[str, dict[str, Any]] = {
    "pop2piano": {"composer_to_feature_token": {f"composer{i + 1}": i for i in range(21)}},
    "vibevoice": {"noise_scheduler": Steps(), "return_dict_in_generate": True},
}
"""What `generate` asks of a model's generation config."""


def tiny(kind: str) -> Made:
    """A small model of a type and inputs that fit."""
    import transformers

    from elastify import _adapters

    torch.manual_seed(0)
    model = getattr(transformers, class_names()[kind])(small_config(kind)).eval()
    for name, value in GENERATION.get(kind, {}).items():
        setattr(model.generation_config, name, value)
    inputs: Any = ((), INPUTS[kind](model.config)) if kind in INPUTS else _adapters.of(model).example_inputs(model)
    if inputs is None:
        raise ValueError(f"no inputs are known for {type(model).__name__}")
    return model, *inputs


_REASONS = {
    "its module needs a package that the environment does not have": "dinat higgs_audio_v2_tokenizer layoutlmv2",
    "its default configuration makes no model in this version": """cohere_compass cohere_compass_text deepseek_ocr2
        diffusion_gemma emu3 gemma4_assistant gemma4_unified_assistant granite4_vision hunyuan_vl moonshine_streaming
        musicgen musicgen_melody perception_lm pp_ocrv5_server_det pp_ocrv6_medium_det qwen3_omni_moe qwen4_exp
        qwen4_exp_text sapiens2 timm_backbone vitmatte""",
    "its image network is a large timm model that a small configuration cannot name": "edgetam fast_vlm gemma3n",
    "forward takes tensors of its own kinds that the suite does not make": """bark colmodernvbert idefics instructblip
        instructblipvideo jev lightglue nemotron_h_omni neucodec omdet-turbo pi0 pix2struct qwen2_5_omni superglue
        voxtral_realtime xcodec2""",
    "the suite has no small configuration of it that runs": """depth_pro dots3_note edgetam_video
        efficientloftr ernie4_5_vl_moe janus kyutai_speech_to_text lw_detr mistral4 ovis2 pp_doclayout_v2
        pp_doclayout_v3 pp_ocrv5_mobile_rec pp_ocrv5_server_rec pp_ocrv6_small_det pp_ocrv6_small_rec
        pp_ocrv6_tiny_rec sam sam2 sam2_video sam3_tracker sam_hq vibevoice_asr""",
}
LEFT_OUT = {f"hf:{kind}": reason for reason, kinds in _REASONS.items() for kind in kinds.split()}
"""Model types outside the suite, and why."""

HF = [
    Entry(f"hf:{kind}", partial(tiny, kind), also=check_generation)
    for kind in class_names()
    if f"hf:{kind}" not in LEFT_OUT
]
