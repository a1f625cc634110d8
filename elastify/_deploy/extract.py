"""A plain model of its own out of an elastic one.

The subnet is activated, and the model copied with a memo that already holds the small tensor for every full one, so
full weights are never copied, ties stay ties, and references anywhere in the model find the small tensor. Blocks
that are left out, and what goes with them, are placeholders in the memo; those that are to be removed are then taken
out of their containers.
Classes are given back, and what was done is written down as plain data, for `save` and `load`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from elastify import _adapters
from elastify._capture import read, resolve, write
from elastify._deploy.deep_copy import DeepCopy
from elastify._ir import FULL, Choice, ExampleSpec
from elastify._rewrite import (
    SPEC,
    Active,
    ElasticState,
    drop_hooks,
    elastic_state,
    keep_entries,
    original_class,
    renumbered,
    set_active,
    setters_of,
    shortened,
    stand_in,
    stored_in,
    strip,
)


def materialise(model: nn.Module, choice: Choice, example: ExampleSpec | None = None) -> nn.Module:
    """A plain model equal to the subnet: original classes, own contiguous storage, without the blocks left out.

    It remembers the description of an `example`. The active configuration of `model` is the same afterwards.
    """
    elastic = elastic_state(model)
    before = elastic.choice
    try:
        set_active(model, FULL)
        source = _adapters.of(model).describe(model)
        set_active(model, choice)
        hidden = elastic.active.hidden if elastic.active else {}
        counted = list(shortened(model, elastic.plan.counts, hidden, elastic.block_numbers)) if hidden else []
        renamed = [(attr, read(model, attr)) for attr in elastic.block_numbers]
        numbers = [*setters_of(model).changed(), *renamed, *counted]
        removed, bypassed = _outermost(elastic.active)
        pairs = _active_tensors(model)
        shapes = {id(new): old.shape for old, new in pairs if old.shape != new.shape}
        small = plain_copy(model, pairs, [*removed, *bypassed])
        gone = tuple(f"{path}." for path in (*removed, *bypassed))
        for attr, value in counted:  # before blocks behind a gap get other names
            if not f"{attr.owner}.".startswith(gone):
                write(small, attr, value)
        drop_blocks(small, removed)
    finally:
        set_active(model, before)
    spec = {
        "class": {"module": type(small).__module__, "qualname": type(small).__qualname__},
        "source": source,
        "attributes": [[attr.owner, attr.name, list(attr.index), value] for attr, value in numbers],
        "removed": removed,
        "aside": bypassed,
        "cut": {name: list(shapes[id(t)]) for name, t in all_tensors(small) if id(t) in shapes},
        "example": None if example is None else example.to_json(),
    }
    return marked(small, spec)


def all_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers under all their names."""
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def marked(small: nn.Module, spec: dict[str, Any]) -> nn.Module:
    """An extracted model with what `save` needs, and what its library needs to know of it."""
    small.__dict__[SPEC] = spec
    _adapters.guard(small)
    return small


def enlarged(model: nn.Module, sizes: Mapping[int, int], pairs: Collection[tuple[Tensor, Tensor]]) -> nn.Module:
    """A plain model with larger tensors in place of the full ones, and the attributes that belong to these sizes (by
    axis id, above those of the full network)."""
    set_active(model, FULL)
    setters = setters_of(model)
    try:
        setters.apply(sizes)
        return plain_copy(model, pairs, ())
    finally:
        setters.apply({})


def _outermost(active: Active | None) -> tuple[list[str], list[str]]:
    """Removed and bypassed blocks that do not lie inside another block left out, in order."""
    if active is None:
        return [], []
    inside = tuple(f"{path}." for path in active.left_out)
    removed, bypassed = (
        sorted(path for path in paths if not path.startswith(inside)) for paths in (active.removed, active.bypassed)
    )
    return removed, bypassed


