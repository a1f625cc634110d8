"""The recipe of nested subnets, its readers of images, and what recipes share."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from elastify import ElastifyError
from recipes.image_classification import protocol
from recipes.image_classification import sorted as recipe
from recipes.image_classification.data import image_folder, read_images
from recipes.reporting import Measurements, spread
from tests.recipes.test_image_classification import write_images


def run(folder: Path, out: Path, *options: str) -> dict:
    return recipe.main(["--data", str(folder), "--out", str(out), "--steps", "6", "--batch", "16", "--alone", *options])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few images, and a grid of six subnets in the place of 160."""
    monkeypatch.setattr("recipes.image_classification.protocol.VALIDATION", 40)
    for name, value in {"WIDTHS": 3, "DEPTHS": 2, "BLOCKS": 2, "ALONE": 2}.items():
        monkeypatch.setattr(recipe, name, value)
    return write_images(tmp_path / "images", 140, 60)


def test_channels_of_a_trained_network_are_sorted_first(folder: Path, tmp_path: Path) -> None:
    claim = run(folder, tmp_path / "out", "--width", "12", "--sort", "taylor")
    assert (tmp_path / "out/seed0/first/checkpoint.json").exists()
    values = json.loads((tmp_path / "out/seed0/measurements.json").read_text())["values"]
    assert "seconds first" in values
    assert run(folder, tmp_path / "out", "--width", "12", "--sort", "taylor") == claim


def test_what_an_interrupted_training_gives_is_not_stored(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = protocol.fit

    def interrupted(*args: object, **kwargs: object) -> object:
        return fit(*args, **kwargs, on_step=lambda step, _: step == 2 and os.kill(os.getpid(), signal.SIGINT))

    monkeypatch.setattr(protocol, "fit", interrupted)
    with pytest.raises(SystemExit, match="stopped after 2 of 6 steps"):
        run(folder, tmp_path / "out", "--width", "12")
    assert not (tmp_path / "out/seed0/measurements.json").exists()
    monkeypatch.setattr(protocol, "fit", fit)
    claim = run(folder, tmp_path / "out", "--width", "12")
    assert claim["seconds"] == [None]
    some = recipe.main(
        [
            "--data",
            str(folder),
            "--out",
            str(tmp_path / "out"),
            "--steps",
            "6",
            "--batch",
            "16",
            "--width",
            "12",
            "--seeds",
            "0",
            "1",
        ]
    )
    assert "seconds alone" not in some  # seed 1 has no sizes alone


def test_the_whole_recipe(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    claim = run(folder, tmp_path / "out", "--width", "12", "--seeds", "0", "1", "--equal-compute", "each")
    assert (claim["subnets"], len(claim["reach"]), len(claim["relative"])) == (6, 2, 6)
    assert claim["relative"][-1] == 100
    assert max(claim["macs"]) == claim["macs"][-1]
    assert claim["file size ratio"] <= 1.05
    printed = capsys.readouterr().out
    assert "test accuracy in %" in printed
    assert "alone, all MACs" in printed
    assert "all 6 subnets, test, per seed" in printed
    assert (tmp_path / "out/sorted.html").stat().st_size > 0
    values = json.loads((tmp_path / "out/seed0/measurements.json").read_text())["values"]
    assert values["alone 1"] == values["sliced 1"]  # the full network, cut at its full size

    def measured_again(*_: object) -> float:
        raise AssertionError

    monkeypatch.setattr(recipe.Task, "score", measured_again)
    assert run(folder, tmp_path / "out", "--width", "12", "--seeds", "0", "1", "--equal-compute", "each") == claim
    with pytest.raises(ElastifyError, match="other values of draws"):
        run(folder, tmp_path / "out", "--width", "12", "--draws", "2")


def test_a_grid_of_160_subnets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.image_classification.protocol.VALIDATION", 8)
    args = recipe.argparse.Namespace(
        out=tmp_path, npz=None, data=write_images(tmp_path / "images", 60, 8), quick=True, tune=True, batch=8
    )
    args.width, args.draws, args.strategy = 48, 4, "sorted"
    seed = recipe.Seed(args, 0, recipe.Task(args))
    configs = seed.configs
    assert len(configs) == 160
    assert [len(configs[number].depths["blocks"]) for number in recipe.alone_sizes(160)] == list(range(2, 10))


def test_measured_once(tmp_path: Path) -> None:
    first = Measurements(tmp_path / "m.json", {"rate": 0.1})
    assert first.once("a", lambda: 1.5) == first.once("a", lambda: 2.5) == 1.5
    assert Measurements(tmp_path / "m.json", {"rate": 0.1}).once("a", lambda: 3.5) == 1.5
    assert spread([2.0, 4.0]) == "3.0 ± 1.4"


def jpeg(level: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), level, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def test_jpeg_images_in_one_file(tmp_path: Path) -> None:
    parts = [jpeg(0), jpeg(255)]
    offsets = np.cumsum([0, *map(len, parts)])
    arrays = {"test_jpeg": np.frombuffer(b"".join(parts), np.uint8), "test_offset": offsets, "test_label": [7, 3]}
    np.savez(tmp_path / "images.npz", **arrays)
    images, labels = read_images(tmp_path / "images.npz", train=False)
    assert (images.shape, labels.tolist()) == ((2, 3, 32, 32), [7, 3])
    assert (images[0].max(), images[1].min()) == (-1, 1)
    with pytest.raises(ElastifyError, match="cannot be read"):
        read_images(tmp_path / "images.npz", train=True)


def test_images_sorted_by_class_are_shuffled(tmp_path: Path) -> None:
    """Else the last of them, which are for validation, would all be of one class that no training sees."""
    parts = [jpeg(25 * (number // 10)) for number in range(100)]
    arrays = {"train_jpeg": np.frombuffer(b"".join(parts), np.uint8), "train_offset": np.cumsum([0, *map(len, parts)])}
    np.savez(tmp_path / "images.npz", **arrays, train_label=np.arange(100) // 10)
    images, labels = read_images(tmp_path / "images.npz", train=True)
    assert len(set(labels[-20:].tolist())) > 5
    assert ((images.mean((1, 2, 3)) + 1) * 127.5 / 25).round().tolist() == labels.tolist()


def test_folders_of_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for level in (0, 255):
            (tmp_path / split / f"c{level}").mkdir(parents=True)
            (tmp_path / split / f"c{level}/a.jpg").write_bytes(jpeg(level))
    for train in (True, False):
        data = image_folder(tmp_path, train=train, size=16)
        image, label = data[1]
        assert (image.shape, image.dtype, label) == ((3, 16, 16), torch.float32, 1)
        assert image.min() > 2
    with pytest.raises(ElastifyError, match="folder of images is missing"):
        image_folder(tmp_path / "train", train=True)
