"""Whether samples are independent: other numbers for one of them, and what moves.

A copy of the model runs in eval mode on the example, and again with other numbers in all entries of the inputs that
belong to one sample. If the outputs of the other samples are the same to the bit, and its own are not, that sample is
on its own. Vectors and constant weights of the copy are drawn anew first: a gate of zeros hides what depends on what.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from elastify._analysis import Analysis
from elastify._capture import Example, tensors_by_name
from elastify._deploy import copied
from elastify._ir import Attr, Layout, axes_of, indices, mentions
from elastify._proofs.outputs import Outputs
from elastify._proofs.samples import cast, filled
from elastify._proofs.units import redraw, seeded
from elastify._rewrite import remember, reset

Layouts = Mapping[str, Sequence[Layout]]

_OTHERS, _NOTHING = "the outputs for one entry depend on others", "no other numbers for it changed an output"
_ROUNDING = 1e-4  # where the data decide how many rows a product has: other kernels may run then


class Runs:
    """Runs of a copy of the model in eval mode, with other numbers for one sample."""

    def __init__(self, model: nn.Module, analysis: Analysis, index: int, example: Example, outputs: Outputs) -> None:
        self.model, self.analysis, self.graph, self.outputs = model, analysis, analysis.graphs[index], outputs
        tensors = (*model.parameters(), *model.buffers(), *example.tensors())
        blind = any(t.is_meta or isinstance(t, FakeTensor) for t in tensors)
        self.failed = "the model has no weights to run" if blind else ""
        self.given = example

    @cached_property
    def dtype(self) -> torch.dtype | None:
        """The precision of the runs, where it is not that of the model."""
        half = any(p.is_floating_point() and p.dtype.itemsize < 4 for p in self.model.parameters())
        return torch.float32 if half else None

    @cached_property
    def example(self) -> Example:
        """What runs."""
        example = filled(self.given, 0)
        return example if self.dtype is None else cast(example, self.dtype)

    @cached_property
    def names(self) -> dict[int, str]:
        """The names of the inputs, by the ids of their tensors."""
        return {id(tensor): name for name, tensor in tensors_by_name(self.model, self.example).items()}

    @property
    def rounding(self) -> float:
        """How far equal numbers may be apart."""
        return _ROUNDING if self.graph.real or self.analysis.counted() else 0.0

    def against(self, axes: Collection[int], inputs: Layouts, results: Sequence[Sequence[Layout]]) -> str:
        """Why an entry of some axes is no sample on its own; "" if other numbers for it move its outputs alone."""
        if self.failed:
            return self.failed
        size = next(a.size for own in inputs.values() for layout in own for a in axes_of(layout) if a.id in axes)
        for at in (0, size - 1):
            why = self._moved(axes, at, inputs, results)
            if why not in ("", _OTHERS, _NOTHING):  # lengths, say, cannot be any numbers
                why = self._moved(axes, at, inputs, results, floats=True)
            if why == _NOTHING:
                why = self._moved(axes, at, inputs, results, whole=True)
            if why:
                return why
        return ""

    def _moved(
        self,
        axes: Collection[int],
        at: int,
        inputs: Layouts,
        results: Sequence[Sequence[Layout]],
        *,
        floats: bool = False,
        whole: bool = False,
    ) -> str:
        """The same for the sample `at`; new numbers in inputs of `floats` alone, and in the `whole` of the weights."""

        def other(tensor: Tensor) -> Tensor:
            own = _entries(tensor, inputs[self.names[id(tensor)]], axes, at)
            changes = own.any() and (tensor.is_floating_point() or not floats)
            return torch.where(own, _redrawn(tensor), tensor) if changes else tensor

        try:
            before, after = self._before(whole), self._run(whole, self.example.mapped(other))
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing is shown
            return f"with other numbers the model gives {type(error).__name__}"
        if [t.shape for t in before] != [t.shape for t in after]:
            return "with other numbers the outputs have other sizes"
        moved = False
        for then, now, layouts in zip(before, after, results, strict=True):
            own = _entries(then, layouts, axes, at)
            wide = torch.complex128 if then.is_complex() else torch.float64
            same = torch.isclose(then.to(wide), now.to(wide), self.rounding, self.rounding, equal_nan=True)
            if then.numel() > 1 and not bool((same | own).all()):
                return _OTHERS
            moved = moved or not bool((same | ~own).all())
        return "" if moved else _NOTHING

    @lru_cache(2)  # noqa: B019 - a value of one call of `elastify`, and so are the copies
    def _copy(self, whole: bool) -> tuple[nn.Module, dict[Attr, Any]]:
        """A copy whose vectors and constant weights are drawn anew: a gate of zeros would hide what depends on what. Of
        the `whole` where small weights let the signal die."""
        model = copied(self.model).eval().to(self.dtype)
        redraw(model, 0, only=lambda w: whole or w.dim() < 2 or bool((_few(w) == _few(w)[:1]).all()))
        return model, remember(model, self.graph.caches)

    @lru_cache(2)  # noqa: B019
    def _before(self, whole: bool) -> list[Tensor]:
        return self._run(whole, self.example)

    def _run(self, whole: bool, example: Example) -> list[Tensor]:
        (model, caches), fast = self._copy(whole), torch.backends.mha.get_fastpath_enabled()
        reset(model, self.graph.caches, caches)
        torch.backends.mha.set_fastpath_enabled(False)  # it drops what is masked
        try:
            with torch.no_grad(), seeded(0):
                return [t.detach() for t in self.outputs.tensors(example(model))]
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def _few(weight: Tensor) -> Tensor:
    return weight.detach().reshape(-1)[:64]


def _entries(tensor: Tensor, layouts: Sequence[Layout], axes: Collection[int], at: int) -> Tensor:
    """Which entries of a tensor belong to the sample number `at`."""
    found = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
    for dim, layout in enumerate(layouts):
        if mentions(layout, axes):
            where = indices(layout, dict.fromkeys(axes, np.array([at])))
            found.index_fill_(dim, torch.from_numpy(where).to(tensor.device), True)
    return found


def _redrawn(tensor: Tensor) -> Tensor:
    """Other numbers in the range of those that there are."""
    generator = torch.Generator().manual_seed(1)
    if tensor.is_floating_point() or tensor.is_complex():
        finite = tensor[torch.isfinite(tensor)]
        noise = torch.randn(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)
        if tensor.is_complex() or not finite.numel() or bool((finite == finite[0]).all()):
            return noise
        low, high = finite.min(), finite.max()
        return low + (high - low) * torch.rand(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)
    low, high = int(tensor.min()), int(tensor.max())
    if low == high:  # of zeros one, else one less
        low = high = low - 1 if low else 1
    return torch.randint(low, high + 1, tensor.shape, generator=generator).to(tensor.device, tensor.dtype)
