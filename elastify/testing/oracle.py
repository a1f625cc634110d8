"""An independent count of MACs: run the model and watch the kernels.

`torch.utils.flop_counter` sees every matrix product and convolution that is dispatched. To make what is dispatched
independent of the machine, attention runs as its two matrix products (math kernel, no fused encoder path),
recurrent layers run as their cells (the fused oneDNN layer hides them), and einsum contracts from left to right.
Products with a vector and trilinear products, which the counter leaves out, are counted here from their shapes.
Nothing of elastify's analysis is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Shape = Sequence[int]


def oracle_macs(model: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> int:
    """MACs of one forward pass in eval mode: half of what FlopCounterMode counts.

    Give inputs with a batch of one to get the cost per sample.

    >>> oracle_macs(nn.LSTM(4, 3), (torch.zeros(5, 1, 4),))
    420
    """
    training = {module: module.training for module in model.modules()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trained:  # the counter asks views of them for a gradient that they do not have here
        parameter.requires_grad_(False)
    try:
        with torch.no_grad(), _plain_kernels():
            counter = FlopCounterMode(display=False, custom_mapping=_UNCOUNTED)
            with counter:
                model(*args, **(kwargs or {}))
    finally:
        for module, flag in training.items():
            module.training = flag
        for parameter in trained:
            parameter.requires_grad_(True)
    return counter.get_total_flops() // 2


@contextmanager
def _plain_kernels() -> Iterator[None]:
    fast_path = torch.backends.mha.get_fastpath_enabled()
    optimiser = torch.backends.opt_einsum.enabled
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # switching oneDNN off talks about GPUs that are not there
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.opt_einsum.enabled = False
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            torch.backends.opt_einsum.enabled = optimiser


def _mv(matrix: Shape, vector: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(matrix)


def _dot(left: Shape, right: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(left)


def _addmv(bias: Shape, matrix: Shape, vector: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(matrix)


def _addbmm(bias: Shape, left: Shape, right: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(left) * right[-1]


def _grouped_mm(rows: Shape, matrices: Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(rows) * matrices[-1]


def _trilinear(x1: Shape, weight: Shape, x2: Shape, *expands: Any, **__: Any) -> int:
    """What a bilinear layer runs: three operands, each given dimensions of size 1 at the positions in `expands`."""
    shapes = []
    for shape, inserted in zip((x1, weight, x2), expands[:3], strict=True):
        sizes = list(shape)
        for position in inserted:
            sizes.insert(position, 1)
        shapes.append(sizes)
    return 2 * prod(max(sizes) for sizes in zip(*shapes, strict=True))


_aten = torch.ops.aten
_UNCOUNTED = {
    _aten.mv: _mv,
    _aten.dot: _dot,
    _aten.vdot: _dot,
    _aten.addmv: _addmv,
    _aten.addbmm: _addbmm,
    _aten._grouped_mm: _grouped_mm,
    _aten._trilinear: _trilinear,
}
