"""One elastic training of the separator: what the recipe trains, prints, saves and finds again."""

from __future__ import annotations

import csv
import signal
from pathlib import Path

import pytest
from torch import Tensor

from elastify import ElastifyError
from recipes.music_separation import train
from recipes.music_separation.losses import separation_loss
from recipes.music_separation.separate import load_separator

SMALL = "--steps 3 --batch 2 --seconds 0.2 --bands 3 --width 8 --alone".split()


def test_the_whole_recipe(
    songs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    command = ["--data", str(songs), "--target", "low", "--out", str(tmp_path), *SMALL]
    rows = train.main(command)
    assert [row[0] for row in rows] == ["100", "75", "50", "25"]
    macs = [float(row[1]) for row in rows]
    assert macs == sorted(macs, reverse=True)
    for name, _, params, *scores in rows:
        assert len([float(score) for score in scores]) == 2
        net, notes = load_separator(tmp_path / f"model-{name}")
        assert f"{sum(p.numel() for p in net.parameters()):,}" == params
        assert notes["target"] == "low"
    assert "SI-SDR improvement, dB (low, 2 held-out songs)" in capsys.readouterr().out
    assert (tmp_path / "separation.html").stat().st_size > 0
    losses = list(csv.DictReader((tmp_path / "elastic" / "losses.csv").open()))
    assert [row["step"] for row in losses] == ["1", "2", "3"]
    assert all(row["max"] and row["min"] and row["random"] for row in losses)

    def measured_again(*_: object) -> float:
        raise AssertionError

    monkeypatch.setattr(train, "held_out_score", measured_again)
    assert train.main(command) == rows
    with pytest.raises(ElastifyError, match="measurements with other values of width"):
        train.main([*command, "--width", "12"])


def test_a_stopped_training_measures_nothing(
    songs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*tensors: Tensor, **settings: int) -> Tensor:
        monkeypatch.undo()  # once: a second Ctrl-C would not wait for the end of the step
        signal.raise_signal(signal.SIGINT)
        return separation_loss(*tensors, **settings)

    monkeypatch.setattr(train, "separation_loss", interrupt)
    with pytest.raises(SystemExit, match="stopped after 1 of 3 steps; the same command goes on"):
        train.main(["--data", str(songs), "--target", "low", "--out", str(tmp_path), *SMALL])
    assert not (tmp_path / "model-100").exists()
