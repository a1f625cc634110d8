"""What a step of each strategy costs, compared with plain steps of the same subnets, extracted.

    python benchmarks/training.py [--repeats 3] [--models resnet18 vit llama] [--strategies Sandwich ...]

*time* is the time of a strategy's step, divided by that of plain steps (forward, loss, backward) of the subnets that
it trained, each extracted. A teacher adds a forward pass without gradients to the plain steps. Every repeat draws new
subnets, so slices that are computed for the first time count. A twin runs the same step before, so that kernels for
new shapes are compiled for both.

*memory* is the peak memory of a step, divided by that of one plain step of the full network. It contains weights
(also a teacher's), gradients and activations, but no optimizer. It comes from every allocation and release of torch's
CPU allocator in the profile of `torch.profiler`; the largest repeat counts.
"""

from __future__ import annotations

import argparse
import gc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from common import SEED, limit, machine, print_finding, print_table, seconds, spread, start
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from elastify import SubnetConfig, elastify, extract, space
from elastify import train as t
from elastify._verbs import active_config

SLICING = {
    "FullPlusRandom": t.FullPlusRandom,
    "Sandwich": t.Sandwich,
    "Sorted": lambda model: t.Sorted(model, 8, draws=3),
    "AllExits": lambda model: t.AllExits(model, stage=space(model).stages[-1].name),
    "ProgressiveShrinking": lambda model: t.ProgressiveShrinking(model, depth_phases=0, width_phases=1),
    "AlternateCore": lambda model: t.AlternateCore(model, 0.5, full_steps=2),
    "Compressible, width": t.Compressible,
}
TRANSFORMING = {
    "Compressible, sparsity": lambda model: t.Compressible(model, "sparsity"),
    "Compressible, bits": lambda model: t.Compressible(model, "bits"),
    "GumbelMask": t.GumbelMask,
    "GumbelMask of units": lambda model: t.GumbelMask(model, "unit", start=3.0),
    "Supermask": t.Supermask,
    "EdgePopup": t.EdgePopup,
}
STRATEGIES: dict[str, Callable[[nn.Module], t.Strategy]] = {**SLICING, **TRANSFORMING}


@dataclass(frozen=True)
class Case:
    """A model, its elastic version, a batch, and what a forward pass gives the loss."""

    make: Callable[[], nn.Module]
    inputs: Tensor
    labels: Tensor
    logits: Callable[[nn.Module, Tensor], Tensor] = lambda model, x: model(x)

    def loss(self, logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, -2), self.labels.flatten())


def resnet18() -> nn.Module:
    """That of the recipe of image classification, for 32 pixels."""
    import timm

    model = timm.create_model("resnet18", num_classes=10, channels=(16, 32, 64, 128))
    model.maxpool = nn.Identity()
    return model


def vit() -> nn.Module:
    import timm

    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, num_classes=10)


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 512}
    return LlamaForCausalLM(LlamaConfig(vocab_size=1024, max_position_embeddings=128, use_cache=False, **sizes))


def cases() -> dict[str, Case]:
    images, classes = torch.randn(128, 3, 32, 32), torch.arange(128) % 10
    text = torch.randint(0, 1024, (16, 64))
    return {
        "resnet18": Case(resnet18, images, classes),
        "vit": Case(vit, images[:32], classes[:32]),
        "llama": Case(llama, text, text, lambda model, x: model(input_ids=x).logits),
    }


def plain_step(case: Case, model: nn.Module) -> None:
    """Forward, loss and backward."""
    for parameter in model.parameters():
        parameter.grad = None
    case.loss(case.logits(model, case.inputs)).backward()


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Weights, buffers and gradients."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [*model.parameters(), *model.buffers(), *gradients]


def peak(standing: list[Tensor], step: Callable[[], Any]) -> int:
    """The largest number of bytes that live tensors hold during a step, with those that were there before."""
    before = sum(tensor.nbytes for tensor in standing)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        step()
    assert recorded.profiler is not None
    kineto = recorded.profiler.kineto_results
    assert kineto is not None
    changes = sorted((event.start_ns(), event.nbytes()) for event in kineto.events() if event.name() == "[memory]")
    return before + max(accumulate(change for _, change in changes))


