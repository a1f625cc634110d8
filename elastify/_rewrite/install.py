"""Making a model elastic in place, and taking that back.

Each module that owns an affected parameter or buffer gets a generated subclass, of the same name, in which these are
properties: the full configuration returns the tensor itself, any other a slice of it. The tensors stay where they
were, in `_parameters` and `_buffers`, so optimizers, state_dict, deepcopy, `.to`, DDP and FSDP see an ordinary model.
Containers of elastic blocks, and blocks that may be bypassed, get a subclass too. `install` finds out everything, and
checks it, before it changes anything; if a class then refuses to be changed, all modules get their own back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from elastify._capture import resolve
from elastify._errors import ElastifyError
from elastify._ir import FULL, Plan
from elastify._rewrite.activate import set_active
from elastify._rewrite.blocks import entries
from elastify._rewrite.caches import remember
from elastify._rewrite.classes import SPEC, Kind, generate, original_class
from elastify._rewrite.setters import compile_setters
from elastify._rewrite.state import ElasticState, Tables, elastic_state, known_models


def install(model: nn.Module, plan: Plan) -> None:
    """Rewrite `model` in place after `plan`; on any error it is as it was."""
    for path, module in model.named_modules():
        if "_elastify" in module.__dict__:
            raise ElastifyError(
                "a part of the model is already elastic" if path else "the model is already elastic",
                where=path,
                fix="plain(model) of the elastic model first",
            )
    tables = Tables(plan)
    elastic = ElasticState(plan, tables)
    elastic.setters = compile_setters(model, plan, tables.ruler, elastic.originals)
    elastic.caches = remember(model, plan.caches)
    changes = _changes(model, plan, tables)
    classes = [generate(type(change.module), change.kind()) for change in changes]
    done: list[tuple[nn.Module, type]] = []
    try:
        for change, cls in zip(changes, classes, strict=True):
            module = change.module
            done.append((module, type(module)))
            module.__dict__.update(_elastify=elastic, _elastify_names=change.names, _elastify_path=change.path)
            module.__class__ = cls
    except BaseException:
        for module, original in done:
            _plain(module, original)
        raise
    model.__dict__["_elastify_root"] = True
    known_models.add(model)


def remove(model: nn.Module) -> None:
    """Undo `install`: the model is again what it was, but for what has been replaced in it since."""
    elastic = elastic_state(model)
    if elastic.active is not None or elastic.setters is not None:  # else it is a copy that runs whole
        set_active(model, FULL)
    for module in model.modules():
        strip(module)
    known_models.discard(model)


@contextmanager
def trial(model: nn.Module, plan: Plan) -> Iterator[None]:
    """Inside, the model is elastic after `plan`; afterwards, whatever happens, it is what it was."""
    install(model, plan)
    try:
        yield
    finally:
        remove(model)


def strip(module: nn.Module) -> None:
    """Give one module its original class back and forget the elastic state."""
    if "_elastify" in module.__dict__:
        _plain(module, original_class(type(module)))


def _plain(module: nn.Module, original: type) -> None:
    if type(module) is not original:
        module.__class__ = original
    for name in [name for name in module.__dict__ if name.startswith("_elastify") and name != SPEC]:
        del module.__dict__[name]


@dataclass
class _Change:
    """What one module will be: the canonical names of its elastic tensors by local name, its path where blocks are
    removed from it or it is a block that may be bypassed, and, of the model, whether passes may write to buffers."""

    module: nn.Module
    names: dict[str, str] = field(default_factory=dict)
    container: bool = False
    bypassed: bool = False
    writes: bool = False
    path: str = ""

    def kind(self) -> Kind:
        return Kind(frozenset(self.names), self.container, self.bypassed, self.writes)


def _changes(model: nn.Module, plan: Plan, tables: Tables) -> list[_Change]:
    """One for each module that needs a subclass; the model itself always does."""
    changes: dict[nn.Module, _Change] = {model: _Change(model)}

    def change(module: nn.Module) -> _Change:
        return changes.setdefault(module, _Change(module))

    for name, module in _sites(model, plan, tables).items():
        local, canonical = name.rpartition(".")[2], plan.aliases.get(name, name)
        change(module).names[local] = canonical
        if local in module._buffers and canonical not in plan.statistics:
            changes[model].writes = True
    removable = [block for stage in plan.stages if not stage.bypassed for block in stage.blocks]
    for path in dict.fromkeys([*(one.rpartition(".")[0] for one in (*removable, *plan.alongside)), *plan.paths]):
        container = change(resolve(model, path))
        if entries(container.module) is not None:
            container.container, container.path = True, path
    for path in (block for stage in plan.stages if stage.bypassed for block in stage.blocks):
        block = change(resolve(model, path))
        block.bypassed, block.path = True, path
    return list(changes.values())


def _sites(model: nn.Module, plan: Plan, tables: Tables) -> dict[str, nn.Module]:
    """The module behind every affected tensor name, aliases and tied names included; shapes are checked."""
    tensors: dict[str, Tensor] = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    affected = {**dict.fromkeys(plan.tensors), **dict.fromkeys(plan.statistics)}
    sites: dict[str, nn.Module] = {}
    for name in (*affected, *plan.aliases):
        owner = resolve(model, name.rpartition(".")[0])
        local = name.rpartition(".")[2]
        tensor = owner._parameters.get(local) if local in owner._parameters else owner._buffers.get(local)
        if tensor is None:
            raise ElastifyError(f"the model has no tensor {name!r}", fix="this plan belongs to another model")
        sites[name] = owner
        rulers = tables.tensors.get(plan.aliases.get(name, name))
        if rulers is not None and tuple(tensor.shape) != tuple(ruler.full for ruler in rulers):
            raise ElastifyError(
                f"{name} has shape {tuple(tensor.shape)}", why=f"the plan says {tuple(r.full for r in rulers)}"
            )
    known = {id(tensors[name]): name for name in plan.tensors if name in tensors}
    for name, tensor in tensors.items():
        if name not in sites and id(tensor) in known:
            raise ElastifyError(
                f"{name} and {known[id(tensor)]} are one tensor", why="the plan slices only one of the two names"
            )
    _refuse_overlaps({name: tensors[name] for name in plan.tensors if name in tensors}, tensors)
    return sites


def _refuse_overlaps(affected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Two different tensors on one storage cannot be sliced apart."""
    owners: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in affected.items():
        if _has_memory(tensor):
            owners[tensor.untyped_storage().data_ptr()] = (name, tensor)
    for name, tensor in tensors.items():
        if not _has_memory(tensor):
            continue
        other, same = owners.get(tensor.untyped_storage().data_ptr(), (name, tensor))
        if same is not tensor:
            raise ElastifyError(f"{name} and {other} share memory", fix=f"give one its own: {name}.clone()")


def _has_memory(tensor: Tensor) -> bool:
    return tensor.device.type != "meta" and tensor.layout is torch.strided and tensor.numel() > 0
