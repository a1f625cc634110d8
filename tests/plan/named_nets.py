"""Networks that people know, small, and what people call their axes: the table that `test_naming` checks.

Numbers in names are stars, and each name stands once. A network is a function that gives a model and its inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
import torchvision
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional as F

Made = tuple[nn.Module, Any]
IMAGE = (2, 3, 64, 64)
IDS = torch.arange(14).view(2, 7)
SMALL = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 12}
T5 = {"d_model": 48, "d_kv": 12, "d_ff": 80, "num_layers": 2, "num_heads": 4, "vocab_size": 50}
WAV2VEC2 = {"conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2}
POSITIONS = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
WHISPER = {
    **{f"{part}_{key}": n for part in ("encoder", "decoder") for key, n in (("layers", 2), ("attention_heads", 4))},
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 80),
    "d_model": 48,
    "vocab_size": 50,
    "num_mel_bins": 20,
    "max_source_positions": 30,
    **{f"{kind}_token_id": number for number, kind in enumerate(("pad", "bos", "eos"))},
}
MAMBA2 = {"hidden_size": 48, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 12, "state_size": 8, "vocab_size": 50}
MLA = {"kv_lora_rank": 20, "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12}


def of_timm(name: str, **options: Any) -> Made:
    return timm.create_model(name, **options), torch.zeros(options.get("img_size", 64) and IMAGE)


def of_torchvision(make: Callable[[Any], nn.Module]) -> Made:
    return make(torchvision.models), torch.zeros(IMAGE)


def of_hf(name: str, inputs: dict[str, Any] | None = None, **config: Any) -> Made:
    kind = getattr(hf, name)
    return kind(kind.config_class(**config)), {"input_ids": IDS, "use_cache": False} if inputs is None else inputs


def encoder(name: str, inputs: dict[str, Any] | None = None, **config: Any) -> Made:
    return of_hf(name, {"input_ids": IDS} if inputs is None else inputs, **{**SMALL, **config})


class Attention(nn.Module):
    """Rotary attention whose sizes stand in no attribute with a telling name."""

    def __init__(self, width: int, n: int, shared: int) -> None:
        super().__init__()
        self.a, self.b, self.size = n, shared, width // n
        self.qkv, self.out = nn.Linear(width, (n + 2 * shared) * self.size), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        sizes = [self.a * self.size, self.b * self.size, self.b * self.size]
        q, k, v = (part.unflatten(2, (-1, self.size)).transpose(1, 2) for part in self.qkv(x).split(sizes, -1))
        y = F.scaled_dot_product_attention(_turned(q), _turned(k), v, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))


def _turned(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * 0.8 - b * 0.6, a * 0.6 + b * 0.8], -1)


class Gated(nn.Module):
    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(width, size), nn.Linear(width, size), nn.Linear(size, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Convolutions(nn.Module):
    """The convolutional part of a Conformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(width, 2 * width, 1), nn.Conv1d(width, width, 1)
        self.depthwise, self.norm = nn.Conv1d(width, width, 5, padding=2, groups=width), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(F.glu(self.first(x.transpose(1, 2)), 1)))
        return self.last(F.silu(y)).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, width: int, *parts: nn.Module) -> None:
        super().__init__()
        self.parts, self.norms = nn.ModuleList(parts), nn.ModuleList(nn.LayerNorm(width) for _ in parts)

    def forward(self, x: Tensor) -> Tensor:
        for part, norm in zip(self.parts, self.norms, strict=True):
            x = x + part(norm(x))
        return x


def own_transformer() -> Made:
    blocks = (Block(48, Attention(48, 4, 2), Gated(48, 80)) for _ in range(2))
    return nn.Sequential(nn.Embedding(50, 48), *blocks, nn.Linear(48, 50)), IDS


def own_conformer() -> Made:
    blocks = (Block(48, Gated(48, 80), Attention(48, 4, 4), Convolutions(48), Gated(48, 80)) for _ in range(2))
    return nn.Sequential(nn.Linear(20, 48), *blocks, nn.Linear(48, 9)), torch.zeros(2, 9, 20)


