"""Branches beside sliced channels: what the recipe compares, prints and keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.music_separation import parallel

SMALL = "--steps 2 --batch 2 --seconds 0.2 --bands 3 --width 8 --hidden 6 --branches 2 --alone --equal-compute".split()


def test_the_whole_recipe(
    songs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    command = ["--data", str(songs), "--target", "low", "--out", str(tmp_path), *SMALL]
    rows = parallel.main(command)
    assert [row[0] for row in rows] == ["1 x 1", "1 x 2", "2 x 1", "2 x 2"]
    for row in rows:
        gated, plain, sliced = (float(row[place]) for place in (1, 5, 9))
        assert plain <= gated <= 1.1 * plain
        assert sliced == pytest.approx(gated, rel=0.1)
        assert len(row) == 13
        assert all(row[1:])
    assert "SI-SDR improvement, dB (low, 2 held-out songs)" in capsys.readouterr().out
    assert (tmp_path / "parallel.html").stat().st_size > 0

    def measured_again(*_: object) -> float:
        raise AssertionError

    monkeypatch.setattr(parallel, "held_out_score", measured_again)
    assert parallel.main(command) == rows
