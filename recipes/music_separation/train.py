"""What a training of the separator is made of: batches, validation, speed.

Nothing here knows whether the network is elastic.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .data import Chunks, Song
from .metrics import si_sdr
from .separate import separate


@dataclass(frozen=True, slots=True)
class Score:
    """SI-SDR of one song in dB: of the mixture as it is, and of the estimate."""

    song: str
    mixture: float
    estimate: float

    @property
    def improvement(self) -> float:
        return self.estimate - self.mixture


def make_loader(
    songs: Sequence[Song],
    target: str,
    *,
    steps: int,
    batch: int = 4,
    seconds: float = 1.5,
    seed: int = 0,
    **chunks: float,
) -> DataLoader:
    """`steps` batches of (mixture, target), each [batch, samples]; the same ones for the same seed."""
    data = Chunks(songs, target, seconds=seconds, length=steps * batch, seed=seed, **chunks)
    return DataLoader(data, batch)


def hold_out(songs: Sequence[Song], count: int = 3) -> tuple[list[Song], list[Song]]:
    """Training songs without, and validation songs: every so many-th of them, `count` in all."""
    picked = {round((k + 0.5) * len(songs) / count - 0.5) for k in range(min(count, len(songs) - 1))}
    return [s for k, s in enumerate(songs) if k not in picked], [s for k, s in enumerate(songs) if k in picked]


def validate(
    model: Callable[[Tensor], Tensor], songs: Sequence[Song], target: str, *, seconds: float | None = None
) -> list[Score]:
    """Scores on whole songs, or on the middle `seconds` of each; the network is in eval mode meanwhile."""
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.eval()
    scores = []
    for song in songs:
        frames = song.frames if seconds is None else min(song.frames, round(seconds * song.sample_rate))
        start = (song.frames - frames) // 2
        mixture, wanted = (torch.from_numpy(song.read(stem, start, frames).copy()) for stem in ("mixture", target))
        estimate = separate(model, mixture, sample_rate=song.sample_rate)
        before, after = (float(si_sdr(wave.flatten(), wanted.flatten())) for wave in (mixture, estimate))
        scores.append(Score(song.name, before, after))
    if training and isinstance(model, nn.Module):
        model.train()
    return scores


def mean_improvement(scores: Sequence[Score]) -> float:
    """Mean over songs of the SI-SDR improvement, in dB."""
    return statistics.fmean(score.improvement for score in scores)


def real_time_factor(model: nn.Module, sample_rate: int, *, seconds: float = 6.0, repeats: int = 5) -> float:
    """Seconds of computing per second of mono audio (below 1 is faster than real time): median of `repeats` runs."""
    wave = torch.randn(1, round(seconds * sample_rate)) * 0.1
    times = []
    with torch.no_grad():
        model(wave)
        for _ in range(repeats):
            start = time.perf_counter()
            model(wave)
            times.append(time.perf_counter() - start)
    return statistics.median(times) / seconds
