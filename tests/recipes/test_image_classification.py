"""The image recipe: both file formats, what it prints and saves, what it says of wrong data."""

from __future__ import annotations

import ast
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from elastify import ElastifyError, load
from recipes.image_classification import train
from recipes.image_classification.data import read_images

SIDE = 14
RECIPE = Path(train.__file__)


def write_idx(path: Path, values: np.ndarray) -> None:
    head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}i", *values.shape)
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))


def write_images(folder: Path, train_count: int = 2140, test_count: int = 100) -> Path:
    """Stripes whose direction and brightness are the class."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for split, count in (("train", train_count), ("t10k", test_count)):
        labels = rng.integers(0, 4, count)
        stripes = (np.indices((SIDE, SIDE)) // 4 % 2)[labels % 2] * (80 + 80 * (labels // 2)[:, None, None])
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", stripes + rng.integers(0, 60, (count, SIDE, SIDE)))
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def test_idx_files(folder: Path) -> None:
    images, labels = read_images(folder, train=False)
    assert (images.shape, images.dtype, labels.dtype) == ((100, 1, SIDE, SIDE), torch.float32, torch.int64)
    assert -1 <= images.min() < images.max() <= 1
    assert set(labels.tolist()) == {0, 1, 2, 3}


def test_the_whole_recipe(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    small = {"channels": (8, 16, 24, 32), "layers": (1, 1, 2, 1)}
    make = train.timm.create_model
    monkeypatch.setattr(train.timm, "create_model", lambda name, **kwargs: make(name, **{**kwargs, **small}))
    rows = train.main(["--data", str(folder), "--epochs", "1", "--trials", "2", "--alone", "--out", str(tmp_path)])
    assert [row[0] for row in rows] == ["100", "60", "35", "15"]
    full = int(rows[0][1].replace(",", ""))
    for row, share in zip(rows[1:], train.BUDGETS, strict=True):
        assert int(row[1].replace(",", "")) <= share * full
        assert len(row) == 7
        assert all(0 <= float(score) <= 100 for score in row[3:])
    printed = capsys.readouterr().out
    assert "test accuracy in %" in printed
    assert (tmp_path / "image_classification.html").exists()
    assert "layer3" in printed
    images, labels = read_images(folder, train=False)
    for row in rows[1:]:  # what was saved is what the table tells of
        like = train.make_model(None, 1)
        assert f"{train.accuracy(load(tmp_path / row[0], like=like), images, labels):.1f}" == row[3]


def test_other_models_come_with_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(train.timm, "create_model", lambda name, **kwargs: asked.append((name, kwargs)))
    train.make_model("convnext_atto", 3)
    assert asked == [("convnext_atto", {"pretrained": True, "in_chans": 3, "num_classes": 10})]


def test_it_is_short_and_uses_public_names_only() -> None:
    text = RECIPE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    modules = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert {name for name in modules if str(name).startswith("elastify")} == {"elastify", "elastify.train"}


def test_cifar_as_torchvision_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub:
        """Stands for the reader, which checks sums of the real files."""

        def __init__(self, root: Path, train: bool) -> None:
            assert root == tmp_path
            self.data = np.full((5 if train else 2, 32, 32, 3), 255, np.uint8)
            self.targets = [3] * len(self.data)

    (tmp_path / "cifar-10-batches-py").mkdir()
    monkeypatch.setattr("torchvision.datasets.CIFAR10", Stub)
    images, labels = read_images(tmp_path, train=True)
    assert images.shape == (5, 3, 32, 32)
    assert bool((images == 1).all())
    assert labels.tolist() == [3] * 5


class TestWrongData:
    def refused(self, folder: Path) -> str:
        with pytest.raises(ElastifyError) as caught:
            read_images(folder, train=True)
        assert str(folder) in str(caught.value)
        return str(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        said = self.refused(tmp_path)
        assert "an image file cannot be read" in said
        assert "No such file" in said
        assert "--data FOLDER" in said

    def test_truncated_foreign_or_uneven(self, tmp_path: Path) -> None:
        write_images(tmp_path, 20, 5)
        path = tmp_path / "train-images-idx3-ubyte.gz"
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert "end-of-stream marker" in self.refused(tmp_path)
        path.write_bytes(b"not gzip")
        assert "Not a gzipped file" in self.refused(tmp_path)
        for content in (b"", b"\0\0\x0d\1\0\0\0\0", gzip.decompress(whole)[:-1]):
            path.write_bytes(gzip.compress(content))
            assert "an image file cannot be read" in self.refused(tmp_path)
        write_idx(path, np.zeros((19, SIDE, SIDE)))
        assert "19 images but 20 labels" in self.refused(tmp_path)
