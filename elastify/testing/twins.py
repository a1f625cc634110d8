"""A subnet, activated and extracted, after one pass and its backward: what both learn and write.

Outputs, gradients and buffers of the activated subnet must be those of the extracted model. Its gradients lie on its
own entries. What it leaves in the buffers of the whole model is its units of those that the plan says are written and
shared; the rest of them, the statistics of the full network, and all that belongs to blocks left out are as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from elastify._capture import resolve
from elastify._deploy import all_tensors, copied
from elastify._proofs import quiet
from elastify._rewrite import elastic_state
from elastify._verbs import activate

Run = Callable[[nn.Module], list[Tensor]]


def learns(model: nn.Module, run: Run, training: bool) -> bool:
    """Whether a model runs on the example in a mode, forward and backward."""
    try:
        _learn(_prepared(copied(model), training), run)
    except Exception:  # noqa: BLE001 - whatever it is, there is nothing to compare with
        return False
    return True


class Twins:
    """One pass of a copy of an elastic model as this subnet, and of `small`, the same extracted; raises what they
    raise."""

    def __init__(self, model: nn.Module, small: nn.Module, run: Run, config: Any, training: bool) -> None:
        self.model, self.small = _prepared(copied(model), training), _prepared(small, training)
        self.theirs = _learn(self.small, run)
        self.state = elastic_state(self.model)
        self.before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with activate(self.model, config):
            self.ours = _learn(self.model, run)
            self.active = self.state.active
            self.gone = {name for name, _ in all_tensors(self.model) if self.state.is_gone(name)}
            self.buffers = self._active_buffers()

    def compare(self, tolerance: float) -> tuple[float, list[str]]:
        """The largest difference of gradients, relative to the largest of them, and what is wrong."""
        failures = list(self._passed(tolerance))
        ours, theirs = self._active_gradients(failures), [_dense(p.grad) for p in self.small.parameters()]
        if len(ours) != len(theirs):
            return 0.0, [*failures, f"{len(ours)} parameters are active, {len(theirs)} extracted"]
        scale = max((_largest(g) for g in theirs if g is not None), default=0.0)
        if not scale:
            return 0.0, [*failures, "no parameter has a gradient: nothing was compared"]
        worst = max(_difference(a, b) / scale for a, b in zip(ours, theirs, strict=True))
        if not worst <= 10 * tolerance:
            failures.append(f"gradients differ by {worst:.1e}")
        return worst, failures

    def _passed(self, tolerance: float) -> Iterator[str]:
        """What is wrong with outputs and buffers."""
        error = deviation(self.ours, self.theirs)
        if not error <= 10 * tolerance:
            yield f"activated and extracted differ by {error:.1e}"
        theirs = dict(self.small.named_buffers())
        if len(self.buffers) != len(theirs):
            yield f"{len(self.buffers)} buffers are active, {len(theirs)} extracted"
        for (name, ours), other in zip(self.buffers.items(), theirs.values(), strict=False):
            error = deviation([ours], [other])
            if not error <= 10 * tolerance or not (ours.is_floating_point() or torch.equal(ours, other)):
                yield f"buffer {name} is written otherwise, by {error:.1e}"
        for name, buffer in self.model.named_buffers():
            if name in self.before and not identical(*map(self._others(name), (self.before[name], buffer))):
                yield f"buffer {name} is changed where the subnet has no units"

    def _others(self, name: str) -> Callable[[Tensor], Tensor]:
        """What of a buffer does not belong to the active subnet; a counter belongs to all."""
        name, plan, active = self.state.plan.aliases.get(name, name), self.state.plan, self.active
        is_count = not self.before[name].dim() and name not in plan.statistics
        if active is None or (name not in plan.tensors and (is_count or name in plan.written)):
            return lambda buffer: buffer.flatten()[:0]
        if name in self.gone or name not in plan.written:
            return lambda buffer: buffer

        def rest(buffer: Tensor) -> Tensor:
            found, cut = buffer.clone(), self.state.slice_of(active, name, buffer)
            cut.put(found, torch.zeros_like(cut(buffer)))
            return found

        return rest

    def _active_buffers(self) -> dict[str, Tensor]:
        """The buffers that the active subnet sees, as they are now."""
        found = {}
        for name in dict(self.model.named_buffers()):
            path, _, local = name.rpartition(".")
            if name not in self.gone:
                found[name] = getattr(resolve(self.model, path), local).detach().clone()
        return found

    def _active_gradients(self, failures: list[str]) -> list[Tensor | None]:
        """Gradients of the active entries of every parameter that is not in a block left out."""
        found: dict[int, Tensor | None] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            if id(parameter) in found or name in self.gone:
                continue
            grad = part = _dense(parameter.grad)
            name = self.state.plan.aliases.get(name, name)
            if grad is not None and name in self.state.plan.tensors and self.active is not None:
                part = self.state.slice(self.active, name)(grad)
                outside = float(grad.abs().sum() - part.abs().sum())
                if outside > 1e-3 * float(grad.abs().sum()) + 1e-12:
                    failures.append(f"gradient outside the active entries of {name}")
            found[id(parameter)] = part
        for name, parameter in self.model.named_parameters():
            if id(parameter) not in found and parameter.grad is not None and bool(parameter.grad.any()):
                failures.append(f"gradient of {name}, which is left out,")
        return list(found.values())


def _prepared(model: nn.Module, training: bool) -> nn.Module:
    model.train(training)
    quiet(model)
    model.zero_grad(set_to_none=True)
    return model


def _learn(model: nn.Module, run: Run) -> list[Tensor]:
    """The outputs of one pass, after the backward of a number that each of them moves."""
    outputs = run(model)
    _scalar(outputs).backward()
    return [output.detach() for output in outputs]


def identical(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal; a network that gives NaN gives NaN in the same places."""
    a, b = a.to_dense(), b.to_dense()
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def deviation(a: list[Tensor], b: list[Tensor]) -> float:
    """Largest difference of two lists of outputs, relative to the largest value of each tensor."""
    if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=False)):
        return float("inf")
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        if not x.is_floating_point() and not x.is_complex():
            continue
        x, y = x.to_dense(), y.to_dense()
        worst = max(worst, _largest(x - y) / (_largest(y) or 1.0))
    return worst


def _dense(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.to_dense()


def _difference(a: Tensor | None, b: Tensor | None) -> float:
    """Largest difference of two gradients, of which one that is None is zero."""
    if a is None or b is None:
        rest = b if a is None else a
        return 0.0 if rest is None else _largest(rest)
    return _largest(a - b) if a.shape == b.shape else float("inf")


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _scalar(outputs: list[Tensor]) -> Tensor:
    """A number that every output moves, with weights of both signs."""
    total = torch.zeros(())
    for out in outputs:
        if out.is_floating_point():
            weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
            total = total + (out * weights).mean()
    return total
