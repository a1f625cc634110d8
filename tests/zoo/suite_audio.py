"""Networks of sound: separators of waves and spectra, and two encoders of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import audio_nets as nets
import torch
from suite_first import FIRST
from torch import nn
from zoo_entry import Entry, Made


def _made(build: Callable[[], nn.Module], *shape: int) -> Callable[[], Made]:
    def make() -> Made:
        torch.manual_seed(0)
        return build().eval(), (torch.randn(2, *shape),), {}

    return make


def wav2vec2() -> Made:
    import transformers as hf

    torch.manual_seed(0)
    config = hf.Wav2Vec2Config(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=6,
        intermediate_size=80,
        vocab_size=20,
        conv_dim=(16, 16, 16),
        conv_stride=(5, 4, 2),
        conv_kernel=(10, 8, 4),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        apply_spec_augment=False,
    )
    return hf.Wav2Vec2ForCTC(config).eval(), (torch.randn(2, 800),), {}


def _entry(name: str, make: Callable[[], Made], elastic: Mapping[str, str], stages: str = "") -> Entry:
    """`elastic` maps kinds to places as "pattern[dim] …"."""
    places = {k: [(p.rpartition("[")[0], int(p[-2])) for p in text.split()] for k, text in elastic.items()}
    return Entry(f"audio:{name}", make, places, tuple(stages.split()))


AUDIO = [
    _entry(
        "demucs",
        _made(nets.Demucs, 2, 1028),
        {
            "channels": "encoder.*.0.weight[0] encoder.*.2.weight[0] decoder.*.0.weight[0] decoder.*.2.weight[0]",
            "RNN hidden": "middle.lstm.weight_hh_l?[1] middle.lstm.weight_hh_l?_reverse[1]",
        },
    ),
    _entry(
        "hybrid_demucs",
        _made(nets.HybridDemucs, 2, 2048),
        {
            "channels": "*down.*.conv.weight[0] *up.*.conv.weight[0] *.rewrite.weight[0] *.branch.layers.*.0.weight[0]",
            "RNN hidden": "middle.*.lstm.weight_hh_l0[1] middle.*.lstm.weight_hh_l0_reverse[1]",
            "embedding width": "frequencies.weight[1]",
        },
        "middle down.0.branch.layers time_up.1.branch.layers",
    ),
    _entry(
        "open_unmix",
        _made(nets.OpenUnmix, 2, 1000),
        {
            "channels": "fc1.weight[0] fc2.weight[0]",
            "RNN hidden": "lstm.weight_hh_l?[1] lstm.weight_hh_l?_reverse[1]",
        },
    ),
    *(
        _entry(
            name,
            _made(partial(nets.ConvTasNet, causal=causal), 800),
            {
                "channels": "encoder.weight[0] blocks.*.inner.0.weight[0] blocks.*.depthwise.weight[0] "
                "blocks.*.skip.weight[0] mask.1.weight[0] decoder.weight[0]",
                "residual width": "bottleneck.weight[0] blocks.*.residual.weight[0]",
            },
            "blocks",
        )
        for name, causal in (("conv_tasnet", False), ("conv_tasnet_causal", True))
    ),
    _entry(
        "tf_gridnet",
        _made(nets.TFGridNet, 400),
        {
            "channels": "conv.0.weight[0] blocks.*.queries.*.0.weight[0] blocks.*.values.*.0.weight[0]",
            "RNN hidden": "blocks.*.rnn.weight_hh_l0[1] blocks.*.rnn.weight_hh_l0_reverse[1]",
            "residual width": "blocks.*.linear.weight[1] blocks.*.project.0.weight[0]",
        },
        "blocks",
    ),
    _entry(
        "bs_roformer",
        _made(nets.BandSplitRoFormer, 2, 700),
        {
            "heads": "layers.*.to_qkv.weight[0] layers.*.to_gates.weight[0]",
            "head dim": "layers.*.to_qkv.weight[0]",
            "MLP hidden": "layers.*.layers.*.1.1.weight[0] masks.*.0.weight[0] masks.*.2.weight[0]",
            "residual width": "layers.*.to_out.weight[0] layers.*.layers.*.1.3.weight[0]",
            "embedding width": "split.*.1.weight[0]",
        },
        "layers",
    ),
    _entry(
        "mdx_net",
        _made(nets.MDXNet, 2, 992),
        {
            "channels": "first.0.weight[0] *.convs.*.0.weight[0] down.*.0.weight[0] up.*.0.weight[1]",
            "MLP hidden": "*.bottleneck.0.weight[0]",
        },
    ),
    _entry(
        "wav2vec2",
        wav2vec2,
        {
            "channels": "wav2vec2.feature_extractor.conv_layers.*.conv.weight[0]",
            "heads": "wav2vec2.encoder.*.q_proj.weight[0]",
            "head dim": "wav2vec2.encoder.*.q_proj.weight[0] wav2vec2.encoder.*.v_proj.weight[0]",
            "MLP hidden": "wav2vec2.encoder.*.intermediate_dense.weight[0]",
            "residual width": "wav2vec2.encoder.*.output_dense.weight[0]",
            "embedding width": "wav2vec2.feature_projection.projection.weight[0]",
        },
        "wav2vec2.encoder.layers",
    ),
    replace(next(entry for entry in FIRST if entry.name == "hf:whisper"), name="audio:whisper"),
]
