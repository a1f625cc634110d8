"""Fine-tune an image classifier elastically, search three budgets, extract three plain networks, compare."""

from __future__ import annotations

import argparse
import copy
from functools import partial
from pathlib import Path

import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from elastify import Cost, cost, elastify, extract, save, search, space
from elastify.train import Sandwich, fit, recalibrate, sort_channels

from ..reporting import curve, print_table, write_figure
from .data import add_data_options, read_images
from .protocol import accuracy

BUDGETS = (0.6, 0.35, 0.15)  # shares of the full network's MACs


def make_model(name: str | None, channels: int) -> nn.Module:
    """A timm model with the weights timm has for it; without a name a small new ResNet-18 for small images."""
    if name:
        return timm.create_model(name, pretrained=True, in_chans=channels, num_classes=10)
    model = timm.create_model("resnet18", in_chans=channels, num_classes=10, channels=(16, 32, 64, 128))
    model.maxpool = nn.Identity()
    return model


def main(argv: list[str] | None = None) -> list[list[str]]:
    """Train, search, extract; print the table and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_options(parser)
    parser.add_argument("--model", help="name of a timm model with pretrained weights (default: a new small ResNet-18)")
    parser.add_argument("--epochs", type=float, default=1, help="epochs of each training, also parts (default 1)")
    parser.add_argument("--rate", type=float, default=4e-3, help="learning rate (default 4e-3; pretrained: try 5e-4)")
    parser.add_argument("--trials", type=int, default=24, help="networks that each search evaluates (default 24)")
    parser.add_argument("--alone", action="store_true", help="also train each size alone, for as many steps in all")
    parser.add_argument("--quick", action="store_true", help="40 steps a training, 6 trials, 1,000 test images")
    parser.add_argument("--out", type=Path, default="image_classification", help="folder for the extracted networks")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    images, labels = read_images(args.npz or args.data, train=True)
    test = [part[: 1000 if args.quick else None] for part in read_images(args.npz or args.data, train=False)]
    loader = DataLoader(TensorDataset(images[:-2000], labels[:-2000]), 128, shuffle=True, drop_last=True)
    steps, trials = (40, 6) if args.quick else (max(1, round(args.epochs * len(loader))), args.trials)

    def train(model: nn.Module, steps: int, strategy: Sandwich | None = None) -> nn.Module:
        adam = partial(torch.optim.AdamW, lr=args.rate)
        fit(model, loader, nn.CrossEntropyLoss(), strategy=strategy, steps=steps, optimizer=adam, scheduler="cosine")
        return model

    def calibrated(model: nn.Module, config: object = None) -> nn.Module:
        recalibrate(model, images[:1024].split(256), config)
        return model

    def score(model: nn.Module) -> float:
        return accuracy(calibrated(model), images[-2000:], labels[-2000:])  # held out of the training

    def row(budget: str, size: Cost, *networks: nn.Module) -> list[str]:
        return [budget, f"{size.macs:,}", f"{size.params:,}", *(f"{accuracy(net, *test):.1f}" for net in networks)]

    model = elastify(make_model(args.model, images.shape[1]), images[:2])
    print(space(model))
    new = copy.deepcopy(model)
    if not args.model:
        train(model, steps)  # stands for the pretraining that a timm model comes with
    sort_channels(model)
    plain = train(copy.deepcopy(model), steps)
    train(model, steps, Sandwich(model, n_random=2, cycle=False))
    as_trained = copy.deepcopy(model)  # no size has running statistics of its own yet
    rows = [row("100", cost(model), model, as_trained, plain)]
    for share in BUDGETS:
        result = search(model, budget_macs=share * cost(model).macs, evaluate=score, n_trials=trials)
        found = [result.model, extract(as_trained, result.config)]
        found.append(extract(calibrated(plain, result.config), result.config))
        if args.alone:
            found.append(train(extract(new, result.config), steps if args.model else 2 * steps))
        rows.append(row(f"{100 * share:.0f}", result.cost, *found))
        save(result.model, args.out / f"{100 * share:.0f}")
    kinds = ("elastic", "not recalibrated", "plain, sliced", "alone")[: 4 if args.alone else 3]
    print_table("test accuracy in %", ("budget %", "MACs", "parameters", *kinds), rows)
    lines = [
        curve(kind, [(int(cells[1].replace(",", "")), float(cells[column])) for cells in rows if len(cells) > column])
        for column, kind in enumerate(kinds, 3)
    ]
    write_figure(args.out / "image_classification.html", lines, "one fine-tuning", "MACs", "test accuracy, %")
    return rows


if __name__ == "__main__":
    main()