@torch.no_grad()
def _active_tensors(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Pairs of an affected tensor and a new one that holds its active value."""
    pairs: dict[int, tuple[Tensor, Tensor]] = {}
    for module, local in [(m, name) for m in model.modules() for name in m.__dict__.get("_elastify_names", ())]:
        full = module._parameters.get(local)
        full = module._buffers.get(local) if full is None else full
        if full is not None and id(full) not in pairs:
            pairs[id(full)] = full, own(getattr(module, local), full)
    return list(pairs.values())


def own(value: Tensor, like: Tensor) -> Tensor:
    """`value` on new contiguous memory, as a parameter or buffer in the way of `like`."""
    layout = torch.contiguous_format
    if like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last):
        layout = torch.channels_last
    data = value.detach().clone(memory_format=layout)
    if not isinstance(like, nn.Parameter):
        return data
    made = nn.Parameter(data, like.requires_grad)
    vars(made).update(vars(like))  # marks such as "no weight decay"
    return made


def plain_copy(model: nn.Module, pairs: Collection[tuple[Tensor, Tensor]], skip: Collection[str]) -> nn.Module:
    """A deep copy with other tensors and without elastify; modules at the paths in `skip` become placeholders, tensors
    None."""
    memo: dict[int, Any] = {id(old): new for old, new in pairs}
    elastic = model.__dict__.get("_elastify")
    extras = elastic.extras if elastic is not None else {}
    if elastic is not None:  # for modules with a way of their own of being copied
        memo[id(elastic)] = ElasticState(elastic.plan, elastic.tables)
    parameters = dict(model.named_parameters(remove_duplicate=False)) if extras else {}
    memo.update((id(parameters[name]), None) for name in extras)  # they are not copied, and dropped below
    for table, name in (stored_in(model, path) for path in skip):
        memo[id(table[name])] = stand_in(table[name])
    small = DeepCopy(memo, original_class, lambda name: name.startswith("_elastify") and name != SPEC)(model)
    for module in small.modules():
        strip(module)
        drop_hooks(module)
    for path, _, local in (name.rpartition(".") for name in extras):
        if not any(f"{path}.".startswith(f"{block}.") for block in skip):
            del resolve(small, path)._parameters[local]
    return small


def drop_blocks(model: nn.Module, removed: Collection[str]) -> None:
    """Take what is gone out of lists and dictionaries, number the rest anew, and tell lists that name modules.
    Elsewhere the placeholders stay."""
    moved = renumbered(model, children_of(removed))
    _rename_entries(model, removed, moved)
    for parent, names in [(resolve(model, path), names) for path, names in moved.items()]:
        keep_entries(parent, names)


def _rename_entries(model: nn.Module, removed: Collection[str], moved: Mapping[str, Mapping[str, str]]) -> None:
    """Lists of dictionaries that name modules (`feature_info`) lose the entries of blocks that are removed."""
    names = {f"{path}.{old}": f"{path}.{new}" for path, children in moved.items() for old, new in children.items()}
    for path, module in model.named_modules() if removed else ():
        owned = [value for value in vars(module).values() if isinstance(value, list)]
        for entries in owned:
            if not entries or not all(isinstance(entry, dict) for entry in entries):
                continue
            named = {key for entry in entries for key, value in entry.items() if isinstance(value, str)}
            start = f"{path}." if path else ""
            entries[:] = [e for e in entries if not any(f"{start}{e.get(key)}" in removed for key in named)]
            for entry in entries:
                for key in named & entry.keys():
                    new = names.get(f"{start}{entry[key]}")
                    entry[key] = new.removeprefix(start) if new else entry[key]


def children_of(paths: Collection[str]) -> dict[str, set[str]]:
    """Child names by parent path."""
    grouped: dict[str, set[str]] = {}
    for path in paths:
        parent, _, child = path.rpartition(".")
        grouped.setdefault(parent, set()).add(child)
    return grouped
