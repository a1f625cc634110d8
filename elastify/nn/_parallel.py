"""Residual layers that are as wide as they have branches, side by side.

    y_k = branch_k(x), k = 1..w
    z_k = PReLU(transform(y_k));  m = PReLU(average(mean_k z_k));  a_k = 2 sigmoid(weigh([z_k ; m]))      # TAC
    x + sum_k a_k y_k

All branches see all of x, so their norms do not depend on how many there are. `forward` is two plain loops over sums:
`elastify` finds the number of branches by itself, as a stage of which a subnet keeps a prefix.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from elastify._errors import ElastifyError
from elastify._rewrite import is_elastic

GATES = ("tac", "mean", "scalar", "none")


class ParallelResidual(nn.Module):
    """x plus a combination of branches of x, of which a subnet has the first few.

    The layers of Subnetwork-to-go, whose width is the number of branches (Li & Luo, arXiv 2312.03464).

    >>> from elastify import elastify, space
    >>> branches = [nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(4)]
    >>> model = nn.Sequential(nn.Linear(3, 8), ParallelResidual(branches, channels=8), nn.Linear(8, 2))
    >>> print(space(elastify(model, torch.randn(2, 3))).stages[0].choices)
    (1, 2, 3, 4)

    `branches` map a tensor to one of its shape. `gate`: "tac" (transform, average, concatenate) makes a factor for
    every branch and place from all the branches that are there, through `hidden` features (None: a quarter of
    `channels`, the size of dimension `dim`); "scalar" learns a number per branch, "mean" divides by how many there are,
    "none" only sums. `residual=False` leaves x out. Factors begin at 1. [Left open by the public text: that a factor
    belongs to a place, not to the whole input, and the sigmoid.]
    """

    def __init__(
        self,
        branches: Iterable[nn.Module],
        gate: str = "tac",
        *,
        channels: int | None = None,
        dim: int = -1,
        hidden: int | None = None,
        residual: bool = True,
    ) -> None:
        super().__init__()
        modules = list(branches)
        if gate not in GATES:
            raise ElastifyError(f"unknown gate {gate!r}", where="ParallelResidual", fix=f"one of {', '.join(GATES)}")
        if not modules:
            raise ElastifyError("there are no branches", where="ParallelResidual")
        if gate == "tac" and channels is None:
            raise ElastifyError(
                "the width of x is not known", where="ParallelResidual", why="tac needs it", fix="channels=..."
            )
        self.gate, self.dim, self.residual = gate, dim, residual
        self.branches = nn.ModuleList(map(Scaled, modules) if gate == "scalar" else modules)
        if gate == "tac" and channels is not None:
            inner = hidden or max(1, channels // 4)
            self.transform = nn.Sequential(nn.Linear(channels, inner), nn.PReLU())
            self.average = nn.Sequential(nn.Linear(inner, inner), nn.PReLU())
            self.weigh = nn.Linear(2 * inner, 1)
            nn.init.zeros_(self.weigh.weight)
            nn.init.zeros_(self.weigh.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate == "tac":
            return self._weighed(x)
        total: Any = x if self.residual and self.gate != "mean" else 0
        for branch in self.branches:
            total = total + branch(x)
        if self.gate == "mean":
            total = total / len(self.branches)
            return x + total if self.residual else total
        return total

    def _weighed(self, x: Tensor) -> Tensor:
        outputs: list[tuple[Tensor, Tensor]] = []
        total: Any = 0
        for branch in self.branches:
            y = branch(x).movedim(self.dim, -1)
            z = self.transform(y)
            total = total + z
            outputs.append((y, z))
        mean = self.average(total / len(self.branches))
        result: Any = x.movedim(self.dim, -1) if self.residual else 0
        for y, z in outputs:
            result = result + 2 * torch.sigmoid(self.weigh(torch.cat([z, mean], -1))) * y
        return result.movedim(-1, self.dim)

    def extra_repr(self) -> str:
        return f"gate={self.gate!r}, dim={self.dim}, residual={self.residual}"


class Scaled(nn.Module):
    """A module times one learnt number, 1 at first."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.scale = inner, nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


def widen(model: nn.Module, pattern: str, branches: int = 4, **options: Any) -> int:
    """Put more branches beside each module whose path matches a glob, in place; returns how many were found.

    The module itself is the first branch; the others are copies with parameters drawn anew (by `reset_parameters`
    of their layers; what has none is copied). With the first branch alone the model computes what it did. `options`
    are those of `ParallelResidual`; `residual` is False unless given, for branches that the model adds itself. Call it
    before `elastify`.

    >>> model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8))
    >>> widen(model, "1", branches=2, gate="none"), len(model[1].branches)
    (1, 2)
    """
    if any(is_elastic(module) for module in model.modules()):
        raise ElastifyError("the model is already elastic", where="widen", fix="widen it before elastify")
    found = [path for path, _ in model.named_modules() if path and fnmatchcase(path, pattern)]
    found = [path for path in found if not any(path.startswith(f"{outer}.") for outer in found)]
    if not found or branches < 1:
        raise ElastifyError(f"nothing to widen with {pattern!r} and {branches} branches", fix="a glob of module paths")
    for path in found:
        parent, _, name = path.rpartition(".")
        owner = model.get_submodule(parent)
        first = owner.get_submodule(name)
        others = [_fresh(first) for _ in range(branches - 1)]
        layer = ParallelResidual([first, *others], **{"residual": False, **options})
        reference = next(first.parameters(), torch.empty(0))
        setattr(owner, name, layer.to(reference.device, reference.dtype).train(first.training))
    return len(found)


def _fresh(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    for part in twin.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    return twin
