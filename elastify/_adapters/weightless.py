"""Models without the memory of their weights: only shapes are made, and no more of them than there is a reason for.

Under `Weightless` what a constructor fills with weights is on the meta device, while numbers that it computes with
tensors are real. Both are bounded: notes in a file say how large a model is, and are not believed before its shapes
have been compared with tensors that are there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from elastify._errors import ElastifyError

_WEIGHTS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
_NUMBERS = {torch.arange, torch.eye, torch.linspace, torch.logspace}
_LARGEST = 1 << 26  # elements of a tensor of numbers


class Weightless(TorchFunctionMode):
    """While it is active models are made of shapes; ElastifyError after so many calls, or for a large real tensor.

    >>> with Weightless(100):
    ...     torch.nn.Linear(10**9, 10**9).weight.device
    device(type='meta')
    """

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._calls = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._calls -= 1
        kwargs = dict(kwargs or {})
        if func in _WEIGHTS and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        if func in _NUMBERS:
            self._check(func(*args, **{**kwargs, "device": "meta"}))
        made = func(*args, **kwargs)
        if isinstance(made, Tensor) and not made.is_meta:
            self._check(made)
        return made

    def _check(self, made: Tensor) -> None:
        if self._calls < 0 or made.numel() > _LARGEST:
            what = f"a tensor of {made.numel()} numbers" if self._calls >= 0 else "far more parts"
            raise ElastifyError("the model is too large", why=f"it would have {what}")
