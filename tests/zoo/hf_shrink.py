"""Any configuration of transformers, made small.

`small_config` takes the defaults of a configuration class and shrinks every number whose name says what it sizes:
widths become multiples of 24 near 96, heads 6 (and 3 for grouped keys), layers 3, experts 4. Equal widths stay equal
in the whole tree of sub-configurations, because the parts of a model meet there. Lists with an entry per layer keep
one of every kind. What a model type needs otherwise stands in `OVERRIDES`: dotted paths and values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LAYERS, HEADS, GROUPS, WIDTH, POSITIONS = 3, 6, 3, 96, 32

# At most so many; the first that fits a name counts.
_AT_MOST: list[tuple[int, str]] = [
    (1000, "(.*_)?vocab_size.*"),
    (POSITIONS, "max_(?!2d|source).*position.* n_positions n_ctx max_seq_len seq_length"),
    (36, "num_position_embeddings"),
    (30, "max_source_positions"),
    (16, "num_mel_bins"),
    (8, "sliding_window(_size)? local_attention attention_window attention_chunk_size index_topk .*chunk_size"),
    (10, "num_queries num_query_tokens .*n_latents num_latents"),
    (4, "(num|n)_(local_|routed_)?experts moe_num_experts linear_num_value_heads"),
    (2, "num_experts_per_tok(en)? moe_topk moe_k top_k topk (mamba_)?n_groups n_group num_expert_group"),
    (2, "linear_num_(key_)?heads linear_num_heads"),
    (1, "topk_group n_shared_experts num_shared_experts moe_num_shared_experts"),
    (1, "first_k_dense_replace num_dense_layers num_kv_shared_layers"),
    (0, "(num_)?(mtp|nextn_predict)_layers"),
    (16, "qk_nope_head_dim d_kv attention_head_dim kv_channels d_head dim_head v_head_dim"),
    (8, "qk_rope_head_dim rotary_dim"),
    (24, "qk_head_dim"),
    (40, "kv_lora_rank moe_intermediate_size .*shared_expert.*_size"),
    (56, "q_lora_rank"),
    (12, "mamba_n(um)?_heads n_mamba_heads mamba_d_state state_size ssm_state_size"),
    (16, "linear_(key_|value_)?head_dim (mamba_|swa_|global_|index_)?head_dim mamba_d_head"),
    (8, "time_step_rank mamba_dt_rank .*lora.*rank laurel_rank"),
    (176, "(.*_)?(intermediate_size.*|ffn_dim|d_ff|n_inner|mlp_dim|ffn_hidden_size|d_inner|dim_ff|dim_feedforward)"),
    (176, "(.*_)?(linear_units|feedforward_dim)"),
]
_LAYERS = re.compile(r"(.*_)?(num_)?((hidden_|encoder_|decoder_)?layers?|encoder_layers|blocks)|n_layers?|(.*_)?depth")
_NOT_LAYERS = re.compile(
    r"num_feat_extract_layers|max_window_layers|.*_depth_.*|max_depth|.*encoder_blocks|.*layer_layers"
)
_HEADS = re.compile(r"(.*_)?(num_)?(attention_)?heads|n_head|index_n_heads")
_PLACES = re.compile(
    r"(.*_)?(out_ind(ices|exes)|visual_indexes|attn_indexes|block_index(es|ices)|extract_layers|attention_blocks)"
)
_GROUPED = re.compile(r"(.*_)?(num_)?(key_value|kv)_heads|n_head_kv|num_key_value_groups")
_WIDTH = re.compile(
    r"(.*_)?(hidden_size.*|hidden_dim|d_model|n_embd|embed_dim|emb_dim|dim|embedding_dim|embedding_size|embed_size|width|"
    r"hidden_channels|projection_dim|proj_dim|projection_size|out_dim|output_dim|proj_size|feature_size|dimension|"
    r"input_dim|pooler_output_size|units|channels|mlp_hidden_size|feat_dim|initial_channel|lm_head_size|out_features)"
)
_WIDTHS = re.compile(
    r"(.*_)?(hidden_sizes|embed_dims?|dims?|channels|conv_dim|widths|channel_list|out_features|.*per_stage|stage_out_channels|.*channels)"
)
_DEPTHS = re.compile(r"(.*_)?(depths|layers|blocks_per_stage|num_block_repeats|num_layers|stage_num_blocks)")
_TOKEN = re.compile(r"(.*_)?(token|start|end|bos|eos|pad)?_?(token_id|token_index|token|_id)s?")
_KEPT = frozenset(
    "num_channels in_channels in_chans chunk_size_feed_forward num_labels num_input_channels patch_size".split()
)


class _Shrink:
    """One tree of configurations; `widths` remembers what each width has become."""

    def __init__(self, tree: Mapping[str, Any], image: int) -> None:
        self.image = image
        found = sorted({n for n in _walk(tree) if n > WIDTH})
        self.top = max(found, default=WIDTH)

    def width(self, n: int) -> int:
        """At most 96, a multiple of 24, in the proportion of the full widths."""
        return n if n < 40 else max(48, 24 * round(min(n, WIDTH * n / self.top) / 24))

    def number(self, name: str, n: int, around: Mapping[str, Any]) -> int:
        if name in _KEPT and name != "patch_size":
            return n
        if name == "patch_size":
            return min(8, n)
        if re.fullmatch(r"(.*_)?(image_size|input_size|resolution|crop_size|img_size)", name) and n > 32:
            return self.image
        if name == "window_size" and "patch_size" in around:  # in patches, or in pixels
            return 2 if n <= 24 else 4 * self.number("patch_size", around["patch_size"], around)
        if _TOKEN.fullmatch(name):
            return n if n < 900 else 900 + n % 97
        if _GROUPED.fullmatch(name):
            full = next((around[k] for k in around if _HEADS.fullmatch(k) and "key_value" not in k), n)
            return 1 if n == 1 else HEADS if n == full else GROUPS
        if _HEADS.fullmatch(name) and not name.startswith(("mamba_n", "n_mamba", "linear_")):
            return min(n, HEADS) if n > 1 else n
        if name == "head_dim" and n == around.get("qk_rope_head_dim"):
            name = "qk_rope_head_dim"
        if name == "max_window_layers" or (_LAYERS.fullmatch(name) and not _NOT_LAYERS.fullmatch(name)):
            if "depths" in around:
                return n
            return min(n, max([LAYERS, *(len(around[k] or ()) for k in around if k.endswith("out_indices"))]))
        for most, patterns in _AT_MOST:
            if any(re.fullmatch(pattern, name) for pattern in patterns.split()):
                return min(n, most)
        return self.width(n) if _WIDTH.fullmatch(name) else n

    def sequence(self, name: str, items: list[Any], around: Mapping[str, Any]) -> Any:
        names = () if "depths" in around else ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
        layers = next((around[k] for k in names if k in around), -1)
        if len(items) == layers and layers > LAYERS:
            return [items[i] for i in _of_every_kind(items)]
        if _PLACES.fullmatch(name) and layers > LAYERS and items and type(items[0]) is int:
            kept = self.number("num_hidden_layers", layers, around)
            places = sorted({min(max(kept * n // layers, 0), kept) for n in items if n >= 0}) or items
            return places if len(places) == len(items) else [kept - i for i in reversed(range(len(items)))]
        if not items or not all(type(n) is int for n in items):
            return items
        if _DEPTHS.fullmatch(name):
            return [min(n, 2) for n in items]
        if name == "image_size":
            return [self.image] * len(items)
        if _WIDTHS.fullmatch(name) and min(items) >= 16:
            by = 1
            while min(items) // (2 * by) >= 16 and all(n % (2 * by) == 0 for n in items):
                by *= 2
            return [n // by for n in items]
        return items

    def tree(self, values: Mapping[str, Any], subs: Mapping[str, Any]) -> dict[str, Any]:
        """What differs from the defaults, nested configurations whole."""
        changed: dict[str, Any] = {}
        for name, value in values.items():
            if not isinstance(name, str) or name in ("out_features", "stage_names"):
                continue
            if isinstance(value, dict) and ("model_type" in value or name in subs):
                if value.get("model_type") == "timm_backbone":
                    changed[name] = {k: value[k] for k in ("model_type", "out_indices")} | {"backbone": "test_resnet"}
                    continue
                changed[name] = {**_other_than_its_class(value, subs.get(name)), **self.tree(value, {})}
                continue
            small = value
            if type(value) is int:
                small = self.number(name, value, values)
            elif isinstance(value, (list, tuple)):
                small = self.sequence(name, list(value), values)
            if small != value:
                changed[name] = small
        return changed


def _other_than_its_class(value: Mapping[str, Any], made: Any) -> dict[str, Any]:
    """What a nested configuration sets that its class does not."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = value.get("model_type")
    made = CONFIG_MAPPING[str(kind)] if kind in CONFIG_MAPPING else made
    try:
        usual = made().to_dict()
    except Exception:  # noqa: BLE001 - it cannot be made without more: all that is set counts
        usual = {}
    set_here = {k: v for k, v in value.items() if k not in usual or usual[k] != v}
    kept = {k: v for k, v in set_here.items() if k not in ("out_features", "stage_names", "transformers_version")}
    return kept | ({"model_type": kind} if kind else {})


