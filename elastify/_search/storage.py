"""Where a study is kept: a journal of lines in a file, or what else Optuna can write to.

Each line of a journal carries a checksum, so that an edit is noticed. A process that is killed while it writes leaves
half a line: the next one that opens the file or adds to it takes that line away, and says so. Writers take turns by a
lock on the file itself, which ends with the process that has it.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from elastify._errors import ElastifyError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl: Any = None
try:
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
    from sqlalchemy.exc import SQLAlchemyError
except ImportError as error:  # an extra; searching without a score does not need it
    raise ElastifyError(
        "searching with evaluate= needs Optuna", why=str(error), fix='pip install "elastify[search]"'
    ) from error

_CHECKSUM = "crc32"
_WRONG = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
_logger = logging.getLogger("elastify")


@contextmanager
def readable(storage: Any) -> Iterator[None]:
    """Around what reads or writes a study: what its file has wrong is an error that says so."""
    try:
        yield
    except (*_WRONG, optuna.exceptions.OptunaError, SQLAlchemyError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ElastifyError(
            "cannot use this study file", where=str(storage), why=why, fix="use another path"
        ) from error


def open_storage(study: Any) -> Any:
    """A storage for a path, an Optuna URL, a storage object, or nothing."""
    if study is None or isinstance(study, optuna.storages.BaseStorage):
        return study
    if not isinstance(study, (str, os.PathLike)):
        raise ValueError(f"it is a {type(study).__name__}")
    text = str(study)
    if "://" in text:
        return optuna.storages.RDBStorage(text)
    path = Path(text).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".db", ".sqlite", ".sqlite3"):
        return optuna.storages.RDBStorage(f"sqlite:///{path}")
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    return optuna.storages.JournalStorage(_Journal(path))


class _Journal(JournalFileBackend):
    """Optuna's journal, with a checksum in every line."""

    def __init__(self, path: Path) -> None:
        self._path, self._turn = path, JournalFileSymlinkLock(str(path)) if fcntl is None else _Turn(path)
        super().__init__(str(path), self._turn)  # type: ignore[arg-type] - it has the methods that are called
        self._mend()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        for number, log in enumerate(super().read_logs(log_number_from), log_number_from + 1):
            noted = log.pop(_CHECKSUM, None)  # earlier versions wrote none
            if noted is not None and noted != _checksum(log):
                raise ValueError(f"line {number} has been changed")
            yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._mend()
        super().append_logs([{**log, _CHECKSUM: _checksum(log)} for log in logs])

    def _mend(self) -> None:
        """Take half a line at the end away, which a killed process has left."""
        if self._is_whole():
            return
        self._turn.acquire()  # who is writing has it
        try:
            if not self._is_whole():
                data = self._path.read_bytes()
                with self._path.open("r+b") as file:
                    file.truncate(data.rfind(b"\n") + 1)
                _logger.warning("the last line of %s was not written to its end: it is dropped", self._path)
        finally:
            self._turn.release()

    def _is_whole(self) -> bool:
        with self._path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 1))
            return file.read() in (b"", b"\n")


class _Turn:
    """A lock on a file, which the system takes back from a process that is killed."""

    def __init__(self, path: Path) -> None:
        self._path: Path = path
        self._held: Any = None

    def acquire(self) -> bool:
        self._held = self._path.open("r+b")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        self._held.close()


def _checksum(log: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(log, sort_keys=True).encode())
