"""Make a model elastic in place, and choose which subnet it is.

Each module that owns an affected parameter or buffer gets a generated subclass, of the same name, in which these are
properties: the full configuration returns the tensor itself, any other a slice of it. The tensors stay where they
were, in `_parameters` and `_buffers`, so optimizers, state_dict, deepcopy, `.to`, DDP and FSDP see an ordinary model.
`set_active` writes attributes and leaves the slicing to the properties. `install` checks everything before it
changes anything. A getter never lets an AttributeError out where the tensor exists: `nn.Module.__getattr__` would then
silently return the full tensor.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from elastify._attributes import compile_setters, resolve
from elastify._blocks import block_members, close_gaps, container_members, write
from elastify._caches import remember, reset
from elastify._errors import ElastifyError
from elastify._plan import Plan
from elastify._record import Active, Key, Record, Tables, known_models
from elastify._rnn import rnn_members

SPEC = "_elastify_spec"  # plain data that an extracted model carries; not state of an elastic one
Spec = tuple[frozenset[str], bool, bool]  # tensors, is a container with stages, may step aside
_generated: dict[tuple[type, Spec], type] = {}


def is_elastic(model: nn.Module) -> bool:
    """Whether `install` made this module elastic (its rewritten submodules are not models of their own)."""
    return "_elastify_root" in model.__dict__


def record(model: nn.Module) -> Record:
    """The elastic record of a model."""
    if not is_elastic(model):
        raise ElastifyError(f"this {type(model).__name__} is not elastic", fix="elastify(model, example_inputs)")
    return model.__dict__["_elastify"]


def install(model: nn.Module, plan: Plan) -> None:
    """Rewrite `model` in place after `plan`; on any error it is as it was."""
    if any("_elastify" in module.__dict__ for module in model.modules()):
        raise ElastifyError("the model is elastic already", fix="deepcopy it before elastify, or use it as it is")
    tables = Tables(plan)
    entry = Record(plan, tables)
    entry.setters = compile_setters(model, plan, tables.ruler, entry.originals)
    entry.caches = remember(model, plan.caches)
    changes = _changes(model, plan, tables)
    classes = [generate(type(change.module), change.spec()) for change in changes]
    done: list[tuple[nn.Module, type]] = []
    try:
        for change, cls in zip(changes, classes, strict=True):
            module = change.module
            done.append((module, type(module)))
            module.__dict__.update(_elastify=entry, _elastify_names=change.names, _elastify_path=change.path)
            module.__class__ = cls
    except BaseException:
        for module, original in done:
            _plain(module, original)
        raise
    model.__dict__["_elastify_root"] = True
    known_models.add(model)


@dataclass
class _Change:
    """What a module will need: properties (canonical names by local name), hidden blocks, stepping aside."""

    module: nn.Module
    names: dict[str, str] = field(default_factory=dict)
    container: bool = False
    loose: bool = False
    path: str = ""

    def spec(self) -> Spec:
        return frozenset(self.names), self.container, self.loose


def _changes(model: nn.Module, plan: Plan, tables: Tables) -> list[_Change]:
    changes: dict[nn.Module, _Change] = {model: _Change(model)}

    def change(module: nn.Module) -> _Change:
        return changes.setdefault(module, _Change(module))

    for name, module in _sites(model, plan, tables).items():
        change(module).names[name.rpartition(".")[2]] = plan.aliases.get(name, name)
    for aside, block in ((stage.aside, block) for stage in plan.stages for block in stage.blocks):
        parent = block.rpartition(".")[0]
        if not aside:
            container = change(resolve(model, parent))
            container.container, container.path = True, parent
        else:
            child = change(resolve(model, block))
            child.loose, child.path = True, block
    for path in plan.paths:
        container = change(resolve(model, path))
        container.container, container.path = True, path
    return list(changes.values())


def remove(model: nn.Module) -> None:
    """Undo `install`: the model is again what it was."""
    set_active(model, {}, {})
    for module in model.modules():
        strip(module)


def strip(module: nn.Module) -> None:
    """Give one module its original class back and forget the record."""
    if "_elastify" in module.__dict__:
        _plain(module, original_class(type(module)))


def original_class(cls: type) -> type:
    """The class that a generated class was made from."""
    return cls.__dict__.get("_elastify_base", cls)


def _plain(module: nn.Module, original: type) -> None:
    if type(module) is not original:
        module.__class__ = original
    for name in [name for name in module.__dict__ if name.startswith("_elastify") and name != SPEC]:
        del module.__dict__[name]


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
        if tensor.device.type != "meta" and tensor.numel():
            owners[tensor.untyped_storage().data_ptr()] = (name, tensor)
    for name, tensor in tensors.items():
        if tensor.device.type == "meta" or not tensor.numel():
            continue
        other, same = owners.get(tensor.untyped_storage().data_ptr(), (name, tensor))
        if same is not tensor:
            raise ElastifyError(f"{name} and {other} share memory", fix=f"give one its own: {name}.clone()")


def set_active(model: nn.Module, sizes: Mapping[int, int], blocks: Mapping[str, tuple[int, ...]]) -> None:
    """Choose the subnet: kept units per axis id, kept block indices per stage; what is missing is kept whole."""
    entry = record(model)
    known_models.add(model)
    setters = entry.setters
    if setters is None:  # a copy: its modules are others
        setters = entry.setters = compile_setters(model, entry.plan, entry.tables.ruler, entry.originals)
    active = _active(entry, sizes, blocks)
    for attr, old in reversed(entry.moved.items()):
        write(model, attr, old)
    setters.apply(active.sizes if active else {}, entry.tables.gone(active.left | active.aside) if active else ())
    reset(model, entry.plan.caches, entry.caches)
    entry.active = active
    if entry.compiled:
        entry.fill()
    entry.moved = {}
    if active is not None and active.hidden:
        entry.moved = close_gaps(model, active.hidden, entry.plan.counts)


def _active(entry: Record, sizes: Mapping[int, int], blocks: Mapping[str, tuple[int, ...]]) -> Active | None:
    sizes, blocks = normalised(entry, sizes, blocks)
    if not sizes and not blocks and not entry.plan.paths:
        return None
    active = Active(sizes, blocks)
    gone: dict[str, set[str]] = {}
    skipped: dict[bool, set[str]] = {True: set(), False: set()}
    for name, kept in blocks.items():
        stage = entry.tables.stages[name]
        for index, block in enumerate(stage.blocks):
            if index not in kept:
                skipped[stage.aside].add(block)
                parent, _, child = block.rpartition(".")
                if not stage.aside:
                    gone.setdefault(parent, set()).add(child)
    for path, (axis, choices) in entry.plan.paths.items():
        gone[path] = {str(i) for i in set().union(*choices).difference(choices[sizes.get(axis, len(choices)) - 1])}
        skipped[False].update(f"{path}.{child}" if path else child for child in gone[path])
    active.hidden = {path: frozenset(names) for path, names in gone.items()}
    active.left, active.aside = frozenset(skipped[False]), frozenset(skipped[True])
    return active


def normalised(
    entry: Record, sizes: Mapping[int, int], blocks: Mapping[str, tuple[int, ...]]
) -> tuple[dict[int, int], dict[str, tuple[int, ...]]]:
    """The same configuration without what is kept whole."""
    full, stages = entry.tables.full, entry.tables.stages
    try:
        small = {axis: size for axis, size in sizes.items() if size != full[axis]}
        fewer = {name: tuple(kept) for name, kept in blocks.items() if len(kept) != len(stages[name].blocks)}
    except KeyError as error:
        raise ElastifyError(f"no axis or stage {error}", why="the configuration is of another model") from None
    for axis, size in small.items():
        if not 0 < size < full[axis]:
            raise ElastifyError(f"axis {axis} cannot keep {size} units", why=f"it has {full[axis]}")
    return small, fewer


def _key(entry: Record, sizes: Mapping[int, int], blocks: Mapping[str, tuple[int, ...]]) -> Key:
    small, fewer = normalised(entry, sizes, blocks)
    return frozenset(small.items()), frozenset(fewer.items())


def statistics_overlay(
    model: nn.Module, sizes: Mapping[int, int], blocks: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor] | None:
    """Running statistics stored for a configuration, by tensor name; None when there are none."""
    entry = record(model)
    return entry.overlays.get(_key(entry, sizes, blocks))


def store_statistics(
    model: nn.Module,
    statistics: Mapping[str, Tensor] | None,
    sizes: Mapping[int, int] | None = None,
    blocks: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Keep running statistics for a configuration (the active one by default), or forget them (None).

    A forward in train mode then updates the stored tensors in place.
    """
    entry = record(model)
    if sizes is None and blocks is None:
        key = entry.active.key if entry.active else (frozenset(), frozenset())
    else:
        key = _key(entry, sizes or {}, blocks or {})
    if key == (frozenset(), frozenset()):
        raise ElastifyError("the full network keeps its own statistics", why="they are its buffers")
    if statistics is None:
        entry.overlays.pop(key, None)
    else:
        entry.overlays[key] = dict(statistics)