def _of_every_kind(items: list[Any]) -> list[int]:
    """The places of a few layers, the first of every kind among them."""
    first = {repr(item): i for i, item in reversed(list(enumerate(items)))}
    chosen = sorted(first.values())[:LAYERS]
    return sorted([*chosen, *[i for i in range(len(items)) if i not in chosen][: LAYERS - len(chosen)]])


def _walk(tree: Mapping[str, Any]) -> Any:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _walk({k: v for k, v in value.items() if isinstance(k, str)})
        elif type(value) is int and re.fullmatch(r"hidden_size|d_model|n_embd|embed_dim|dim|emb_dim", name):
            yield value


def small_config(kind: str) -> Any:
    """The small configuration of a model type.

    >>> small_config("llama").num_attention_heads
    6
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made = CONFIG_MAPPING[kind]
    start, rest = {}, {}
    for path, value in OVERRIDES.get(kind, {}).items():
        (start if path.startswith("+") else rest)[path.lstrip("+")] = value
    defaults = made(**start).to_dict()
    patches = _find(defaults, "patch_size")
    image = 64 if not patches or min(patches) < 8 else 32
    changed = {**start, **_Shrink(defaults, image).tree(defaults, getattr(made, "sub_configs", {}))}
    for path, value in rest.items():
        *parents, name = path.split(".")
        place = changed
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return made(**changed)


def _find(tree: Mapping[str, Any], name: str) -> list[int]:
    found = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += _find(value, name)
        elif key == name:
            found += [value] if type(value) is int else [n for n in value or () if type(n) is int]
    return found


_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
_TEXT_ROPE = {"text_config.rope_parameters": _ROPE}
_GROUPS_OF_2 = {"num_expert_group": 2, "topk_group": 1, "num_experts": 8}
_HGNET = {  # widths of a stage are those of the next
    "stem_channels": [3, 16, 24],
    "stage_in_channels": [24, 32, 64, 96],
    "stage_mid_channels": [24, 24, 48, 48],
    "stage_out_channels": [32, 64, 96, 128],
    "hidden_sizes": [32, 64, 96, 128],
}
_HGNET_BACKBONE = {f"backbone_config.{name}": value for name, value in _HGNET.items()}
_DETECTOR = {**_HGNET_BACKBONE, "encoder_in_channels": [64, 96, 128], "decoder_in_channels": [96] * 3}
_RESNET_DETECTOR = {"encoder_in_channels": [32, 64, 128], "decoder_in_channels": [96] * 3}

_CODECS = ("audio_config", "semantic_model_config")
_CODEC = {"num_filters": 8, "depths": [2, 1, 1], "downsampling_ratios": [2, 4]}

OVERRIDES: dict[str, dict[str, Any]] = {
    "align": {"vision_config.width_coefficient": 0.5, "vision_config.hidden_dim": 640, "projection_dim": 160},
    "aria": {"projector_patch_to_query_dict": {16: 8}},
    "bailing_hybrid": _GROUPS_OF_2,
    "bamba": {"attn_layer_indices": [2]},
    "big_bird": {"attention_type": "original_full"},  # as it changes itself for short texts
    "bigbird_pegasus": {"attention_type": "original_full"},
    "bit": {"num_groups": 4},
    "blip-2": {"image_token_index": 990, "text_config.max_position_embeddings": 64},
    "blt": {
        "encoder_hash_byte_group_vocab": 500,
        "patcher_config.head_dim": 8,
        "decoder_config.head_dim": 8,
        "num_hidden_layers": 3,
    },
    "bros": {"dim_bbox_sinusoid_emb_2d": 32, "dim_bbox_sinusoid_emb_1d": 4},
    "chameleon": {"vocabulary_map": {"<image>": 990}, "vq_config.base_channels": 32},
    "codegen": {"n_head": 4},
    "colpali": {"vlm_config.image_token_index": 990},
    "colqwen2": {"vlm_config.text_config.rope_parameters": _ROPE},
    "cosmos3_edge": {"text_config.rope_parameters": _ROPE},
    "csm": {"codec_config.upsample_groups": 48},
    "d_fine": _DETECTOR,
    "dbrx": {"attn_config.rope_theta": 10000.0, "attn_config.clip_qkv": 8},
    "deepseek_v2": {"n_routed_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v4": {
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "index_topk": 4,
    },
    "deepseek_vl": {"image_token_id": 990},
    "deimv2": _DETECTOR,
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "efficientnet": {"width_coefficient": 0.5, "hidden_dim": 640},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "falcon_h1": {"mamba_d_ssm": 192},
    "fastspeech2_conformer_with_hifigan": {
        "vocoder_config.model_in_dim": 16,
        "vocoder_config.upsample_rates": [2, 2],
        "vocoder_config.upsample_kernel_sizes": [4, 4],
        "vocoder_config.upsample_initial_channel": 32,
        "vocoder_config.resblock_kernel_sizes": [3, 5],
        "vocoder_config.resblock_dilation_sizes": [[1, 3], [1, 3]],
    },
    "flava": {"+return_loss": False, "return_loss": False},
    "florence2": {"text_config.max_position_embeddings": 256},
    "fun_asr_nano": {"adaptor_config.intermediate_size": 24},
    "gemma3": {"mm_tokens_per_image": 4},
    "gemma3n_text": {"num_kv_shared_layers": 1, "layer_types": ["full_attention"] * 3, "intermediate_size": [176] * 3},
    "glm5_next": {"text_config.index_topk": 16},
    "glm46v": _TEXT_ROPE,
    "glm4v": _TEXT_ROPE,
    "glm4v_moe": {"text_config.rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}},
    "glm_ocr": _TEXT_ROPE,
    "glmga": _TEXT_ROPE,
    "granite_speech5_ctc": {"encoder_config.context_size": 16},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba"]},
    "grounding-dino": {"d_model": 96, "encoder_ffn_dim": 192},
    "hgnet_v2": _HGNET,
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "hunyuan_vl": {"text_config.head_dim": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": _GROUPS_OF_2,
    "kosmos-2": {"latent_query_num": 4},
    "layoutlmv3": {"coordinate_size": 16, "shape_size": 16, "input_size": 224, "patch_size": 56},
    "levit": {"patch_size": 16, "image_size": 64},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "full_attention"]},
    "mamba2": {"num_heads": 12},
    "mask2former": {"feature_size": 96, "mask_feature_size": 96, "hidden_dim": 96},
    "maskformer": {"fpn_feature_size": 96, "mask_feature_size": 96},
    "ministral": {"head_dim": 16},
    "mm-grounding-dino": {"d_model": 96, "encoder_ffn_dim": 192},
    "mobilebert": {"intra_bottleneck_size": 48},
    "mobilevit": {"hidden_sizes": [24, 32, 40]},
    "molmo2": {"adapter_config.vision_feature_layer": [2, 1]},
    "nemotron": {"num_key_value_heads": 6},
    "oneformer": {"conv_dim": 96, "hidden_dim": 96, "mask_dim": 96},
    "paddleocr_vl": _TEXT_ROPE,
    "perceiver": {"d_latents": 96, "d_model": 96, "num_latents": 16},
    "pocket_tts_audio_tokenizer": {"upsample_groups": 48},
    "pp_doclayout_v4": _DETECTOR,
    "qwen2_5_omni_thinker": {**_TEXT_ROPE, "vision_start_token_id": 920},
    "qwen2_5_vl": _TEXT_ROPE,
    "qwen2_vl": _TEXT_ROPE,
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 920},
    "reformer": {  # its own backward asks for training mode, where it throws its dice anew
        "is_decoder": True,
        "axial_pos_embds_dim": [48, 48],
        "axial_pos_shape": [4, 8],
        "hash_seed": 0,
        "hidden_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
    },
    "rt_detr": _RESNET_DETECTOR,
    "rt_detr_v2": _RESNET_DETECTOR,
    "rwkv": {"rescale_every": 0},  # else its first run changes its weights
    "step3p7": {"text_config.sliding_window": 8},
    "superpoint": {"keypoint_decoder_dim": 65},
    "textnet": {"stem_out_channels": 16},
    "vibevoice": {f"{part}.{name}": value for part in _CODECS for name, value in _CODEC.items()},
    "vipllava": {"vision_feature_layers": [-2, -1, 1]},
    "wav2vec2-bert": {"vocab_size": 100, "feature_projection_input_dim": 80},
    "wav2vec2-conformer": {"vocab_size": 100},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128, "num_heads": 4},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid", "hybrid"]},
    "zoedepth": {"bottleneck_features": 48},
}