def torch_encoder() -> Made:
    layer = nn.TransformerEncoderLayer(48, 4, 80, batch_first=True)
    return nn.Sequential(nn.Linear(20, 48), nn.TransformerEncoder(layer, 2), nn.Linear(48, 9)), torch.zeros(2, 9, 20)


class Speech(nn.Module):
    """Convolutions, recurrence in both directions, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(20, 32, 3), nn.LSTM(32, 24, 2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(48, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.conv(x).transpose(1, 2))[0])


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.up, self.last = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu(self.down(x))
        return self.last(torch.cat([wide, F.relu(self.up(F.relu(self.middle(wide))))], 1))


class Gates(nn.Module):
    """A product of queries, keys and values in which nothing attends to anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.n, self.qkv, self.out = 4, nn.Linear(6, 48), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(len(x), 3, self.n, -1).unbind(1)
        return self.out((q * k.softmax(-1) * v).flatten(1))


class Branch(nn.Module):
    """A residual branch in a network without parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down, self.out = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.out(x + self.down(F.relu(self.up(x))))


class Lookup(nn.Module):
    """Attention with a bias that a small network makes of fixed coordinates."""

    coordinates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.n, self.qkv, self.out = 4, nn.Linear(6, 3 * 4 * 5), nn.Linear(20, 3)
        self.bias = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4))
        self.register_buffer("coordinates", torch.randn(9, 9, 2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(len(x), 9, 3, self.n, -1).permute(2, 0, 3, 1, 4)
        bias = self.bias(self.coordinates).permute(2, 0, 1)
        return self.out(F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2))


def normed() -> Made:
    norm = nn.GroupNorm(4, 32)
    return nn.Sequential(nn.Linear(6, 32), norm, nn.ReLU(), nn.Linear(32, 3)), torch.zeros(2, 6)


def mlp() -> Made:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)), torch.zeros(2, 6)


def low_rank() -> Made:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4, bias=False), nn.Linear(4, 3)), torch.zeros(2, 6)


_TABLE = """
timm resnet26: conv*.channels layer*.*.conv*.bottleneck layer*.width
timm resnext26ts: stem.conv*.conv.channels stages.*.width stages.*.*.groups stages.*.*.conv*_*x*.conv.bottleneck
    stages.*.*.conv*_kxk.conv.bottleneck
timm mobilenetv3_small_050: conv_stem.channels blocks.*.*.se.hidden blocks.*.*.conv_pw.channels blocks.*.*.hidden
    blocks.*.width blocks.*.*.conv.channels conv_head.channels
timm convnext_atto: stages.*.width stages.*.blocks.*.mlp.hidden
timm deit_tiny: width blocks.*.attn.heads blocks.*.attn.head_dim blocks.*.mlp.hidden
timm swin_tiny: layers.*.width layers.*.blocks.*.attn.heads layers.*.blocks.*.attn.head_dim
    layers.*.blocks.*.mlp.hidden
timm maxvit_tiny: stem.conv*.channels stages.*.width stages.*.blocks.*.conv.hidden stages.*.blocks.*.conv.se.hidden
    stages.*.blocks.*.attn_block.attn.heads stages.*.blocks.*.attn_block.attn.head_dim
    stages.*.blocks.*.attn_block.mlp.hidden stages.*.blocks.*.attn_grid.attn.heads
    stages.*.blocks.*.attn_grid.attn.head_dim stages.*.blocks.*.attn_grid.mlp.hidden head.hidden
timm regnety_002: stem.conv.channels s*.b*.groups s*.b*.conv*.conv.channels s*.b*.se.hidden s*.width
timm efficientnet_b0: conv_stem.channels blocks.*.*.se.hidden blocks.*.*.conv_pw.channels blocks.*.*.hidden
    blocks.*.width blocks.*.*.conv_pwl.channels conv_head.channels
torchvision resnet18: layer*.width layer*.*.conv*.channels
torchvision densenet: features.conv*.channels features.denseblock*.denselayer*.conv*.channels
    features.transition*.conv.channels
torchvision mobilenet_v2: features.*.*.channels features.*.conv.*.channels features.*.conv.hidden features.*.width
torchvision squeezenet1_1: features.*.channels features.*.squeeze.channels features.*.expand*x*.channels
torchvision vit: width.heads width.head_dim encoder.layers.encoder_layer_*.mlp.hidden
hf bert: bert.width bert.encoder.layer.*.attention.heads bert.encoder.layer.*.attention.head_dim
    bert.encoder.layer.*.hidden
