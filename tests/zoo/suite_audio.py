"""Networks of sound: separators of waves and spectra, and two encoders of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import audio_nets as nets
import torch
from suite_first import language
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


def _entry(
    name: str, make: Callable[[], Made], elastic: Mapping[str, str], stages: str = "", why_large: str = ""
) -> Entry:
    """`elastic` maps kinds to places as "pattern[dim] …"."""
    places = {k: [(p.rpartition("[")[0], int(p[-2])) for p in text.split()] for k, text in elastic.items()}
    return Entry(f"audio:{name}", make, places, tuple(stages.split()), why_large)


AUDIO = [
    _entry("demucs", _made(nets.Demucs, 2, 1028), {}),
    _entry("hybrid_demucs", _made(nets.HybridDemucs, 2, 2048), {}),
    _entry("open_unmix", _made(nets.OpenUnmix, 2, 1000), {}),
    _entry("conv_tasnet", _made(nets.ConvTasNet, 800), {}),
    _entry("conv_tasnet_causal", _made(lambda: nets.ConvTasNet(causal=True), 800), {}),
    _entry("tf_gridnet", _made(nets.TFGridNet, 400), {}),
    _entry("bs_roformer", _made(nets.BandSplitRoFormer, 2, 700), {}),
    _entry("mdx_net", _made(nets.MDXNet, 2, 992), {}),
    _entry("wav2vec2", wav2vec2, {}),
    _entry("whisper", lambda: language("whisper"), {}),
]
