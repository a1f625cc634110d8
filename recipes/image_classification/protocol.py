"""What recipes on images have in common: options, how the images are split, how a network is trained and scored.

The last training images are for validation, and no training sees them. `--tune` scores on them; without it the test
images are scored, each number once: it is stored as it is measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from elastify.train import fit

from ..reporting import must_be_done
from .data import add_data_options, read_images

VALIDATION = 5000


def add_options(parser: argparse.ArgumentParser, out: str, steps: int, rate: float) -> None:
    """Options that all of them have, with the recipe's own folder, number of steps and learning rate."""
    add_data_options(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one whole run each (default 0)")
    parser.add_argument("--steps", type=int, default=steps, help=f"steps of each training (default {steps})")
    parser.add_argument("--batch", type=int, default=128, help="images per step (default 128)")
    parser.add_argument("--rate", type=float, default=rate, help=f"learning rate (default {rate})")
    parser.add_argument("--tune", action="store_true", help="score on the validation images, leave the test alone")
    parser.add_argument("--quick", action="store_true", help="shows in a minute that everything works")
    parser.add_argument("--out", type=Path, default=out, help="folder of checkpoints and results")


class Task:
    """Images and labels for training, validation and the score; the smaller ones of `--quick` where asked for."""

    def __init__(self, args: argparse.Namespace) -> None:
        source, few = args.npz or args.data, 500 if args.quick else None
        images, labels = read_images(source, train=True)
        self.train = images[:-VALIDATION], labels[:-VALIDATION]
        self.validation = images[-VALIDATION:][:few], labels[-VALIDATION:][:few]
        self.name = "validation" if args.tune else "test"
        held_out = self.validation if args.tune else read_images(source, train=False)
        self.scored = held_out[0][:few], held_out[1][:few]
        self.batch = args.batch

    @property
    def example(self) -> Tensor:
        """Two images, for `elastify`."""
        return self.train[0][:2]

    def loader(self) -> DataLoader:
        """Shuffled batches; `fit` orders them by its seed and the epoch."""
        return DataLoader(TensorDataset(*self.train), self.batch, shuffle=True, drop_last=True)

    def fit(self, model: nn.Module, folder: Path, *, steps: int, seed: int, **options: Any) -> None:
        """Cross-entropy on shuffled batches, the learning rate a cosine; `options` of `fit`; goes on where it was."""
        loss = nn.functional.cross_entropy
        options = {"scheduler": "cosine", "seed": seed, "checkpoint": folder, **options}
        must_be_done(fit(model, self.loader(), loss, steps=steps, **options), steps)

    def score(self, model: nn.Module) -> float:
        """Accuracy on the images that are scored, in percent."""
        return accuracy(model, *self.scored)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose class is found, in percent."""
    model.eval()
    right = sum((model(x).argmax(1) == y).sum() for x, y in zip(images.split(256), labels.split(256), strict=True))
    return 100 * float(right) / len(labels)
