"""The first suite: well-known models of three libraries and the separator, and all that must be elastic in each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from zoo_entry import Entry, Made


def image(library: str, name: str, size: int, **options: Any) -> Made:
    """A model of timm or torchvision with random weights, and two pictures."""
    torch.manual_seed(0)
    if library == "timm":
        import timm

        model = timm.create_model(name, **options)
    else:
        import torchvision

        model = torchvision.models.get_model(name, weights=None, **options)
    return model.eval(), (torch.randn(2, 3, size, size),), {}


def language(kind: str) -> Made:
    """A small transformers model with random weights; 6 heads and a width of 96, so that no two sizes are equal."""
    import transformers as hf

    torch.manual_seed(0)
    ids = torch.randint(3, 900, (2, 16))
    small = {"hidden_size": 96, "intermediate_size": 176, "num_hidden_layers": 4, "num_attention_heads": 6}
    text = {**small, "vocab_size": 1000}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    seq = {"input_ids": ids, "decoder_input_ids": ids[:, :7], "use_cache": False}
    if kind == "bert":
        return hf.BertForMaskedLM(hf.BertConfig(**text, max_position_embeddings=64)).eval(), (), {"input_ids": ids}
    if kind == "gpt2":
        config = hf.GPT2Config(n_embd=96, n_layer=4, n_head=6, vocab_size=1000, n_positions=64, **ends)
        return hf.GPT2LMHeadModel(config).eval(), (), {"input_ids": ids, "use_cache": False}
    if kind == "llama":
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**text, num_key_value_heads=3, **ends))
        return model.eval(), (), {"input_ids": ids, "use_cache": False}
    if kind == "t5":
        config = hf.T5Config(d_model=96, d_kv=16, d_ff=176, num_layers=4, num_heads=6, vocab_size=1000)
        return hf.T5ForConditionalGeneration(config).eval(), (), seq
    if kind == "vit":
        model = hf.ViTForImageClassification(hf.ViTConfig(**small, image_size=32, patch_size=8, num_labels=10))
        return model.eval(), (), {"pixel_values": torch.randn(2, 3, 32, 32)}
    config = hf.WhisperConfig(
        d_model=96,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=176,
        decoder_ffn_dim=176,
        vocab_size=1000,
        num_mel_bins=20,
        max_source_positions=30,
        max_target_positions=20,
        decoder_start_token_id=1,
        **ends,
    )
    del seq["input_ids"]
    return hf.WhisperForConditionalGeneration(config).eval(), (), {"input_features": torch.randn(2, 20, 60), **seq}


def bsrnn() -> Made:
    """A band-split network small enough for a second of computing: 6 bands, 16 channels, 3 blocks."""
    from recipes.music_separation.model import BSRNN, generic_bands

    torch.manual_seed(0)
    model = BSRNN(generic_bands(6, n_fft=256), width=16, depth=3, n_fft=256, hop=64)
    return model.eval(), (torch.randn(2, 1500),), {}


def _entry(name: str, elastic: Mapping[str, Any], stages: str = "", size: int = 64, **more: Any) -> Entry:
    library, _, model = name.partition(":")
    options = more.pop("build", {})
    make = partial(language, model) if library == "hf" else partial(image, library, model, size, **options)
    places = {kind: [(p[:-3], int(p[-2])) for p in text.split()] for kind, text in elastic.items()}
    return Entry(name, bsrnn if name == "bsrnn" else make, places, stages.split(), **more)


FIRST = [
    _entry(
        "bsrnn",
        {
            "residual width": "split.*.project.weight[0] blocks.*.project.weight[0] masks.*.first.weight[1]",
            "RNN hidden": "blocks.*.rnn.weight_hh_l0[1] blocks.*.rnn.weight_hh_l0_reverse[1]",
            "MLP hidden": "masks.*.first.weight[0] masks.*.second.weight[0]",
        },
        "blocks",
    ),
    _entry(
        "torchvision:resnet18",
        {"channels": "layer?.*.conv1.weight[0]", "residual width": "layer?.*.conv2.weight[0]"},
        "layer1 layer2 layer3 layer4",
    ),
    _entry(
        "torchvision:mobilenet_v3_small",
        {
            "channels": "features.*.block.0.0.weight[0] features.*.fc1.weight[0] features.12.0.weight[0]",
            "residual width": "features.*.block.?.0.weight[0]",
            "MLP hidden": "classifier.0.weight[0]",
        },
        "features",
    ),
    _entry(
        "torchvision:densenet121",
        {
            "channels": "features.*.denselayer*.conv1.weight[0] features.*.denselayer*.conv2.weight[0] "
            "features.conv0.weight[0] features.transition?.conv.weight[0]"
        },
    ),
    _entry(
        "torchvision:shufflenet_v2_x0_5",
        {"channels": "stage?.*.branch2.0.weight[0] conv1.0.weight[0] conv5.0.weight[0]"},
        "stage3",  # of the others, units of the width move instead: its shuffles leave no room for both
    ),
    _entry(
        "torchvision:googlenet",
        {
            "channels": "conv?.conv.weight[0] inception*.branch*.conv.weight[0] aux?.conv.conv.weight[0]",
            "MLP hidden": "aux?.fc1.weight[0]",
        },
        build={"init_weights": False},
    ),
    _entry(
        "torchvision:vit_b_16",
        {
            "heads": "encoder.layers.*.self_attention.in_proj_weight[0]",
            "head dim": "encoder.layers.*.self_attention.in_proj_weight[0]",
            "MLP hidden": "encoder.layers.*.mlp.0.weight[0]",
            "residual width": "encoder.layers.*.mlp.3.weight[0] encoder.layers.*.self_attention.out_proj.weight[0]",
            "embedding width": "encoder.pos_embedding[2] class_token[2] conv_proj.weight[0]",
        },
        "encoder.layers",
        build={"image_size": 64},
    ),
    _entry(
        "timm:resnet50",
        {
            "channels": "layer?.*.conv1.weight[0] layer?.*.conv2.weight[0] conv1.weight[0]",
            "residual width": "layer?.*.conv3.weight[0]",
        },
        "layer1 layer2 layer3 layer4",
    ),
    _entry(
        "timm:convnext_atto",
        {
            "MLP hidden": "stages.*.mlp.fc1.weight[0]",
            "residual width": "stages.*.conv_dw.weight[0] stages.*.mlp.fc2.weight[0] stages.*.downsample.1.weight[0]",
        },
        "stages.0.blocks stages.1.blocks stages.2.blocks stages.3.blocks",
    ),
    _entry(
        "timm:efficientnet_b0",
        {
            "channels": "blocks.*.conv_pw.weight[0] blocks.*.conv_dw.weight[0] blocks.*.se.conv_reduce.weight[0] "
            "conv_head.weight[0]",
            "residual width": "blocks.*.conv_pwl.weight[0] conv_stem.weight[0]",
        },
        "blocks.1 blocks.2 blocks.3 blocks.4 blocks.5",
    ),
    _entry(
        "timm:deit_tiny_patch16_224",
        {
            "heads": "blocks.*.attn.qkv.weight[0]",
            "head dim": "blocks.*.attn.qkv.weight[0]",
            "MLP hidden": "blocks.*.mlp.fc1.weight[0]",
            "residual width": "blocks.*.mlp.fc2.weight[0] blocks.*.attn.proj.weight[0]",
            "embedding width": "pos_embed[2] cls_token[2] patch_embed.proj.weight[0]",
        },
        "blocks",
        build={"img_size": 64},
    ),
    _entry(
        "timm:swin_tiny_patch4_window7_224",
        {
            "heads": "layers.*.attn.qkv.weight[0] layers.*.attn.relative_position_bias_table[1]",
            "head dim": "layers.*.attn.qkv.weight[0]",
            "MLP hidden": "layers.*.mlp.fc1.weight[0]",
            "residual width": "layers.*.mlp.fc2.weight[0] layers.*.downsample.reduction.weight[0]",
            "embedding width": "patch_embed.proj.weight[0]",
        },
        "layers.0.blocks layers.1.blocks layers.2.blocks layers.3.blocks",
        size=112,
        build={"img_size": 112},
    ),
    _entry(
        "timm:mixer_s32_224",
        {
            "MLP hidden": "blocks.*.mlp_tokens.fc1.weight[0] blocks.*.mlp_channels.fc1.weight[0]",
            "residual width": "blocks.*.mlp_channels.fc2.weight[0]",
            "embedding width": "stem.proj.weight[0]",
        },
        "blocks",
        size=224,
    ),
    _entry(
        "timm:res2net50_26w_4s",
        {
            "channels": "layer?.*.conv1.weight[0] layer?.*.convs.*.weight[0] conv1.weight[0]",
            "residual width": "layer?.*.conv3.weight[0]",
        },
        "layer1 layer2 layer3 layer4",
    ),
    _entry(
        "timm:sequencer2d_s",
        {
            "RNN hidden": "stages.*.rnn_?.weight_hh_l0[1] stages.*.rnn_?.weight_hh_l0_reverse[1]",
            "MLP hidden": "stages.*.mlp_channels.fc1.weight[0]",
            "residual width": "stages.*.mlp_channels.fc2.weight[0] stages.*.rnn_tokens.fc.weight[0]",
            "embedding width": "stem.proj.weight[0]",
        },
        "stages.0.blocks stages.1.blocks stages.2.blocks stages.3.blocks",
        size=56,
    ),
    _entry(
        "hf:bert",
        {
            "heads": "bert.encoder.*.self.query.weight[0] bert.encoder.*.self.value.weight[0]",
            "head dim": "bert.encoder.*.self.query.weight[0] bert.encoder.*.self.value.weight[0]",
            "MLP hidden": "bert.encoder.*.intermediate.dense.weight[0]",
            "residual width": "bert.encoder.*.output.dense.weight[0]",
            "embedding width": "bert.embeddings.*_embeddings.weight[1]",
        },
        "bert.encoder.layer",
    ),
    _entry(
        "hf:gpt2",
        {
            "heads": "transformer.h.*.c_attn.weight[1]",
            "head dim": "transformer.h.*.c_attn.weight[1]",
            "MLP hidden": "transformer.h.*.c_fc.weight[1]",
            "residual width": "transformer.h.*.c_proj.weight[1]",
            "embedding width": "transformer.w?e.weight[1]",
        },
        "transformer.h",
    ),
    _entry(
        "hf:llama",
        {
            "heads": "model.layers.*.q_proj.weight[0] model.layers.*.k_proj.weight[0]",
            "head dim": "model.layers.*.q_proj.weight[0] model.layers.*.v_proj.weight[0]",
            "MLP hidden": "model.layers.*.gate_proj.weight[0] model.layers.*.up_proj.weight[0]",
            "residual width": "model.layers.*.o_proj.weight[0] model.layers.*.down_proj.weight[0]",
            "embedding width": "model.embed_tokens.weight[1]",
        },
        "model.layers",
    ),
    _entry(
        "hf:t5",
        {
            "heads": "*.SelfAttention.q.weight[0] *.EncDecAttention.q.weight[0] *.relative_attention_bias.weight[1]",
            "head dim": "*.SelfAttention.q.weight[0] *.EncDecAttention.v.weight[0]",
            "MLP hidden": "*.DenseReluDense.wi.weight[0]",
            "residual width": "*.DenseReluDense.wo.weight[0] *.SelfAttention.o.weight[0]",
            "embedding width": "shared.weight[1]",
        },
        "encoder.block decoder.block",
    ),
    _entry(
        "hf:vit",
        {
            "heads": "vit.*.q_proj.weight[0]",
            "head dim": "vit.*.q_proj.weight[0]",
            "MLP hidden": "vit.*.fc1.weight[0]",
            "residual width": "vit.*.fc2.weight[0]",
            "embedding width": "vit.embeddings.position_embeddings[2] vit.embeddings.*.projection.weight[0]",
        },
        "vit.layers",
    ),
    _entry(
        "hf:whisper",
        {
            "channels": "model.encoder.conv1.weight[0]",
            "heads": "*.self_attn.q_proj.weight[0] *.encoder_attn.q_proj.weight[0]",
            "head dim": "*.self_attn.q_proj.weight[0] *.encoder_attn.v_proj.weight[0]",
            "MLP hidden": "model.*.fc1.weight[0]",
            "residual width": "model.*.fc2.weight[0]",
            "embedding width": "model.encoder.embed_positions.weight[1] model.decoder.embed_tokens.weight[1]",
        },
        "model.encoder.layers model.decoder.layers",
    ),
]
