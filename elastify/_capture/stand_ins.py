"""A model made ready for recording, and put back exactly as it was.

While `prepared(model, …)` is open, every module's `__dict__` holds stand-ins: parameters, buffers and tensor
attributes are what `convert` makes of them (fake tensors, or clones), integers are `Int`s that know their
attribute, and lists, dicts and helper objects (a `config`, a cache) are copies, so that whatever forward writes
lands in a stand-in. The originals, down to the container objects, come back on the way out whatever happens;
so do the random states, the attention fast path and torch's own override checks.

Those checks are switched off because a torch-function mode normally hides what is inside a Python function of
torch (`F.layer_norm`, `F.multi_head_attention_forward`): without them the bodies run, and the mode meets only
the innermost builtins, with the very integers that the model passed.
"""

from __future__ import annotations

import enum
import functools
import logging
import random
import sys
import threading
import types
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from elastify._adapters import LIBRARIES, named
from elastify._capture.quiet import uncollected
from elastify._ir import Attr, Dim, Int, leaves

Convert = Callable[[Tensor], Tensor]
_BASE = frozenset(nn.Module().__dict__)
_HOOKS = frozenset(name for name in _BASE if "hooks" in name and isinstance(vars(nn.Module())[name], dict))
_PLAIN = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, enum.Enum, nn.Module)
_MAX_DEPTH = 4
_MAX_ITEMS = 4096  # longer lists and dicts are data, not architecture


@contextmanager
def prepared(model: nn.Module, convert: Convert, *, training: bool, tag: bool = True) -> Iterator[Swap]:
    """The model with stand-ins for everything that it owns, in the given mode, inside the block.

    `tag=False` leaves integers and override checks alone.
    """
    swap = Swap(convert, tag)
    try:
        with generators(), _patched(_override_checks() if tag else []), _eager(), _quiet():
            swap.model(model, training)
            yield swap
    finally:
        try:
            swap.restore()
        finally:
            swap.restore()  # again where the first was interrupted; nothing is left to do where it was not


@contextmanager
def generators() -> Iterator[None]:
    """Random states of torch, Python and numpy, put back afterwards."""
    numpy = sys.modules.get("numpy")
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state() if numpy else None
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        if numpy:
            numpy.random.set_state(states[2])


@contextmanager
def _patched(changes: Iterable[tuple[Any, str, Any, Any]]) -> Iterator[None]:
    """(object, attribute, old, new): new inside the block, old after it."""
    changes = list(changes)
    try:
        for target, name, _, new in changes:
            setattr(target, name, new)
        yield
    finally:
        for target, name, old, _ in changes:
            setattr(target, name, old)


