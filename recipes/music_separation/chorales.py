"""Bach's four-part chorales as multi-track songs: music21's corpus, one instrument per voice.

Scores with exactly the voices soprano, alto, tenor and bass are taken in a fixed shuffled order until there are enough;
a chorale whose melody opens as one already taken is passed over, since the same tunes occur in several
settings and none may stand both in training and in testing. Each is played at its own tempo, with slightly uneven
loudness and timing, and repeated where it is shorter than the excerpt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from .synth import Events, require

STEMS = ("soprano", "alto", "tenor", "bass")
VERSION = 1  # to be raised when the songs change: prepared data are made again
BALANCE = True
TARGET = "soprano"
# General-MIDI programs, counted from 0.
PROGRAMS = {"soprano": 68, "alto": 11, "tenor": 60, "bass": 32}
LICENCE = (
    "Bach chorales as encoded in music21's corpus (music out of copyright; encodings under the terms noted in them, "
    "music21 itself BSD-3), rendered with the TimGM6mb soundfont (GPL-2)"
)


def scores(seconds: float, folder: Path) -> Iterator[tuple[str, dict[str, Events]]]:
    """(name, events of each voice) of one chorale after another, always in the same order; `folder` is not used."""
    require("music21", "mido")
    from music21 import converter, corpus

    paths = {path.stem: path for path in map(Path, corpus.getComposer("bach")) if path.suffix == ".mxl"}
    names = sorted(paths)
    random.Random(0).shuffle(names)
    tunes: set[tuple[int, ...]] = set()
    for name in names:
        score = converter.parse(paths[name])
        parts = {str(part.partName).lower(): part for part in score.parts}
        if len(score.parts) != 4 or set(parts) != set(STEMS):
            continue
        notes = {voice: _notes(parts[voice]) for voice in STEMS}
        melody = [pitch for _, _, pitch in notes["soprano"]]
        tune = tuple(b - a for a, b in pairwise(melody[:10]))
        if tune in tunes or not all(notes.values()):
            continue
        tunes.add(tune)
        yield name, _perform(name, notes, float(score.duration.quarterLength), seconds)


def _notes(part: Any) -> list[tuple[float, float, int]]:
    """(start, length, MIDI pitch), times in quarter notes, ties joined."""
    return [
        (float(note.offset), float(note.quarterLength), int(note.pitch.midi))
        for note in part.stripTies().flatten().notes
        if note.isNote and note.quarterLength > 0
    ]


def _perform(name: str, notes: dict[str, list], quarters: float, seconds: float) -> dict[str, Events]:
    from mido import Message

    rng = random.Random(name)
    beat = 60 / rng.uniform(66, 96)
    song: dict[str, Events] = {}
    for channel, (voice, melody) in enumerate(notes.items()):
        events = [(0.0, Message("program_change", channel=channel, program=PROGRAMS[voice]))]
        offset = 0.0
        while offset < seconds:
            for start, length, pitch in melody:
                on = max(0.0, offset + start * beat + rng.gauss(0, 0.01))
                off = on + max(0.05, length * beat * 0.95)
                velocity = round(min(max(rng.gauss(90, 12), 40), 127))
                events.append((on, Message("note_on", channel=channel, note=pitch, velocity=velocity)))
                events.append((off, Message("note_off", channel=channel, note=pitch)))
            offset += (quarters + 1) * beat
        song[voice] = sorted(events, key=lambda event: event[0])
    return song