def all_statistics(model: nn.Module) -> list[tuple[dict[int, int], dict[str, tuple[int, ...]], dict[str, Tensor]]]:
    """What is stored for every configuration, with its sizes and blocks: arguments of `store_statistics`."""
    return [(dict(sizes), dict(blocks), stored) for (sizes, blocks), stored in record(model).overlays.items()]


def restore_statistics(model: nn.Module, entries: Iterable[Any]) -> None:
    """Keep what `all_statistics` gave, and nothing else."""
    record(model).overlays.clear()
    for sizes, blocks, stored in entries:
        store_statistics(model, stored, sizes, blocks)


def generate(base: type, spec: Spec) -> type:
    """The subclass of `base` for modules of this kind; made once."""
    cls = _generated.get((base, spec))
    if cls is None:
        names, container, loose = spec
        members: dict[str, Any] = {"__module__": base.__module__, "__qualname__": base.__qualname__}
        members.update(__doc__=base.__doc__, _elastify_base=base, _elastify_spec_=spec)
        members.update(_common_members(base, names))
        members.update({name: _tensor_property(name) for name in names})
        members.update(container_members(base) if container else {})
        members.update(block_members(base) if loose else {})
        members.update(rnn_members(base) if issubclass(base, nn.RNNBase) else {})
        cls = types.new_class(base.__name__, (base,), exec_body=lambda namespace: namespace.update(members))
        _generated[base, spec] = cls
    return cls


