"""What the smaller subnets learn from the full one.

Which part of a model's outputs are logits is known to one piece of code only: the user's loss, at the moment it calls
`cross_entropy`. So the loss itself is run for teacher and student, under a function mode that writes down the logits
of each cross-entropy of the teacher and puts their probabilities in the place of the labels for the student. Masked
positions (`ignore_index`), class weights, several heads, auxiliary terms and reductions stay what they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from elastify._errors import ElastifyError
from elastify.train._strategies.losses import Distill, Loss

_SIGNATURES: dict[Any, inspect.Signature] = {
    fn: inspect.signature(fn) for fn in (F.cross_entropy, F.binary_cross_entropy_with_logits)
}


def soft_cross_entropy(outputs: object, teacher_outputs: Any) -> Tensor:
    """Cross-entropy with the teacher's probabilities, averaged over all but the last dimension (the classes).

    >>> import torch
    >>> from torch import tensor
    >>> logits = tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> bool(soft_cross_entropy(logits, logits) < soft_cross_entropy(-logits, logits))
    True

    Takes tensors `[..., classes]`, or outputs with such an attribute `logits`.
    """
    student, teacher = getattr(outputs, "logits", outputs), getattr(teacher_outputs, "logits", teacher_outputs)
    if not isinstance(student, Tensor):
        raise ElastifyError(
            f"{type(outputs).__name__} is not a tensor of logits and has no attribute logits",
            fix="distill=lambda outputs, teacher: ...",
        )
    return -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1).mean()


class TeacherOutputs:
    """A loss for the teacher, and for the students a distance to its outputs, beside a share `mix` of the loss."""

    def __init__(self, loss: Loss, distance: Distill, mix: float = 0.0) -> None:
        self._loss, self._distance, self._mix = loss, distance, mix
        self._outputs: object = None
        self.teaches = True

    def teacher(self, outputs: object) -> Tensor:
        """The loss itself; the outputs are kept, without their graph."""
        self._outputs = detached(outputs)
        return self._loss(outputs)

    def student(self, outputs: object) -> Tensor:
        """The distance to the teacher."""
        distance = self._distance(outputs, self._outputs)
        return self._mix * self._loss(outputs) + (1 - self._mix) * distance if self._mix else distance


class TeacherLabels:
    """A loss for the teacher, and the same loss with the teacher's probabilities as labels for the students.

    Above a `temperature` of 1 the probabilities of both are softer, and the loss is multiplied by its square. `mix` is
    the share of the true labels in each cross-entropy.
    """

    def __init__(self, loss: Loss, temperature: float = 1.0, mix: float = 0.0) -> None:
        self._loss, self._temperature, self._mix = loss, temperature, mix
        self._labels: list[Tensor] = []

    @property
    def teaches(self) -> bool:
        """Whether the loss of the teacher had cross-entropies to learn from."""
        return bool(self._labels)

    def teacher(self, outputs: object) -> Tensor:
        """The loss itself; the probabilities in its cross-entropies are kept."""
        self._labels.clear()
        with _Cross(lambda number, call: self._keep(call)):
            return self._loss(outputs)

    def student(self, outputs: object) -> Tensor:
        """The loss against the teacher."""
        with _Cross(self._against_teacher) as mode:
            value = self._loss(outputs)
        if mode.calls != len(self._labels):
            raise ElastifyError(
                "the loss cannot be distilled",
                why=f"it computes {len(self._labels)} cross-entropies for the full network, {mode.calls} for a subnet",
                fix="pass distill=lambda outputs, teacher_outputs: ..., or make the strategy with teacher=None",
            )
        return value

    def _keep(self, call: inspect.BoundArguments) -> Tensor:
        logits = call.arguments["input"].detach() / self._temperature
        binary = call.signature is _SIGNATURES[F.binary_cross_entropy_with_logits]
        self._labels.append(logits.sigmoid() if binary else logits.softmax(1 if logits.dim() > 1 else 0))
        return _plain(call)

    def _against_teacher(self, number: int, call: inspect.BoundArguments) -> Tensor:
        if number >= len(self._labels):
            return _plain(call)
        logits, teacher = call.arguments["input"], self._labels[number]
        if logits.shape != teacher.shape:
            raise ElastifyError(
                f"logits of shape {tuple(logits.shape)} cannot learn from {tuple(teacher.shape)}",
                why="the subnet has other outputs than the full network",
                fix="elastify(model, keep_outputs=True), or pass distill=...",
            )
        labels = _plain(call) if self._mix else 0.0
        call.arguments["input"] = logits / self._temperature
        if call.signature is _SIGNATURES[F.binary_cross_entropy_with_logits]:
            call.arguments["target"] = teacher
            taught = F.binary_cross_entropy_with_logits(*call.args, **call.kwargs)
        else:
            taught = _soft(call.arguments, teacher)
        return self._mix * labels + (1 - self._mix) * self._temperature**2 * taught


def _soft(call: Mapping[str, Any], probabilities: Tensor) -> Tensor:
    """`cross_entropy` with the teacher's probabilities, where the labels are not to be ignored."""
    logits, target = call["input"], call["target"]
    value = F.cross_entropy(logits, probabilities, weight=call["weight"], reduction="none")
    counted: Tensor | float = float(value.numel())
    if not target.is_floating_point():
        known = target != call["ignore_index"]
        value = value.where(known, 0)
        counted = known.sum()
    if call["reduction"] == "none":
        return value
    return value.sum() / counted if call["reduction"] == "mean" else value.sum()


def _plain(call: inspect.BoundArguments) -> Tensor:
    fn = next(fn for fn, signature in _SIGNATURES.items() if signature is call.signature)
    return fn(*call.args, **call.kwargs)


class _Cross(TorchFunctionMode):
    """Sends every call of a cross-entropy to `handle(number, arguments)`."""

    def __init__(self, handle: Callable[[int, inspect.BoundArguments], Tensor]) -> None:
        super().__init__()
        self.calls, self._handle = 0, handle

    def __torch_function__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        signature = _SIGNATURES.get(func) if callable(func) else None
        if signature is None:
            return func(*args, **(kwargs or {}))
        call = signature.bind(*args, **(kwargs or {}))
        call.apply_defaults()
        self.calls += 1
        return self._handle(self.calls - 1, call)


def detached(outputs: object) -> object:
    """The same structure of outputs (tensors in tuples, dicts, dataclasses) without the graph."""
    return tree_map(_detached_leaf, outputs)


def _detached_leaf(leaf: object) -> object:
    if isinstance(leaf, Tensor):
        return leaf.detach()
    if is_dataclass(leaf) and not isinstance(leaf, type):
        return replace(leaf, **{f.name: detached(getattr(leaf, f.name)) for f in fields(leaf) if f.init})
    return leaf
