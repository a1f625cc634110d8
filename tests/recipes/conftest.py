"""What several tests of recipes read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 8000


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stereo songs of a low and a high tone."""
    root = tmp_path_factory.mktemp("music")
    time = np.arange(2 * RATE) / RATE
    for split, count in (("train", 5), ("test", 2)):
        for k in range(count):
            folder = root / split / f"song{k}"
            folder.mkdir(parents=True)
            low = 0.3 * np.sin(2 * np.pi * (150 + 20 * k) * time)[:, None] * [[1.0, 0.8]]
            high = 0.3 * np.sin(2 * np.pi * (2000 + 100 * k) * time)[:, None] * [[0.7, 1.0]]
            for stem, wave in (("low", low), ("high", high), ("mixture", low + high)):
                soundfile.write(folder / f"{stem}.wav", wave, RATE)
    return root
