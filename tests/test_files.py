"""Pairs of JSON and tensors: an edit is noticed, a crash leaves the old pair or the new one, all else is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from elastify import ElastifyError
from elastify._files import FileKind, read_object, sealed

KIND = FileKind("thing", "format", {"note": str, "numbers": list}, "write it again")
NOTES = {"note": "änd \ud800 more", "numbers": [1, -2.5, 1e300, 7, True, None, float("inf")]}


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 2), value), "b": torch.tensor(value > 0), "none": torch.zeros(0, 4)}


def write(folder: Path, value: float) -> None:
    KIND.write_pair(folder / "thing.json", "thing.safetensors", {**NOTES, "value": value}, tensors(value))


def read(folder: Path) -> float:
    notes, found = KIND.read_pair(folder / "thing.json")
    assert {name: notes[name] for name in NOTES} == NOTES
    assert found.keys() == tensors(0).keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors(notes["value"]).items())
    return notes["value"]


def refused(folder: Path, text: str) -> None:
    with pytest.raises(ElastifyError, match=text) as caught:
        read(folder)
    assert str(folder) in str(caught.value)


def test_a_pair_comes_back(tmp_path: Path) -> None:
    write(tmp_path, 1.0)
    assert read(tmp_path) == 1.0
    write(tmp_path, 2.0)
    assert read(tmp_path) == 2.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thing.json", "thing.safetensors"]


def test_every_edited_character_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1.0)
    path = tmp_path / "thing.json"
    text = path.read_text()
    for place, old in enumerate(text):
        for new in {str((int(old) + 1) % 10), ""} if old.isdigit() else {"", "x"}:
            path.write_text(text[:place] + new + text[place + 1 :])
            with suppress(ElastifyError):
                assert read(tmp_path) == 1.0, f"{old!r} at {place} made {new!r}"


def test_tensors_of_another_pair_are_noticed(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        (tmp_path / str(value)).mkdir()
        write(tmp_path / str(value), value)
    (tmp_path / "1.0" / "thing.json").replace(tmp_path / "2.0" / "thing.json")
    refused(tmp_path / "2.0", "the checksum of a is wrong")


class Crash(BaseException):
    pass


@pytest.mark.parametrize("moment", range(12))
def test_a_crash_at_any_moment_leaves_the_old_pair_or_the_new_one(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1.0)
    left = moment

    def crashing(work):
        def run(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return work(*args, **kwargs)

        return run

    for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "write_text"), (Path, "touch")):
        monkeypatch.setattr(owner, name, crashing(getattr(owner, name)))
    try:
        write(tmp_path, 2.0)
        crashed = False
    except Crash:
        crashed = True
    monkeypatch.undo()
    assert read(tmp_path) in ((1.0, 2.0) if crashed else (2.0,))
    write(tmp_path, 2.0)
    assert read(tmp_path) == 2.0
    write(tmp_path, 3.0)
    assert read(tmp_path) == 3.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thing.json", "thing.safetensors"]


def test_a_crash_before_the_tensors_have_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1.0)
    replace = os.replace

    def crashing(old: Path, new: Path) -> None:
        if Path(new).name == "thing.safetensors":
            raise Crash
        replace(old, new)

    monkeypatch.setattr(os, "replace", crashing)
    with pytest.raises(Crash):
        write(tmp_path, 2.0)
    assert read(tmp_path) == 2.0, "the JSON is the new one, its tensors are found under their hidden name"
    with pytest.raises(Crash):
        write(tmp_path, 2.0)
    assert read(tmp_path) == 2.0


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from elastify import ElastifyError
from tests.test_files import KIND, NOTES, tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    KIND.write_pair(Path(sys.argv[1]) / "thing.json", "thing.safetensors", NOTES, {"a": torch.zeros(5000)})
except ElastifyError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [0, 100, 8192])
def test_a_full_disk_is_said_and_the_old_pair_stays(room: int, tmp_path: Path) -> None:
    write(tmp_path, 1.0)
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), str(room)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert "the thing cannot be written" in run.stdout
    assert "too large" in run.stdout
    assert read(tmp_path) == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thing.json", "thing.safetensors"]


@pytest.mark.parametrize("name", ["touch", "write_text", "chmod"])
def test_a_folder_that_cannot_be_written_is_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1.0)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(ElastifyError, match=r"cannot be written[\s\S]*Permission denied[\s\S]*another folder"):
        write(tmp_path, 2.0)
    monkeypatch.undo()
    assert read(tmp_path) == 1.0
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_no_such_file(tmp_path: Path) -> None:
    path = tmp_path / "thing.json"
    refused(tmp_path, "thing.json: it does not exist")
    path.mkdir()
    refused(tmp_path, "thing.json: it is not a file")
    path.rmdir()
    os.mkfifo(path)
    refused(tmp_path, "thing.json: it is not a file")
    path.unlink()
    for text, why in [
        (b"", "Expecting value"),
        (b"\xff\xfe", "decode"),
        (b"[1]", "not a JSON object"),
        (b'{"a": ' * 100_000, "recursion|Expecting"),
        (b'{"a": ' * 70 + b"1" + b"}" * 70, "nested too deeply"),
        (b'{"format": %s}' % (b"9" * 5000), "digits"),
        (b'{"format": true}', "no format number"),
        (b'{"format": 0}', "no format number"),
        (b'{"format": 2}', "checksum of thing.json is wrong"),
        (sealed({"format": 2, "note": 3, "numbers": []}).encode(), "'note' is missing or not a str"),
        (sealed({"format": 2, "note": "", "numbers": []}).encode(), "its tensors, '', are missing"),
        (sealed({"format": 2, "note": "", "numbers": [], "weights": "../a.safetensors"}).encode(), "are missing"),
        (sealed({"format": 9, "version": "7"}).encode(), r"format 9, newer than 2[\s\S]*elastify 7[\s\S]*upgrade"),
    ]:
        path.write_bytes(text)
        refused(tmp_path, why)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    refused(tmp_path, "more than 67108864 bytes")


def test_what_is_too_large_to_be_read_is_not_written(tmp_path: Path) -> None:
    deep: object = 1
    for _ in range(70):
        deep = [deep]
    with pytest.raises(ElastifyError, match="too large"):
        KIND.write_pair(tmp_path / "thing.json", "thing.safetensors", {**NOTES, "deep": deep}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("whole", [True, False])
def test_format_1_is_read_with_a_warning(whole: bool, tmp_path: Path) -> None:
    write(tmp_path, 1.0)
    path, weights = tmp_path / "thing.json", tmp_path / "thing.safetensors"
    notes = json.loads(path.read_text())
    del notes["sha256"]
    notes["format"] = 1
    if whole:  # checkpoints noted the file, saved models each tensor
        del notes["tensors"]
        notes.update(bytes=weights.stat().st_size, crc32=zlib.crc32(weights.read_bytes()))
    path.write_text(json.dumps(notes))
    with pytest.warns(UserWarning, match="earlier version, without a checksum"):
        assert read(tmp_path) == 1.0
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.warns(UserWarning, match="without a checksum"):
        refused(tmp_path, "the checksum of .* is wrong")


def test_objects_of_anybody(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"epochs": 2}')
    assert read_object(tmp_path / "a.json") == {"epochs": 2}
