"""Train a small and a large network, stitch them, train the stitches: a row of networks between the two."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from torch import nn

from elastify import activate, cost, extract, space
from elastify.train import Sorted, stitch

from ..image_classification.blocks import ResidualNet
from ..image_classification.protocol import Task, add_options
from ..reporting import Measurements, curve, print_table, settings_of, spread, write_figure


def parts(model: nn.Module) -> list[nn.Module]:
    """The pieces of a network that run one after the other."""
    assert isinstance(model, ResidualNet)
    return [model.stem, *model.blocks, model.head]


def run(task: Task, args: argparse.Namespace, seed: int) -> tuple[list[int], dict[str, Any]]:
    """MACs of all ways, and their accuracy before and after the stitches are trained, and alone from new weights."""
    folder = args.out / f"seed{seed}"
    found = Measurements(folder / "measurements.json", settings_of(args))

    def train(name: str, model: nn.Module, steps: int, rate: float, strategy: Sorted | None = None) -> None:
        adam = partial(torch.optim.AdamW, lr=rate)
        options = {"strategy": strategy, "optimizer": adam, "clip": 1.0, "seed": seed}
        task.fit(model, folder / name, steps=steps, **options)

    anchors = []
    for number, (width, depth) in enumerate(((args.width // 2, args.depth // 2), (args.width, args.depth))):
        torch.manual_seed(seed)
        anchors.append(ResidualNet(task.example.shape[1], width, depth))
        train(f"anchor{number}", anchors[-1], args.steps, args.rate)
    model = stitch(anchors, task.train[0][:100], parts=parts, nearest=args.nearest)
    ways = [space(model).config({"stitch": number + 1}) for number in range(space(model).axes[0].size)]

    def score(number: int) -> float:
        with activate(model, ways[number]):
            return task.score(model)

    def alone(number: int) -> float:
        network = extract(model, ways[number])
        torch.manual_seed(seed)
        for module in network.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        train(f"alone{number}", network, args.steps + args.stitch_steps, args.rate)
        return task.score(network)

    for number in range(len(ways)):
        found.once(f"before {number}", partial(score, number))
    train("stitched", model, args.stitch_steps, args.stitch_rate, Sorted(model, ways, weights="even", seed=seed))
    for number in range(len(ways)):
        found.once(f"after {number}", partial(score, number))
    for number in range(len(ways) if args.alone else 0):
        found.once(f"alone {number}", partial(alone, number))
    return [cost(model, way).macs for way in ways], found.content["values"]


def main(argv: list[str] | None = None) -> list[list[str]]:
    """Train, stitch, measure; print the table, write the plot, return the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, "stitching", steps=1000, rate=4e-3)
    parser.add_argument("--width", type=int, default=48, help="channels of the large network (default 48)")
    parser.add_argument("--depth", type=int, default=8, help="its blocks; the small one has half of each (default 8)")
    parser.add_argument("--nearest", type=int, default=1, help="places that a piece is stitched to (default 1)")
    parser.add_argument("--stitch-steps", type=int, default=500, help="steps of random stitches (default 500)")
    parser.add_argument("--stitch-rate", type=float, default=1e-3, help="and their learning rate (default 1e-3)")
    parser.add_argument("--alone", action="store_true", help="also trains each way alone, for as many steps in all")
    args = parser.parse_args(argv)
    if args.quick:
        args.alone = True
        args.steps, args.batch, args.width, args.depth, args.stitch_steps = 60, 64, 16, 4, 40
    task = Task(args)
    runs = [run(task, args, seed) for seed in args.seeds]
    macs, results = runs[0][0], [values for _, values in runs]
    kinds = {"as stitched": "before", "stitches trained": "after"} | ({"trained alone": "alone"} if args.alone else {})
    rows = []
    for number, size in enumerate(macs):
        scores = (spread(values[f"{kind} {number}"] for values in results) for kind in kinds.values())
        rows.append([str(number + 1), f"{size:,}", *scores])
    print_table(f"{task.name} accuracy in %", ("way", "MACs", *kinds), rows)
    lines = [
        curve(title, [(size, results[0][f"{kind} {number}"]) for number, size in enumerate(macs)])
        for title, kind in kinds.items()
    ]
    write_figure(args.out / "stitching.html", lines, "two networks, stitched", "MACs", f"{task.name} accuracy, %")
    return rows


if __name__ == "__main__":
    main()
