"""Work of elastify's own that a capture must not record (slicing the parameters of an active subnet), and none for the
garbage collector, which would look through all that is imported because many small objects are made for a while."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

recorders: list[Any] = []
"""Those at work, of whatever thread; each knows its own."""


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
    """Operations inside the block stay out of every record of this thread."""
    here = [recorder for recorder in recorders if recorder.is_here()]
    for recorder in here:
        recorder.busy += 1
    try:
        yield
    finally:
        for recorder in here:
            recorder.busy -= 1


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection inside the block."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
