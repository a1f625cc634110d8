"""Files that can tell whether they are what was written: JSON with its own checksum, and the tensors beside it.

A file of JSON ends with the SHA-256 of all the rest, written in one canonical way, so that an edited digit is noticed.
It is read within limits of size and nesting, and its fields have the types that its kind asks for. Tensors stand in a
file of safetensors, which the JSON names together with shape, type and checksum of each.

The two are replaced as one. New tensors are first written under a hidden name that ends with the checksum of the new
JSON; renaming the JSON over the old one is the moment at which the new pair begins to exist; then the tensors get
their own name. Who reads looks for the hidden name first, so that at any moment either the old pair or the new one is
found, whole. All is on the disk before anything names it. Reading runs no code of the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from elastify._errors import ElastifyError

_MAX_BYTES, _MAX_NESTING = 1 << 26, 64
_CHECKSUM = "sha256"
_WEIGHTS = re.compile(r"[\w-]{1,80}\.safetensors")
_FORMAT = 2
"""Of all kinds of files; those of format 1 have no checksum of the JSON."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a JSON file holds, in messages; the name of its format number; its other fields and their types."""

    what: str
    number: str
    fields: Mapping[str, type]
    fix: str

    def damaged(self, where: Path, why: str) -> ElastifyError:
        """The error for a file that cannot be believed."""
        what = f"the {self.what} is damaged or was not written by elastify"
        return ElastifyError(what, where=str(where), why=why, fix=self.fix)

    def read(self, path: Path) -> dict[str, Any]:
        """What a JSON file holds; ElastifyError if it is not what was written."""
        try:
            notes = read_object(path)
        except ElastifyError as error:
            raise self.damaged(path.parent, error.why) from None
        number = notes.get(self.number)
        if type(number) is not int or number < 1:
            raise self.damaged(path.parent, f"{path.name} has no format number")
        if number > _FORMAT:
            raise ElastifyError(
                f"the {self.what} has format {number}, newer than {_FORMAT}",
                where=str(path.parent),
                why=f"it was written by elastify {notes.get('version', 'of a later version')}",
                fix="pip install --upgrade elastify",
            )
        if _CHECKSUM in notes or number > 1:
            if notes.pop(_CHECKSUM, None) != _digest(notes):
                raise self.damaged(path.parent, f"the checksum of {path.name} is wrong")
        else:
            warnings.warn(f"{path} is of an earlier version, without a checksum: write it again", stacklevel=3)
        for name, kind in self.fields.items():
            if type(notes.get(name)) is not kind:
                raise self.damaged(path.parent, f"{path.name}: {name!r} is missing or not a {kind.__name__}")
        return notes

    def write_pair(self, path: Path, weights: str, notes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Replace a JSON file and its tensors, or leave the old ones and say why."""
        noted = {name: _entry(tensor) for name, tensor in tensors.items()}
        notes = {**notes, self.number: _FORMAT, "weights": weights, "tensors": noted}
        text, digest = sealed(notes), _digest(notes)
        if len(text) > _MAX_BYTES or not _is_shallow(notes):
            why = f"{path.name} would have {len(text)} bytes, or more than {_MAX_NESTING} levels"
            raise ElastifyError(f"the {self.what} is too large", where=str(path.parent), why=why)
        hidden = _hidden(path, weights, digest)
        with self.writing(path.parent):
            known = hidden.exists()  # then it is the old pair's, which was not finished, and the new one is the same
            replace(hidden, lambda file: save_file(dict(tensors), file))
            try:
                replace(path, lambda file: file.write_text(text, encoding="utf-8"))
            except OSError:  # the disk is full: the JSON is the old one still
                remove([] if known else [hidden])
                raise
            os.replace(hidden, path.with_name(weights))
            _sync(path.parent)
        remove([*path.parent.glob(f".{path.name}.*"), *path.parent.glob(f".{weights}.*")])

    @contextmanager
    def writing(self, folder: Path) -> Iterator[None]:
        """Around what writes there: a full disk or a folder that is read-only is an error that says so."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise ElastifyError(
                f"the {self.what} cannot be written",
                where=str(folder),
                why=_reason(error),
                fix="make room, or use another folder; what was there before can still be read",
            ) from error

    def read_pair(self, path: Path, weights: str = "") -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `write_pair` wrote; a second look where somebody has replaced it during the first.

        `weights` is the file of the tensors where earlier versions did not note it.
        """
        try:
            return self._read_pair(path, weights)
        except ElastifyError:
            return self._read_pair(path, weights)

    def _read_pair(self, path: Path, weights: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        notes, folder = self.read(path), path.parent
        weights = notes.get("weights", weights)
        if not isinstance(weights, str) or not _WEIGHTS.fullmatch(weights):
            raise self.damaged(folder, f"its tensors, {weights!r}, are missing")
        hidden, own = _hidden(path, weights, _digest(notes)), path.with_name(weights)
        file = hidden if hidden.is_file() else own
        if not file.is_file():
            raise self.damaged(folder, f"its tensors, {weights!r}, are missing")
        try:
            with safe_open(file, framework="pt") as opened:
                names = set(opened.keys())
                noted = notes.get("tensors") or {}
                if "tensors" not in notes:  # a checkpoint of format 1
                    whole = [file.stat().st_size, zlib.crc32(file.read_bytes())]
                    if whole != [notes.get("bytes"), notes.get("crc32")]:
                        raise self.damaged(folder, f"the checksum of {weights} is wrong")
                elif not isinstance(noted, dict) or names != set(noted):
                    different = ", ".join(sorted(names ^ set(noted))[:4])
                    raise self.damaged(folder, f"the two files do not list the same tensors: {different}")
                tensors = {name: opened.get_tensor(name) for name in sorted(names)}
        except (SafetensorError, OSError, TypeError) as error:
            raise self.damaged(folder, f"{weights}: {_reason(error)}") from None
        for name in noted:
            found, said = _entry(tensors[name]), noted[name]
            if not isinstance(said, dict) or any(said.get(key) != found[key] for key in ("shape", "dtype")):
                why = f"{name} is {found['dtype']} {found['shape']}, {path.name} says otherwise"
                raise self.damaged(folder, why)
            if said.get("crc32") != found["crc32"]:
                raise self.damaged(folder, f"the checksum of {name} is wrong")
        return notes, tensors


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of anybody's: not too large, not too deep; ElastifyError for anything else."""
    try:
        if not path.is_file():
            raise ValueError("it is not a file" if path.exists() else "it does not exist")
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES} bytes")
        with path.open("rb") as file:
            data = json.loads(file.read(_MAX_BYTES).decode("utf-8"))
        if not isinstance(data, dict):
            raise ValueError("it is not a JSON object")
        if not _is_shallow(data):
            raise ValueError("it is nested too deeply")
    except (OSError, ValueError, RecursionError) as error:
        why = f"{path.name}: {_reason(error)}"
        raise ElastifyError("this file cannot be read", where=str(path), why=why) from None
    return data


