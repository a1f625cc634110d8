"""Values that a network computes with instead of those that are stored: a point on a line, a mask, fewer bits.

A `Transform` is a function from a tensor's own value to the one in force; slicing comes after it. It belongs to one
tensor, and its own parameters stand beside that tensor in the same module, under the tensor's name and one suffix
(`weight_elastic`, `weight_scale_elastic`): optimizers, state_dict, deepcopy and checkpoints see ordinary parameters.
`attach` makes a tensor a property of its module if it is none yet. Extraction stores the values and drops the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from elastify._capture import resolve
from elastify._errors import ElastifyError
from elastify._ir import Layout
from elastify._rewrite.classes import generate, kind_of, original_class
from elastify._rewrite.state import elastic_state

SUFFIX = "_elastic"


class Transform(ABC):
    """The function of one tensor, `local` in the module `owner`, which holds its parameters too."""

    def __init__(self, owner: nn.Module, local: str) -> None:
        self.owner, self.local = owner, local

    @abstractmethod
    def __call__(self, full: Tensor) -> Tensor:
        """The value in force; `full` is the stored one."""

    def own(self, role: str = "") -> nn.Parameter:
        """One of the transform's parameters."""
        parameter = self.owner._parameters[extra_name(self.local, role)]
        assert parameter is not None
        return parameter


class Hook(ABC):
    """A forward hook (`with_kwargs`) that belongs to the elastic model: extracted ones do not have it."""

    @abstractmethod
    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """What the module returns in place of `output`."""


class InputHook(ABC):
    """A forward pre-hook (`with_kwargs`) that extracted models keep; what `save` writes does not have it."""

    @abstractmethod
    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """What the module takes in, in place of these arguments."""


def drop_hooks(module: nn.Module) -> None:
    """Take such hooks off one module."""
    for key in [key for key, hook in module._forward_hooks.items() if isinstance(hook, Hook)]:
        for table in (module._forward_hooks, module._forward_hooks_with_kwargs, module._forward_hooks_always_called):
            table.pop(key, None)


def extra_name(local: str, role: str = "") -> str:
    """The local name of a parameter that belongs to a transform.

    >>> extra_name("weight", "scale")
    'weight_scale_elastic'
    """
    return f"{local}_{role}{SUFFIX}" if role else f"{local}{SUFFIX}"


def add_parameter(model: nn.Module, name: str, value: Tensor, layouts: tuple[Layout, ...]) -> nn.Parameter:
    """Register a parameter of a transform under its full name; `layouts` say how it is permuted with the model."""
    path, _, local = name.rpartition(".")
    parameter = nn.Parameter(value.detach().clone())
    resolve(model, path).register_parameter(local, parameter)
    elastic_state(model).extras[name] = layouts
    return parameter


def attach(
    model: nn.Module,
    name: str,
    kind: type[Transform],
    values: Mapping[str, tuple[Tensor, tuple[Layout, ...]]] | None = None,
    **options: object,
) -> None:
    """Put a transform `kind(owner, local, **options)` on the tensor of this canonical name.

    `values` are the initial values of its parameters by role, each with its layouts.
    """
    elastic = elastic_state(model)
    if name in elastic.transforms:
        raise ElastifyError(
            f"{name} is already transformed",
            why=f"by a {type(elastic.transforms[name]).__name__}",
            fix="one strategy that adds parameters per model; begin with a fresh copy",
        )
    path, _, local = name.rpartition(".")
    owner = resolve(model, path)
    for role, (value, layouts) in (values or {}).items():
        extra = extra_name(local, role)
        add_parameter(model, f"{path}.{extra}" if path else extra, value, layouts)
    _make_properties(model, name)
    elastic.transforms[name] = kind(owner, local, **options)


def _make_properties(model: nn.Module, name: str) -> None:
    """Let every module that holds the tensor ask for its value."""
    elastic = elastic_state(model)
    named = dict(model.named_parameters(remove_duplicate=False))
    for other, tensor in named.items():
        if tensor is not named[name]:
            continue
        path, _, local = other.rpartition(".")
        module = resolve(model, path)
        names = {**module.__dict__.get("_elastify_names", {}), local: name}
        module.__dict__.update(_elastify=elastic, _elastify_names=names)
        module.__dict__.setdefault("_elastify_path", path)
        kind = kind_of(type(module))._replace(tensors=frozenset(names))
        module.__class__ = generate(original_class(type(module)), kind)
