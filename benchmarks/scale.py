"""Time and memory of large models. The time grows linearly with the operations, and weights are not needed.

    python benchmarks/scale.py [--repeats 3]

Vision transformers of 25 to 200 layers, and 1 to 8 blocks of 1,000 operations each, are made elastic without the
proofs. The time per operation must not grow with the model. The parts of the table are microseconds per operation;
*analysis x* and *all x* compare them with the smallest model of the family. Then a Llama with 7 billion parameters on
the meta device is made elastic in its own process, its search space is printed, and 1,000 subnets are costed.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any
from unittest import mock

import torch
from common import limit, machine, print_finding, print_table, seconds, spread, start
from torch import Tensor, nn

from elastify import _elastify, cost, elastify, space
from elastify._capture import capture
from elastify._capture.examples import Example


class Long(nn.Module):
    """A block of 1,000 operations: 125 gated, normalised residual branches of eight."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(125))
        self.ups = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(125))
        self.downs = nn.ModuleList(nn.Linear(width, width) for _ in range(125))

    def forward(self, x: Tensor) -> Tensor:
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            a, b = up(norm(x)).chunk(2, dim=-1)
            x = x + down(torch.tanh(a) * torch.sigmoid(b))
        return x


def transformer(depth: int) -> tuple[nn.Module, Tensor]:
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, num_heads=3, depth=depth, num_classes=10)
    return model, torch.randn(2, 3, 32, 32)


def long_blocks(count: int) -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(6, 16), *(Long() for _ in range(count)), nn.Linear(16, 3)), torch.randn(2, 6)


CASES: list[list[tuple[str, Callable[[], tuple[nn.Module, Tensor]]]]] = [
    [(f"ViT, {depth} layers", lambda depth=depth: transformer(depth)) for depth in (25, 50, 100, 200)],
    [(f"{count} x 1,000 operations", lambda count=count: long_blocks(count)) for count in (1, 2, 4, 8)],
]


def timed(owner: Any, name: str, found: dict[str, float]) -> Any:
    inner = getattr(owner, name)

    def run(*args: Any, **kwargs: Any) -> Any:
        begun = time.process_time()
        result = inner(*args, **kwargs)
        found[name] = found.get(name, 0.0) + time.process_time() - begun
        return result

    return mock.patch.object(owner, name, run)


def measure(make: Callable[[], tuple[nn.Module, Tensor]], repeats: int) -> tuple[int, dict[str, float]]:
    """Operations of the model, and median seconds of the parts and the whole of `elastify`."""
    model, x = make()
    runs: list[dict[str, float]] = []
    for _ in range(repeats + 1):
        again, found = copy.deepcopy(model), {}
        pipeline = [(_elastify, name) for name in ("capture_all", "analyse", "install")]
        owners = [*pipeline, (_elastify.Planner, "plan")]
        patches = [timed(owner, name, found) for owner, name in owners]
        for patch in patches:
            patch.start()
        found["whole"] = seconds(lambda again=again: elastify(again, x, verify=False))
        for patch in patches:
            patch.stop()
        runs.append(found)
    calls = len(capture(model, Example((x,))).calls)
    return calls, {name: median(run[name] for run in runs[1:]) for name in runs[0]}


def growth(repeats: int) -> Iterator[tuple[str, ...]]:
    for family in CASES:
        first: dict[str, float] = {}
        for name, make in family:
            calls, found = measure(make, repeats)
            each = {part: value / calls for part, value in found.items()}
            first = first or each
            yield (
                name,
                f"{calls:,}",
                *(f"{1e6 * each[part]:.0f}" for part in ("capture_all", "analyse", "plan", "install", "whole")),
                limit(each["analyse"] / first["analyse"], 1.3),
                limit(each["whole"] / first["whole"], 1.3),
                f"{found['whole']:.2f}",
            )


def llama() -> None:
    """Print the figures of the large model as JSON; run in a process of its own, for the sake of memory."""
    import transformers

    begun = time.process_time()
    config = transformers.LlamaConfig(hidden_size=4096, num_hidden_layers=32, intermediate_size=11008)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    times = {"model": time.process_time() - begun}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        begun = time.process_time()
        elastify(model, example_kwargs={"input_ids": torch.ones(2, 128, dtype=torch.long), "use_cache": False})
    times["elastify"] = time.process_time() - begun
    begun = time.process_time()
    found = space(model)
    text = str(found)
    times["printing"] = time.process_time() - begun
    begun = time.process_time()
    costs = cost(model, found.encode([found.sample(i) for i in range(1000)]))
    times["1,000 costs"] = time.process_time() - begun
    said = {
        "parameters": f"{cost(model).params:,}",
        "axes and stages": f"{len(found.axes)} and {len(found.stages)}",
        "verified": str(found.verified),
        "warning": next(str(w.message) for w in caught if issubclass(w.category, UserWarning)),
        "lines printed": str(len(text.splitlines())),
        "MACs of the 1,000, least and most": f"{costs.macs.min():,} and {costs.macs.max():,}",
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"times": times, "said": said, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--llama", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    start()
    if options.llama:
        return llama()
    header = "model", "operations", "capture", "analysis", "plan", "rewrite", "all", "analysis x", "all x", "all (s)"
    done = print_table(header, growth(options.repeats))
    print_finding(
        f"Compared with the smallest model of a family, `elastify` takes {spread(done, 8)} times as long per operation."
    )
    print(f"\nGoal: at most 1.30.\n\n{machine(options.repeats)}\n")
    run = subprocess.run(
        [sys.executable, __file__, "--llama"], stdout=subprocess.PIPE, text=True, check=True, env={**os.environ}
    )
    found = json.loads(run.stdout)
    total = sum(value for name, value in found["times"].items() if name != "model")
    print_table(
        ("Llama, 7 billion parameters, no weights", ""),
        [
            *found["said"].items(),
            *((f"{name} (s)", f"{value:.2f}") for name, value in found["times"].items()),
            ("all but the model (s), goal at most 60", limit(total, 60)),
            ("peak memory (GB), goal at most 2", limit(found["peak"] / 1e9, 2)),
        ],
    )
    print_finding(
        f"A Llama with 7 billion parameters, without weights, takes {total:.2f} s and {found['peak'] / 1e9:.2f} GB of "
        "memory."
    )


if __name__ == "__main__":
    main()
