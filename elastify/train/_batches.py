"""Batches: how a model is called on one, where they come from epoch by epoch, and the random state around them.

A batch is `(inputs, targets)`, where inputs are a tensor, a tuple of arguments or a dict of them, or one dict of
arguments that holds the targets too. Each epoch begins with seeds made of (seed, epoch) alone, so that its order can
be had again: a resumed run draws the same order, passes over what it has already used, and then sets the generators to
the state of the checkpoint.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from elastify._errors import ElastifyError

ForwardFn = Callable[[nn.Module, Any], Any]


def run_batch(model: nn.Module, batch: Any, forward_fn: ForwardFn | None = None) -> tuple[Any, Any]:
    """Outputs of the model, and what the loss is given beside them."""
    if forward_fn is not None:
        return forward_fn(model, batch), batch
    if isinstance(batch, Mapping):
        return model(**batch), batch
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, targets = batch
        if isinstance(inputs, Mapping):
            return model(**inputs), targets
        return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs), targets
    kind = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
    raise ElastifyError(
        f"a batch is neither (inputs, targets) nor a dict: it is a {kind}",
        fix="forward_fn=lambda model, batch: model(batch[0]); the loss is then given (outputs, batch)",
    )


def to_device(batch: Any, device: torch.device) -> Any:
    """The same batch with all its tensors on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(item, device) for item in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)([to_device(item, device) for item in batch])
    if isinstance(batch, Mapping):
        return {key: to_device(item, device) for key, item in batch.items()}
    return batch


def sample_count(batch: object) -> int:
    """How many samples a batch has: the length of its first tensor.

    >>> sample_count(({"x": torch.zeros(8, 3)}, torch.zeros(8)))
    8
    """
    first = next((leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()), None)
    return 1 if first is None else len(first)


def seed_generators(*numbers: int) -> int:
    """Seed the global generators of Python, numpy and torch with a number made of these, and return it."""
    drawn = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(drawn)
    np.random.seed(drawn)  # noqa: NPY002 - datasets of others draw from the global generator
    torch.manual_seed(drawn)
    return drawn


def epoch_batches(data: Iterable[Any], seed: int, epoch: int, skip: int = 0, rank: int = 0) -> Iterator[Any]:
    """The batches of one epoch without the first `skip`; the order depends on (seed, epoch) and the rank alone."""
    drawn = seed_generators(seed, epoch, *([rank] if rank else []))
    parts = _parts(data)
    for part in parts:
        if callable(getattr(part, "set_epoch", None)):
            part.set_epoch(epoch)
    for part in parts:
        if isinstance(getattr(part, "generator", None), torch.Generator):
            part.generator.manual_seed(drawn)
    batches = iter(data)
    passed = sum(1 for _ in itertools.islice(batches, skip))
    if passed < skip:
        raise ElastifyError(
            f"the data have {passed} batches, the checkpoint has used {skip} of this epoch",
            why="the checkpoint belongs to a run with other data",
            fix="pass the same data, or resume=False to start over",
        )
    return batches


def batch_count(data: Iterable[object]) -> int | None:
    """Batches of an epoch, where the data know it."""
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return None


def _parts(data: object) -> list[Any]:
    """The loader with its samplers and dataset, each once."""
    sampler = getattr(data, "sampler", None)
    batch_sampler = getattr(data, "batch_sampler", None)
    parts = [data, sampler, batch_sampler, getattr(batch_sampler, "sampler", None), getattr(data, "dataset", None)]
    return list({id(part): part for part in parts if part is not None}.values())


def random_state() -> dict[str, Any]:
    """State of the global generators of Python, numpy and torch (CPU and CUDA)."""
    legacy: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    kind, keys, *rest = legacy
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go back to a state that `random_state` gave."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def check_random_state(state: Mapping[str, Any]) -> None:
    """Raise what setting it would raise; the generators are as before."""
    before = random_state()
    try:
        set_random_state(state)
    finally:
        set_random_state(before)
