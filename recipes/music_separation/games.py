"""The music of four free games as multi-track songs: drums, bass, lead and other.

Debian's packages are fetched and unpacked, not installed (`apt-get download`, `dpkg -x`); Freedoom's tracks lie as
MIDI lumps inside WAD archives. Every MIDI channel of a file goes to one stem: channel 10 to the drums; a channel that
mostly plays a bass program (32-39, contrabass 43, tuba 58) to the bass; of the channels with a voice, brass, reed, pipe
or synth lead program the one that plays one note at a time, high and much, is the lead; all others are other.
The excerpt of a song is the window in which its rarest stem sounds longest; songs in which a stem hardly sounds are
left out. The lead is an instrument, not a singer. Songs alternate between the sources, each in a fixed shuffled order.
"""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import struct
import subprocess
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from elastify import ElastifyError

from .synth import DRUM_CHANNEL, Events, require

STEMS = ("drums", "bass", "lead", "other")
VERSION = 1  # to be raised when the songs change: prepared data are made again
BALANCE = False
TARGET = "drums"
PACKAGES = {
    "freedoom": "usr/share/games/doom/*.wad",
    "simutrans-data": "usr/share/games/simutrans/music/*.mid",
    "openttd-openmsx": "usr/share/games/openttd/baseset/openmsx/*.mid",
    "planetblupi-music-midi": "usr/share/planetblupi/music/*.mid",
}
LICENCE = (
    "music of Freedoom (BSD-3), Simutrans (Artistic-1.0), OpenTTD's OpenMSX and Planet Blupi (GPL), from Debian, "
    "rendered with the TimGM6mb soundfont (GPL-2)"
)
BASS = {*range(32, 40), 43, 58}
LEAD = {52, 53, 54, *range(56, 58), *range(59, 88)}
MIN_SOUNDING = 0.25  # of the excerpt, for every stem


@dataclass(frozen=True, slots=True)
class Note:
    """One note of a channel; times in seconds."""

    channel: int
    program: int
    start: float
    stop: float
    pitch: int


def scores(seconds: float, folder: Path) -> Iterator[tuple[str, dict[str, Events]]]:
    """(name, events of each stem) of one song after another; packages are kept unpacked in `folder`."""
    require("mido")
    from mido import KeySignatureError

    sources = []
    for package in PACKAGES:
        files = sorted(_midi_files(package, folder / "debian"))
        random.Random(0).shuffle(files)
        sources.append(files)
    seen: set[str] = set()
    for name, data in chain.from_iterable(zip_longest(*sources, fillvalue=("", b""))):
        digest = hashlib.sha256(data).hexdigest()
        if not data or digest in seen:
            continue
        seen.add(digest)
        try:
            events = read_midi(data)
        except (OSError, ValueError, EOFError, KeyError, IndexError, KeySignatureError) as error:
            warnings.warn(f"{name}: not a readable MIDI file, left out ({error})", stacklevel=2)
            continue
        song = excerpt(events, seconds)
        if song is not None:
            yield name, song


