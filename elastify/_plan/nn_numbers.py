"""Numbers that torch.nn's own modules keep about their tensors: `in_features`, `num_channels`, `hidden_size`, ...

They are read by people and by other libraries more than by `forward`, so no record shows where they come from;
this table does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import nn


class Source(NamedTuple):
    """A number of a torch.nn module: the size of `dim` of `tensor`, times its attribute `times`, divided by `over`."""

    tensor: str
    dim: int
    times: str = ""
    over: int = 1


_RNN = {"input_size": Source("weight_ih_l0", 1), "proj_size": Source("weight_hr_l0", 0)}


NN_ATTRIBUTES: dict[type[nn.Module], dict[str, Source]] = {
    nn.Linear: {"in_features": Source("weight", 1), "out_features": Source("weight", 0)},
    nn.Bilinear: {
        "in1_features": Source("weight", 1),
        "in2_features": Source("weight", 2),
        "out_features": Source("weight", 0),
    },
    nn.modules.conv._ConvTransposeNd: {
        "in_channels": Source("weight", 0),
        "out_channels": Source("weight", 1, "groups"),
    },
    nn.modules.conv._ConvNd: {"in_channels": Source("weight", 1, "groups"), "out_channels": Source("weight", 0)},
    nn.modules.batchnorm._NormBase: {"num_features": Source("weight", 0)},
    nn.GroupNorm: {"num_channels": Source("weight", 0)},
    nn.PReLU: {"num_parameters": Source("weight", 0)},
    nn.Embedding: {"num_embeddings": Source("weight", 0), "embedding_dim": Source("weight", 1)},
    nn.EmbeddingBag: {"num_embeddings": Source("weight", 0), "embedding_dim": Source("weight", 1)},
    nn.LSTM: {**_RNN, "hidden_size": Source("weight_hh_l0", 0, over=4)},
    nn.GRU: {**_RNN, "hidden_size": Source("weight_hh_l0", 0, over=3)},
    nn.RNN: {**_RNN, "hidden_size": Source("weight_hh_l0", 0)},
    nn.RNNCellBase: {"input_size": Source("weight_ih", 1), "hidden_size": Source("weight_hh", 1)},
    nn.MultiheadAttention: {
        "embed_dim": Source("out_proj.weight", 0),
        "kdim": Source("k_proj_weight", 1),
        "vdim": Source("v_proj_weight", 1),
    },
}


_ALTERNATIVES = {
    "k_proj_weight": ("in_proj_weight",),
    "v_proj_weight": ("in_proj_weight",),
    "weight": ("running_mean", "weight_v"),
}


def nn_sources(module: nn.Module) -> Mapping[str, Source]:
    """Numbers of a torch.nn module and where they come from; empty for other modules."""
    for kind, sources in NN_ATTRIBUTES.items():
        if isinstance(module, kind):
            return sources
    return {}


def spellings(tensor: str) -> Iterator[str]:
    """Names under which a tensor of a module may be registered: as itself, parametrized, or by an old weight_norm."""
    for name in (tensor, *_ALTERNATIVES.get(tensor, ())):
        yield name
        for original in ("original", "original1", "original0"):
            yield f"parametrizations.{name}.{original}"
