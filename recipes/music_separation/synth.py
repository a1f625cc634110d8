"""MIDI events to sound, in process: one part of a score at a time, dry, so that parts add up to the whole.

A part is a list of timed MIDI messages. They are played into tinysoundfont, which mixes linearly and has neither reverb
nor chorus nor a limiter: the mixture of a song is then exactly the sum of its parts. The soundfont is the
General-MIDI one that pretty_midi carries (TimGM6mb, GPL-2) unless another file is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from elastify import ElastifyError

Events = Sequence[tuple[float, Any]]  # (seconds, mido.Message), in order of time

DRUM_CHANNEL = 9


def require(*modules: str) -> None:
    """Raise with the command to install where one of the modules is missing."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ElastifyError(
            f"preparing music needs {', '.join(missing)}",
            where="music_separation",
            why="not installed here",
            fix="pip install music21 pretty_midi soundfile && pip install --no-deps tinysoundfont==0.3.7\n"
            "         (--no-deps since it would build pyaudio, used only to play sound and not here)",
        )


def default_soundfont() -> Path:
    """The soundfont file inside pretty_midi, found without importing the package."""
    require("pretty_midi")
    spec = find_spec("pretty_midi")
    assert spec is not None
    assert spec.origin is not None
    found = sorted(Path(spec.origin).parent.glob("*.sf2"))
    if not found:
        raise ElastifyError(
            "pretty_midi brought no soundfont", where=spec.origin, fix="give a General-MIDI .sf2 file as soundfont"
        )
    return found[0]


def render(events: Events, seconds: float, sample_rate: int, soundfont: Path | None = None) -> np.ndarray:
    """Sound of one part from time 0: mono float32 [seconds * sample_rate], not normalised, may exceed 1."""
    require("tinysoundfont")
    import tinysoundfont

    synth = tinysoundfont.Synth(gain=-12.0, samplerate=sample_rate)
    font = synth.sfload(str(soundfont or default_soundfont()))
    for channel in range(16):
        synth.program_select(channel, font, 0, 0, channel == DRUM_CHANNEL)
    total = round(seconds * sample_rate)
    blocks = []
    now = 0
    for time, message in events:
        then = min(round(time * sample_rate), total)
        if then > now:
            blocks.append(np.frombuffer(synth.generate_simple(then - now), np.float32).copy())
            now = then
        if now == total:
            break
        _send(synth, message)
    if total > now:
        blocks.append(np.frombuffer(synth.generate_simple(total - now), np.float32).copy())
    return np.concatenate(blocks).reshape(-1, 2).mean(1)


def _send(synth: Any, message: Any) -> None:
    if message.type == "note_on" and message.velocity > 0:
        synth.noteon(message.channel, message.note, message.velocity)
    elif message.type in ("note_on", "note_off"):
        synth.noteoff(message.channel, message.note)
    elif message.type == "program_change":
        synth.program_change(message.channel, message.program, message.channel == DRUM_CHANNEL)
    elif message.type == "control_change":
        synth.control_change(message.channel, message.control, message.value)
    elif message.type == "pitchwheel":
        synth.pitchbend(message.channel, message.pitch + 8192)
