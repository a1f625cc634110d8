"""Real music with its stems, prepared once and kept: the folder layout of MUSDB18-HQ.

    <cache>/music/<kind>-<rate>-<key>/{train,test}/<song>/{mixture,<stem>...}.wav   16 bit, mono
    <cache>/music/<kind>-<rate>-<key>/prepared.json                                  written last

`kind` is `chorales` (pip alone: music21 scores, the four voices as stems) or `games` (Debian: the MIDI files of four
free games, as drums, bass, lead and other). The first songs of the source's fixed order are held out for testing, the
following ones are for training. A song is rendered into a temporary folder and renamed when complete, so that work
broken off goes on where it stopped; `key` stands for all the parameters. The stems of a song are scaled together,
rounded to 16 bit, and added up as integers: the mixture is their sum to the last bit. Where the source has no balance
of its own (a score says nothing about it), its stems are first brought to one loudness.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from elastify import ElastifyError

from . import chorales, games
from .synth import Events, default_soundfont, render

MARKER = "prepared.json"
PEAK = 0.8
SOURCES = {"chorales": chorales, "games": games}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A data folder with its stems, the one that a small network learns best, and the licence to state with results."""

    root: Path
    stems: tuple[str, ...]
    target: str
    licence: str


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/elastify`, or `~/.cache/elastify`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elastify"


def prepare(
    kind: str = "chorales",
    *,
    cache: Path | None = None,
    sample_rate: int = 22050,
    seconds: float = 30.0,
    train: int = 20,
    test: int = 5,
    soundfont: Path | None = None,
    quiet: bool = False,
) -> Prepared:
    """Make, finish or find the data of one kind; raises ElastifyError where a source or a package is missing."""
    if kind not in SOURCES:
        raise ElastifyError(
            f"no music called {kind!r}", where="prepare", fix=f"choose {' or '.join(SOURCES)}, or give a folder"
        )
    source = SOURCES[kind]
    font = Path(soundfont) if soundfont else default_soundfont()
    settings = {
        "kind": kind,
        "source": source.VERSION,
        "sample_rate": sample_rate,
        "seconds": seconds,
        "train": train,
        "test": test,
        "soundfont": font.name,
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    root = (cache or default_cache()) / "music" / f"{kind}-{sample_rate}-{key}"
    done = Prepared(root, source.STEMS, source.TARGET, source.LICENCE)
    if (root / MARKER).is_file():
        return done
    root.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    with _progress(quiet) as progress:
        task = progress.add_task(f"preparing {kind}", total=train + test)
        for name, parts in islice(source.scores(seconds, root.parent), train + test):
            split = "test" if len(written) < test else "train"
            _write_song(root / split / name, parts, seconds, sample_rate, font, source.BALANCE)
            written.append(f"{split}/{name}")
            progress.advance(task)
    if len(written) < train + test:
        raise ElastifyError(
            f"{kind} has only {len(written)} usable songs, {train + test} were asked for",
            where="prepare",
            fix="ask for fewer or shorter songs",
        )
    _write_atomically(root / MARKER, json.dumps({**settings, "stems": source.STEMS, "songs": written}, indent=1))
    return done


def _progress(quiet: bool) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), disable=quiet)


def _write_song(
    folder: Path, parts: Mapping[str, Events], seconds: float, sample_rate: int, soundfont: Path, balance: bool
) -> None:
    if folder.is_dir():
        return
    waves = {stem: render(events, seconds, sample_rate, soundfont) for stem, events in parts.items()}
    if balance:
        waves = {stem: wave / max(float(np.sqrt(np.mean(wave**2))), 1e-6) for stem, wave in waves.items()}
    loudest = max(float(np.abs(wave).max()) for wave in [*waves.values(), sum(waves.values())])
    scale = PEAK * 32767 / max(loudest, 1e-6)
    samples = {stem: np.round(wave * scale).astype(np.int32) for stem, wave in waves.items()}
    samples["mixture"] = sum(samples.values())
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        for stem, wave in samples.items():
            soundfile.write(partial / f"{stem}.wav", wave.astype(np.int16), sample_rate, subtype="PCM_16")
        partial.chmod(0o755)
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process may have finished the same song meanwhile
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
