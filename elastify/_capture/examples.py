"""What forward is called with, as one value: given by the user, or made again from a description.

An `Example` goes through capture, proofs and checks; a description of it (`ExampleSpec`, without data) stays with the
model. `example_like` makes an example of it: random numbers of the shapes and dtypes that were, floats in the range and
integers and booleans from the range that was seen, so that indices stay inside their tables and a mask of ones one.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from elastify._capture.trees import mapped, named_tensors, tensors
from elastify._errors import ElastifyError
from elastify._ir import MAX_TEXT, ExampleSpec, TensorSpec, Unknown

INPUTS = "example inputs are a tensor, a tuple of positional arguments or a dict of keyword arguments"
FORMS = "a tensor, a tuple of arguments, a dict of keyword arguments, or (args, kwargs)"
_PLAIN = (bool, int, float, str, type(None))
_INT64 = 2**63 - 1


@dataclass(frozen=True, eq=False)
class Example:
    """The arguments of one call of forward. They stay what they are: each run gets lists, dicts and tensors of its own,
    for it may write into them. Errors call it by its `name`, if it has one."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def mapped(self, change: Callable[[Tensor], Any]) -> Example:
        """The same with every tensor changed, in containers and objects of their own."""
        memo: dict[int, Any] = {}  # what is given twice is given twice again

        def once(tensor: Tensor) -> Any:
            return memo[id(tensor)] if id(tensor) in memo else memo.setdefault(id(tensor), change(tensor))

        args, kwargs = (mapped(tree, once, lambda item: _own(item, memo)) for tree in (self.args, dict(self.kwargs)))
        return Example(args, kwargs, self.name)

    def resized(self, samples: Mapping[int, Collection[int]], count: int, new: int) -> Example:
        """The same with `new` samples instead of `count`, the first one once more where there are more; `samples`
        gives, by the ids of the tensors, the dimensions that count them."""

        def change(tensor: Tensor) -> Tensor:
            for dim in samples.get(id(tensor), ()):
                own = torch.arange(tensor.shape[dim] // count * new, device=tensor.device) % tensor.shape[dim]
                tensor = tensor.index_select(dim, own)
            return tensor

        return self.mapped(change)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor, in order."""
        return tensors((self.args, dict(self.kwargs)))

    def bound(self, signature: inspect.Signature) -> inspect.BoundArguments:
        """The arguments by the names of the parameters that take them; TypeError where they do not fit."""
        return signature.bind(*self.args, **self.kwargs)

    def __call__(self, model: Callable[..., Any]) -> Any:
        """What a model gives for these arguments."""
        own = self.mapped(lambda tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad))
        return model(*own.args, **own.kwargs)


def _own(item: Any, memo: dict[int, Any]) -> Any:
    """A copy of an object that a run is given and may change; itself where it has none."""
    if type(item) in _PLAIN or isinstance(item, (nn.Module, ModuleType, type)) or callable(item):
        return item
    try:
        return copy.deepcopy(item, memo)
    except Exception:  # noqa: BLE001 - whatever it is, there is no copy
        return item


def prepare_examples(examples: Any) -> list[Example]:
    """A list of examples as a user gives it. A tuple of a tuple or list and a dict is (args, kwargs), any other tuple
    has the arguments.

    >>> [(len(one.args), list(one.kwargs)) for one in prepare_examples([(1, 2), ((1, 2), {"a": 3}), {"a": 3}])]
    [(2, []), (2, ['a']), (0, ['a'])]
    """
    if not isinstance(examples, list) or not examples:
        what = "empty" if isinstance(examples, list) else f"a {type(examples).__name__}"
        raise ElastifyError(
            f"examples is {what}", where="examples", fix=f"a list of one or more examples, each {FORMS}"
        )
    return [_prepared(item, f"examples[{number}]") for number, item in enumerate(examples)]


def _prepared(item: Any, name: str) -> Example:
    args, kwargs = item, {}
    if isinstance(item, Tensor):
        args = (item,)
    elif isinstance(item, Mapping):
        args, kwargs = (), item
    elif not isinstance(item, tuple):
        fix = "([a, b],) for one argument that is a list, (a, b) for two" if isinstance(item, list) else FORMS
        raise ElastifyError(f"an example is a {type(item).__name__}", where=name, fix=fix)
    elif len(item) == 2 and isinstance(item[0], (tuple, list)) and isinstance(item[1], Mapping):
        args, kwargs = item
    if not all(isinstance(key, str) for key in kwargs):
        raise ElastifyError("keyword arguments have names that are no text", where=name, fix=FORMS)
    return replace(prepare_inputs(tuple(args), kwargs), name=name)


def prepare_inputs(inputs: Any, kwargs: Mapping[str, Any] | None = None) -> Example:
    """Inputs as a user gives them; a batch of one is doubled, so that it cannot be mistaken for a broadcast.

    >>> example = prepare_inputs(torch.zeros(1, 3, 8, 8))
    >>> example.args[0].shape, example.kwargs
    (torch.Size([2, 3, 8, 8]), {})
    """
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    elif isinstance(inputs, Mapping):
        inputs, kwargs = (), {**inputs, **(kwargs or {})}
    elif inputs is None:
        inputs = ()
    if not isinstance(inputs, (tuple, list)) or not isinstance(kwargs or {}, Mapping):
        raise ElastifyError(f"example inputs are a {type(inputs).__name__}", where="example_inputs", fix=INPUTS)
    example = Example(tuple(inputs), dict(kwargs or {}))
    found = list(example.tensors())
    batched = next((t for t in found if t.ndim > 1), found[0] if found else None)
    if batched is not None and batched.ndim and batched.size(0) == 1:
        return example.mapped(lambda t: t.repeat(2, *[1] * (t.ndim - 1)) if t.ndim and t.size(0) == 1 else t)
    return example


def tensors_by_name(model: nn.Module, example: Example) -> dict[str, Tensor]:
    """The tensors of an example under the names that a record has for the inputs."""
    signature = inspect.signature(model.forward)
    return dict(named_tensors(example.bound(signature).arguments, signature))


def describe(example: Example, samples: Mapping[int, Collection[int]], count: int) -> ExampleSpec | None:
    """What is remembered of an example with `count` samples; `samples` gives, by the ids of the tensors, the dimensions
    that count them. None where there is too much to remember."""

    def described(item: Any) -> Any:
        if isinstance(item, Tensor):
            dims = tuple(dim for dim in samples.get(id(item), ()) if item.shape[dim] % count == 0)
            return _tensor_spec(item, dims)
        if type(item) in (tuple, torch.Size):
            return tuple(map(described, item))
        if isinstance(item, list):
            return list(map(described, item))
        if isinstance(item, dict) and all(type(key) in _PLAIN for key in item):
            return {key: described(value) for key, value in item.items()}
        plain = type(item) in _PLAIN and not (isinstance(item, str) and len(item) > MAX_TEXT)
        return item if plain else Unknown(type(item).__name__)

    spec = ExampleSpec(described(example.args), described(dict(example.kwargs)), count)
    try:
        return ExampleSpec.from_json(spec.to_json())  # what is kept can be read back
    except ElastifyError:
        return None


def _tensor_spec(tensor: Tensor, samples: tuple[int, ...]) -> TensorSpec | Unknown:
    dtype = str(tensor.dtype).removeprefix("torch.")
    try:
        return TensorSpec(tuple(tensor.shape), dtype, samples, _range(tensor))
    except ElastifyError:
        return Unknown(f"tensor of {dtype}")


def _range(tensor: Tensor) -> tuple[float, float] | None:
    """The least and the largest value; None for a tensor without numbers or with others than real ones."""
    if not tensor.numel() or tensor.is_complex() or tensor.is_meta:
        return None
    try:
        values = tensor.detach().to(torch.float64 if tensor.is_floating_point() else torch.int64)
        low, high = (end.item() for end in values.aminmax())
    except RuntimeError:  # fake tensors, sparse ones
        return None
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def example_like(
    spec: ExampleSpec, batch: int | None = None, *, device: torch.device | str = "cpu", seed: int = 0
) -> Example:
    """Arguments like those that were described, of random numbers; `batch` samples instead of as many as there were.

    >>> spec = ExampleSpec((TensorSpec((2, 9), "int64", (0,), (5, 7)),), {}, 2)
    >>> ids = example_like(spec, batch=4).args[0]
    >>> ids.shape, ids.min() >= 5, ids.max() <= 7
    (torch.Size([4, 9]), tensor(True), tensor(True))

    Raises ElastifyError where the example had something else than tensors and plain values, or nothing counts samples.
    """
    generator = torch.Generator().manual_seed(seed)
    count = spec.count if batch is None else batch
    fixed = count != spec.count

    def made(item: Any) -> Any:
        nonlocal fixed
        if isinstance(item, Unknown):
            raise ElastifyError(
                f"the example had a {item.kind}, which is not remembered", fix="pass example_inputs and example_kwargs"
            )
        if not isinstance(item, TensorSpec):
            return item
        fixed = fixed and not item.samples
        shape = [n // spec.count * count if dim in item.samples else n for dim, n in enumerate(item.shape)]
        return _drawn(item, shape, generator).to(device)

    args, kwargs = (mapped(tree, lambda tensor: tensor, made) for tree in (spec.args, dict(spec.kwargs)))
    if fixed:
        raise ElastifyError("no dimension of the example counts samples", fix="leave batch out, or pass example_inputs")
    return Example(args, kwargs)


def _drawn(spec: TensorSpec, shape: list[int], generator: torch.Generator) -> Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)  # one of the names that a TensorSpec may have
    low, high = spec.range or (0, 0)
    if dtype.is_complex:
        return torch.randn(shape, generator=generator, dtype=torch.complex128).to(dtype)
    if not dtype.is_floating_point:
        return torch.randint(int(low), min(int(high) + 1, _INT64), shape, generator=generator).to(dtype)
    if low == high:  # zeros would silence a model
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return (low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)