def _midi_files(package: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    root = folder / package
    if not root.is_dir():
        _unpack(package, root)
    for path in sorted(root.glob(PACKAGES[package])):
        data = path.read_bytes()
        lumps = _midi_lumps(data) if path.suffix == ".wad" else [(path.stem, data)]
        for name, lump in lumps:
            yield f"{package.split('-')[0]}-{path.stem + '-' if path.suffix == '.wad' else ''}{name}".lower(), lump


def _unpack(package: str, root: Path) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise ElastifyError(
            "the game music comes in Debian packages",
            where=package,
            why="there is no apt-get here",
            fix="use the chorales (--data chorales), or give a folder of your own",
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as partial:
        commands = (["apt-get", "-q", "download", package], ["dpkg", "-x", "{deb}", "unpacked"])
        for command in commands:
            debs = [str(path) for path in Path(partial).glob("*.deb")]
            done = subprocess.run(
                [debs[0] if word == "{deb}" else word for word in command], cwd=partial, capture_output=True, text=True
            )
            if done.returncode:
                raise ElastifyError(
                    f"{command[0]} failed for {package}",
                    where="prepare",
                    why=done.stderr.strip()[-300:],
                    fix="run `apt-get update` first and see that the network is there",
                )
        (Path(partial) / "unpacked").rename(root)


def _midi_lumps(wad: bytes) -> list[tuple[str, bytes]]:
    """The lumps of a Doom archive that hold MIDI: a directory of (offset, size, 8 letters) stands at its end."""
    count, directory = struct.unpack_from("<ii", wad, 4)
    lumps = []
    for k in range(count):
        offset, size, name = struct.unpack_from("<ii8s", wad, directory + 16 * k)
        if wad[offset : offset + 4] == b"MThd":
            lumps.append((name.rstrip(b"\0").decode("ascii", "replace"), wad[offset : offset + size]))
    return lumps


def read_midi(data: bytes) -> list[tuple[float, Any]]:
    """(seconds, message) of all channel messages of a MIDI file, tracks merged, tempo applied."""
    import mido

    now = 0.0
    events = []
    for message in mido.MidiFile(file=io.BytesIO(data)):
        now += message.time
        if not message.is_meta and hasattr(message, "channel"):
            events.append((now, message))
    return events


def notes_of(events: Events) -> list[Note]:
    """Notes with their ends; one that is never ended is dropped."""
    programs: dict[int, int] = defaultdict(int)
    open_notes: dict[tuple[int, int], tuple[float, int]] = {}
    notes = []
    for time, message in events:
        if message.type == "program_change":
            programs[message.channel] = message.program
        elif message.type in ("note_on", "note_off"):
            key = (message.channel, message.note)
            if key in open_notes:
                start, program = open_notes.pop(key)
                notes.append(Note(message.channel, program, start, time, message.note))
            if message.type == "note_on" and message.velocity > 0:
                open_notes[key] = (time, programs[message.channel])
    return notes


def assign(notes: list[Note]) -> dict[int, str]:
    """Stem of each channel that plays notes."""
    channels: dict[int, list[Note]] = defaultdict(list)
    size = int(max((note.stop for note in notes), default=0.0) * 10) + 1
    for note in notes:
        channels[note.channel].append(note)
    stems: dict[int, str] = {}
    leads: dict[int, float] = {}
    for channel, played in channels.items():
        lengths: dict[int, float] = defaultdict(float)
        for note in played:
            lengths[note.program] += note.stop - note.start
        program = max(lengths, key=lambda p: lengths[p])
        stems[channel] = "drums" if channel == DRUM_CHANNEL else "bass" if program in BASS else "other"
        if stems[channel] == "other" and program in LEAD:
            total = sum(lengths.values())
            voices = total * 10 / max(_sounding(played, size).sum(), 1)
            height = float(np.mean([note.pitch for note in played]))
            leads[channel] = total * (height / 64) / voices**3
    if leads:
        stems[max(leads, key=lambda c: leads[c])] = "lead"
    return stems


def _sounding(notes: list[Note], size: int) -> np.ndarray:
    """Whether at least one note sounds, for each of `size` steps of 0.1 s."""
    grid = np.zeros(size, bool)
    for note in notes:
        grid[int(note.start * 10) : int(note.stop * 10) + 1] = True
    return grid


def excerpt(events: Events, seconds: float) -> dict[str, Events] | None:
    """Events of each stem in the best window, moved to time 0; None where a stem hardly sounds in any window."""
    notes = notes_of(events)
    stem_of = assign(notes)
    if set(stem_of.values()) != set(STEMS):
        return None
    parts = {stem: [note for note in notes if stem_of[note.channel] == stem] for stem in STEMS}
    # A drum hit is over at once whatever the score says, so drums sound around their onsets.
    parts["drums"] = [Note(n.channel, n.program, n.start, n.start + 0.3, n.pitch) for n in parts["drums"]]
    window, end = round(seconds * 10), round(max(note.stop for note in notes) * 10)
    if end < window:
        return None
    total = {stem: np.cumsum(_sounding(part, end + 1)) for stem, part in parts.items()}
    starts = np.arange(0, end - window + 1, 50)
    quietest = np.min([counts[starts + window] - counts[starts] for counts in total.values()], axis=0)
    if quietest.max() < MIN_SOUNDING * window:
        return None
    start = float(starts[quietest.argmax()]) / 10
    song: dict[str, list[tuple[float, Any]]] = {stem: [] for stem in STEMS}
    for time, message in events:
        stem = stem_of.get(message.channel)
        is_note = message.type in ("note_on", "note_off")
        if stem is None or time > start + seconds or (time < start and is_note):
            continue
        song[stem].append((max(0.0, time - start), message))
    return song
