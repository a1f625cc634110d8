"""The full network as it was: a copy of its tensors that stands in for them during one pass.

No second model is needed, so whatever calls the model calls the teacher too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from elastify._verbs import activate
from elastify.train._evaluate import evaluating


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Its parameters and buffers, the objects themselves."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@contextmanager
def as_it_was(model: nn.Module, tensors: dict[str, Tensor]) -> Iterator[None]:
    """The full network, in eval mode and without gradients, with these values in its own parameters and buffers."""
    activate(model, None)
    own = tensors_of(model)
    before = {name: own[name].data for name in tensors}
    torch.clear_autocast_cache()  # it remembers what parameters were cast to
    try:
        for name, value in tensors.items():
            tensors[name] = value.to(own[name].device, own[name].dtype)
            own[name].data = tensors[name]
        with evaluating(model):
            yield
    finally:
        for name, value in before.items():
            own[name].data = value
        torch.clear_autocast_cache()