hf electra: electra.embeddings.embedding electra.width electra.encoder.layer.*.attention.heads
    electra.encoder.layer.*.attention.head_dim electra.encoder.layer.*.hidden
hf gpt2: transformer.width transformer.h.*.attn.heads transformer.h.*.attn.head_dim transformer.h.*.mlp.hidden
hf llama: model.width model.layers.*.self_attn.kv_heads model.layers.*.self_attn.q_per_kv model.head_dim
    model.layers.*.mlp.hidden
hf mixtral: model.width model.layers.*.self_attn.kv_heads model.layers.*.self_attn.q_per_kv model.head_dim
    model.layers.*.mlp.experts.hidden
hf deepseek_v3: model.width model.layers.*.self_attn.q_a_proj.hidden model.layers.*.self_attn.heads
    model.layers.*.self_attn.qk_head_dim model.rotary_head_dim model.layers.*.self_attn.kv_a_proj_with_mqa.hidden
    model.layers.*.self_attn.v_head_dim model.layers.*.mlp.hidden
hf t5: width encoder.block.heads encoder.block.*.layer.*.SelfAttention.head_dim
    encoder.block.*.layer.*.DenseReluDense.hidden decoder.block.layer.*.SelfAttention.heads
    decoder.block.*.layer.*.SelfAttention.head_dim decoder.block.layer.*.EncDecAttention.heads
    decoder.block.*.layer.*.EncDecAttention.head_dim decoder.block.*.layer.*.DenseReluDense.hidden
hf whisper: model.encoder.conv*.channels model.encoder.width model.encoder.layers.*.self_attn.heads
    model.encoder.layers.*.self_attn.head_dim model.encoder.layers.*.hidden model.decoder.width
    model.decoder.layers.*.self_attn.heads model.decoder.layers.*.self_attn.head_dim
    model.decoder.layers.*.encoder_attn.heads model.decoder.layers.*.encoder_attn.head_dim
    model.decoder.layers.*.hidden
hf wav2vec2: wav*vec*.width.groups wav*vec*.width wav*vec*.feature_extractor.conv_layers.*.conv.channels
    wav*vec*.encoder.layers.*.attention.heads wav*vec*.encoder.layers.*.attention.head_dim
    wav*vec*.encoder.layers.*.feed_forward.hidden
hf gptj: transformer.width transformer.h.*.attn.heads transformer.h.*.attn.rotary_head_dim
    transformer.h.*.attn.head_dim transformer.h.*.mlp.hidden
hf gpt_neox: gpt_neox.width gpt_neox.layers.*.attention.heads gpt_neox.rotary_head_dim
    gpt_neox.layers.*.attention.head_dim gpt_neox.layers.*.mlp.hidden
hf phi: model.width model.layers.*.self_attn.heads model.rotary_head_dim model.layers.*.self_attn.head_dim
    model.layers.*.mlp.hidden
hf mamba: backbone.width backbone.layers.*.mixer.hidden backbone.layers.*.mixer.state
    backbone.layers.*.mixer.rank
hf mamba2: backbone.width backbone.layers.*.mixer.groups backbone.layers.*.mixer.heads
    backbone.layers.*.mixer.head_dim backbone.layers.*.mixer.state
hf mamba2 one: backbone.width backbone.layers.*.mixer.heads backbone.layers.*.mixer.head_dim
    backbone.layers.*.mixer.state
