"""An optimizer that leaves alone what the step did not use.

Weight decay and momentum move weights whether they had a gradient or not: entries that no subnet of the step contains
would shrink and drift, though nothing was learnt about them. A hook on each parameter notes, whenever a backward
has reached it, which part of it the active subnet uses; the union over the passes of a step is what may change. Around
the optimizer's own step, parameters of no pass have their gradient withheld, and of the others the rest of the entries,
value and state, are put back.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, NAdam, Optimizer, RAdam, RMSprop

from elastify._errors import ElastifyError
from elastify._ir import Layout, axes_of
from elastify._rewrite import ElasticState, elastic_state, kept_ranges, known_models

_BEGIN_AT_ZERO = (SGD, Adam, Adamax, NAdam, RAdam, RMSprop, Adagrad, Adadelta)
_O = TypeVar("_O", bound=Optimizer)
Part = frozenset[tuple[int, int]]  # kept sizes by axis id, of the axes that run through a tensor and are not whole
_WHOLE: Part = frozenset()


def active_only(optimizer: _O) -> _O:
    """Let the optimizer of an elastic model change only what was active in the step; returns the optimizer.

    >>> from elastify import activate, elastify
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)), torch.randn(2, 4))
    >>> optimizer = active_only(SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1))
    >>> before = model[0].weight.detach().clone()
    >>> with activate(model, {"hidden": 4}):
    ...     model(torch.randn(8, 4)).square().mean().backward()
    >>> optimizer.step()
    >>> (model[0].weight != before).any(1).sum()
    tensor(4)

    Values and state (momentum, averages of squares) of all other entries stay as they are; of a parameter that
    no pass used nothing changes at all. What counts is which subnet is active while a backward runs, so it works with
    every strategy and in loops without one. For SGD, the Adam family, RMSprop, Adagrad and Adadelta of torch.optim:
    where their state begins, entries that were not active begin at zero. The bias correction of Adam counts the steps
    of a parameter, not of its entries. Parameters of no elastic model are trained as ever; sharded ones are refused.
    """
    if not isinstance(optimizer, _BEGIN_AT_ZERO):
        raise ElastifyError(
            f"active_only does not know {type(optimizer).__name__}",
            why="its state may not start at zero for each weight",
            fix="SGD, Adam or another of " + ", ".join(kind.__name__ for kind in _BEGIN_AT_ZERO),
        )
    watch = _Watch(optimizer)
    optimizer.register_step_pre_hook(watch.before)
    optimizer.register_step_post_hook(watch.after)
    return optimizer


class _Watch:
    """What the passes since the last step have used, and what has to be put back after the next."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._used: dict[int, tuple[Any, set[Part]]] = {}  # with the gradient that they went into, weakly
        self._places: dict[int, tuple[ElasticState, tuple[Layout, ...]]] = {}
        self._seen, self._stepping = -1, False
        self._withheld: list[tuple[nn.Parameter, Tensor]] = []
        self._saved: list[tuple[nn.Parameter, Tensor, Tensor, dict[str, Tensor]]] = []
        for parameter in _parameters(optimizer):
            if type(parameter).__name__ == "DTensor":
                raise ElastifyError("active_only cannot watch sharded parameters", fix="leave it out under FSDP")
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._note)

    def _note(self, parameter: Any) -> None:
        """A backward has reached the parameter, with this subnet active."""
        if self._stepping:
            self._stepping = False
            for withheld, gradient in self._withheld:
                withheld.grad = gradient
            raise ElastifyError(
                "active_only cannot watch a backward within optimizer.step()",
                why="which entries get gradients has to be known before the optimizer begins",
                fix="the backward passes first, then optimizer.step() without a closure that makes them",
            )
        place = self._place(parameter)
        if place is None:
            return
        gradient, parts = self._used.get(id(parameter), (None, set()))
        if gradient is None or gradient() is not parameter.grad:  # the first since zero_grad
            parts = set()
        elastic, layouts = place
        sizes = elastic.choice.sizes
        ids = {axis.id for layout in layouts for axis in axes_of(layout)}
        parts.add(frozenset((ident, sizes[ident]) for ident in ids & sizes.keys()))
        self._used[id(parameter)] = weakref.ref(parameter.grad), parts

    def _place(self, parameter: Any) -> tuple[ElasticState, tuple[Layout, ...]] | None:
        """The elastic state of the model that the parameter belongs to, and the layouts of its dimensions."""
        if self._seen != known_models.changes:
            self._seen, self._places = known_models.changes, {}
            for model in known_models:
                elastic = elastic_state(model)
                for name, own in model.named_parameters():
                    name = elastic.plan.aliases.get(name, name)
                    self._places[id(own)] = elastic, elastic.plan.tensors.get(name, elastic.extras.get(name, ()))
        return self._places.get(id(parameter))

    def before(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        """Withhold and save what the step shall not change."""
        self._withheld, self._saved, self._stepping = [], [], True
        for parameter in _parameters(optimizer):
            place = self._place(parameter)
            if place is None or parameter.grad is None:
                continue
            _, parts = self._used.get(id(parameter), (None, set[Part]()))
            if not parts:
                if not parameter.grad.any():  # zeros from zero_grad(set_to_none=False)
                    self._withheld.append((parameter, parameter.grad))
                    parameter.grad = None
            elif _WHOLE not in parts:
                state = optimizer.state[parameter].items()
                saved = {key: value.clone() for key, value in state if _entries(value, parameter)}
                mask = _mask(place[1], parts).to(parameter.device)
                self._saved.append((parameter, mask, parameter.detach().clone(), saved))

    @torch.no_grad()
    def after(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        """Put it back."""
        self._stepping = False
        for parameter, gradient in self._withheld:
            parameter.grad = gradient
        for parameter, mask, value, saved in self._saved:
            parameter.copy_(torch.where(mask, parameter, value))
            for key, now in optimizer.state[parameter].items():
                if _entries(now, parameter):
                    now.copy_(torch.where(mask, now, saved[key] if key in saved else torch.zeros_like(now)))
        self._used.clear()
        self._withheld, self._saved = [], []


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _entries(value: object, parameter: nn.Parameter) -> bool:
    """Whether a value of an optimizer's state has one number per entry of the parameter."""
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0


def _mask(layouts: tuple[Layout, ...], parts: Iterable[Part]) -> Tensor:
    """Entries that lie in any of the parts."""
    mask = np.zeros([layout.size for layout in layouts], bool)
    for part in parts:
        mask[np.ix_(*(_kept(layout, dict(part)) for layout in layouts))] = True
    return torch.from_numpy(mask)


def _kept(layout: Layout, sizes: Mapping[int, int]) -> np.ndarray:
    return np.concatenate([np.arange(start, start + length) for start, length in kept_ranges(layout, sizes)])
