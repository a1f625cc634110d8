"""The generated subclass of a module's class, in which registered tensors are seen through the active subnet.

One subclass is made per class and `Kind`. It has the name, module and docstring of its base. Its tensors are properties
that ask the elastic state for the active value: a getter never lets an AttributeError out where the tensor exists, for
`nn.Module.__getattr__` would then silently return the full tensor. Tensors cannot be replaced while a subnet is active.
A module pickles as its base class and the kind, from which `_revive` makes the subclass again.
"""

from __future__ import annotations

import sys
import types
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elastify._errors import ElastifyError
from elastify._rewrite.blocks import block_members, container_members
from elastify._rewrite.rnn import rnn_members

SPEC = "_elastify_spec"  # plain data that an extracted model carries; not state of an elastic one


class Kind(NamedTuple):
    """What the subclass is for: the local names of elastic `tensors`, whether blocks may be removed from it as from a
    container, whether it is itself a block that may be bypassed, and whether it is a model of which each pass may write
    to elastic buffers."""

    tensors: frozenset[str] = frozenset()
    container: bool = False
    bypassed: bool = False
    writes: bool = False


_generated: dict[tuple[type, Kind], type] = {}


def generate(base: type, kind: Kind) -> type:
    """The subclass of `base` for modules of this kind; made once."""
    cls = _generated.get((base, kind))
    if cls is None:
        members: dict[str, Any] = {"__module__": base.__module__, "__qualname__": base.__qualname__}
        members.update(__doc__=base.__doc__, _elastify_base=base, _elastify_kind=kind)
        members.update(_common_members(base, kind.tensors))
        members.update({name: _tensor_property(name) for name in kind.tensors})
        members.update(container_members(base) if kind.container else {})
        members.update(block_members(base) if kind.bypassed else {})
        members.update({"__call__": _call(base)} if kind.writes else {})
        members.update(rnn_members(base) if issubclass(base, nn.RNNBase) else {})
        cls = types.new_class(base.__name__, (base,), exec_body=lambda namespace: namespace.update(members))
        _generated[base, kind] = cls
    return cls


def original_class(cls: type) -> type:
    """The class that a generated class was made from."""
    return cls.__dict__.get("_elastify_base", cls)


def kind_of(cls: type) -> Kind:
    """The kind of a generated class; that of a plain one is empty."""
    return cls.__dict__.get("_elastify_kind", Kind())


def _tensor_property(local: str) -> property:
    def get(self: Any) -> Any:
        full = self._parameters.get(local)
        buffer = full is None
        if buffer:
            full = self._buffers.get(local)
            if full is None:
                if local in self._parameters or local in self._buffers:
                    return None
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {local!r}")
        elastic = self._elastify
        if elastic.active is None and not elastic.transforms:
            elastic.turns.check_full()
            return full
        try:
            return elastic.value(self, self._elastify_names[local], full, buffer=buffer)
        except AttributeError as error:
            raise RuntimeError(f"the active value of {local!r} cannot be computed: {error}") from error

    def refuse(self: Any, value: Any) -> None:
        raise ElastifyError(
            f"{local!r} of this elastic {type(self).__name__} must be a registered tensor",
            fix="assign a Parameter or register a buffer; for anything else (pruning, weight norm) plain(model) first",
        )

    _never_by_itself(get.__code__)
    return property(get, refuse)


def _never_by_itself(code: types.CodeType) -> None:
    """Where hooks break a graph, torch.compile would make one of each of these frames; within a graph it still looks
    inside."""
    frames: Any = torch._C._dynamo.eval_frame  # type: ignore[attr-defined]
    skip = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.DEFAULT)
    frames.set_code_exec_strategy(code, skip)


def _call(base: Any) -> Any:
    """A call of the model, after which what it has written to parts of buffers is stored."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return base.__call__(self, *args, **kwargs)
        finally:
            elastic = self.__dict__.get("_elastify")  # none where the class made a model of its own
            if elastic is not None:
                elastic.put_back()

    return call


def _common_members(base: Any, names: frozenset[str]) -> dict[str, Any]:
    """Registration, deletion, replication and pickling of a rewritten module."""

    def register_parameter(self: Any, name: str, param: Any) -> None:
        _refuse_active(self, name, names, "replaced")
        base.register_parameter(self, name, param)

    def register_buffer(self: Any, name: str, tensor: Any, persistent: bool = True) -> None:
        elastic = self.__dict__.get("_elastify")
        if name not in names or elastic is None or elastic.active is None:
            base.register_buffer(self, name, tensor, persistent)
        elif not (isinstance(tensor, Tensor) and _same_memory(tensor, getattr(self, name))):
            # otherwise `self.table = self.table.to(x.device)`: what forward was given, and nothing new
            elastic.assign(self, name, tensor, lambda made: base.register_buffer(self, name, made, persistent))

    def delete(self: Any, name: str) -> None:
        _refuse_active(self, name, names, "deleted")
        if name in names and sys._getframe(1).f_globals.get("__name__") == "torch.nn.utils.parametrize":
            raise ElastifyError(f"{name!r} is already elastic", fix="plain(model) first, or parametrize it before")
        base.__delattr__(self, name)

    def _replicate_for_data_parallel(self: Any) -> Any:
        raise ElastifyError("nn.DataParallel copies modules into threads", fix="use DistributedDataParallel")

    def __prepare_scriptable__(self: Any) -> Any:  # noqa: N807 - as torch.jit.script calls it
        raise ElastifyError("an elastic model cannot be scripted", fix="torch.jit.script(extract(model, config))")

    def _save_to_state_dict(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_elastify" in self.__dict__:
            self._elastify.settle()
        base._save_to_state_dict(self, *args, **kwargs)

    def reduce(self: Any, protocol: Any) -> Any:
        if "_elastify" in self.__dict__:
            self._elastify.settle()
        make, args, *rest = base.__reduce_ex__(self, protocol)
        if make.__name__ == "__newobj__" and "_elastify_base" in args[0].__dict__:
            return (_revive, (args[0]._elastify_base, tuple(kind_of(args[0])), *args[1:]), *rest)
        return (make, args, *rest)

    def extra_repr(self: Any) -> str:
        text = base.extra_repr(self)
        return ", ".join(filter(None, (text, self._elastify.text()))) if "_elastify_root" in self.__dict__ else text

    members: dict[str, Any] = {
        "extra_repr": extra_repr,
        "_replicate_for_data_parallel": _replicate_for_data_parallel,
        "__prepare_scriptable__": __prepare_scriptable__,
        "__reduce_ex__": reduce,
    }
    if names:
        members["register_parameter"] = register_parameter
        members["register_buffer"] = register_buffer
        members["__delattr__"] = delete
        members["_save_to_state_dict"] = _save_to_state_dict
    return members


def _refuse_active(module: nn.Module, name: str, names: frozenset[str], verb: str) -> None:
    elastic = module.__dict__.get("_elastify")
    if name in names and elastic is not None and elastic.active is not None:
        raise ElastifyError(
            f"{name!r} cannot be {verb} while a subnet is active", fix="activate(model, None), then change it"
        )


def _same_memory(one: Tensor, other: object) -> bool:
    tensors = (one, other) if isinstance(other, Tensor) else ()
    places = [(t.untyped_storage()._cdata, t.storage_offset(), t.shape, t.stride(), t.dtype) for t in tensors]
    return bool(places) and places[0] == places[1]


def _revive(base: type, kind: tuple[frozenset[str], bool, bool, bool], *args: Any) -> Any:
    """A module that was pickled, before it gets its state."""
    cls = generate(base, Kind(*kind))
    return cls.__new__(cls, *args)
