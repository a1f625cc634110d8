"""From gates of units and blocks to configurations and their cost, and the proof that closing is leaving out."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from elastify._capture import resolve
from elastify._errors import ElastifyError
from elastify._rewrite import elastic_state, extra_name
from elastify._space import SubnetConfig, state
from elastify._verbs import activate, cost, space
from elastify.train._evaluate import alike, evaluating, float_tensors
from elastify.train._strategies.gates import Gate, gates_of
from elastify.train._strategies.losses import Forward, Loss
from elastify.train._surgery import permute_units


def unit_gates(model: nn.Module) -> dict[str, Gate]:
    """The gates of units, by axis name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    axes = {axis.id: axis.name for axis in space(model).axes}
    gates = {}
    for gate in gates_of(model):
        layouts = elastic_state(model).extras[names[id(gate.logits)]]
        if len(layouts) == 1:
            gates[axes[layouts[0].id]] = gate  # type: ignore[union-attr] - made by gate_units
    return gates


def block_gates(model: nn.Module) -> dict[tuple[str, int], Gate]:
    """The gates of blocks, by stage name and index."""
    gates = {id(gate.owner): gate for gate in gates_of(model) if gate.name == extra_name("gate")}
    places = {(stage.name, i): resolve(model, path) for stage in space(model).stages for i, path in _rest(stage.blocks)}
    return {place: gates[id(block)] for place, block in places.items() if id(block) in gates}


def _rest(blocks: tuple[str, ...]) -> list[tuple[int, str]]:
    return list(enumerate(blocks))[1:]


def open_config(model: nn.Module) -> SubnetConfig:
    """The smallest configuration that holds all that is open."""
    where, units = space(model), unit_gates(model)
    lower = where.rows.full.copy()
    for column, axis in enumerate(where.axes):
        if axis.name in units:
            count = int(units[axis.name].value().sum())
            lower[column] = min(choice for choice in axis.choices if choice >= count)
    row = where.rows.fit(lower[None].astype(float), lower=lower)[0]
    kept = {stage.name: list(range(len(stage.blocks))) for stage in where.stages}
    for (stage, index), gate in block_gates(model).items():
        if not gate.value():
            kept[stage].remove(index)
    sizes = {axis.name: int(size) for axis, size in zip(where.axes, row, strict=False)}
    return where.normalise(where.check(SubnetConfig.of(sizes, kept, where.fingerprint)))


def open_first(model: nn.Module) -> nn.Module:
    """The model if it has no gates of units, else a copy whose units are sorted, open ones first.

    A copy: an optimizer would go on with the momentum of other units.
    """
    if not unit_gates(model):
        return model
    twin = copy.deepcopy(model)
    ids = {axis.name: axis.id for axis in space(twin).axes}
    logits = {ids[name]: gate.logits.detach().cpu().double().numpy() for name, gate in unit_gates(twin).items()}
    permute_units(twin, {ident: np.argsort(-values, kind="stable") for ident, values in logits.items()})
    return twin


def expected_macs(model: nn.Module) -> Tensor:
    """MACs at the expected sizes, exact up to their rounding, with the exact gradient there."""
    where, units, blocks = space(model), unit_gates(model), block_gates(model)
    if blocks:
        full = state(model).costs.of().macs
        total = torch.tensor(float(full))
        for (stage, index), gate in blocks.items():
            without = [i for i in where.max.depths[stage] if i != index]
            less = SubnetConfig.of(where.max.sizes, {**where.max.depths, stage: without}, where.fingerprint)
            alone = full - state(model).costs.of(less).macs
            total = total - (1 - torch.sigmoid(gate.logits.cpu())).sum() * alone
        return total
    sizes = {name: torch.sigmoid(gate.logits).sum().cpu() for name, gate in units.items()}
    rows = np.repeat(where.rows.full[None], 1 + len(sizes), axis=0)
    columns = {axis.name: column for column, axis in enumerate(where.axes)}
    steps = []
    for name, size in sizes.items():
        rows[:, columns[name]] = max(1, round(size.item()))
    for number, name in enumerate(sizes, 1):
        column = columns[name]
        steps.append(1 if rows[0, column] < where.rows.full[column] else -1)
        rows[number, column] += steps[-1]
    macs = cost(model, rows).macs
    total = torch.tensor(float(macs[0]))
    for (name, size), there, step in zip(sizes.items(), macs[1:], steps, strict=True):
        total = total + (size - int(rows[0, columns[name]])) * float((there - macs[0]) / step)
    return total


def prove(model: nn.Module, forward: Forward, loss: Loss) -> None:
    """Refuse gates whose closing is not the same as leaving out what they close, found by running both."""
    where, units, blocks = space(model), unit_gates(model), block_gates(model)
    least = where.repair({axis.name: axis.choices[0] for axis in where.axes if axis.name in units})
    cases: dict[str, tuple[dict[int, Tensor], SubnetConfig]] = {}
    for name, gate in units.items():
        size, full = least.sizes[name], gate.logits.numel()
        if size < full:
            cases[name] = {id(gate): (torch.arange(full) < size).float()}, where.repair({name: size})
    for (stage, index), gate in blocks.items():
        kept = {**where.max.depths, stage: [i for i in where.max.depths[stage] if i != index]}
        config = SubnetConfig.of(where.max.sizes, kept, where.fingerprint)
        cases[f"{stage}[{index}]"] = {id(gate): torch.zeros(1)}, where.normalise(config)
    wrong = [
        name
        for name, (closed, config) in cases.items()
        if not alike(_run(model, forward, loss, closed), _run(model, forward, loss, config=config))
    ]
    if wrong:
        raise ElastifyError(
            f"closing gates of {', '.join(wrong[:4])} is not the same as leaving out what they close",
            why="other units depend on these before a layer sums over them (a norm, attention scores)",
            fix="select=(...) without them, on a fresh copy of the model",
        )


def _run(
    model: nn.Module,
    forward: Forward,
    loss: Loss,
    closed: Mapping[int, Tensor] | None = None,
    config: SubnetConfig | None = None,
) -> list[Tensor]:
    """What a subnet with some gates closed, all others open, computes: the model's own outputs, wherever it is run."""
    gates, inner = gates_of(model), list[Tensor]()
    hook = model.register_forward_hook(lambda module, inputs, output: inner.extend(float_tensors(output)))
    try:
        for gate in gates:
            gate.forced = (closed or {}).get(id(gate), torch.ones(gate.logits.shape))
        with evaluating(model), activate(model, config), torch.random.fork_rng():  # chance is the same in all runs
            result = forward()
            if not (inner or float_tensors(result)):  # as in ElasticTrainer: the loss runs the model
                result = loss(result)
        return inner or float_tensors(result)
    finally:
        hook.remove()
        for gate in gates:
            gate.forced = None
