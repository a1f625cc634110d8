"""Batch-norm statistics of one subnet, measured.

Running statistics learnt by the full network do not fit a subnet: fewer channels come in. So they are measured anew
on a few batches, as plain averages over them, with only the norms in train mode and no gradients. Fresh
statistics are stored for the configuration first; the norms then fill it as they would fill their own. The full
network's buffers are never touched unless that is what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from elastify._errors import ElastifyError
from elastify._ir import FULL
from elastify._rewrite import elastic_state, is_elastic, store_statistics, stored_statistics
from elastify._verbs import activate, active_config, space
from elastify.train._batches import ForwardFn, run_batch, to_device

_FRESH = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0}


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
    `config` is as for `activate`; None is the subnet that is active now. Returns how many norm layers were measured:
    0 for a model without running statistics. The full network has its own, learnt in training: replacing those has to
    be asked for with `update_full=True`. A plain model (an extracted one, say) gets its own buffers replaced.

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
    if not is_elastic(model):
        if config is not None:
            raise ElastifyError(f"this {type(model).__name__} is not elastic: it has no configurations")
        return _measure_own(model, batches, forward)
    wanted = active_config(model) if config is None else space(model).config(config)
    with activate(model, wanted):
        if elastic_state(model).choice == FULL:
            if not update_full:
                raise ElastifyError(
                    "the full network keeps the batch-norm statistics that it learnt",
                    where="recalibrate",
                    why="the configuration is the full one",
                    fix="recalibrate(model, batches, config) for a subnet, or update_full=True to replace them",
                )
            return _measure_own(model, batches, forward)
        return _measure_subnet(model, batches, forward)


def _measure_subnet(model: nn.Module, batches: Iterable[Any], forward: ForwardFn | None) -> int:
    before = stored_statistics(model, elastic_state(model).choice)
    store_statistics(model, None)
    norms = _norms(model)
    if not norms:
        return 0
    fresh: dict[str, Tensor] = {}
    for path, norm in norms.items():
        for local, value in _FRESH.items():
            name = elastic_state(model).plan.aliases.get(f"{path}.{local}", f"{path}.{local}")
            if isinstance(getattr(norm, local, None), Tensor) and name in elastic_state(model).plan.statistics:
                fresh[name] = torch.full_like(getattr(norm, local), value)
    store_statistics(model, fresh)
    try:
        _run(model, list(norms.values()), batches, forward)
    except BaseException:
        store_statistics(model, before)
        raise
    return len(norms)


def _measure_own(model: nn.Module, batches: Iterable[Any], forward: ForwardFn | None) -> int:
    norms = list(_norms(model).values())
    if not norms:
        return 0
    buffers = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var, norm.num_batches_tracked)]
    before = [None if buffer is None else buffer.clone() for buffer in buffers]
    for norm in norms:
        norm.reset_running_stats()
    try:
        _run(model, norms, batches, forward)
    except BaseException:
        for buffer, value in zip(buffers, before, strict=True):
            if buffer is not None and value is not None:
                buffer.copy_(value)
        raise
    return len(norms)


def _norms(model: nn.Module) -> dict[str, _NormBase]:
    """Norm layers of the active subnet with running statistics, by path."""
    norms = {path: module for path, module in model.named_modules() if isinstance(module, _NormBase)}
    return {path: norm for path, norm in norms.items() if norm.running_mean is not None}


def _run(model: nn.Module, norms: list[_NormBase], batches: Iterable[Any], forward: ForwardFn | None) -> None:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    count = 0
    with _only_training(model, norms), torch.no_grad():
        for batch in batches:
            batch = to_device(batch, device)
            if forward is None and isinstance(batch, Tensor):
                model(batch)
            else:
                run_batch(model, batch, forward)
            count += 1
    if not count:
        raise ElastifyError("nothing to recalibrate with", why="there is no batch", fix="pass a loader or a list")


@contextmanager
def _only_training(model: nn.Module, norms: list[_NormBase]) -> Iterator[None]:
    """Everything in eval mode but the norms, and these average over all batches."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(norm, norm.momentum) for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.training = True
            norm.momentum = None
        yield
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
