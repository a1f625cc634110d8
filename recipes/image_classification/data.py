"""Images from the files they come in.

Small ones, read whole: gzipped IDX (MNIST, Fashion-MNIST), CIFAR-10 as torchvision reads it, or one `.npz` file of
JPEG pictures. Large ones, read as they are needed: folders of pictures by class, as ImageNet has them.
"""

from __future__ import annotations

import argparse
import gzip
import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from elastify import ElastifyError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as its pretrained models expect them


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """`--data FOLDER` and `--npz FILE`, of which the second goes before the first."""
    parser.add_argument("--data", type=Path, default="/usr/share/datasets/fashion-mnist", help="folder of the images")
    parser.add_argument("--npz", type=Path, help="one file of JPEG images in the place of the folder")


def read_images(folder: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Images float32 [n, channels, height, width] with values from -1 to 1, and their labels int64 [n].

    An `.npz` file in the place of a folder has arrays `train_jpeg` (the bytes of all JPEG files), `train_offset` (where
    each begins, and the end of the last) and `train_label`, and the same for `test`. Images that come sorted by class
    are put into one fixed random order, so that the last of them are a fair sample.
    """
    if folder.suffix == ".npz":
        images, labels = _read_jpegs(folder, "train" if train else "test")
    elif (folder / "cifar-10-batches-py").is_dir():
        cifar = torchvision.datasets.CIFAR10(folder, train)
        images, labels = cifar.data.transpose(0, 3, 1, 2), np.array(cifar.targets)
    else:
        split = "train" if train else "t10k"
        images = _read_idx(folder / f"{split}-images-idx3-ubyte.gz")[:, None]
        labels = _read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    if len(images) != len(labels):
        raise ElastifyError(f"{len(images)} images but {len(labels)} labels", where=str(folder))
    if np.all(labels[1:] >= labels[:-1]):
        order = np.random.default_rng(0).permutation(len(labels))
        images, labels = images[order], labels[order]
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1), torch.from_numpy(labels.astype(np.int64))


def image_folder(folder: Path, *, train: bool, size: int = 224) -> Dataset[tuple[Tensor, int]]:
    """ImageNet, or any `train/CLASS/*.jpg` and `val/CLASS/*.jpg`: (image [3, size, size], class), with the usual
    random crops and flips for training and a crop of the centre else.
    """
    split = folder / ("train" if train else "val")
    if not split.is_dir():
        raise ElastifyError(
            "a folder of images is missing", where=str(split), fix="train/ and val/, a folder per class"
        )
    crop = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    if not train:
        crop = [v2.Resize(round(size * 8 / 7), antialias=True), v2.CenterCrop(size)]
    steps = [v2.PILToTensor(), *crop, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return torchvision.datasets.ImageFolder(split, v2.Compose(steps))


def _read_jpegs(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content, offsets, labels = (arrays[f"{split}_{part}"] for part in ("jpeg", "offset", "label"))
        parts = [content[start:end].tobytes() for start, end in pairwise(offsets)]
        images = np.stack([np.asarray(Image.open(io.BytesIO(part)).convert("RGB")) for part in parts])
    except (OSError, KeyError, ValueError) as error:
        raise ElastifyError("a file of JPEG images cannot be read", where=str(path), why=str(error)) from None
    return images.transpose(0, 3, 1, 2), labels


def _read_idx(path: Path) -> np.ndarray:
    """An array of bytes: two zeros, 8 for unsigned bytes, the number of dimensions, their sizes, the values."""
    try:
        with gzip.open(path) as file:
            content = file.read()
        sizes = np.frombuffer(content, ">i4", content[3], offset=4)
        if content[:3] != b"\0\0\x08":
            raise ValueError("it does not begin like an IDX file of bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise ElastifyError(
            "an image file cannot be read",
            where=str(path),
            why=str(error),
            fix="--data FOLDER with train|t10k-images-idx3-ubyte.gz and ...-labels-idx1-ubyte.gz, or with "
            "cifar-10-batches-py/; recipes/image_classification/README.md says where to get them",
        ) from None