def _is_shallow(data: Any) -> bool:
    level = [data]
    for _ in range(_MAX_NESTING):
        inside = [item for item in level if isinstance(item, (dict, list))]
        if not inside:
            return True
        level = [part for item in inside for part in (item.values() if isinstance(item, dict) else item)]
    return False


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then rename: a reader finds the old file or the new one, after a power failure too."""
    temporary = path.with_name(f".{path.name.lstrip('.')}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # readable by others as files are here, which safetensors does not heed
        write(temporary)
        temporary.chmod(mode)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException:
        remove([temporary])
        raise


def remove(files: list[Path]) -> None:
    """Take away what nothing names any more; where that cannot be done, it does no harm."""
    for file in files:
        with suppress(OSError):
            file.unlink()


def make_folder(folder: Path, what: str) -> None:
    """A folder to write to; an error before anything has been computed for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ElastifyError(f"a {what} needs a folder", where=str(folder), why=_reason(error)) from None


def _hidden(path: Path, weights: str, digest: str) -> Path:
    return path.with_name(f".{weights}.{digest[:16]}")


def _sync(path: Path) -> None:
    with suppress(OSError) if path.is_dir() else nullcontext():  # not every system does it for folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sealed(notes: Mapping[str, Any]) -> str:
    """The text of a file of JSON with its own checksum."""
    return json.dumps({**notes, _CHECKSUM: _digest(notes)}, indent=1)


def _digest(notes: Mapping[str, Any]) -> str:
    text = json.dumps(notes, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(tensor: Tensor) -> dict[str, Any]:
    """What the JSON notes of a tensor on the CPU."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"shape": list(tensor.shape), "dtype": dtype, "crc32": zlib.crc32(memory(tensor))}


def memory(tensor: Tensor) -> Any:
    """The bytes of a tensor, in the order of its entries."""
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data if plain.numel() else b""


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
