"""Batch-norm statistics of one subnet, measured.

Running statistics learnt by the full network do not fit a subnet: fewer channels come in. So they are measured anew
on a few batches, as plain averages over them (`averages`), with only the norms in train mode and no gradients. A copy
of what the subnet sees is stored for the configuration first, and the norms write to that. The full network's buffers
are never touched unless that is what was asked for. On several ranks each measures on its own batches, and the averages
are those over all of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from elastify._errors import ElastifyError, function
from elastify._ir import FULL
from elastify._rewrite import elastic_state, is_elastic, remembered, store_statistics, stored_statistics
from elastify._search import Ranks
from elastify._verbs import activate, active_config, space
from elastify.train._batches import ForwardFn, run_batch, to_device
from elastify.train._surgery.averages import Statistics, finish, measure, only_training


def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    config: Any = None,
    forward: ForwardFn | None = None,
    *,
    update_full: bool = False,
) -> int:
    """Measure the batch-norm statistics of a subnet; `activate`, `search` and `extract` then use them.

    `batches` are (inputs, targets), dicts of arguments or tensors; for others `forward(model, batch)` runs the model.
    `config` is as for `activate`; None is the subnet that is active now. Returns how many layers were measured: 0 for a
    model without running statistics; those that no batch has reached stay as they were. The full network has its own,
    learnt in training: replacing those has to be asked for with `update_full=True`. A plain model (an extracted one,
    say) gets its own buffers replaced.

    The layers are the norms of torch and classes made of them; in an elastic model all other modules, too, whose
    buffers are statistics: they have to be moving averages or sums. On several ranks all call it, each with batches of
    its own, and get the averages over all of them. Raises ElastifyError for statistics of another kind and, on all
    ranks, for an error on any of them; everything is as before then.

    The averages are cumulative: reset, momentum None (Yu & Huang, US-Nets, arXiv 1903.05134). Where training goes on,
    each subnet that has its own statistics moves these as they were its buffers (switchable norms, Yu et al., Slimmable
    networks, arXiv 1812.08928): measure a finite set of sizes first, then train it. Those of subnets that are
    trained seldom fall behind the weights: measure them again after the training. Checkpoints of `fit` have them, too.

    >>> from elastify import elastify, extract
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    >>> model = elastify(model, torch.randn(8, 4))
    >>> recalibrate(model, [torch.randn(32, 4) for _ in range(4)], 0.5)
    1
    >>> extract(model, 0.5)[1].num_batches_tracked
    tensor(4)
    """
    if not isinstance(model, nn.Module):
        raise ElastifyError(f"the model is a {type(model).__name__}", where="recalibrate", fix="a torch.nn.Module")
    if not isinstance(batches, Iterable) or isinstance(batches, (str, Tensor)):
        raise ElastifyError(f"batches are a {type(batches).__name__}", fix="a DataLoader, or a list: [inputs, ...]")
    if forward is not None:
        function("forward", forward, "forward=lambda model, batch: model(batch)")
    ranks = Ranks.of(next((p.device for p in model.parameters()), torch.device("cpu")))
    if not is_elastic(model):
        if config is not None:
            raise ElastifyError(f"this {type(model).__name__} is not elastic: it has no configurations")
        return _measure_own(model, batches, forward, ranks)
    wanted = active_config(model) if config is None else space(model).config(config)
    ranks.same("subnets to measure", zlib.crc32(wanted.to_json().encode()), "the same config on every rank")
    with activate(model, wanted):
        if elastic_state(model).choice == FULL:
            if not update_full:
                raise ElastifyError(
                    "the full network keeps the batch-norm statistics that it learnt",
                    where="recalibrate",
                    why="the configuration is the full one",
                    fix="recalibrate(model, batches, config) for a subnet, or update_full=True to replace them",
                )
            return _measure_own(model, batches, forward, ranks)
        return _measure_subnet(model, batches, forward, ranks)


def _measure_subnet(model: nn.Module, batches: Iterable[Any], forward: ForwardFn | None, ranks: Ranks) -> int:
    elastic = elastic_state(model)
    before = stored_statistics(model, elastic.choice)
    store_statistics(model, None)
    layers = _layers(model)
    try:
        store_statistics(model, {_name(model, layer.path, k): v for layer in layers for k, v in layer.clones().items()})
        reached = _run(model, layers, batches, forward, ranks)
        stored = stored_statistics(model, elastic.choice) or {}
        names = {_name(model, layer.path, local) for layer in reached for local in layer.names}
        store_statistics(model, {name: stored[name] for name in names} if names else None)
    except BaseException:
        store_statistics(model, before)
        raise
    return len(reached)


def _measure_own(model: nn.Module, batches: Iterable[Any], forward: ForwardFn | None, ranks: Ranks) -> int:
    layers = _layers(model)
    put_back = remembered((layer.module._buffers, layer.names) for layer in layers)
    try:
        return len(_run(model, layers, batches, forward, ranks))
    except BaseException:
        put_back()
        raise


def _layers(model: nn.Module) -> list[Statistics]:
    """Layers of the active subnet with running statistics."""
    layers = []
    for path, module in model.named_modules():
        local = [name for name, buffer in module._buffers.items() if buffer is not None]
        if is_elastic(model):
            local = [name for name in local if _name(model, path, name) in elastic_state(model).plan.statistics]
        elif not isinstance(module, _NormBase):
            continue
        if any(getattr(module, name).is_floating_point() for name in local):
            layers.append(Statistics(path, module, tuple(local)))
    return layers


def _name(model: nn.Module, path: str, local: str) -> str:
    name = f"{path}.{local}" if path else local
    return elastic_state(model).plan.aliases.get(name, name)


def _run(
    model: nn.Module, layers: list[Statistics], batches: Iterable[Any], forward: ForwardFn | None, ranks: Ranks
) -> list[Statistics]:
    """Measure them on all batches of all ranks; those that were reached."""
    if not layers:
        return []
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    count, error = 0, None
    try:
        with only_training(model, layers), torch.no_grad():
            for batch in batches:
                measure(layers, partial(_call, model, to_device(batch, device), forward))
                count += 1
    except BaseException as raised:  # noqa: BLE001 - it is raised below, when the others have heard of it
        error = raised
    said = "" if error is None else f"{type(error).__name__}: {error}"
    every = ranks.collect((count, said))
    if error is not None:
        raise error
    for rank, (_, why) in enumerate(every):
        if why:
            raise ElastifyError("another rank could not measure its statistics", where=f"rank {rank}", why=why)
    if not any(number for number, _ in every):
        raise ElastifyError("nothing to recalibrate with", why="there is no batch", fix="pass a loader or a list")
    return finish(layers, ranks)


def _call(model: nn.Module, batch: Any, forward: ForwardFn | None) -> None:
    if forward is None and isinstance(batch, Tensor):
        model(batch)
    else:
        run_batch(model, batch, forward)
