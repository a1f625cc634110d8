"""Paths lead to what `getattr` finds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from elastify._capture.paths import resolve
from elastify._errors import ElastifyError


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_paths_lead_into_scripted_modules() -> None:
    net = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(2, 3))))
    assert resolve(net, "0.0.weight").shape == (3, 2)
    with pytest.raises(ElastifyError, match=r"the model has no '0\.1\.weight'"):
        resolve(net, "0.1.weight")
