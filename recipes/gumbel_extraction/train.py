"""Subnetworks of frozen random weights by trained gates, beside supermasks, edge-popup and trained weights."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from elastify import elastify
from elastify.train import EdgePopup, GumbelMask, Supermask

from ..image_classification.protocol import Task, accuracy, add_options
from ..reporting import Measurements, curve, print_table, settings_of, spread, write_figure
from .model import CHANNELS, conv_net

METHODS = ("ASLP", "ASLP, no rescale", "supermask", "edge-popup", "weights trained")
Found = GumbelMask | Supermask | EdgePopup


def prepare(method: str, model: nn.Module, args: argparse.Namespace, seed: int) -> tuple[Found | None, Optimizer]:
    """The strategy of a method (None: all weights are trained) and its optimizer, with the rates of its paper."""
    if method == "weights trained":
        return None, AdamW(model.parameters(), 1e-3)
    if method == "edge-popup":
        popup = EdgePopup(model, weights=args.weights, seed=seed)
        return popup, SGD(popup.groups(lr=args.popup_rate), momentum=0.9)
    gates: GumbelMask | Supermask = Supermask(model, weights=args.weights, seed=seed)
    if method != "supermask":
        gates = GumbelMask(model, rescale=method == "ASLP", weights=args.weights, seed=seed)
    return gates, SGD(gates.groups(lr=args.rate, scale_lr=1e-3), momentum=0.9)


def sparsity(model: nn.Module) -> float:
    """Share of weights that are zero, in percent."""
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return 100 * float((weights == 0).float().mean())


def run(method: str, task: Task, args: argparse.Namespace, seed: int, found: Measurements) -> dict[str, Any]:
    """Train one method; accuracy and sparsity of what is extracted, and accuracy on the validation images meanwhile."""
    torch.manual_seed(seed)
    net = conv_net(args.net, task.example, args.scale)
    for parameter in net.parameters():
        nn.init.kaiming_normal_(parameter)
    model = elastify(net, task.example)
    strategy, optimizer = prepare(method, model, args, seed)

    def watch(step: int, _: object) -> None:
        if step % args.every == 0:
            found.once(f"{method} step {step}", partial(accuracy, model, *task.validation))
            model.train()

    values = found.content["values"]
    if f"{method} accuracy" not in values:
        folder = found.path.parent / method.replace(", ", "-").replace(" ", "-")
        options = {"strategy": strategy, "optimizer": optimizer, "checkpoint_every": args.every, "on_step": watch}
        task.fit(model, folder, steps=args.steps, seed=seed, **options)
        extracted = strategy.extract() if strategy else model
        found.once(f"{method} sparsity", partial(sparsity, extracted))
        found.once(f"{method} accuracy", partial(task.score, extracted))
    steps = range(args.every, args.steps + 1, args.every)
    looks = [(step, values[f"{method} step {step}"]) for step in steps if f"{method} step {step}" in values]
    reached = next((step for step, value in looks if value >= args.target), None)
    return {
        "accuracy": values[f"{method} accuracy"],
        "sparsity": values[f"{method} sparsity"],
        "curve": looks,
        "reached": reached,
    }


def main(argv: list[str] | None = None) -> list[list[str]]:
    """Train all methods; print the table, write the plot, return the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, "gumbel_extraction", steps=2000, rate=50.0)
    parser.add_argument("--net", choices=list(CHANNELS), default="conv2", help="which network (default conv2)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on its widths (default 1)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="which of them (default all)")
    parser.add_argument("--weights", choices=("kaiming", "signed"), default="signed", help="frozen ones (signed)")
    parser.add_argument("--popup-rate", type=float, default=0.1, help="learning rate of edge-popup (default 0.1)")
    parser.add_argument("--target", type=float, default=60.0, help="validation accuracy to count steps to (default 60)")
    parser.add_argument("--every", type=int, default=100, help="steps between two looks at it (default 100)")
    args = parser.parse_args(argv)
    if args.quick:
        args.steps, args.batch, args.scale, args.every = 40, 32, 0.25, 10
    task = Task(args)
    results: dict[str, list[dict[str, Any]]] = {method: [] for method in args.methods}
    for seed in args.seeds:
        found = Measurements(args.out / f"seed{seed}" / "measurements.json", settings_of(args))
        for method in args.methods:
            results[method].append(run(method, task, args, seed, found))
    rows = []
    for method, runs in results.items():
        reached = ", ".join("-" if one["reached"] is None else str(one["reached"]) for one in runs)
        rows.append([method, *(spread(one[name] for one in runs) for name in ("accuracy", "sparsity")), reached])
    header = ("method", f"{task.name} accuracy, %", "weights that are zero, %", f"steps to {args.target:g} %, per seed")
    print_table(f"{args.net}, {args.weights} weights", header, rows)
    lines = [curve(method, runs[0]["curve"]) for method, runs in results.items() if runs[0]["curve"]]
    write_figure(
        args.out / "gumbel_extraction.html", lines, f"{args.net}: open gates", "step", "validation accuracy, %"
    )
    return rows


if __name__ == "__main__":
    main()
