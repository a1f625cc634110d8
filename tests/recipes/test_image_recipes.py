"""Recipes on images, smallest runs: what they print, what they write, that they go on where they were."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest
import torch

from recipes.compressible_subspace import train as compressible
from recipes.gumbel_extraction import train as gumbel
from recipes.gumbel_extraction.model import conv_net
from recipes.stitching import train as stitching
from tests.recipes.test_image_classification import write_images

RECIPES = Path(gumbel.__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 240, 60)


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.image_classification.protocol.VALIDATION", 40)


def run_twice(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, out: Path, *more: str) -> list:
    """The rows of a quick run; a second one neither trains nor scores anything."""
    options = ["--data", str(folder), "--out", str(out), "--quick", *more]
    rows = recipe.main(options)
    monkeypatch.setattr(recipe.Task, "score", lambda *_: pytest.fail("scored again"))
    assert recipe.main(options) == rows
    return rows


def test_gumbel_extraction(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ("--target", "0", "--seeds", "0", "1")
    rows = run_twice(gumbel, monkeypatch, folder, tmp_path, *more)
    assert [row[0] for row in rows] == list(gumbel.METHODS)
    assert all(row[3] == "10, 10" for row in rows)  # the first look finds at least 0 %
    zeros = [float(row[2].split()[0]) for row in rows]
    assert zeros[3:] == [50, 0]
    assert all(40 < share < 60 for share in zeros[:3])
    assert (tmp_path / "gumbel_extraction.html").exists()


@pytest.mark.parametrize(("name", "weights"), [("conv2", 5), ("conv4", 7), ("conv6", 9)])
def test_networks_to_mask(name: str, weights: int) -> None:
    net = conv_net(name, torch.zeros(1, 3, 32, 32), 0.125)
    assert len(list(net.parameters())) == weights
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.slow
def test_compressible_subspace(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run_twice(compressible, monkeypatch, folder, tmp_path)
    assert len(rows) == sum(map(len, compressible.LEVELS.values()))
    assert all(0 <= float(cell) <= 100 for row in rows for cell in row[1:])
    for kind, full in (("width", "width 100 %"), ("sparsity", "100 % kept")):
        row = next(row for row in rows if row[0] == full)
        assert row[3] == row[5], kind  # the full level trained alone is the plain network
    assert {path.name for path in tmp_path.glob("*.html")} == {"width.html", "sparsity.html", "bits.html"}


def test_stitching(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run_twice(stitching, monkeypatch, folder, tmp_path)
    macs = [int(row[1].replace(",", "")) for row in rows]
    assert len(rows) > 2
    assert macs == sorted(macs)
    assert all(0 <= float(row[4]) <= 100 for row in rows)  # each way trained alone
    assert (tmp_path / "stitching.html").exists()


def test_recipes_use_public_names_only() -> None:
    public = {"elastify", "elastify.train", "elastify.nn", "elastify.testing"}
    for path in RECIPES.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        used = {name for name in names if name and (name == "elastify" or name.startswith("elastify."))}
        assert used <= public, path
