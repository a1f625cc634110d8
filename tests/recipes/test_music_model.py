"""The separator agrees with the published sizes, and its bands with the STFT."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest
import torch
from torch import nn

from recipes.music_separation.model import BAND_PLANS, BSRNN, generic_bands, named_bands, small_settings

FRAMES_PER_SECOND = 44100 / 512


def macs(net: nn.Module, wave: torch.Tensor) -> int:
    """Multiply-accumulates of linear layers, convolutions and LSTM gates in one run, counted by hooks."""
    total = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], outputs: object) -> None:
        nonlocal total
        x = inputs[0]
        if isinstance(module, nn.Conv1d):
            total += x.shape[0] * x.shape[2] * module.weight.numel()
        elif isinstance(module, nn.Linear):
            total += x.shape[:-1].numel() * module.weight.numel()
        elif isinstance(module, nn.LSTM):
            weights = sum(p.numel() for name, p in module.named_parameters() if name.startswith("weight"))
            total += x.shape[:-1].numel() * weights

    handles = [module.register_forward_hook(count) for module in net.modules()]
    net(wave)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(
    ("width", "depth", "params", "params_digit", "gmacs", "gmacs_digit"),
    [
        (128, 12, 36.42e6, 0.01e6, 73.6e9, 0.1e9),
        (64, 8, 8.02e6, 0.01e6, 12.4e9, 0.1e9),
        (32, 4, 1.89e6, 0.01e6, 1.6e9, 0.1e9),
    ],
)
def test_published_sizes(
    width: int, depth: int, params: float, params_digit: float, gmacs: float, gmacs_digit: float
) -> None:
    """Within 0.5 %, or exact to the digits printed where those are coarser (1.6 stands for 1.55 to 1.65)."""
    net = BSRNN(named_bands("vocals"), sample_rate=44100, width=width, depth=depth, n_fft=2048, hop=512)
    frames = 4
    with torch.no_grad():
        per_frame = macs(net, torch.zeros(1, (frames - 1) * 512)) / frames
    found = sum(p.numel() for p in net.parameters())
    assert abs(found - params) <= max(0.005 * params, params_digit / 2)
    assert abs(per_frame * FRAMES_PER_SECOND - gmacs) <= max(0.005 * gmacs, gmacs_digit / 2)


@pytest.mark.parametrize(("plan", "count"), [("vocals", 41), ("other", 41), ("bass", 30), ("drums", 55)])
def test_named_bands(plan: str, count: int) -> None:
    bands = named_bands(plan)
    assert len(bands) == count
    assert sum(bands) == 1025
    assert min(bands) >= 1
    halved = named_bands(plan, 22050, 1024)
    assert sum(halved) == 513
    assert set(BAND_PLANS) >= {plan}


@pytest.mark.parametrize(
    ("count", "rate", "n_fft"), [(24, 22050, 1024), (1, 16000, 512), (64, 44100, 2048), (60, 8000, 256)]
)
def test_generic_bands(count: int, rate: int, n_fft: int) -> None:
    bands = generic_bands(count, rate, n_fft)
    assert len(bands) == count
    assert sum(bands) == n_fft // 2 + 1
    assert min(bands) >= 2


def test_too_many_bands() -> None:
    with pytest.raises(ValueError, match="300 bands"):
        generic_bands(300, 22050, 256)
    with pytest.raises(ValueError, match="hold 7 bins"):
        BSRNN((3, 4))


@pytest.mark.parametrize("samples", [1, 100, 1000, 5003])
def test_any_length_and_gradients(samples: int) -> None:
    torch.manual_seed(0)
    net = BSRNN(generic_bands(5, n_fft=128), width=4, depth=2, n_fft=128, hop=32)
    estimate = net(torch.randn(2, samples))
    assert estimate.shape == (2, samples)
    estimate.square().sum().backward()
    gradients = [p.grad for p in net.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_examples_do_not_mix() -> None:
    torch.manual_seed(0)
    net = BSRNN(generic_bands(5, n_fft=128), width=4, depth=1, n_fft=128, hop=32).eval()
    wave = torch.randn(3, 2000)
    torch.testing.assert_close(net(wave)[1:2], net(wave[1:2]))


@pytest.mark.parametrize(("rate", "n_fft"), [(44100, 2048), (22050, 1024), (48000, 2048), (16000, 1024)])
def test_small_settings(rate: int, n_fft: int) -> None:
    settings = small_settings(rate)
    assert settings["n_fft"] == n_fft
    assert BSRNN(**settings).sample_rate == rate


@pytest.mark.parametrize("name", ["losses", "metrics", "model", "separate"])
def test_examples_in_docstrings(name: str) -> None:
    torch.manual_seed(0)
    result = doctest.testmod(import_module(f"recipes.music_separation.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