@contextmanager
def _eager() -> Iterator[None]:
    """No fused attention kernel of nn.TransformerEncoderLayer, no compiled code: each would hide what happens."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        if "torch._dynamo.eval_frame" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and logs of a run that is not the user's, and no garbage collection in the middle of it."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    disabled = log.disabled
    try:
        log.disabled = True
        with uncollected(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = disabled


def _unless(owner: int, check: Callable[..., bool]) -> Callable[..., bool]:
    """`check`, but False in the capturing thread."""
    return lambda *args: False if threading.get_ident() == owner else check(*args)


def _override_checks() -> Iterator[tuple[Any, str, Any, Any]]:
    owner = threading.get_ident()
    for module, name, check in _checked(len(sys.modules), next(reversed(sys.modules))):
        yield module, name, check, _unless(owner, check)
    for library in LIBRARIES.values():
        yield from library.uncached()


@functools.lru_cache(1)
def _checked(modules: int, last: str) -> list[tuple[types.ModuleType, str, Callable[..., bool]]]:
    """Where modules of torch hold its override checks; looked for anew when any have been imported."""
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    checks = {name: getattr(torch.overrides, name) for name in names}
    # torch.overrides keeps its own: nn.TransformerEncoderLayer asks it whether the fused path is allowed
    kept = ("torch.overrides", "torch._C")
    own = [module for key, module in sys.modules.items() if f"{key}.".startswith("torch.") and key not in kept]
    spaces = [(module, getattr(module, "__dict__", {})) for module in own]
    return [
        (module, name, check) for module, space in spaces for name, check in checks.items() if space.get(name) is check
    ]


class Swap:
    """Replaces what modules own; `restore` undoes it."""

    def __init__(self, convert: Convert, tag: bool) -> None:
        self.convert, self.tag = convert, tag
        self.saved: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.given: list[tuple[str, dict[str, Any], dict[str, Any]]] = []  # path, attributes, their contents at first
        self._first: dict[int, dict[str, Tensor | None]] = {}  # the buffers of each module, by the id of its attributes
        self.copies: dict[int, tuple[Any, Any]] = {}  # originals are kept: an id must not be used twice

    def model(self, model: nn.Module, training: bool) -> None:
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # lives in C++: nothing here to replace, and nothing that a fake run could change
            space = module.__dict__
            self.saved.append((space, dict(space)))
            as_it_is = self.tag and _copies_have_all(type(module))
            for name, value in list(space.items()):
                if name in ("_parameters", "_buffers"):
                    space[name] = type(value)((k, v if v is None else self.tensor(v)) for k, v in value.items())
                elif name == "_modules" or name in _HOOKS:  # some libraries register hooks on a first run
                    space[name] = value.copy()
                elif name not in _BASE:
                    tag, self.tag = self.tag, as_it_is
                    space[name] = self.value(value, path, name, (), 0)
                    self.tag = tag
            self._first[id(space)] = dict(space["_buffers"])
            space["training"] = training
            if space.get("_compiled_call_impl") is not None:
                space["_compiled_call_impl"] = None
            held = {name: _contents(value) for name, value in space.items() if name not in _BASE and _may_hold(value)}
            self.given.append((path, space, held))

    def exchanged(self) -> Iterator[str]:
        """Modules whose children forward has replaced, added or removed; asked before `restore`."""
        originals = {id(space): old["_modules"] for space, old in self.saved if "_modules" in old}
        for path, space, _ in self.given:
            if "_modules" in space and space["_modules"] != originals.get(id(space)):
                yield path

    def caches(self) -> Iterator[Attr]:
        """Attributes in which forward has left a tensor that was not there, a buffer of another shape among them, and
        the sizes of tensors that it has noted beside these; and numbers where nothing was."""
        first = {id(space): old for space, old in self.saved}
        for path, space, before in self.given:
            found = [
                name for name, old, new in self._buffers(space) if old is None or new is None or old.shape != new.shape
            ]
            for name, value in space.items():
                if name not in _BASE and _may_hold(value) and not isinstance(value, nn.Module):
                    old = {id(item) for item in before.get(name, ())}
                    new = [item for item in _contents(value) if id(item) not in old]
                    entries = type(value) is dict and len(_contents(value)) > len(old)
                    if any(isinstance(item, Tensor) or (entries and type(item) in _NUMBERS) for item in new):
                        found.append(name)
            sizes = [name for name, value in space.items() if type(value) is Int and _is_size(value)] if found else []
            made = (n for n, value in space.items() if type(value) in _NUMBERS and first[id(space)].get(n) is None)
            yield from (Attr(path, name) for name in dict.fromkeys((*found, *sizes, *made)))

    def assigned(self) -> Iterator[tuple[str, Tensor]]:
        """Buffers in whose place forward has put another tensor of the same shape, with that."""
        for path, space, _ in self.given:
            for name, old, new in self._buffers(space):
                if old is not None and new is not None and old.shape == new.shape:
                    yield f"{path}.{name}" if path else name, new

    def _buffers(self, space: dict[str, Any]) -> Iterator[tuple[str, Tensor | None, Tensor | None]]:
        """Names under which a module has another buffer now, with what it was and is."""
        before = self._first.get(id(space), {})
        for name, new in space.get("_buffers", {}).items():
            old = before.get(name)
            if new is not old:
                yield name, old, new

    def restore(self) -> None:
        while self.saved:
            space, old = self.saved[-1]
            space.clear()
            space.update(old)
            self.saved.pop()

    def tensor(self, tensor: Tensor) -> Tensor:
        return self.once(tensor, lambda: self.convert(tensor))

    def stand_in(self, tensor: Tensor) -> Tensor:
        """What a parameter or buffer is inside; itself where its module is scripted."""
        return self.copies.get(id(tensor), (tensor, tensor))[1]

    def once(self, original: Any, make: Callable[[], Any]) -> Any:
        found = self.copies.get(id(original))
        if found is None:
            found = self.copies[id(original)] = (original, make())
        return found[1]

    def value(self, value: Any, owner: str, name: str, index: tuple[int | str, ...], depth: int) -> Any:
        kind = type(value)
        if kind is int:
            return Int(value, Attr(owner, name, index)) if self.tag else value
        if kind in (bool, float, str, type(None)) or depth > _MAX_DEPTH or isinstance(value, _PLAIN):
            return value
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, tuple):
            items = [self.value(v, owner, name, (*index, i), depth + 1) for i, v in enumerate(value)]
            if all(new is old for new, old in zip(items, value, strict=True)):
                return value
            return kind._make(items) if hasattr(kind, "_make") else kind(items)
        if kind is functools.partial:
            parts = (self.value(getattr(value, part), owner, name, (*index, part), depth + 1) for part in _PARTIAL)
            args, keywords = parts
            return functools.partial(value.func, *args, **keywords)
        if kind is list:
            return self.container(value, owner, name, index, depth, enumerate(value), value.copy)
        if kind in (dict, OrderedDict, defaultdict):
            return self.container(value, owner, name, index, depth, list(value.items()), value.copy)
        if kind is set:
            return self.once(value, value.copy)
        self.helper(value, owner, name, index, depth)
        return value

    def container(self, value: Any, owner: str, name: str, index: Any, depth: int, items: Any, copy: Any) -> Any:
        if id(value) not in self.copies:
            new = self.once(value, copy)
            for key, item in items:
                if isinstance(key, (int, str)) and len(new) <= _MAX_ITEMS:
                    new[key] = self.value(item, owner, name, (*index, key), depth + 1)
        return self.copies[id(value)][1]

    def helper(self, value: Any, owner: str, name: str, index: Any, depth: int) -> None:
        """Swap the attributes of an ordinary Python object (config, cache, helper) that a module holds."""
        space = getattr(value, "__dict__", None)
        home = type(value).__module__.partition(".")[0]
        if type(space) is not dict or not space or id(value) in self.copies or home in _FOREIGN:
            return
        self.copies[id(value)] = (value, value)
        self.saved.append((space, dict(space)))
        path, tag = f"{owner}.{name}" if owner else name, self.tag
        self.tag = tag and not index  # no name leads to what an object inside a list holds
        for key, item in list(space.items()):
            space[key] = self.value(item, path, key, index, depth + 1)
        self.tag = tag
        if not index:
            self.given.append((path, space, {name: _contents(item) for name, item in space.items()}))


@functools.cache
def _copies_have_all(kind: type) -> bool:
    """Whether numbers set from outside get into copies of a module, which may say itself what these are made of."""
    author = next((cls for cls in kind.__mro__ if "__getstate__" in vars(cls)), object)
    home = author.__module__.partition(".")[0]
    return home in ("torch", "builtins") or named(home).copies_follow


def _contents(value: Any, depth: int = 0) -> list[Any]:
    """An attribute's value, or what its containers hold."""
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        value = list(value.values())
    if isinstance(value, (list, tuple, set)) and depth < _MAX_DEPTH and len(value) <= _MAX_ITEMS:
        return [inner for item in value for inner in _contents(item, depth + 1)]
    return [value]


def _is_size(number: Int) -> bool:
    """Whether a number was made of sizes of tensors."""
    return any(isinstance(leaf, Dim) for leaf in leaves(number.expr))


def _may_hold(value: Any) -> bool:
    """False for what can hold no tensor."""
    return value is not None and type(value) not in _ATOMS


_NUMBERS = frozenset({int, float, Int})
_ATOMS = frozenset({bool, int, float, str, Int})
_PARTIAL = ("args", "keywords")
_FOREIGN = frozenset(
    {"torch", "numpy", "logging", "threading", "functools", "builtins", "lightning", "pytorch_lightning"}
)
