"""The other way to compute attention: what fuses it, and the same by hand.

Fused attention takes no scale from the module, fused encoder layers never call what is in them. So a subnet may be
right one way and wrong the other, and nobody who has run it one way knows. Where the original gives the same both
ways, so must every subnet. Which numbers choose the way in models of a library, the library is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from elastify import _adapters

Way = Callable[[nn.Module], AbstractContextManager[None]]


def other_ways(model: nn.Module, ops: Collection[str]) -> Iterator[tuple[str, Way]]:
    """The ways that may change something in a model whose run has these operations, each with a text."""
    if any(isinstance(m, (nn.MultiheadAttention, nn.TransformerEncoderLayer)) for m in model.modules()):
        yield "without the fast path", without_fast_path
    if "scaled_dot_product_attention" in ops or next(_adapters.attention_by_hand(model), None) is not None:
        yield "with attention by hand", by_hand


@contextmanager
def without_fast_path(_: nn.Module) -> Iterator[None]:
    """Encoder layers of torch run their parts."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def by_hand(model: nn.Module) -> Iterator[None]:
    """Attention is not fused: in the kernels, and in the model itself where its library has a switch for that."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        for owner, name, value in list(_adapters.attention_by_hand(model)):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield
