"""What it costs to choose a subnet and to run it, against the same subnet extracted.

    python benchmarks/subnets.py [--repeats 15] [--models timm:deit_tiny_patch16_224 ...]

*activate* is the median time for 200 new configurations. *first step* is the additional time of the first forward and
backward pass after that, because slices are computed when they are first needed. A step is one forward and backward
pass in train mode, batch 16, at half of every size. *MACs* are those of the half-size subnet as a share of the full
network.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from statistics import median

import torch
from common import SEED, interleaved, limit, machine, print_finding, print_table, ratio, spread, start
from torch import Tensor, nn

from elastify import activate, cost, elastify, extract, space

# model -> input without the batch (the music recipe trains on 1.5 s), most milliseconds of activate, largest ratio
CASES: dict[str, tuple[tuple[int, ...], float, float]] = {
    "timm:deit_tiny_patch16_224": ((3, 224, 224), 1.0, 1.05),
    "timm:swin_tiny_patch4_window7_224": ((3, 224, 224), 3.0, float("inf")),
    "timm:resnet50": ((3, 224, 224), float("inf"), 1.05),
    "torchvision:densenet121": ((3, 224, 224), float("inf"), 1.15),
    "bsrnn": ((33075,), float("inf"), 1.05),
}


def build(name: str) -> nn.Module:
    library, _, model = name.partition(":")
    if library == "timm":
        import timm

        return timm.create_model(model)
    if library == "torchvision":
        import torchvision

        return torchvision.models.get_model(model, weights=None)
    from recipes.music_separation.model import BSRNN, small_settings

    return BSRNN(**small_settings())


def step(model: nn.Module, batch: Tensor) -> None:
    """Forward and backward."""
    for parameter in model.parameters():
        parameter.grad = None
    model(batch).square().mean().backward()


def measure(name: str, repeats: int) -> tuple[str, ...]:
    shape, most_activate, most_step = CASES[name]
    torch.manual_seed(SEED)
    model = build(name).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        elastify(model, torch.randn(2, *shape), verify=False)
    times = []
    for config in [space(model).sample(seed) for seed in range(200)]:
        begun = time.process_time()
        activate(model, config)
        times.append(time.process_time() - begun)
    half = space(model).config(0.5)
    small = extract(model, half).train()
    model.train()
    batch = torch.randn(16, *shape)
    first = first_step(model, half, batch[:2])
    activate(model, half)
    ours, theirs = interleaved(repeats, lambda: step(model, batch), lambda: step(small, batch))
    return (
        name,
        limit(1000 * median(times), most_activate),
        f"{1000 * first:.1f}",
        f"{cost(model, half).macs / cost(model).macs:.0%}",
        f"{median(ours):.2f}",
        f"{median(theirs):.2f}",
        limit(ratio(ours, theirs), most_step, 3),
    )


def first_step(model: nn.Module, config: object, batch: Tensor) -> float:
    """Seconds that the first step after `activate` takes beyond the next."""
    extra = []
    for _ in range(5):
        activate(model, None)
        activate(model, config)
        times = []
        for _ in range(3):
            begun = time.process_time()
            step(model, batch)
            times.append(time.process_time() - begun)
        extra.append(times[0] - min(times[1:]))
    return median(extra)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--models", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    start()

    def rows() -> Iterator[tuple[str, ...]]:
        return (measure(name, options.repeats) for name in options.models)

    header = "model", "activate (ms)", "first step (ms)", "MACs", "activated (s)", "extracted (s)", "ratio"
    done = print_table(header, rows())
    print_finding(
        f"Activating a subnet takes {spread(done, 1)} ms. A training step of it then takes {spread(done, 6)} times "
        "as long as that of the extracted model."
    )
    print(
        "\nGoal: activate within 1 ms on deit_tiny and 3 ms on swin_tiny; a ratio of at most 1.05, on densenet121 1.15."
        f"\n\n{machine(options.repeats)}"
    )


if __name__ == "__main__":
    main()
