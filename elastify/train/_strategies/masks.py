"""What strategies that learn which parts of a network to use have in common: frozen weights and trained gates.

`prepare` puts gates on weights, on units of axes or on blocks, and freezes everything else. A step draws the gates,
runs one pass with them and leaves the gradients of their logits. Gates of units and blocks are a claim about the
model, that closing is leaving out; the first step proves it by running both.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from elastify import _verbs
from elastify._capture import resolve
from elastify._errors import ElastifyError
from elastify._ir import Axis, ElasticAxis, Stage
from elastify._rewrite import add_parameter, attach, elastic_state, extra_name
from elastify._verbs import space
from elastify.train._strategies.choices import freeze_globs, is_prepared, matched, note_prepared
from elastify.train._strategies.gates import Gate, GatedBlock, GatedUnits, MaskedWeight, gates_of
from elastify.train._strategies.losses import Backward, Distill, Forward, Loss, Losses, floats
from elastify.train._strategies.strategy import Strategy
from elastify.train._surgery import owners

Select = str | Iterable[str] | None


@dataclass(frozen=True, eq=False)
class Masked(Strategy):
    """A strategy that trains gates; `freeze` freezes all other parameters, `weights` says what they are.

    `weights`: "kept" as they are, "kaiming" drawn anew (normal), "signed" anew and each its sign times the standard
    deviation of its tensor. 1-dimensional parameters are never drawn anew.
    """

    weights: str = field(default="kept", kw_only=True)
    freeze: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        freeze_globs(self, "select")
        if self.weights not in ("kept", "kaiming", "signed"):
            raise ElastifyError(f"weights={self.weights!r}", fix='one of "kept", "kaiming", "signed"')

    @abstractmethod
    def _choose(self) -> list[Any]:
        """What gets gates, or an error; the model stays as it is."""

    @abstractmethod
    def _add_gates(self, chosen: list[Any]) -> None:
        """Put gates on the model, whose weights are those to be masked."""

    def prepare(self) -> None:
        """Draw the weights, freeze what there is, add the gates; once. After an error the model is as it was."""
        if is_prepared(self):
            return
        chosen = self._choose()  # before anything changes: weights that are drawn anew are lost
        generator = torch.Generator().manual_seed(self.seed)
        for parameter in self.model.parameters():
            if parameter.dim() > 1 and self.weights != "kept":
                _draw(parameter, generator, signed=self.weights == "signed")
            if self.freeze:
                parameter.requires_grad_(False)
        self._add_gates(chosen)
        note_prepared(self)

    def step(
        self, forward: Forward, loss: Loss, *, distill: Distill | None = None, backward: Backward = Tensor.backward
    ) -> Losses:
        """Add the gradients of the loss with newly drawn gates; arguments as for `Sandwich.step`, but no `distill`."""
        self._labels_only(distill)
        self._check_prepared(is_prepared(self))
        gates = gates_of(self.model)
        generator = torch.Generator().manual_seed(int(self._generator.integers(2**62)))
        try:
            for gate in gates:
                gate.draw(generator)
            value = self._pass(None, forward, loss, backward)
        finally:
            for gate in gates:
                gate.noise = None
        return Losses(floats([value])[0])

    def groups(self, lr: float = 50.0, scale_lr: float = 1e-3, **options: Any) -> list[dict[str, Any]]:
        """Parameter groups for `torch.optim.SGD(strategy.groups(), momentum=.9)`: gates, scales, and the rest.

        `options` such as `weight_decay` are those of all groups.
        """
        self.prepare()
        gates = {id(gate.logits) for gate in gates_of(self.model)}
        scales = {name for name in elastic_state(self.model).extras if name.endswith("_scale_elastic")}
        by_rate: dict[float | None, list[nn.Parameter]] = {lr: [], scale_lr: [], None: []}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                by_rate[lr if id(parameter) in gates else scale_lr if name in scales else None].append(parameter)
        rates = {rate: {} if rate is None else {"lr": rate} for rate in by_rate}
        return [{"params": some, **rates[rate], **options} for rate, some in by_rate.items() if some]

    def extract(self) -> nn.Module:
        """A plain model of what the gates leave open, all of it trainable."""
        self.prepare()
        return _verbs.extract(self.model, None).requires_grad_()


def _draw(weight: Tensor, generator: torch.Generator, *, signed: bool) -> None:
    with torch.no_grad():
        fresh = torch.empty(weight.shape, dtype=torch.float32)
        nn.init.kaiming_normal_(fresh, generator=generator)
        weight.copy_(fresh.sign() * fresh.std() if signed else fresh)


def gate_weights(
    model: nn.Module, names: Iterable[str], rescale: str | None, init: Callable[[Tensor], Tensor], **options: Any
) -> None:
    """Gates for each entry of some tensors."""
    layouts, parameters = elastic_state(model).plan.tensors, dict(model.named_parameters())
    for name in names:
        path, _, local = name.rpartition(".")
        gate = Gate(resolve(model, path), extra_name(local), **options)
        values = {"": (init(parameters[name]), layouts.get(name, ()))}
        if rescale == "smart":
            values["scale"] = torch.ones(1, device=parameters[name].device, dtype=parameters[name].dtype), ()
        attach(model, name, MaskedWeight, values, gate=gate, rescale=rescale)


def _summed(model: nn.Module, axis: ElasticAxis) -> list[tuple[str, int]]:
    """Where units of an axis are summed over, as (tensor, dimension): at least one place."""
    places = [place for place in axis.members if place in elastic_state(model).plan.summed]
    if not places:
        raise ElastifyError("an axis cannot be gated", where=axis.name, why="no parameter sums over its units")
    return places


def gate_units(model: nn.Module, axes: Iterable[ElasticAxis], start: float, **options: Any) -> None:
    """Gates for the units of some axes, in every tensor that sums over them."""
    plan = elastic_state(model).plan
    dims: dict[str, list[tuple[int, Gate, np.ndarray]]] = {}
    for axis in axes:
        places = _summed(model, axis)
        path, _, local = places[0][0].rpartition(".")
        owner, role = resolve(model, path), axis.role
        while extra_name(local, role) in owner._parameters:
            role += "_"
        name = extra_name(local, role)
        logits = dict(model.named_parameters())[places[0][0]].detach().new_full((axis.size,), start)
        add_parameter(model, f"{path}.{name}" if path else name, logits, (Axis(axis.id, axis.size),))
        gate = Gate(owner, name, **options)
        for tensor, dim in places:
            for units in owners(plan.tensors[tensor][dim], axis.id):
                dims.setdefault(tensor, []).append((dim, gate, units))
    for tensor, gated in dims.items():
        attach(model, tensor, GatedUnits, dims=gated)


def gate_blocks(model: nn.Module, stages: Iterable[Stage], start: float, **options: Any) -> None:
    """Gates for the blocks of stages but the first of each."""
    reference = next(model.parameters()).detach()
    for path in (path for stage in stages for path in stage.blocks[1:]):
        add_parameter(model, f"{path}.{extra_name('gate')}", reference.new_full((1,), start), ())
        block = resolve(model, path)
        hook = GatedBlock(Gate(block, extra_name("gate"), **options))
        block.register_forward_hook(hook, with_kwargs=True)


def to_gate(model: nn.Module, granularity: str, select: Select) -> list[Any]:
    """Names of weights of two dimensions and more, axes, or stages, of which a glob matches the name; at least one."""
    if granularity == "weight":
        named: dict[str, Any] = {name: name for name, parameter in model.named_parameters() if parameter.dim() > 1}
    elif granularity == "unit":
        roles = ("hidden", "heads") if select is None else None
        named = {axis.name: axis for axis in space(model).axes if roles is None or axis.role in roles}
    else:
        named = {stage.name: stage for stage in space(model).stages if not stage.prefix and len(stage.blocks) > 1}
    chosen = [named[name] for name in matched("*" if select is None else select, list(named))]
    if not chosen:
        raise ElastifyError(f"there is no {granularity} to gate", why=f"select={select!r}")
    for axis in chosen if granularity == "unit" else ():
        _summed(model, axis)
    return chosen
