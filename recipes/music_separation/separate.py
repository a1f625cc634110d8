"""One stem out of a whole song: `python separate.py song.wav --model DIR --out stem.wav`.

The song is cut into chunks that overlap; each channel of each is a mono example for the network. Estimates are faded
over the overlaps and added, then divided by the sum of the fades: the weights of every sample add up to one. The
last chunk ends with the song, so a song shorter than a chunk is one shorter chunk.

The result has the length, rate and channels of the song and is written as 32-bit float WAV: values beyond 1 are
kept, nothing clips.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from elastify import ElastifyError, load, save

if not __package__:  # run as a file: let the imports of this folder's package work all the same
    here = Path(__file__).resolve()
    sys.path[0] = str(here.parents[2])
    __package__ = f"{here.parents[1].name}.{here.parent.name}"

from .model import BSRNN

NOTES = "separator.json"


def separate(
    model: Callable[[Tensor], Tensor],
    wave: Tensor,
    *,
    sample_rate: int = 22050,
    chunk: float = 6.0,
    overlap: float = 1.0,
    batch: int = 4,
) -> Tensor:
    """Estimate [channels, samples] for a song [channels, samples]; `chunk` and `overlap` in seconds.

    >>> song = torch.randn(2, 50_000)
    >>> torch.allclose(separate(lambda x: x, song, chunk=0.5, overlap=0.1), song, atol=1e-6)
    True
    """
    total = wave.shape[-1]
    size = min(total, round(chunk * sample_rate))
    fade = min(round(overlap * sample_rate), size // 2)
    starts = [*range(0, total - size, size - fade), total - size]
    window = torch.ones(size)
    ramp = torch.arange(1, fade + 1) / (fade + 1)
    window[:fade], window[size - fade :] = ramp, ramp.flip(0)
    result, weight = torch.zeros_like(wave), torch.zeros(total)
    jobs = [(channel, start) for start in starts for channel in range(wave.shape[0])]
    with torch.no_grad():
        for k in range(0, len(jobs), batch):
            some = jobs[k : k + batch]
            estimates = model(torch.stack([wave[channel, start : start + size] for channel, start in some]))
            for (channel, start), estimate in zip(some, estimates, strict=True):
                result[channel, start : start + size] += window * estimate
    for start in starts:
        weight[start : start + size] += window
    return result / weight


def save_separator(model: nn.Module, folder: Path | str, settings: dict[str, Any], target: str) -> None:
    """Save an extracted BSRNN with what is needed to build it again: the full size's arguments, and the stem's name."""
    save(model, folder)
    (Path(folder) / NOTES).write_text(json.dumps({"model": settings, "target": target}, indent=1))


def load_separator(folder: Path | str) -> tuple[nn.Module, dict[str, Any]]:
    """The network in eval mode, and its notes: `model` (arguments of the full size) and `target`."""
    path = Path(folder) / NOTES
    try:
        notes = json.loads(path.read_text())
        full = BSRNN(**notes["model"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ElastifyError(
            "no separator is saved here",
            where=str(folder),
            why=f"{NOTES}: {error}",
            fix="give a folder that `elastify demo` or save_separator wrote",
        ) from error
    return load(folder, like=full).eval(), notes


def separate_file(song: Path | str, folder: Path | str, out: Path | str) -> None:
    """Separate a WAV, FLAC or other file that libsndfile reads with a saved network."""
    model, notes = load_separator(folder)
    wanted = notes["model"]["sample_rate"]
    try:
        data, rate = soundfile.read(song, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        why = str(error.error_string) if Path(song).is_file() else "there is no such file"
        raise ElastifyError("the song cannot be read", where=str(song), why=why) from error
    if rate != wanted:
        raise ElastifyError(
            f"the song has {rate} Hz, the network was trained at {wanted} Hz",
            where=str(song),
            why="separate does not resample",
            fix=f"sox {song} -r {wanted} resampled.wav, then separate resampled.wav",
        )
    if not len(data) or not np.isfinite(data).all():
        raise ElastifyError("the song is empty or has NaN samples", where=str(song), fix="write the file again")
    estimate = separate(model, torch.from_numpy(data.T.copy()), sample_rate=rate)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(out, estimate.T.numpy(), rate, subtype="FLOAT")


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit code 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(prog="separate.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("song", type=Path, help="audio file of the rate that the network was trained at")
    parser.add_argument("--model", type=Path, required=True, help="folder of a saved network")
    parser.add_argument(
        "--out", type=Path, default=Path("stem.wav"), help="WAV to write, 32-bit float (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        separate_file(options.song, options.model, options.out)
    except ElastifyError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