own transformer: width *.parts.*.kv_heads *.parts.*.q_per_kv *.parts.*.head_dim *.parts.*.hidden
own conformer: width *.parts.*.hidden *.parts.*.heads *.parts.*.head_dim
torch encoder: width.heads width.head_dim *.layers.*.hidden
own speech: conv.channels hidden
own unet: down.channels middle.channels up.channels
own gates: heads head_dim
own branch: width up.hidden
own lookup: heads head_dim bias.hidden
own groups: groups hidden
own mlp: hidden
own low rank: hidden rank
"""

NAMES: dict[str, str] = {}
for line in _TABLE.replace("\n    ", " ").strip().splitlines():
    net, _, names = line.partition(": ")
    NAMES[net] = names

NETS: dict[str, Callable[[], Made]] = {
    "timm resnet26": partial(of_timm, "resnet26"),
    "timm resnext26ts": partial(of_timm, "resnext26ts"),
    "timm mobilenetv3_small_050": partial(of_timm, "mobilenetv3_small_050"),
    "timm convnext_atto": partial(of_timm, "convnext_atto"),
    "timm deit_tiny": partial(of_timm, "deit_tiny_patch16_224", img_size=64, depth=2),
    "timm swin_tiny": partial(of_timm, "swin_tiny_patch4_window7_224", img_size=64, window_size=2, depths=(1, 1, 1, 1)),
    "timm maxvit_tiny": partial(of_timm, "maxvit_tiny_tf_224", img_size=64, depths=(1, 1, 1, 1)),
    "timm regnety_002": partial(of_timm, "regnety_002"),
    "timm efficientnet_b0": partial(of_timm, "efficientnet_b0"),
    "torchvision resnet18": partial(of_torchvision, lambda models: models.resnet18()),
    "torchvision densenet": partial(of_torchvision, lambda models: models.DenseNet(8, (2, 2), 16)),
    "torchvision mobilenet_v2": partial(of_torchvision, lambda models: models.mobilenet_v2()),
    "torchvision squeezenet1_1": partial(of_torchvision, lambda models: models.squeezenet1_1()),
    "torchvision vit": partial(of_torchvision, lambda models: models.VisionTransformer(64, 16, 2, 4, 32, 48)),
    "hf bert": partial(encoder, "BertForMaskedLM"),
    "hf electra": partial(encoder, "ElectraForMaskedLM", embedding_size=24),
    "hf gpt2": partial(of_hf, "GPT2LMHeadModel", n_embd=48, n_layer=2, n_head=4, vocab_size=50),
    "hf llama": partial(of_hf, "LlamaForCausalLM", **GROUPED),
    "hf mixtral": partial(of_hf, "MixtralForCausalLM", **GROUPED, num_local_experts=4),
    "hf deepseek_v3": partial(
        of_hf, "DeepseekV3ForCausalLM", **{**SMALL, **MLA}, num_key_value_heads=4, first_k_dense_replace=2
    ),
    "hf t5": partial(of_hf, "T5ForConditionalGeneration", {"input_ids": IDS, "decoder_input_ids": IDS}, **T5),
    "hf whisper": partial(
        of_hf,
        "WhisperForConditionalGeneration",
        {"input_features": torch.zeros(2, 20, 60), "decoder_input_ids": IDS, "use_cache": False},
        **WHISPER,
    ),
    "hf wav2vec2": partial(encoder, "Wav2Vec2ForCTC", {"input_values": torch.zeros(2, 800)}, **WAV2VEC2, **POSITIONS),
    "hf mamba": partial(of_hf, "MambaForCausalLM", hidden_size=48, num_hidden_layers=2, state_size=8, vocab_size=50),
    "hf gptj": partial(of_hf, "GPTJForCausalLM", n_embd=64, n_layer=2, n_head=4, vocab_size=50, rotary_dim=8),
    "hf gpt_neox": partial(encoder, "GPTNeoXForCausalLM", {"input_ids": IDS, "use_cache": False}),
    "hf phi": partial(encoder, "PhiForCausalLM", {"input_ids": IDS, "use_cache": False}),
    "hf mamba2": partial(of_hf, "Mamba2ForCausalLM", **MAMBA2, n_groups=2),
    "hf mamba2 one": partial(of_hf, "Mamba2ForCausalLM", **MAMBA2, n_groups=1),
    "own transformer": own_transformer,
    "own conformer": own_conformer,
    "torch encoder": torch_encoder,
    "own speech": lambda: (Speech(), torch.zeros(2, 20, 12)),
    "own unet": lambda: (UNet(), torch.zeros(2, 3, 8, 8)),
    "own gates": lambda: (Gates(), torch.zeros(2, 6)),
    "own branch": lambda: (Branch(), torch.zeros(2, 6)),
    "own lookup": lambda: (Lookup(), torch.zeros(2, 9, 6)),
    "own groups": normed,
    "own mlp": mlp,
    "own low rank": low_rank,
}
