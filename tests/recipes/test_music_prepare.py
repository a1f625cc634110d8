"""Preparation of real music: chorales from the installed corpus, MIDI split into stems, work that was broken off."""

from __future__ import annotations

import io
import json
import struct
from itertools import islice
from pathlib import Path

import mido
import numpy as np
import pytest

from elastify import ElastifyError
from recipes.music_separation import chorales, games, prepare, synth
from recipes.music_separation.data import read_songs


def test_chorales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"cache": tmp_path, "sample_rate": 16000, "seconds": 4.0, "train": 2, "test": 1, "quiet": True}
    rendered = []
    real = prepare.render

    def fail_in_the_second_song(*arguments: object) -> np.ndarray:
        rendered.append(arguments)
        if len(rendered) == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(prepare, "render", fail_in_the_second_song)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare("chorales", **settings)
    (root,) = (tmp_path / "music").glob("chorales-16000-*")
    assert not (root / prepare.MARKER).exists()
    assert len(list(root.glob("*/*"))) == 1  # one song whole, nothing of the other

    made = prepare.prepare("chorales", **settings)
    assert made.root == root
    assert len(rendered) == 6 + 2 * 4
    assert (made.stems, made.target) == (("soprano", "alto", "tenor", "bass"), "soprano")
    assert "Bach" in made.licence
    notes = json.loads((root / prepare.MARKER).read_text())
    assert len(notes["songs"]) == 3

    songs = read_songs(root, "train", made.stems) + read_songs(root, "test", made.stems)
    assert len(songs) == 3
    for song in songs:
        assert (song.frames, song.sample_rate, song.channels) == (64000, 16000, 1)
        mixture = song.read("mixture")
        stems = [song.read(stem) for stem in made.stems]
        np.testing.assert_allclose(sum(stems), mixture, atol=1e-4)
        assert 0.05 < np.abs(mixture).max() <= 0.801
        levels = [20 * np.log10(np.sqrt((stem**2).mean())) for stem in stems]
        assert max(levels) - min(levels) < 0.1

    again = prepare.prepare("chorales", **settings)
    assert again == made
    assert len(rendered) == 6 + 2 * 4


def test_order_of_chorales_is_fixed() -> None:
    names = [name for name, _ in islice(chorales.scores(2.0, Path()), 5)]
    assert len(set(names)) == 5
    assert names[:2] == [name for name, _ in islice(chorales.scores(2.0, Path()), 2)]


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ElastifyError, match="no music called 'polka'") as caught:
        prepare.prepare("polka", cache=tmp_path)
    assert "chorales or games" in str(caught.value)
    with pytest.raises(ElastifyError, match="needs no_such_module") as caught:
        synth.require("no_such_module", "json")
    assert "--no-deps tinysoundfont" in str(caught.value)
    monkeypatch.setattr(games.shutil, "which", lambda _: None)
    with pytest.raises(ElastifyError, match="Debian packages") as caught:
        prepare.prepare("games", cache=tmp_path, quiet=True)
    assert "--data chorales" in str(caught.value)


def midi(parts: dict[int, tuple[int, list[int]]], beats: int = 40) -> bytes:
    """A MIDI file at 120 beats a minute: per channel a program and the pitches that follow each other, one a beat."""
    file = mido.MidiFile(ticks_per_beat=480)
    for channel, (program, pitches) in parts.items():
        track = mido.MidiTrack()
        track.append(mido.Message("program_change", channel=channel, program=program, time=0))
        for beat in range(beats):
            pitch = pitches[beat % len(pitches)]
            track.append(mido.Message("note_on", channel=channel, note=pitch, velocity=90, time=0))
            track.append(mido.Message("note_off", channel=channel, note=pitch, velocity=0, time=480))
        file.tracks.append(track)
    data = io.BytesIO()
    file.save(file=data)
    return data.getvalue()


