"""The demonstration from end to end, on synthetic songs, with a tiny network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import elastify.train
from elastify import ElastifyError
from recipes.music_separation.demo import Interrupted, Options, main, run
from recipes.music_separation.separate import load_separator

RATE = 8000


def options(songs: Path) -> Options:
    return Options(
        str(songs),
        "low",
        minutes=0.01,
        width=8,
        depth=2,
        bands=3,
        batch=2,
        seconds=0.2,
        steps_per_minute=6000,
        trials=4,
    )


def test_demo(songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options(songs)
    results = run(chosen, tmp_path)

    full = results["model"]
    assert [row["name"] for row in results["submodels"]] == ["60 %", "35 %", "15 %"]
    for row in results["submodels"]:
        assert row["macs"] <= row["budget"] * full["macs_per_second"] * 1.0001
        assert row["params"] < full["params"]
        assert np.isfinite([row["si_sdri"], row["si_sdri_naive"]]).all()
        assert row["si_sdri"] > 3
        assert row["rtf"] > 0
        net, notes = load_separator(tmp_path / row["folder"])
        assert sum(p.numel() for p in net.parameters()) == row["params"]
        assert notes["target"] == "low"
    assert "elastify" not in {type(m).__module__.split(".")[0] for m in net.modules()}
    assert results["pareto"]
    assert {axis["name"] for axis in results["space"]["axes"]} >= {"width"}

    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["model"]["steps"] == {"plain": 24, "elastic": 36} or saved["model"]["steps"]["plain"] >= 24
    page = (tmp_path / "report.html").read_text()
    assert "60 %" in page
    assert str(songs) in page
    for name in ("mixture", "target", "estimate-60", "estimate-35", "estimate-15"):
        wave, rate = soundfile.read(tmp_path / f"{name}.wav", always_2d=True)
        assert (wave.shape, rate) == ((2 * RATE, 2), RATE)
        assert np.isfinite(wave).all()
        assert 0.01 < np.abs(wave).max() < 1

    # Run again: everything is there, nothing is trained, and the outcome is the same.
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished training was stepped on")

    monkeypatch.setattr(torch.optim.Adam, "step", refuse)
    again = run(chosen, tmp_path)
    assert [row["si_sdri"] for row in again["submodels"]] == pytest.approx(
        [row["si_sdri"] for row in results["submodels"]], abs=1e-3
    )
    with pytest.raises(ElastifyError, match="a run with other options") as caught:
        run(replace(chosen, batch=3), tmp_path)
    assert "batch" in str(caught.value)


def test_interrupted_training_goes_on(songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options(songs)
    step = torch.optim.Adam.step
    count = 0

    def interrupt(self: torch.optim.Adam, *arguments: object) -> object:
        nonlocal count
        count += 1
        if count == 10:
            import signal

            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", interrupt)
    monkeypatch.setattr("recipes.music_separation.demo.Notes.steps", lambda *_: 16)
    with pytest.raises(Interrupted, match=r"plain training stopped after 10 of 16 steps"):
        run(chosen, tmp_path)
    assert (tmp_path / "plain" / "checkpoint.json").is_file()
    # Going on takes the 6 steps that are missing, then begins the elastic part.
    monkeypatch.setattr(
        "recipes.music_separation.demo.elastify", lambda *_: (_ for _ in ()).throw(RuntimeError("here"))
    )
    with pytest.raises(RuntimeError, match="here"):
        run(chosen, tmp_path)
    assert count == 16
    assert elastify.train.fit is not None


def test_quick_is_small_and_has_a_folder_of_its_own(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Options, Path]] = []
    monkeypatch.setattr("recipes.music_separation.demo.run", lambda options, out, cache: calls.append((options, out)))
    assert main(["--data", str(songs)]) == main(["--data", str(songs), "--quick"]) == 0
    (usual, folder), (quick, other) = calls
    assert usual == Options(str(songs))
    assert (quick.minutes, quick.width, quick.trials) == (0.1, 8, 4)
    assert (folder, other) == (Path("elastify-demo") / songs.name, Path("elastify-demo") / f"{songs.name}-quick")


def test_mistakes_on_the_command_line(songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 2
    assert "no songs for train" in capsys.readouterr().err
    assert main(["--minutes", "0", "--out", str(tmp_path / "run")]) == 2
    assert "--minutes must be above 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "MUSDB18-HQ" in capsys.readouterr().out