def _tensor_property(local: str) -> property:
    def get(self: Any) -> Any:
        full = self._parameters.get(local)
        if full is None:
            full = self._buffers.get(local)
            if full is None:
                if local in self._parameters or local in self._buffers:
                    return None
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {local!r}")
        entry = self._elastify
        if entry.active is None and not entry.transforms:
            return full
        try:
            return entry.value(self, self._elastify_names[local], full)
        except AttributeError as error:
            raise RuntimeError(f"the active value of {local!r} cannot be computed: {error}") from error

    def refuse(self: Any, value: Any) -> None:
        raise ElastifyError(
            f"{local!r} of this elastic {type(self).__name__} must be a registered tensor",
            fix="assign a Parameter or register a buffer",
        )

    return property(get, refuse)


def _same_memory(one: Tensor, other: Any) -> bool:
    tensors = (one, other) if isinstance(other, Tensor) else ()
    places = [(t.untyped_storage()._cdata, t.storage_offset(), t.shape, t.stride(), t.dtype) for t in tensors]
    return bool(places) and places[0] == places[1]


def _refuse_active(self: Any, name: str, names: frozenset[str], verb: str) -> None:
    entry = self.__dict__.get("_elastify")
    if name in names and entry is not None and entry.active is not None:
        raise ElastifyError(
            f"{name!r} cannot be {verb} while a subnet is active", fix="activate(model, None), then change it"
        )


def _common_members(base: Any, names: frozenset[str]) -> dict[str, Any]:
    """Registration, deletion, replication and pickling of a rewritten module."""

    def register_parameter(self: Any, name: str, param: Any) -> None:
        _refuse_active(self, name, names, "replaced")
        base.register_parameter(self, name, param)

    def register_buffer(self: Any, name: str, tensor: Any, persistent: bool = True) -> None:
        if name in names and isinstance(tensor, Tensor) and _same_memory(tensor, getattr(self, name)):
            return  # `self.table = self.table.to(x.device)`: what forward was given, and nothing new
        _refuse_active(self, name, names, "replaced")
        base.register_buffer(self, name, tensor, persistent)

    def delete(self: Any, name: str) -> None:
        _refuse_active(self, name, names, "deleted")
        if name in names and sys._getframe(1).f_globals.get("__name__") == "torch.nn.utils.parametrize":
            raise ElastifyError(f"{name!r} is elastic already", fix="register parametrizations before elastify(model)")
        base.__delattr__(self, name)

    def _replicate_for_data_parallel(self: Any) -> Any:
        raise ElastifyError("nn.DataParallel copies modules into threads", fix="use DistributedDataParallel")

    def reduce(self: Any, protocol: Any) -> Any:
        make, args, *rest = base.__reduce_ex__(self, protocol)
        if make.__name__ == "__newobj__" and "_elastify_base" in args[0].__dict__:
            return (_revive, (args[0]._elastify_base, args[0]._elastify_spec_, *args[1:]), *rest)
        return (make, args, *rest)

    def extra_repr(self: Any) -> str:
        text = base.extra_repr(self)
        return ", ".join(filter(None, (text, self._elastify.text()))) if "_elastify_root" in self.__dict__ else text

    members: dict[str, Any] = {
        "extra_repr": extra_repr,
        "_replicate_for_data_parallel": _replicate_for_data_parallel,
        "__reduce_ex__": reduce,
    }
    if names:
        members["register_parameter"] = register_parameter
        members["register_buffer"] = register_buffer
        members["__delattr__"] = delete
    return members


def _revive(base: type, spec: Spec, *args: Any) -> Any:
    cls = generate(base, spec)
    return cls.__new__(cls, *args)
