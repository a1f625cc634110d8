"""Images from the files they come in: gzipped IDX (MNIST, Fashion-MNIST), or CIFAR-10 as torchvision reads it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor

from elastify import ElastifyError


def read_images(folder: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Images float32 [n, channels, height, width] with values from -1 to 1, and their labels int64 [n]."""
    if (folder / "cifar-10-batches-py").is_dir():
        cifar = torchvision.datasets.CIFAR10(folder, train)
        images, labels = cifar.data.transpose(0, 3, 1, 2), np.array(cifar.targets)
    else:
        split = "train" if train else "t10k"
        images = _read_idx(folder / f"{split}-images-idx3-ubyte.gz")[:, None]
        labels = _read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    if len(images) != len(labels):
        raise ElastifyError(f"{len(images)} images but {len(labels)} labels", where=str(folder))
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1), torch.from_numpy(labels.astype(np.int64))


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