BAND = {9: (0, [36, 38]), 0: (33, [40, 43]), 1: (73, [72, 76, 79]), 2: (0, [60, 64]), 3: (65, [60])}


def test_channels_become_stems() -> None:
    events = games.read_midi(midi(BAND))
    notes = games.notes_of(events)
    assert len(notes) == 5 * 40
    assert notes[0].stop == pytest.approx(0.5)
    assert games.assign(notes) == {9: "drums", 0: "bass", 1: "lead", 2: "other", 3: "other"}
    song = games.excerpt(events, 10.0)
    assert song is not None
    assert set(song) == set(games.STEMS)
    assert all(0 <= time <= 10 for stem in song.values() for time, _ in stem)
    assert {m.channel for _, m in song["other"]} == {2, 3}
    waves = {stem: synth.render(part, 2.0, 16000) for stem, part in song.items()}
    assert all(wave.shape == (32000,) for wave in waves.values())
    assert min(np.abs(wave).max() for wave in waves.values()) > 1e-3


@pytest.mark.parametrize("without", [9, 0, 1])
def test_songs_without_a_stem_are_left_out(without: int) -> None:
    parts = {channel: part for channel, part in BAND.items() if channel != without}
    if without == 1:
        del parts[3]  # else the saxophone would lead
    assert games.excerpt(games.read_midi(midi(parts)), 10.0) is None
    assert games.excerpt(games.read_midi(midi(BAND, beats=10)), 10.0) is None


def test_games_from_unpacked_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources take turns, repeats and broken files are passed over, Freedoom's lumps are found."""
    data = midi(BAND)
    lumps = [(b"D_E1M1", data), (b"E1M1", b"nothing"), (b"D_E1M2", midi(BAND, beats=50))]
    body = b"".join(lump for _, lump in lumps)
    directory, offset = b"", 12
    for name, lump in lumps:
        directory += struct.pack("<ii8s", offset, len(lump), name)
        offset += len(lump)
    wad = struct.pack("<4sii", b"IWAD", len(lumps), 12 + len(body)) + body + directory
    files = {
        "freedoom/usr/share/games/doom/freedoom1.wad": wad,
        "simutrans-data/usr/share/games/simutrans/music/a.mid": midi(BAND, beats=60),
        "simutrans-data/usr/share/games/simutrans/music/b.mid": b"MThd broken",
        "openttd-openmsx/usr/share/games/openttd/baseset/openmsx/c.mid": data,
        "planetblupi-music-midi/usr/share/planetblupi/music/d.mid": midi(BAND, beats=70),
    }
    for name, content in files.items():
        path = tmp_path / "debian" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.warns(UserWarning, match="simutrans-b: not a readable MIDI file"):
        names = [name for name, _ in games.scores(5.0, tmp_path)]
    assert sorted(name.split("-")[0] for name in names) == ["freedoom", "freedoom", "planetblupi", "simutrans"]

    monkeypatch.setattr(games, "scores", lambda seconds, folder: iter([]))
    with pytest.raises(ElastifyError, match="has only 0 usable songs"):
        prepare.prepare("games", cache=tmp_path / "empty", quiet=True)


def test_rendering_is_linear() -> None:
    """Two parts rendered one by one add up to both rendered together."""
    messages = [
        (0.0, mido.Message("program_change", channel=0, program=11)),
        (0.0, mido.Message("program_change", channel=1, program=60)),
        (0.1, mido.Message("note_on", channel=0, note=60, velocity=90)),
        (0.2, mido.Message("note_on", channel=1, note=67, velocity=100)),
        (0.6, mido.Message("note_off", channel=0, note=60)),
    ]
    both = synth.render(messages, 1.0, 16000)
    parts = [synth.render([e for e in messages if e[1].channel == channel], 1.0, 16000) for channel in (0, 1)]
    np.testing.assert_allclose(parts[0] + parts[1], both, atol=1e-4)
    assert not both[: int(0.1 * 16000)].any()
