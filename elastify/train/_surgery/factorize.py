"""Layers as the product of two: a linear map of rank r is a map onto r units and one from them.

By singular value decomposition, W = U S V = (U sqrt(S)) (sqrt(S) V), with the singular values in descending order. So
the first k of the inner units are the best approximation of rank k there is. The inner units are an axis like any
other, and `elastify` makes it elastic.
"""

from __future__ import annotations

from collections import OrderedDict
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from elastify._errors import ElastifyError
from elastify._plan import ceil_ratio
from elastify._rewrite import is_elastic

_CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d


def factorize(model: nn.Module, rank: float = 1.0, pattern: str = "*") -> nn.Module:
    """Replace linear layers and 1x1 convolutions by two factors each, in place, before `elastify`.

    >>> from elastify import elastify, space
    >>> net = factorize(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), pattern="0")
    >>> net[0]
    Sequential(
      (down): Linear(in_features=8, out_features=8, bias=False)
      (up): Linear(in_features=8, out_features=16, bias=True)
    )
    >>> [(axis.name, axis.size) for axis in space(elastify(net, torch.randn(2, 8))).axes]
    [('0.rank', 8), ('0.up.hidden', 16)]

    `pattern` is a glob of module paths. `rank` is a share of the full rank (float, rounded up) or a number; at the full
    rank the function stays the same, below it each layer is the nearest of that rank. A layer becomes an
    `nn.Sequential` of `down` (without bias) and `up`. Layers whose weight is shared, parametrized or belongs to a
    subclass stay as they are, since other code reads it. Returns the model. Low-rank cores as in partially masked
    training (Mohtashami et al., arXiv 2106.08895): `AlternateCore(model, {"*.rank": 0.25})`.
    """
    if any(is_elastic(module) for module in model.modules()):
        raise ElastifyError("the model is already elastic", where="factorize", fix="elastify(factorize(model), inputs)")
    names: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)] = names.get(id(parameter), 0) + 1
    layers = {
        path: module
        for path, module in model.named_modules()
        if path and fnmatchcase(path, pattern) and _can_split(module) and names.get(id(module.weight), 2) == 1
    }
    if not layers:
        raise ElastifyError(
            "there is nothing to factorize",
            where=pattern,
            why="no nn.Linear or 1x1 convolution of that name has a weight that nothing else uses",
            fix='a glob of module paths such as "*.mlp.*"',
        )
    for path, module in layers.items():
        parent, _, local = path.rpartition(".")
        setattr(model.get_submodule(parent), local, _split(module, rank, path))
    return model


def _can_split(module: nn.Module) -> bool:
    if type(module) is nn.Linear:
        return True
    if type(module) not in _CONVOLUTIONS or not isinstance(module, _ConvNd):
        return False
    return module.groups == 1 and set(module.kernel_size) == {1} and isinstance(module.padding, tuple)


def _split(module: nn.Module, rank: float, path: str) -> nn.Sequential:
    weight = module.weight
    assert isinstance(weight, Tensor)
    out, into = weight.shape[:2]
    full = min(out, into)
    kept = ceil_ratio(rank, full) if isinstance(rank, float) else rank
    if not (1 <= kept <= full and rank > 0):  # a share is rounded up
        raise ElastifyError(
            f"rank {rank!r} is not possible", where=path, why=f"its full rank is {full}", fix="a share such as 0.5"
        )
    with torch.no_grad():
        u, s, v = torch.linalg.svd(weight.reshape(out, into).double(), full_matrices=False)
        root = s[:kept].sqrt()
        first, second = root[:, None] * v[:kept], u[:, :kept] * root
    down, up = _layers(module, kept)
    for layer, value in ((down, first), (up, second)):
        layer.to(weight.device, weight.dtype)
        assert isinstance(layer.weight, nn.Parameter)
        layer.weight.data.copy_(value.reshape(layer.weight.shape))
        layer.weight.requires_grad_(weight.requires_grad)
    if isinstance(module.bias, nn.Parameter):
        up.bias = module.bias
    return nn.Sequential(OrderedDict(down=down, up=up)).train(module.training)


def _layers(module: nn.Module, rank: int) -> tuple[nn.Module, nn.Module]:
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        return nn.Linear(module.in_features, rank, bias=False), nn.Linear(rank, module.out_features, bias=bias)
    assert isinstance(module, _ConvNd)
    kind: type[nn.Conv2d] = type(module)  # type: ignore[assignment] - or that of 1 or 3 dimensions
    where = {"stride": module.stride, "padding": module.padding, "padding_mode": module.padding_mode}
    down = kind(module.in_channels, rank, 1, bias=False, **where)  # type: ignore[arg-type]
    return down, kind(rank, module.out_channels, 1, bias=bias)
