"""Sounds and pictures of sounds as data URIs: 16-bit WAV, and spectrograms as paletted PNG.

A spectrogram is the short-time power of a signal, averaged in bands that are even in log frequency and in
spans of time, so that its size does not grow with the song. Band powers are differences of the cumulative spectrum,
interpolated at the band's edges: right for bands much wider and much narrower than a bin of the transform.
"""

from __future__ import annotations

import base64
import io
import struct
import wave
import zlib
from collections.abc import Iterator

import numpy as np

FLOOR_DB = -75.0
LOWEST_HZ = 40.0
ROWS, COLUMNS = 224, 900  # pixels of a spectrogram
# Dark to light at an even pace, so that equal steps in decibels look equal, also in grey.
PALETTE = ((11, 14, 26), (29, 42, 85), (43, 90, 134), (63, 154, 148), (168, 207, 142), (251, 243, 200))


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def wav(signal: np.ndarray, rate: int) -> str:
    """16-bit mono WAV; the signal is within -1 and 1."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(signal * 32767).astype("<i2").tobytes())
    return _data_uri("audio/wav", buffer.getvalue())


def power(signal: np.ndarray, rate: int, n_fft: int = 2048, hop: int = 512) -> np.ndarray:
    """Mean power in ROWS bands, evenly spaced in log frequency (highest first), and at most COLUMNS spans of time."""
    padded = np.pad(signal, (n_fft // 2, n_fft))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[: signal.size : hop]
    columns = np.array_split(np.arange(len(frames)), min(COLUMNS, len(frames)))
    # Bin k reaches from k - 1/2 to k + 1/2, and the cumulative spectrum at k sums the bins before k.
    edges = np.geomspace(LOWEST_HZ, rate / 2, ROWS + 1) * n_fft / rate + 0.5
    whole = edges.astype(int)
    window = np.hanning(n_fft)
    result = np.empty((ROWS, len(columns)))
    for column, members in enumerate(columns):
        bins = (np.abs(np.fft.rfft(frames[members] * window)) ** 2).mean(0)
        below = np.concatenate([[0.0], np.cumsum(bins)])[whole] + (edges - whole) * bins[whole]
        result[::-1, column] = np.diff(below) / np.diff(edges)
    return result


def png(image: np.ndarray) -> str:
    """Paletted PNG of values from 0 (floor) to 1; rows from the top."""
    steps = np.linspace(0, len(PALETTE) - 1, 256)
    channels = [np.interp(steps, range(len(PALETTE)), channel) for channel in zip(*PALETTE, strict=True)]
    pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    height, width = pixels.shape
    raw = np.hstack([np.zeros((height, 1), np.uint8), pixels]).tobytes()  # each line opens with its filter: none
    chunks: tuple[tuple[bytes, bytes], ...] = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", np.round(np.stack(channels, 1)).astype(np.uint8).tobytes()),
        (b"IDAT", zlib.compress(raw, 9)),
        (b"IEND", b""),
    )
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return _data_uri("image/png", content)


def ticks(seconds: float, rate: int) -> str:
    """Labels of both axes, placed around a picture."""
    return "".join((*_frequency_ticks(rate), *_time_ticks(seconds)))


def _frequency_ticks(rate: int) -> Iterator[str]:
    for hertz, label in ((100, "100"), (300, "300"), (1000, "1 k"), (3000, "3 k"), (10_000, "10 k")):
        if hertz < rate / 2:
            height = 100 * np.log(hertz / LOWEST_HZ) / np.log(rate / 2 / LOWEST_HZ)
            yield f'<span class="hertz" style="bottom: {height:.1f}%">{label}</span>'


def _time_ticks(seconds: float) -> Iterator[str]:
    step = next((s for s in (1, 2, 5, 10, 20, 30, 60, 120) if seconds / s <= 10), 300)
    for tick in np.arange(0, seconds, step):
        yield f'<span class="seconds" style="left: {100 * tick / seconds:.1f}%">{tick:.0f}</span>'
