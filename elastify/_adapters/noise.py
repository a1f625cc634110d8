"""Pictures and sounds that nobody has to look at: reproducible noise, drawn without touching the global generator."""

from __future__ import annotations

import torch
from torch import Tensor


def noise(*shape: int) -> Tensor:
    """Standard normal values; never zeros, which would hide mistakes wherever something is multiplied by them."""
    return torch.randn(*shape, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
