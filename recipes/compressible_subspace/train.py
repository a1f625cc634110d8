"""One network for all widths, sparsities or bits, on a line of weights or as a point; beside levels trained alone."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD

from elastify import cost, elastify
from elastify.train import Compressible

from ..image_classification.blocks import ResidualNet
from ..image_classification.protocol import Task, add_options
from ..reporting import Measurements, curve, print_table, settings_of, spread, write_figure

LEVELS = {
    "width": (0.0, 0.25, 0.5, 0.75, 1.0),
    "sparsity": (0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    "bits": tuple(bits / 6 for bits in range(1, 7)),
}
NAMES = ("line", "point", "alone", "alone, share", "plain, compressed")


def label(kind: str, alpha: float) -> str:
    """What a level is.

    >>> label("width", 0.0), label("sparsity", 0.025), label("bits", 1 / 6)
    ('width 25 %', '2.5 % kept', '3 bits')
    """
    if kind == "bits":
        return f"{round(2 + 6 * alpha)} bits"
    return f"width {25 + 75 * alpha:g} %" if kind == "width" else f"{100 * alpha:g} % kept"


def share(kind: str, model: nn.Module, strategy: Compressible, alpha: float, steps: int) -> int:
    """Steps at one level for which all levels together take the MACs of the one training for all of them."""
    macs = cost(model, [strategy.config(level) for level in LEVELS[kind]]).macs
    step = macs[0] + macs[-1] + strategy.n_random * macs.mean() if kind == "width" else macs[-1]
    return max(1, round(steps * step / len(macs) / cost(model, strategy.config(alpha)).macs))


def run(kind: str, task: Task, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Accuracy of every level of a kind: line, point, trained alone, and the plain network compressed afterwards."""
    folder = args.out / f"seed{seed}"
    found = Measurements(folder / f"{kind}.json", {**settings_of(args), "kinds": kind})

    def make(line: bool) -> tuple[nn.Module, Compressible]:
        torch.manual_seed(seed)
        net = ResidualNet(task.example.shape[1], args.width, args.depth)
        model = elastify(net, task.example, depth=False, min_ratio=0.25, multiple_of=1)
        warmup = round(0.8 * args.steps) if kind == "sparsity" else 0
        return model, Compressible(model, kind, line=line, warmup=warmup, seed=seed)

    def train(name: str, model: nn.Module, strategy: Compressible | None = None, steps: int = args.steps) -> None:
        sgd = partial(SGD, lr=args.rate, momentum=0.9, weight_decay=5e-4)
        options = {"strategy": strategy, "optimizer": sgd, "clip": 5.0, "seed": seed}
        task.fit(model, folder / name, steps=steps, **options)

    def score(model: nn.Module, strategy: Compressible, alpha: float) -> float:
        strategy.at(alpha)
        return task.score(model)

    def missing(name: str) -> list[float]:
        return [alpha for alpha in LEVELS[kind] if f"{name} {label(kind, alpha)}" not in found.content["values"]]

    for name in ("line", "point"):
        if name in args.ways and missing(name):
            model, strategy = make(name == "line")
            train(f"{kind}-{name}", model, strategy)
            for alpha in missing(name):
                found.once(f"{name} {label(kind, alpha)}", partial(score, model, strategy, alpha))
    for name in ("alone", "alone, share"):
        for number, alpha in enumerate(LEVELS[kind] if name in args.ways else ()):
            if alpha in missing(name):
                model, strategy = make(line=False)
                steps = args.steps if name == "alone" else share(kind, model, strategy, alpha, args.steps)
                if kind == "width":
                    model = strategy.extract(alpha)
                else:
                    strategy.at(alpha)  # the compression stays where it is put: training goes through it
                train(f"{kind}-{name.replace(', ', '-')}{number}", model, steps=steps)
                found.once(f"{name} {label(kind, alpha)}", partial(task.score, model))
    if "plain, compressed" in args.ways and missing("plain, compressed"):
        model, strategy = make(line=False)
        train("plain", model)
        for alpha in missing("plain, compressed"):
            found.once(f"plain, compressed {label(kind, alpha)}", partial(score, model, strategy, alpha))
    return found.content["values"]


def main(argv: list[str] | None = None) -> list[list[str]]:
    """Train and measure; print a table per kind, write its plot, return all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, "compressible_subspace", steps=1000, rate=0.05)
    parser.add_argument("--kinds", nargs="+", choices=list(LEVELS), default=list(LEVELS), help="default: all three")
    parser.add_argument("--ways", nargs="+", choices=NAMES, default=NAMES, help="default: all five")
    parser.add_argument("--width", type=int, default=32, help="channels of the network (default 32)")
    parser.add_argument("--depth", type=int, default=3, help="its residual blocks (default 3)")
    args = parser.parse_args(argv)
    if args.quick:
        args.steps, args.batch, args.width, args.depth = 15, 32, 16, 2
    task = Task(args)
    every = []
    for kind in args.kinds:
        results = [run(kind, task, args, seed) for seed in args.seeds]
        rows, lines = [], {name: [] for name in args.ways}
        for alpha in LEVELS[kind]:
            what = label(kind, alpha)
            rows.append([what, *(spread(values[f"{name} {what}"] for values in results) for name in args.ways)])
            for name, points in lines.items():
                points.append((alpha, sum(values[f"{name} {what}"] for values in results) / len(results)))
        print_table(f"{kind}: {task.name} accuracy in %", ("level", *args.ways), rows)
        plot = [curve(name, points) for name, points in lines.items()]
        write_figure(args.out / f"{kind}.html", plot, kind, "alpha", f"{task.name} accuracy, %")
        every += rows
    return every


if __name__ == "__main__":
    main()
