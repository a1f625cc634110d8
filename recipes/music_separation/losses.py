"""The loss of BSRNN: the L1 distance of the waves plus those of the real and imaginary parts of their spectrograms.

    |s - s'| + |Re S - Re S'| + |Im S - Im S'|      (Luo & Yu 2022, arXiv 2209.15174)

each a mean over samples or bins. Plain, as in the paper, a loud example outweighs a quiet one by as much as random
gains differ. Given the mixture, each example is divided by the mean magnitude of its mixture, so that all count alike
whatever their level; the demo does that.
"""

from __future__ import annotations

import torch
from torch import Tensor


def spectrogram(wave: Tensor, n_fft: int, hop: int) -> Tensor:
    """Complex STFT [B, F, T] of [B, samples]."""
    window = torch.hann_window(n_fft, device=wave.device, dtype=wave.dtype)
    return torch.stft(wave, n_fft, hop, window=window, pad_mode="constant", return_complex=True)


def separation_loss(
    estimate: Tensor, target: Tensor, mixture: Tensor | None = None, *, n_fft: int = 1024, hop: int = 256
) -> Tensor:
    """Loss of estimates [B, samples], a scalar; given the mixture, examples are balanced by its level.

    >>> wave = torch.randn(2, 4000)
    >>> separation_loss(wave, wave).item()
    0.0
    """
    estimated, wanted = (torch.view_as_real(spectrogram(wave, n_fft, hop)) for wave in (estimate, target))
    distance = (estimate - target).abs().mean(-1) + (estimated - wanted).abs().mean((1, 2)).sum(-1)
    if mixture is not None:
        # The floor keeps an example whose stems were all dropped from outweighing the others.
        distance = distance / mixture.abs().mean(-1).clamp(min=1e-3)
    return distance.mean()
