"""Songs in the layout of MUSDB18-HQ, and random training examples cut out of them.

    root/{train,test}/<song>/{mixture,<stem>...}.wav

`read_songs` looks at the headers of all files and refuses a folder that does not fit together; the samples themselves
are read when needed, by seeking, and checked then. `Chunks` makes example number i from a random generator seeded
with (seed, i) alone: all stems come from one song and place, or (remix) each from one of its own; each is scaled by a
random gain and left out now and then; one channel is taken, as every channel is a mono example; the sum of the
stems is the mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import Dataset

from elastify import ElastifyError


@dataclass(frozen=True, slots=True)
class Song:
    """One song folder: length in samples, rate in Hz, number of channels, the same for all its files."""

    folder: Path
    stems: tuple[str, ...]
    frames: int
    sample_rate: int
    channels: int

    @property
    def name(self) -> str:
        return self.folder.name

    def read(self, stem: str, start: int = 0, frames: int = -1) -> np.ndarray:
        """Samples of a stem or of `"mixture"`: float32 [channels, frames], frames=-1 up to the end."""
        path = self.folder / f"{stem}.wav"
        wanted = self.frames - start if frames < 0 else frames
        with soundfile.SoundFile(path) as file:
            file.seek(start)
            wave = file.read(wanted, dtype="float32", always_2d=True).T
        if wave.shape[1] != wanted:
            raise ElastifyError(
                "an audio file ends early",
                where=str(path),
                why=f"{wave.shape[1]} of {wanted} samples could be read",
                fix="the file is truncated: copy it again",
            )
        if not np.isfinite(wave).all():
            bad = start + int(np.argmax(~np.isfinite(wave).all(0)))
            raise ElastifyError(
                "NaN or infinite samples in an audio file",
                where=str(path),
                why=f"first at {bad / self.sample_rate:.3f} s",
                fix="write the file again or remove the song",
            )
        return wave


def read_songs(
    root: Path | str,
    split: str,
    stems: Sequence[str] | None = None,
    *,
    sample_rate: int | None = None,
    channels: int | None = None,
) -> list[Song]:
    """The songs of `root/split`, by name. `stems=None`: those of the first song.

    `sample_rate` and `channels`, where not given, are those of the first file; a file that differs is an error.
    Stem files that are not asked for may be there; the mixture and those asked for must.
    """
    folder = Path(root) / split
    folders = (
        sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if folder.is_dir()
        else []
    )
    if not folders:
        raise ElastifyError(
            f"no songs for {split}",
            where=str(folder),
            why="no such folder, or no song folder in it",
            fix="lay the data out as ROOT/train/SONG/mixture.wav with one WAV per stem, and ROOT/test in the same way",
        )
    if stems is None:
        stems = sorted(path.stem for path in folders[0].glob("*.wav") if path.stem != "mixture")
    songs: list[Song] = []
    for path in folders:
        song = _open(path, tuple(stems), sample_rate, channels)
        sample_rate, channels = song.sample_rate, song.channels
        songs.append(song)
    return songs


def _open(folder: Path, stems: tuple[str, ...], sample_rate: int | None, channels: int | None) -> Song:
    frames: dict[str, int] = {}
    for stem in ("mixture", *stems):
        path = folder / f"{stem}.wav"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in folder.glob("*.wav"))) or "no WAV file"
            raise ElastifyError(
                f"the stem {stem!r} is missing",
                where=str(folder),
                why=f"found: {there}",
                fix=f"add {stem}.wav (silence where the song lacks it), or name the stems that your songs have",
            )
        try:
            info = soundfile.info(path)
        except soundfile.LibsndfileError as error:
            raise ElastifyError(
                "an audio file cannot be read",
                where=str(path),
                why=str(error.error_string),
                fix="the file is damaged or no WAV: write it again",
            ) from error
        if info.frames == 0:
            raise ElastifyError(
                "an audio file of zero length", where=str(path), fix="remove the song, or write the file again"
            )
        sample_rate = sample_rate or info.samplerate
        channels = channels or info.channels
        if info.samplerate != sample_rate:
            raise ElastifyError(
                f"another sample rate: {info.samplerate} Hz where {sample_rate} Hz is expected",
                where=str(path),
                why="all files of a data set must have one rate, that of the model",
                fix=f"resample it: sox IN.wav -r {sample_rate} OUT.wav",
            )
        if info.channels != channels:
            raise ElastifyError(
                f"{_channels(info.channels)} where {_channels(channels)} is expected",
                where=str(path),
                why="all files of a data set must have the same channels",
                fix="convert all to stereo or all to mono: sox IN.wav -c 2 OUT.wav",
            )
        frames[stem] = info.frames
    if len(set(frames.values())) > 1:
        raise ElastifyError(
            "the files of a song differ in length",
            where=str(folder),
            why=", ".join(f"{stem} {n}" for stem, n in frames.items()) + " samples",
            fix="a file is truncated or not aligned: write the song again",
        )
    return Song(folder, stems, frames["mixture"], sample_rate or 0, channels or 0)


def _channels(count: int) -> str:
    return {1: "mono", 2: "stereo"}.get(count, f"{count} channels")


class Chunks(Dataset):
    """`length` random (mixture, target) pairs, each a float32 tensor [samples], the same for the same seed.

    `gain_db` is the largest gain up or down, `drop` the chance that a stem is silent, `remix` the chance that the
    stems of an example come from different songs and places.
    """

    def __init__(
        self,
        songs: Sequence[Song],
        target: str,
        *,
        seconds: float = 1.5,
        length: int = 1000,
        seed: int = 0,
        gain_db: float = 10.0,
        drop: float = 0.1,
        remix: float = 0.5,
    ) -> None:
        if target not in songs[0].stems:
            raise ElastifyError(
                f"no stem called {target!r}", where="Chunks", fix=f"choose one of {', '.join(songs[0].stems)}"
            )
        self.songs = list(songs)
        self.target = target
        self.samples = round(seconds * songs[0].sample_rate)
        self.length = length
        self.seed = seed
        self.gain_db, self.drop, self.remix = gain_db, drop, remix

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        song, start, channel = self._place(rng)
        remix = rng.random() < self.remix
        mixture = np.zeros(self.samples, np.float32)
        target = mixture
        for stem in song.stems:
            if remix:
                song, start, channel = self._place(rng)
            gain = 10 ** (rng.uniform(-self.gain_db, self.gain_db) / 20)
            if rng.random() < self.drop:
                continue
            wave = np.zeros(self.samples, np.float32)
            part = song.read(stem, start, min(self.samples, song.frames))[channel]
            wave[: len(part)] = gain * part
            mixture = mixture + wave
            if stem == self.target:
                target = wave
        return torch.from_numpy(mixture), torch.from_numpy(target)

    def _place(self, rng: np.random.Generator) -> tuple[Song, int, int]:
        song = self.songs[rng.integers(len(self.songs))]
        start = int(rng.integers(max(1, song.frames - self.samples + 1)))
        return song, start, int(rng.integers(song.channels))
