"""Norms whose statistics do not depend on the width: what batch norms are replaced by before `elastify`.

Running statistics are those of one network; a subnet would need its own (`recalibrate`). Group and instance norms
measure every sample by itself and have nothing to keep.
"""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from elastify._errors import ElastifyError
from elastify._rewrite import is_elastic


def replace_norms(model: nn.Module, kind: str = "group", groups: int = 32) -> int:
    """Replace every batch norm of a plain model, in place; returns how many there were.

    "group" makes `GroupNorm` of at most `groups` groups that divide the channels, "instance" one group per channel
    (the norms of LCS, arXiv 2110.04252). Scale and shift are kept; what the network computes changes, so do it before
    training, and before `elastify`.

    >>> model = nn.Sequential(nn.Conv2d(3, 48, 3), nn.BatchNorm2d(48), nn.ReLU())
    >>> replace_norms(model), model[1].num_groups
    (1, 24)
    """
    if kind not in ("group", "instance"):
        raise ElastifyError(f"unknown kind of norm {kind!r}", where="replace_norms", fix='"group" or "instance"')
    if any(is_elastic(module) for module in model.modules()):
        raise ElastifyError("the model is already elastic", where="replace_norms", fix="replace norms before elastify")
    children = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    batch = [item for item in children if isinstance(item[2], _NormBase) and "BatchNorm" in type(item[2]).__name__]
    made: dict[int, nn.Module] = {}
    for parent, name, norm in batch:
        assert isinstance(norm, _NormBase)
        if id(norm) not in made:
            count = norm.num_features
            parts = count if kind == "instance" else _groups(count, groups)
            new = nn.GroupNorm(parts, count, norm.eps, norm.affine).train(norm.training)
            if norm.affine:
                new.weight, new.bias = norm.weight, norm.bias
            made[id(norm)] = new
        setattr(parent, name, made[id(norm)])
    return len(made)


def _groups(channels: int, most: int) -> int:
    """The largest number of groups of at least two channels, up to `most`, that divides them."""
    return max(n for n in range(1, max(1, min(most, channels // 2)) + 1) if math.gcd(n, channels) == n)
