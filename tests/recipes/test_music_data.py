"""Reading of song folders: what is made of good ones, and what is said about bad ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from elastify import ElastifyError
from recipes.music_separation.data import Chunks, read_songs

RATE = 8000
STEMS = ("drums", "lead")


def write_songs(root: Path, *, songs: int = 3, channels: int = 1, seconds: float = 1.0) -> Path:
    rng = np.random.default_rng(0)
    for k in range(songs):
        folder = root / "train" / f"song{k}"
        folder.mkdir(parents=True)
        waves = {stem: rng.uniform(-0.3, 0.3, (round(seconds * RATE), channels)) for stem in STEMS}
        waves["mixture"] = np.sum(list(waves.values()), axis=0)
        for stem, wave in waves.items():
            soundfile.write(folder / f"{stem}.wav", wave, RATE, subtype="FLOAT")
    return root


def test_reads_mono_and_stereo(tmp_path: Path) -> None:
    for channels in (1, 2):
        songs = read_songs(write_songs(tmp_path / str(channels), channels=channels), "train")
        assert [song.name for song in songs] == ["song0", "song1", "song2"]
        assert songs[0].stems == STEMS
        assert (songs[0].frames, songs[0].sample_rate, songs[0].channels) == (RATE, RATE, channels)
        total = sum(songs[0].read(stem, 100, 50) for stem in STEMS)
        np.testing.assert_allclose(songs[0].read("mixture")[:, 100:150], total, atol=1e-6)


def test_chunks_are_deterministic_and_add_up(tmp_path: Path) -> None:
    songs = read_songs(write_songs(tmp_path, channels=2), "train", STEMS)
    plain = Chunks(songs, "lead", seconds=0.25, seed=3, gain_db=0.0, drop=0.0, remix=0.0)
    for index in range(5):
        mixture, target = plain[index]
        assert mixture.shape == target.shape == (RATE // 4,)
        again = Chunks(songs, "lead", seconds=0.25, seed=3, gain_db=0.0, drop=0.0, remix=0.0)[index]
        assert torch.equal(mixture, again[0])
        assert torch.equal(target, again[1])
        rest = (mixture - target).numpy()
        drums = np.concatenate([song.read("drums") for song in songs])
        places = np.argwhere(np.isclose(drums, rest[0], atol=1e-6))
        spans = [drums[row, start : start + RATE // 4] for row, start in places]
        assert sum(len(span) == len(rest) and np.allclose(span, rest, atol=1e-6) for span in spans) == 1
    assert not torch.equal(plain[0][0], plain[1][0])
    assert not torch.equal(plain[0][0], Chunks(songs, "lead", seconds=0.25, seed=4)[0][0])


def test_gain_drop_and_remix(tmp_path: Path) -> None:
    songs = read_songs(write_songs(tmp_path), "train")
    silent = [not Chunks(songs, "lead", seconds=0.1, drop=0.3, seed=1)[k][1].any() for k in range(200)]
    assert 0.2 < np.mean(silent) < 0.4
    levels = [
        Chunks(songs, "lead", seconds=0.1, drop=0.0, seed=1)[k][1].square().mean().log10() * 10 for k in range(200)
    ]
    level = 10 * np.log10(0.3**2 / 3)
    assert level - 10.5 < min(levels) < level - 8
    assert level + 8 < max(levels) < level + 10.5
    remixed = Chunks(songs, "lead", seconds=0.5, gain_db=0.0, drop=0.0, remix=1.0)
    mixtures = [song.read("mixture") for song in songs]
    windows = [np.lib.stride_tricks.sliding_window_view(m[0], RATE // 2) for m in mixtures]
    found = [
        any(np.isclose(w[:, :8], remixed[k][0][:8].numpy(), atol=1e-6).all(1).any() for w in windows) for k in range(20)
    ]
    assert not all(found)


def test_a_song_shorter_than_a_chunk_is_padded(tmp_path: Path) -> None:
    songs = read_songs(write_songs(tmp_path, seconds=0.1), "train")
    mixture, target = Chunks(songs, "drums", seconds=0.5, drop=0.0)[0]
    assert mixture.shape == (RATE // 2,)
    assert target[: RATE // 10].any()
    assert not target[RATE // 10 :].any()


def wrong(path: Path, frames: int = RATE, rate: int = RATE, channels: int = 2) -> None:
    soundfile.write(path, np.zeros((frames, channels)), rate)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda folder: (folder / "lead.wav").unlink(),
            r"the stem 'lead' is missing[\s\S]*found: drums, mixture[\s\S]*add lead.wav",
        ),
        (lambda folder: (folder / "mixture.wav").unlink(), r"the stem 'mixture' is missing"),
        (
            lambda folder: wrong(folder / "lead.wav", rate=16000),
            r"another sample rate: 16000 Hz where 8000 Hz[\s\S]*-r 8000",
        ),
        (lambda folder: wrong(folder / "lead.wav", channels=1), r"mono where stereo is expected[\s\S]*all to mono"),
        (lambda folder: wrong(folder / "lead.wav", frames=0), r"zero length[\s\S]*lead.wav"),
        (
            lambda folder: wrong(folder / "lead.wav", frames=RATE // 2),
            r"differ in length[\s\S]*lead 4000[\s\S]*truncated",
        ),
        (lambda folder: (folder / "lead.wav").write_bytes(b"RIFF1234"), r"cannot be read[\s\S]*damaged"),
        (
            lambda folder: (folder / "lead.wav").write_bytes((folder / "lead.wav").read_bytes()[:-9000]),
            r"differ in length[\s\S]*truncated",
        ),
    ],
)
def test_bad_folders(tmp_path: Path, break_it, message: str) -> None:
    write_songs(tmp_path, channels=2)
    break_it(tmp_path / "train" / "song1")
    with pytest.raises(ElastifyError) as caught:
        read_songs(tmp_path, "train", STEMS)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "song1" in str(caught.value)


def test_declared_rate_and_channels(tmp_path: Path) -> None:
    write_songs(tmp_path)
    with pytest.raises(ElastifyError, match="8000 Hz where 44100 Hz"):
        read_songs(tmp_path, "train", sample_rate=44100)
    with pytest.raises(ElastifyError, match="mono where stereo"):
        read_songs(tmp_path, "train", channels=2)
    with pytest.raises(ElastifyError, match="no songs for test") as caught:
        read_songs(tmp_path, "test")
    assert "ROOT/train/SONG/mixture.wav" in str(caught.value)
    with pytest.raises(ElastifyError, match="no stem called 'vocals'"):
        Chunks(read_songs(tmp_path, "train"), "vocals")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_samples(tmp_path: Path, value: float) -> None:
    write_songs(tmp_path)
    wave = np.zeros(RATE, np.float32)
    wave[RATE // 2] = value
    soundfile.write(tmp_path / "train" / "song0" / "lead.wav", wave, RATE, subtype="FLOAT")
    song = read_songs(tmp_path, "train")[0]
    assert np.isfinite(song.read("lead", 0, 100)).all()
    with pytest.raises(ElastifyError, match="NaN") as caught:
        song.read("lead")
    assert "first at 0.500 s" in str(caught.value)
    assert "lead.wav" in str(caught.value)


def test_truncated_after_opening(tmp_path: Path) -> None:
    write_songs(tmp_path)
    song = read_songs(tmp_path, "train")[0]
    wrong(song.folder / "lead.wav", frames=RATE // 2, channels=1)
    with pytest.raises(ElastifyError, match="ends early") as caught:
        song.read("lead")
    assert "truncated" in str(caught.value)