class Stepping:
    """A strategy on a model of its own, and the subnets that its last step ran, with whether they were trained."""

    def __init__(self, case: Case, kind: str) -> None:
        torch.manual_seed(SEED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = elastify(case.make(), case.inputs[:2], verify=False).train()
        self.case, self.ran = case, list[tuple[SubnetConfig, bool]]()
        self.strategy = STRATEGIES[kind](self.model)
        self.strategy.prepare()
        self.strategy.advance(1.0)
        self.step()  # what is checked at the first step only

    def step(self) -> None:
        self.ran.clear()
        for parameter in self.model.parameters():
            parameter.grad = None
        self.strategy.step(self.forward, self.case.loss)

    def forward(self) -> Tensor:
        self.ran.append((active_config(self.model), torch.is_grad_enabled()))
        return self.case.logits(self.model, self.case.inputs)

    def tensors(self) -> list[Tensor]:
        """What there is before a step, a teacher included."""
        return [*tensors_of(self.model), *self.strategy.state_dict().get("teacher", {}).values()]


def measure(name: str, case: Case, strategies: list[str], repeats: int) -> Iterator[tuple[str, ...]]:
    torch.manual_seed(SEED)
    plain = case.make().train()
    plain_step(case, plain)
    full_memory = peak(tensors_of(plain), lambda: plain_step(case, plain))
    for kind in strategies:
        first, timed = Stepping(case, kind), Stepping(case, kind)
        ours, theirs, memory = [], [], []
        for _ in range(repeats):
            memory.append(peak(first.tensors(), first.step))
            theirs.append(sum(alone(case, first.model, config, trained) for config, trained in first.ran))
            ours.append(seconds(timed.step))
        ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
        share = max(memory) / full_memory
        yield (
            name,
            kind,
            f"{median(ours):.2f}",
            f"{median(theirs):.2f}",
            limit(ratio, 1.2 if kind in SLICING else 1.6),
            limit(share, 1.15) if kind in SLICING else f"{share:.2f}",
        )


def alone(case: Case, model: nn.Module, config: SubnetConfig, trained: bool) -> float:
    """Seconds of a plain step of one subnet, extracted; of its forward only for a teacher."""
    small = extract(model, config).requires_grad_()

    def teach() -> None:
        with torch.no_grad():
            case.loss(case.logits(small.eval(), case.inputs))

    def run() -> None:
        plain_step(case, small.train()) if trained else teach()

    run()
    return seconds(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    start()
    models = cases()
    parser.add_argument("--models", nargs="*", default=list(models), choices=list(models))
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES), choices=list(STRATEGIES))
    options = parser.parse_args()

    def rows() -> Iterator[tuple[str, ...]]:
        for name in options.models:
            yield from measure(name, models[name], options.strategies, options.repeats)

    done = print_table(("model", "strategy", "step (s)", "plain steps (s)", "time", "memory"), rows())
    for story, kinds in (("that slice weights", SLICING), ("that transform weights", TRANSFORMING)):
        if chosen := [row for row in done if row[1] in kinds]:
            print_finding(
                f"Strategies {story} take {spread(chosen, 4)} times as long as plain steps of the same subnets, and "
                f"{spread(chosen, 5)} times the memory of a plain step of the full network."
            )
    print(
        "\nGoal for strategies that slice, the first seven: time at most 1.2 and memory at most 1.15. For those "
        "that transform weights: time at most 1.6.\n\n"
        "- AllExits keeps the whole graph until the exits are done, if what follows the blocks uses more than what "
        "they return (a skip around them).\n"
        "- A transform costs a pass over the weights, and gradients stay while the next subnet runs. Both count "
        "more if a batch is small for the number of weights.\n"
        "- resnet18: widths 16 to 128, 128 images of 32 pixels. vit: vit_tiny with patches of 4 pixels, 32 images. "
        "llama: six layers of width 192, 16 texts of 64 tokens.\n\n"
        f"{machine(options.repeats)}"
    )


if __name__ == "__main__":
    main()
