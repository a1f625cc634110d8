"""Work of elastify's own that a capture must not record: slicing the parameters of an active subnet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

recorders: list[Any] = []


@contextmanager
def recording(recorder: Any) -> Iterator[None]:
    """Announce a recorder, whose `busy` counts what it should not look at."""
    recorders.append(recorder)
    try:
        yield
    finally:
        recorders.remove(recorder)


@contextmanager
def unrecorded() -> Iterator[None]:
    """Operations inside the block stay out of every record."""
    for recorder in recorders:
        recorder.busy += 1
    try:
        yield
    finally:
        for recorder in recorders:
            recorder.busy -= 1
