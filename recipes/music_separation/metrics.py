"""How good a separation is, in dB; higher is better.

- `si_sdr`: scale-invariant signal-to-distortion ratio (Le Roux et al. 2019, arXiv 1811.02508), means removed. The
  demo's figure is its improvement over the mixture, `si_sdr(estimate, target) - si_sdr(mixture, target)`.
- `sdr`: BSSEval's, which allows the target a filter of 512 taps (Vincent et al. 2006).
- `usdr`: plain energy ratio over whole songs, channels together (Music Demixing challenge 2021).
- `csdr`: BSSEval v4 as museval computes it: median over frames of 1 s; take the median over songs next. Slow.

General-MIDI audio is much easier than recordings: none of these figures compares with published ones on MUSDB18.
"""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """SI-SDR over the last dimension, in dB.

    >>> target = torch.tensor([1.0, -1.0, 1.0, -1.0])
    >>> si_sdr(target + torch.tensor([0.1, 0.1, -0.1, -0.1]), target).round()
    tensor(20.)
    """
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

    return scale_invariant_signal_distortion_ratio(estimate, target, zero_mean=True)


def sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """SDR of BSSEval over the last dimension, in dB, with a distortion filter of 512 taps."""
    from torchmetrics.functional.audio import signal_distortion_ratio

    return signal_distortion_ratio(estimate.double(), target.double())


def usdr(estimate: Tensor, target: Tensor) -> Tensor:
    """Energy of the target over that of the error for one song [channels, samples], in dB."""
    error = (estimate - target).square().sum()
    return 10 * torch.log10((target.square().sum() + 1e-7) / (error + 1e-7))


def csdr(estimate: Tensor, target: Tensor, sample_rate: int) -> float:
    """Median over frames of 1 s of BSSEval v4's SDR of one song [channels, samples], in dB, silent frames left out."""
    bss_eval = _museval_metrics().bss_eval
    reference, estimated = (np.asarray(wave.detach().double().T)[None] for wave in (target, estimate))
    frames = bss_eval(reference, estimated, window=sample_rate, hop=sample_rate)[0]
    return float(np.nanmedian(frames))


def _museval_metrics() -> Any:
    """museval's module of metrics by itself: the package would import a video tool that must be on the system."""
    package = find_spec("museval")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("csdr needs museval", name="museval")
    spec = spec_from_file_location("_museval_metrics", Path(package.origin).with_name("metrics.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
