"""Whole songs: overlap-add, metrics, loss, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from elastify import ElastifyError, elastify, extract
from recipes.music_separation.losses import separation_loss
from recipes.music_separation.metrics import csdr, sdr, si_sdr, usdr
from recipes.music_separation.model import BSRNN, generic_bands
from recipes.music_separation.separate import load_separator, main, save_separator, separate
from recipes.music_separation.train import hold_out, make_loader, mean_improvement, real_time_factor, validate

RATE = 8000


@pytest.mark.parametrize("samples", [1, 7, 799, 800, 801, 1599, 4321])
@pytest.mark.parametrize("overlap", [0.0, 0.02, 0.05])
def test_weights_add_up_to_one(samples: int, overlap: float) -> None:
    wave = torch.ones(2, samples, dtype=torch.float32)
    out = separate(lambda x: x, wave, sample_rate=RATE, chunk=0.1, overlap=overlap)
    assert out.shape == wave.shape
    assert (out - wave).abs().max() < 1e-6


def test_channels_and_chunks_keep_their_place() -> None:
    wave = torch.randn(2, 3000)
    shapes = []

    def model(x: torch.Tensor) -> torch.Tensor:
        shapes.append(x.shape)
        return 2 * x

    torch.testing.assert_close(separate(model, wave, sample_rate=RATE, chunk=0.1, overlap=0.03, batch=3), 2 * wave)
    assert {shape[1] for shape in shapes} == {800}
    assert max(shape[0] for shape in shapes) == 3


def test_metrics_agree_with_each_other() -> None:
    torch.manual_seed(0)
    target = torch.randn(1, 3 * RATE)
    noise = torch.randn(1, 3 * RATE)
    estimate = target + 0.1 * noise
    assert float(usdr(estimate, target)) == pytest.approx(20, abs=0.2)
    assert float(si_sdr(estimate, target)) == pytest.approx(20, abs=0.2)
    assert float(si_sdr(5 * estimate, target)) == pytest.approx(float(si_sdr(estimate, target)), abs=1e-3)
    assert float(sdr(estimate, target)) == pytest.approx(20, abs=0.5)
    assert csdr(estimate, target, RATE) == pytest.approx(20, abs=0.8)
    assert float(usdr(torch.zeros_like(target), target)) == pytest.approx(0, abs=1e-3)


def test_metrics_against_another_implementation() -> None:
    import fast_bss_eval

    torch.manual_seed(1)
    target = torch.randn(1, 4000)
    estimate = target.roll(1, -1) + 0.3 * torch.randn(1, 4000)
    theirs = fast_bss_eval.sdr(target.double(), estimate.double(), load_diag=None)
    assert float(sdr(estimate, target)) == pytest.approx(float(theirs), abs=0.05)
    theirs = fast_bss_eval.si_sdr(target.double(), estimate.double(), zero_mean=True)
    assert float(si_sdr(estimate, target)) == pytest.approx(float(theirs), abs=0.01)


def test_loss() -> None:
    torch.manual_seed(0)
    target, mixture = torch.randn(2, 4000), torch.randn(2, 4000)
    estimate = torch.zeros_like(target)
    spectrum = torch.stft(target, 256, 64, window=torch.hann_window(256), pad_mode="constant", return_complex=True)
    by_hand = target.abs().mean() + spectrum.real.abs().mean() + spectrum.imag.abs().mean()
    torch.testing.assert_close(separation_loss(estimate, target, n_fft=256, hop=64), by_hand)
    quiet = separation_loss(estimate, 0.1 * target, 0.1 * mixture)
    torch.testing.assert_close(quiet, separation_loss(estimate, target, mixture))
    silence = torch.zeros(2, 4000)
    assert separation_loss(silence, silence, silence).item() == 0


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stems that even a tiny network can tell apart: a low tone and clicks."""
    root = tmp_path_factory.mktemp("music")
    time = np.arange(2 * RATE) / RATE
    for split, count in (("train", 3), ("test", 2)):
        for k in range(count):
            folder = root / split / f"song{k}"
            folder.mkdir(parents=True)
            low = 0.3 * np.sin(2 * np.pi * (150 + 20 * k) * time)
            high = 0.3 * np.sin(2 * np.pi * (2000 + 100 * k) * time)
            for stem, wave in (("low", low), ("high", high), ("mixture", low + high)):
                soundfile.write(folder / f"{stem}.wav", wave, RATE)
    return root


SETTINGS = {"bands": generic_bands(4, RATE, 256), "sample_rate": RATE, "width": 4, "depth": 2, "n_fft": 256, "hop": 64}


def test_training_improves_held_out_songs(songs: Path) -> None:
    from recipes.music_separation.data import read_songs

    torch.manual_seed(0)
    train, kept = hold_out(read_songs(songs / "", "train"), 1)
    assert (len(train), len(kept)) == (2, 1)
    net = BSRNN(**SETTINGS)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    before = mean_improvement(validate(net, read_songs(songs, "test"), "low"))
    for mixture, target in make_loader(train, "low", steps=40, batch=4, seconds=0.25):
        optimizer.zero_grad()
        separation_loss(net(mixture), target, mixture, n_fft=256, hop=64).backward()
        optimizer.step()
    scores = validate(net, read_songs(songs, "test"), "low", seconds=1.0)
    assert [score.song for score in scores] == ["song0", "song1"]
    assert abs(scores[0].mixture) < 0.5
    assert mean_improvement(scores) > max(6, before + 3)
    assert net.training
    assert 0 < real_time_factor(net, RATE, seconds=0.5, repeats=2) < 10


def test_separate_from_the_command_line(songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    net = elastify(BSRNN(**SETTINGS), torch.randn(2, 2000), verify=False)
    small = extract(net, 0.5)
    save_separator(small, tmp_path / "model", SETTINGS, "low")
    loaded, notes = load_separator(tmp_path / "model")
    assert notes["target"] == "low"
    wave = torch.randn(2, 2000)
    torch.testing.assert_close(loaded(wave), small.eval()(wave))

    stereo = np.stack([np.full(3 * RATE + 11, 0.9), np.linspace(-1, 1, 3 * RATE + 11)], 1)
    soundfile.write(tmp_path / "song.wav", stereo, RATE)
    arguments = [str(tmp_path / "song.wav"), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out.wav")]
    assert main(arguments) == 0
    out, rate = soundfile.read(tmp_path / "out.wav")
    assert (out.shape, rate) == (stereo.shape, RATE)
    assert np.isfinite(out).all()
    assert soundfile.info(tmp_path / "out.wav").subtype == "FLOAT"

    soundfile.write(tmp_path / "song.wav", stereo, 44100)
    assert main(arguments) == 2
    assert "44100 Hz, the network was trained at 8000 Hz" in capsys.readouterr().err
    soundfile.write(tmp_path / "song.wav", stereo[:0], RATE)
    assert main(arguments) == 2
    assert "empty" in capsys.readouterr().err
    (tmp_path / "song.wav").write_bytes(b"no audio")
    assert main(arguments) == 2
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "song.wav").unlink()
    assert main(arguments) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_foreign_folder(tmp_path: Path) -> None:
    with pytest.raises(ElastifyError, match="no separator is saved here"):
        load_separator(tmp_path)
