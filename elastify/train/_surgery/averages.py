"""Plain averages of what norms keep as moving averages.

The batch norms of torch average plainly where their momentum is None and their count begins at zero. Of any other
module it is found out how it moves: first what a pass writes at all, then these are set to 0 before a pass, and to some
K before the same pass once more. A moving average that takes a share of what it measures ends at `share * measured` the
first time and at `(1 - share) * K + share * measured` the second time, so that the difference tells the share:

    K = 10, after the passes 0.2 and 9.2:  1 - share = (9.2 - 0.2) / 10, share = 0.1, measured = 0.2 / 0.1 = 2

Where the share is 0, and something was written all the same, it is a sum, which is added up. If the entries of a tensor
disagree about the share, it is neither, and refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from elastify._errors import ElastifyError
from elastify._search import Ranks
from elastify.train._batches import random_state, set_random_state

_COUNT = "num_batches_tracked"
_OF_TORCH = ("running_mean", "running_var", _COUNT)
_PLAIN = (nn.modules.batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward)


@dataclass(eq=False)
class Statistics:
    """The buffers `names` of a module, and what was measured for them so far: sums of values by their weights.

    `shares` are those of the moving averages among the `written` ones; 0 is a sum.
    """

    path: str
    module: nn.Module
    names: tuple[str, ...]
    written: list[str] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.before = self.clones()
        self.sums = {name: torch.zeros(t.shape, dtype=torch.float64) for name, t in self.before.items()}
        self.weights = dict.fromkeys(self.names, 0.0)
        if self.is_plain:
            self.written = [name for name in self.names if name in _OF_TORCH]
            self.shares = {name: float(name != _COUNT) for name in self.written}

    @property
    def is_plain(self) -> bool:
        """Whether it averages plainly without momentum."""
        return type(self.module).forward in _PLAIN and _COUNT in self.names

    @property
    def unknown(self) -> list[str]:
        """What is written, nobody knows how."""
        return [name for name in self.written if name not in self.shares]

    def clones(self) -> dict[str, Tensor]:
        """The values of now."""
        return {name: getattr(self.module, name).detach().clone() for name in self.names}

    def begin(self, values: Mapping[str, float]) -> None:
        """Fill what is written with numbers, 0 by default."""
        for name in self.written:
            getattr(self.module, name).fill_(values.get(name, 0))

    def numbers(self) -> dict[str, Any]:
        """What the module may count with besides buffers."""
        return {name: value for name, value in vars(self.module).items() if type(value) in (int, float)}

    def look(self, before: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Find out what a pass has written."""
        if self.written:
            return
        self.written = [name for name, value in self.clones().items() if not torch.equal(value, before[name])]
        if self.written and self.numbers() != numbers:
            raise self.refused(self.written[0], "its module counts in a Python attribute")

    def starts(self, first: Mapping[str, Tensor]) -> dict[str, float]:
        """Where to begin once more, after a pass that has led from 0 to `first`; whole numbers are counts."""
        known = {name: 0.0 for name in self.unknown if not first[name].is_floating_point()}
        self.shares |= known
        return {name: 1 + 8 * float(first[name].abs().max()) for name in self.unknown if (first[name] != 0).any()}

    def learn(self, first: Mapping[str, Tensor], starts: Mapping[str, float]) -> None:
        """Find out the shares: it ended at `first` when it began at 0, and has ended now after it began at `starts`."""
        for name, now in self.clones().items():
            if name not in starts:
                continue
            kept = (now.double() - first[name].double()) / starts[name]
            tolerance = max(1e-4, 16 * torch.finfo(now.dtype).eps)
            if not (kept.max() - kept.min() <= tolerance and -tolerance <= kept.median() <= 1 + tolerance):
                raise self.refused(name, "how much is left of its former value differs from entry to entry")
            share = 1 - float(kept.median())
            self.shares[name] = share if share > tolerance else 0.0

    def add(self, found: Mapping[str, Tensor]) -> None:
        """Add what one batch has given, beginning at 0."""
        calls = float(found[_COUNT]) if self.is_plain else 1.0
        for name, value in found.items():
            share = self.shares.get(name)
            if share is None or not (calls if self.is_plain else (value != 0).any()):
                continue  # not reached
            weight = calls if share else 1.0
            self.sums[name] += value.cpu().double() / (share or 1.0) * weight
            self.weights[name] += weight

    def refused(self, name: str, why: str) -> ElastifyError:
        """The error for what is no average."""
        return ElastifyError(
            "statistics that are no moving averages cannot be measured anew",
            where=f"{self.path}.{name}" if self.path else name,
            why=why,
            fix="train the subnet, which moves its statistics; or measure them in a way of your own after extract",
        )


def measure(layers: Sequence[Statistics], run: Callable[[], None]) -> None:
    """Add the statistics of one batch, which is run again where it is not known yet how a module moves."""
    settled = all(layer.written and not layer.unknown for layer in layers)
    state = None if settled else random_state()
    if not all(layer.written for layer in layers):
        before = [(layer.clones(), layer.numbers()) for layer in layers]
        run()
        for layer, (values, numbers) in zip(layers, before, strict=True):
            layer.look(values, numbers)
    for layer in layers:
        layer.begin({})
    if state is not None:
        set_random_state(state)
    run()
    found = [layer.clones() for layer in layers]
    starts = [layer.starts(first) for layer, first in zip(layers, found, strict=True)]
    if state is not None and any(starts):
        for layer, start in zip(layers, starts, strict=True):
            layer.begin(start)
        set_random_state(state)
        run()
        for layer, first, start in zip(layers, found, starts, strict=True):
            layer.learn(first, start)
    for layer, values in zip(layers, found, strict=True):
        layer.add(values)


def finish(layers: Sequence[Statistics], ranks: Ranks) -> list[Statistics]:
    """Write the averages over all batches of all ranks; returns the layers that some batch has reached."""
    mine: list[float] = []
    for layer in layers:
        for name in layer.names:
            mine += [
                layer.weights[name],
                layer.weights[name] * (layer.shares.get(name) == 0),
                *layer.sums[name].flatten().tolist(),
            ]
    total = iter(ranks.sum(mine))
    reached = []
    for layer in layers:
        weights = dict.fromkeys(layer.names, 0.0)
        for name in layer.names:
            weight, summed = next(total), next(total)
            value = torch.tensor([next(total) for _ in range(layer.sums[name].numel())], dtype=torch.float64)
            weights[name] = weight
            buffer = getattr(layer.module, name)
            mean = value.view(layer.sums[name].shape) / (weight if weight and not summed else 1.0)
            buffer.copy_(mean if weight else layer.before[name])
        if any(weights.values()):
            reached.append(layer)
    return reached


@contextmanager
def only_training(model: nn.Module, layers: Sequence[Statistics]) -> Iterator[None]:
    """Everything in eval mode but these layers, and those that can average plainly do."""
    modes = [(module, module.training) for module in model.modules()]
    momenta: list[tuple[Any, Any]] = [(layer.module, layer.module.momentum) for layer in layers if layer.is_plain]
    try:
        model.eval()
        for layer in layers:
            layer.module.training = True
        for norm, _ in momenta:
            norm.momentum = None
        yield
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
