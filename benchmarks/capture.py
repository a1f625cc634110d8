"""Time to record a model: `elastify`'s capture against `torch.export.export(strict=False)`, on the same inputs.

    python benchmarks/capture.py [--repeats 3] [--models resnet50 gpt2 ...]

Both run the same `forward` once on fake tensors and return a graph. They are timed in turn, after one warm-up each. The
table shows median seconds and the median of the ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn

from elastify._capture import capture
from elastify._capture.examples import Example

Case = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def image(factory: Callable[..., nn.Module], name: str, **kwargs: Any) -> Case:
    """An image model, with a batch of two at 224 pixels."""
    return factory(name, **kwargs), (torch.randn(2, 3, 224, 224),), {}


def from_torchvision(name: str) -> Case:
    import torchvision

    return image(torchvision.models.get_model, name, weights=None)


def from_timm(name: str) -> Case:
    import timm

    return image(timm.create_model, name)


def language(name: str) -> Case:
    """A small transformer with random weights, on 2 x 64 tokens."""
    import transformers as hf

    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
    configs: dict[str, Callable[[], nn.Module]] = {
        "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**sizes)),
        "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=128, n_layer=4, n_head=4)),
        "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=1000)),
    }
    # Without a cache: export cannot return one as plain tensors.
    return configs[name](), (), {"input_ids": torch.randint(0, 1000, (2, 64)), "use_cache": False, "return_dict": False}


def bert() -> Case:
    model, args, kwargs = language("bert")
    return model, args, {key: value for key, value in kwargs.items() if key != "use_cache"}


CASES: dict[str, Callable[[], Case]] = {
    **{
        name: lambda name=name: from_torchvision(name)
        for name in ("resnet18", "mobilenet_v3_small", "densenet121", "shufflenet_v2_x0_5", "vit_b_16")
    },
    **{
        name: lambda name=name: from_timm(name)
        for name in (
            "resnet50",
            "convnext_atto",
            "efficientnet_b0",
            "deit_tiny_patch16_224",
            "swin_tiny_patch4_window7_224",
            "mixer_s32_224",
            "res2net50_26w_4s",
        )
    },
    "bert": bert,
    "gpt2": lambda: language("gpt2"),
    "llama": lambda: language("llama"),
}


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, garbage collected before and not during it."""
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    run()
    elapsed = time.perf_counter() - start
    gc.enable()
    return elapsed


def measure(case: Case, repeats: int) -> tuple[float, float, float]:
    """Median seconds of capture and of export, and the median ratio export / capture."""
    model, args, kwargs = case
    model.eval()
    ours: Callable[[], object] = lambda: capture(model, Example(args, kwargs))  # noqa: E731
    export: Callable[[], object] = lambda: torch.export.export(model, args, kwargs, strict=False)  # noqa: E731
    ours(), export()
    pairs = [(seconds(ours), seconds(export)) for _ in range(repeats)]
    return median(a for a, _ in pairs), median(b for _, b in pairs), median(b / a for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| model | capture (s) | export (s) | export / capture |")
    print("|---|---:|---:|---:|")
    ratios = []
    for name in options.models:
        ours, export, ratio = measure(CASES[name](), options.repeats)
        ratios.append(ratio)
        print(f"| {name} | {ours:.3f} | {export:.3f} | {ratio:.1f} |", flush=True)
    print(
        f"\n**Recording a model with elastify is {median(ratios):.1f} times as fast as with `torch.export` "
        f"({min(ratios):.1f} to {max(ratios):.1f} times).**\n\n`python benchmarks/capture.py`; torch "
        f"{torch.__version__}, one thread, {options.repeats} repeats."
    )


if __name__ == "__main__":
    main()
