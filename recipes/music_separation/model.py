"""BSRNN, the band-split recurrent network for music separation (Luo & Yu 2022, arXiv 2209.15174).

A spectrogram is cut along frequency into K bands of unequal width; each is normalised and projected to N channels.
R blocks follow, each a recurrent layer along time and one along the bands, both residual. One small network
per band turns its N channels into a complex mask, which multiplies that band of the mixture's spectrogram.

    wave [B, samples] -> STFT [B, F, T] -> K x [B, N, T] -> [B, K, N, T] -> R blocks -> masks [B, F, T] -> wave

Nothing here knows about elastic networks: plain PyTorch, with sizes taken from tensors, so that N, the
hidden sizes of the LSTMs and of the mask networks, and R can all be made smaller later.

What it took to agree with the published sizes (36.42 M parameters and 73.6 GMAC per second for N=128, R=12, vocals;
8.02 M and 12.4 for 64, 8; 1.89 M and 1.6 for 32, 4; `tests/recipes/test_music_model.py`): the LSTM has 2N units per
direction and both of torch's bias vectors; the mask network is N -> 4N -> 4N -> 4G with a GLU to 2G; band edges are
rounded down to whole bins (100 Hz are 4.6 bins of 21.5 Hz: 4) and what is left above is the last band, 41 in all for
vocals. MACs are counted in linear layers, convolutions and the LSTM's gates, for 44100 / 512 = 86.13 frames per
second: the one frame more that centred windows give a clip is not counted. The STFT, norms, activations and the
masks' products count nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

# (width in Hz, number of bands), from 0 Hz up; one more band takes the rest.
BAND_PLANS: dict[str, tuple[tuple[int, int], ...]] = {
    "vocals": ((100, 10), (250, 12), (500, 8), (1000, 8), (2000, 2)),
    "other": ((100, 10), (250, 12), (500, 8), (1000, 8), (2000, 2)),
    "bass": ((50, 10), (100, 5), (500, 6), (1000, 4), (2000, 4)),
    "drums": ((50, 20), (100, 10), (250, 8), (500, 8), (1000, 8)),
}


def named_bands(plan: str, sample_rate: int = 44100, n_fft: int = 2048) -> tuple[int, ...]:
    """Bins per band of one of the paper's plans; bands above the Nyquist frequency are left out.

    >>> bands = named_bands("vocals")
    >>> len(bands), sum(bands), bands[0], bands[-1]
    (41, 1025, 4, 117)
    """
    rest = n_fft // 2 + 1
    bins = []
    for hertz, count in BAND_PLANS[plan]:
        size = max(1, math.floor(hertz * n_fft / sample_rate))
        take = min(count, rest // size)
        bins += [size] * take
        rest -= size * take
    return tuple(bins) + ((rest,) if rest else ())


def generic_bands(count: int, sample_rate: int = 22050, n_fft: int = 1024) -> tuple[int, ...]:
    """Bins per band of a plan with `count` bands at any rate: narrow at the bottom, as hearing is.

    Edges are equally spaced on the mel scale, every band is at least 2 bins wide.

    >>> bands = generic_bands(24)
    >>> len(bands), sum(bands), bands[0], bands[-1]
    (24, 513, 4, 61)
    """
    bins = n_fft // 2 + 1
    if not 1 <= count <= bins // 2:
        raise ValueError(f"{count} bands of 2 bins and more do not fit into {bins} bins")
    top = math.log1p(sample_rate / 2 / 700)
    edges = [0]
    for k in range(1, count):
        edge = round(700 * math.expm1(top * k / count) * n_fft / sample_rate)
        edges.append(min(max(edge, edges[-1] + 2), bins - 2 * (count - k)))
    edges.append(bins)
    return tuple(high - low for low, high in pairwise(edges))


class BandSplit(nn.Module):
    """One band of the spectrogram to N channels: [B, 2G, T] -> [B, N, T]."""

    def __init__(self, bins: int, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 2 * bins)
        self.project = nn.Conv1d(2 * bins, width, 1)

    def forward(self, band: Tensor) -> Tensor:
        return self.project(self.norm(band))


class ResRNN(nn.Module):
    """Residual recurrent layer along the last dimension of [B, S, N, L], each of the S sequences by itself.

    `hidden` units per direction (None: 2N); with `residual=False` x is not added.
    """

    def __init__(self, width: int, hidden: int | None = None, *, residual: bool = True) -> None:
        super().__init__()
        hidden = hidden or 2 * width
        self.residual = residual
        self.norm = nn.GroupNorm(1, width)
        self.rnn = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.project = nn.Linear(2 * hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x.flatten(0, 1)).transpose(1, 2)
        h, _ = self.rnn(h)
        h = self.project(h).transpose(1, 2).reshape(x.shape)
        return x + h if self.residual else h


class Block(nn.Module):
    """A layer along time, then one along the bands: [B, K, N, T] -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time = ResRNN(width)
        self.band = ResRNN(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.time(x)
        return self.band(x.transpose(1, 3)).transpose(1, 3)


class MaskEstimator(nn.Module):
    """N channels to the complex mask of one band: [B, N, T] -> [B, 2G, T], real parts first."""

    def __init__(self, bins: int, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.first = nn.Conv1d(width, 4 * width, 1)
        self.second = nn.Conv1d(4 * width, 4 * width, 1)
        self.last = nn.Conv1d(4 * width, 4 * bins, 1)

    def forward(self, h: Tensor) -> Tensor:
        h = torch.tanh(self.first(self.norm(h)))
        h = torch.tanh(self.second(h))
        return nn.functional.glu(self.last(h), dim=1)


class BSRNN(nn.Module):
    """One stem out of a mixture: wave [B, samples] -> estimate [B, samples], mono, any length.

    >>> net = BSRNN(generic_bands(6, n_fft=256), width=4, depth=2, n_fft=256, hop=64)
    >>> net(torch.randn(2, 3000)).shape
    torch.Size([2, 3000])

    `bands` are bins per band (`named_bands`, `generic_bands`) and add up to n_fft / 2 + 1; `width` is the paper's N,
    `depth` its R. `sample_rate` in Hz is kept for those who feed the network.
    """

    window: Tensor

    def __init__(
        self,
        bands: Sequence[int],
        *,
        sample_rate: int = 22050,
        width: int = 128,
        depth: int = 12,
        n_fft: int = 1024,
        hop: int = 256,
    ) -> None:
        super().__init__()
        if sum(bands) != n_fft // 2 + 1:
            raise ValueError(f"the bands hold {sum(bands)} bins, an STFT of {n_fft} samples has {n_fft // 2 + 1}")
        self.bands = tuple(bands)
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        self.hop = hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.split = nn.ModuleList(BandSplit(bins, width) for bins in self.bands)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.masks = nn.ModuleList(MaskEstimator(bins, width) for bins in self.bands)

    def forward(self, wave: Tensor) -> Tensor:
        # Zero padding, unlike reflection, also serves clips shorter than half a window.
        spectrum = torch.stft(wave, self.n_fft, self.hop, window=self.window, pad_mode="constant", return_complex=True)
        parts = torch.cat([spectrum.real.unsqueeze(1), spectrum.imag.unsqueeze(1)], 1).split(self.bands, 2)
        h = torch.stack([split(part.flatten(1, 2)) for split, part in zip(self.split, parts, strict=True)], 1)
        for block in self.blocks:
            h = block(h)
        masks = [
            estimate(band).reshape(part.shape)
            for estimate, band, part in zip(self.masks, h.unbind(1), parts, strict=True)
        ]
        mask = torch.cat(masks, 2)
        masked = torch.complex(mask[:, 0], mask[:, 1]) * spectrum
        return torch.istft(masked, self.n_fft, self.hop, window=self.window, length=wave.shape[-1])


def small_settings(sample_rate: int = 22050, *, bands: int = 24, width: int = 16, depth: int = 2) -> dict[str, Any]:
    """Arguments for the demo's network: windows of about 46 ms at any rate, hop a quarter of that.

    >>> sum(p.numel() for p in BSRNN(**small_settings()).parameters())
    334440
    """
    n_fft = 2 ** round(math.log2(sample_rate * 2048 / 44100))
    plan = generic_bands(bands, sample_rate, n_fft)
    return {
        "bands": plan,
        "sample_rate": sample_rate,
        "width": width,
        "depth": depth,
        "n_fft": n_fft,
        "hop": n_fft // 4,
    }
