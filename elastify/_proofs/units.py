"""The proof of units: a network is symmetric in every true axis.

Permuting the units of one axis in all the tensors that the plan says belong to it must leave the function as it
was. This is exact up to rounding, independent of training, and finds a forgotten parameter, a wrong order
or a position mistaken for a channel. It is done on a copy in float64 whose parameters are drawn anew at the size
of one, because what training or initialisation left at zero would hide errors. All axes are permuted at once,
twice, by permutations without a fixed point; a failure is narrowed down by halving. Axes of few units have few such
permutations, so two that belong together may move alike by chance: they are also permuted in groups that tell
every two of them apart. The control asks for the gradient: an axis whose tensors do not move the output is not
proven by an output that stays the same. It is asked of the units of the axis alone: positions that the example is too
short for have no gradient, whatever those in front of them have.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from elastify._analysis import operation
from elastify._capture import Example, generators, op_name, parameter_names, source_line
from elastify._deploy import copied
from elastify._errors import ElastifyError
from elastify._ir import Concat, ElasticAxis, Layout, Plan, axes_of, indices
from elastify._proofs.samples import cast, filled
from elastify._rewrite import remember, remembered, reset

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}  # a float64 model may compute a norm in float32
_GAINS = (1.0, 1.0, 4.0, 0.25)  # of the weights, drawn again as long as an axis seems not to matter
_SMALL = 4  # up to so many units, two axes may be given the same permutation by chance
UNPROVEN = "permuting one of its tensors alone does not change the output: nothing is proven"
"""The reason to keep an axis that the outputs for the example do not depend on: nothing is wrong with it."""


def failing_axes(
    model: nn.Module,
    plan: Plan,
    example: Example,
    pick: Callable[[Any], list[Tensor]],
    *,
    modes: Sequence[bool] = (False,),
    layouts: Callable[[bool], Sequence[tuple[Layout, ...]]] = lambda _: (),
    fewer: Example | None = None,
    seed: int = 0,
    control: bool = True,
) -> dict[int, str]:
    """Axes (by id) in which the model is not symmetric, with what was measured; empty when all are proven.

    `pick` takes the outputs to compare out of what forward returns; `modes` are the training flags to test under, and
    `layouts` gives those of the outputs' dimensions in a mode where they may move with the axes. `fewer` are arguments
    with fewer samples that show as much, if it is not for a batch of one that they do. The `control` takes half of the
    time; without it every axis that does not fail is UNPROVEN. The model is not changed.
    """
    check_finite(model)
    found: dict[int, str] = {}
    silent = list(plan.axes)  # axes that no mode and draw has shown to matter
    draws = _GAINS if control else _GAINS[:1]  # with other weights and the whole batch, units may wake
    for draw, gain in enumerate(draws):
        for training in modes if silent else ():
            whole, moving = training or draw > 0, layouts(training)
            test = _Symmetry(model, plan, example, pick, seed + draw, training, moving, whole, fewer, gain)
            # other scales may only wake what sleeps: they can blow a deep network up, where rounding is no small error
            found.update(test.failures(plan.axes if gain == 1.0 else silent))
            silent = test.unmoved([axis for axis in silent if axis.id not in found]) if control else silent
    return {axis.id: UNPROVEN for axis in silent} | found


def check_finite(model: nn.Module) -> None:
    """Refuse parameters that are NaN or infinite: nothing can be compared."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter.detach()).all():
            raise ElastifyError(
                f"parameter {name} has values that are NaN or infinite",
                where="verification",
                why="outputs of such a model cannot be compared",
                fix="fix the weights, or pass verify=False",
            )


class _Symmetry:
    """The test of one model; `measure(axes)` gives the error after permuting those axes together."""

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        example: Example,
        pick: Callable[[Any], list[Tensor]],
        seed: int,
        training: bool,
        layouts: Sequence[tuple[Layout, ...]],
        whole: bool = False,
        fewer: Example | None = None,
        gain: float = 1.0,
    ) -> None:
        self.plan, self.pick, self.seed, self.layouts = plan, pick, seed, layouts
        self.members: dict[int, list[str]] = {}
        for name, dims in plan.tensors.items():
            for ident in {axis.id for layout in dims for axis in axes_of(layout)}:
                self.members.setdefault(ident, []).append(name)
        self.parameters = parameter_names(model)
        paths = [name.rpartition(".") for name in plan.written]
        # one sample in float64 where the model allows it; some insist on a batch, or on float32 somewhere
        samples = (example,) if whole or fewer is None else (fewer, example)
        precisions = ((torch.float64, True), (torch.float64, False), (torch.float32, False))
        trials = [(dtype, wide, inputs) for dtype, wide in precisions for inputs in samples]
        for number, (dtype, wide, inputs) in enumerate(trials, 1):
            self.exact = _Exact(wide, model)
            self.model = copied(model).train(training)
            quiet(self.model)
            self.example = cast(filled(inputs, seed), dtype)
            self.tolerance = _TOLERANCE[dtype]
            try:
                self.model.to(dtype)
                self.tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
                self.caches = remember(self.model, plan.caches)
                redraw(self.model, seed, gain)
                # forward may change buffers; parameters, which can be large, are permuted back instead
                kept = [name for name in plan.tensors if name not in self.parameters]
                self.written = [(self.model.get_submodule(p)._buffers, [n]) for p, _, n in paths]
                self.buffers = {name: self.tensors[name].detach().clone() for name in kept}
                self.reference = self.outputs()
                return
            except ElastifyError:
                raise
            except Exception:
                if number == len(trials):
                    raise

    def outputs(self) -> list[Tensor]:
        reset(self.model, self.plan.caches, self.caches)
        put_back = remembered(self.written)  # the next run begins with what this one began with
        with torch.no_grad(), seeded(self.seed), self.exact:
            found = self.pick(self.example(self.model))
        put_back()
        return [t.detach().to(torch.complex128 if t.is_complex() else torch.float64) for t in found]

    def error(self, orders: Mapping[int, np.ndarray]) -> float:
        """Largest deviation from the reference (permuted where outputs move), relative to the size of each output."""
        worst = 0.0
        for i, (now, then) in enumerate(zip(self.outputs(), self.reference, strict=True)):
            for dim, layout in enumerate(self.layouts[i] if self.layouts else ()):
                then = _permuted(then, dim, layout, orders)
            if now.shape != then.shape or not torch.equal(torch.isnan(now), torch.isnan(then)):
                return math.inf
            finite = torch.isfinite(then)
            if not torch.equal(finite, torch.isfinite(now)):
                return math.inf
            scale = float(then[finite].abs().max()) if finite.any() else 0.0
            difference = float((now[finite] - then[finite]).abs().max()) if finite.any() else 0.0
            worst = max(worst, difference / (scale or 1.0))
        return worst

    @torch.no_grad()
    def measure(
        self,
        axes: Iterable[ElasticAxis],
        draw: int,
        only: Callable[[ElasticAxis], Sequence[str]] | None = None,
        *,
        apart: bool = False,
    ) -> float:
        """Error after permuting some axes (in the tensors that `only` names) by derangement number `draw`, in each
        tensor by another one if `apart`."""
        axes = list(axes)
        touched = sorted({name for axis in axes for name in (only(axis) if only else self.members.get(axis.id, ()))})

        @lru_cache(1)  # the same for all tensors, unless they are `apart`
        def orders(number: int) -> dict[int, np.ndarray]:
            return {axis.id: derangement(axis.size, self.seed + 7919 * (draw + number) + axis.id) for axis in axes}

        for number, name in enumerate(touched):
            self._permute(name, orders(number * apart))
        try:
            return self.error(orders(0))
        finally:
            for number, name in enumerate(touched):
                if name in self.buffers:
                    self.tensors[name].copy_(self.buffers[name])
                else:
                    self._permute(name, orders(number * apart), back=True)

    def _permute(self, name: str, orders: Mapping[int, np.ndarray], *, back: bool = False) -> None:
        value = self.tensors[name]
        for dim, layout in enumerate(self.plan.tensors[name]):
            value = _permuted(value, dim, layout, orders, back=back)
        self.tensors[name].copy_(value)

    def failures(self, axes: Iterable[ElasticAxis]) -> dict[int, str]:
        """Which of these axes the model is not symmetric in, until those that are left hold together."""
        found: dict[int, str] = {}
        proven = list(axes)
        while True:  # an axis that failed stays as it is from then on, which its partners must survive
            for draw, group in enumerate(_groups(proven)):
                self._narrow([axis for axis in group if axis.id not in found], draw, found)
            left = [axis for axis in proven if axis.id not in found]
            if len(left) == len(proven):
                break
            proven = left
        return found

    def _narrow(self, axes: list[ElasticAxis], draw: int, found: dict[int, str]) -> None:
        if not axes:
            return
        error = self.measure(axes, draw)
        if error <= self.tolerance:
            return
        if len(axes) == 1:
            found[axes[0].id] = f"the permutation test fails: the output moves by {error:.1e} of its size"
            return
        half = len(axes) // 2
        self._narrow(axes[:half], draw, found)
        self._narrow(axes[half:], draw, found)

    def unmoved(self, axes: list[ElasticAxis]) -> list[ElasticAxis]:
        """Axes with no units in any tensor that the output depends on."""
        moving = self._with_gradient({name for axis in axes for name in self.members[axis.id]})
        silent = [axis for axis in axes if axis.id not in moving]
        large = bool(silent) and all(axis.size > _SMALL for axis in silent)
        if large and self.measure(silent, 0, apart=True) <= self.tolerance:
            return silent  # torn apart all at once, they matter to nothing
        return [axis for axis in silent if not any(self._moves(axis, name) for name in self.members[axis.id])]

    def _with_gradient(self, names: set[str]) -> set[int]:
        """Axes, by id, of units in which the outputs have a gradient; none where forward cannot be differentiated."""
        chosen: dict[Tensor, list[str]] = {}  # a tied tensor has several names
        found: set[int] = set()
        hooks: list[Any] = []

        def look(tensor: Tensor) -> None:
            gradient, tensor.grad = tensor.grad, None  # at once: all of them are as large as the model
            if gradient is None or not gradient.any():
                return
            for name in chosen[tensor]:
                for dim, layout in enumerate(self.plan.tensors[name]):
                    found.update(_axes_in(gradient, dim, layout))

        try:
            for name in sorted(names & self.parameters):
                if self.tensors[name].is_floating_point():
                    chosen.setdefault(self.tensors[name].requires_grad_(True), []).append(name)
            hooks += [tensor.register_post_accumulate_grad_hook(look) for tensor in chosen]
            with torch.enable_grad(), seeded(self.seed), self.exact:
                outputs = [t for t in self.pick(self.example(self.model)) if t.requires_grad]
                total: Any = sum((t.abs() * torch.rand(t.shape, device=t.device)).nansum() for t in outputs)
                total.backward(inputs=list(chosen))
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError):
            return set()  # a backward of the model's own may ask for what it likes
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def _moves(self, axis: ElasticAxis, name: str) -> bool:
        return self.measure([axis], 0, lambda _: [name]) > self.tolerance


def _axes_in(gradient: Tensor, dim: int, layout: Layout) -> set[int]:
    """Axes of a dimension, by id, in whose units a gradient is not zero anywhere."""
    whole = {axis.id for axis in axes_of(layout)}
    if not isinstance(layout, Concat) or len(whole) == 1:
        return whole
    parts = gradient.split([part.size for part in layout.parts], dim)
    return set().union(*(_axes_in(own, dim, part) for own, part in zip(parts, layout.parts, strict=True) if own.any()))


def _permuted(
    tensor: Tensor, dim: int, layout: Layout, orders: Mapping[int, np.ndarray], *, back: bool = False
) -> Tensor:
    if not any(axis.id in orders for axis in axes_of(layout)):
        return tensor
    order = indices(layout, orders)
    return tensor.index_select(dim, torch.from_numpy(np.argsort(order) if back else order).to(tensor.device))


def _groups(axes: list[ElasticAxis]) -> list[list[ElasticAxis]]:
    """All axes twice; then those of few units, by the bits of their number: every two are parted by some group.

    >>> [len(group) for group in _groups([ElasticAxis(i, "", size, ()) for i, size in enumerate((2, 64, 3, 2))])]
    [4, 4, 2, 2]
    """
    small = [axis for axis in axes if axis.size <= _SMALL]
    bits = len(small).bit_length() if len(small) > 1 else 0
    return [axes, axes, *([axis for i, axis in enumerate(small, 1) if i >> bit & 1] for bit in range(bits))]


def derangement(size: int, seed: int) -> np.ndarray:
    """A permutation without a fixed point (for `size` of at least 2).

    >>> bool((derangement(5, 0) == np.arange(5)).any())
    False
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(size)
    cycle = np.empty(size, np.int64)
    cycle[order] = np.roll(order, -1)  # one long cycle through a random order
    return cycle


@torch.no_grad()
def redraw(
    model: nn.Module, seed: int, gain: float = 1.0, only: Callable[[Tensor], bool] = lambda weight: True
) -> None:
    """Draw parameters anew so that every one matters: matrices keep the scale (times `gain`), vectors lie around
    one."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if not (parameter.is_floating_point() or parameter.is_complex()) or not only(parameter):
            continue
        shape = parameter.shape
        draw = torch.randn(shape, generator=generator, dtype=torch.float64)
        inputs = math.prod(shape[1:])
        if parameter.dim() >= 2 and inputs > 1:
            draw = draw * (gain / math.sqrt(inputs))
        else:
            draw = 1 + 0.3 * draw.clamp(-2, 2)
        parameter.copy_(draw.to(parameter.device, parameter.dtype))
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        elif name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3)
        elif name.endswith((".weight", ".bias")) and buffer.is_floating_point():  # of a frozen batch norm
            buffer.copy_(1 + 0.3 * torch.randn(buffer.shape, generator=generator).clamp(-2, 2))


def quiet(model: nn.Module) -> None:
    """Put what only adds noise in training into evaluation mode: dropout, alone or inside a recurrent layer."""
    for module in model.modules():
        weightless = not any(True for _ in module.parameters()) and not any(True for _ in module.children())
        if weightless or isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
            module.training = False


class _Exact(TorchFunctionMode):
    """Nothing is dropped where forward calls dropout as a function: its masks tell units apart by their place.

    Where `wide`, what forward would compute in float32 (a norm) is computed in float64 as well. What runs is a copy: it
    must not compute with tensors of the `original`.
    """

    def __init__(self, wide: bool, original: nn.Module) -> None:
        super().__init__()
        self.wide = wide
        self.foreign = {id(t): name for name, t in (*original.named_parameters(), *original.named_buffers())}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named, kwargs = op_name(func), kwargs or {}
        if named.kind not in ("fact", "size"):
            self.check((*args, *kwargs.values()))
        name = named.op
        if self.wide:
            func = Tensor.double if func is Tensor.float else func
            args = tuple(_WIDER.get(x, x) if isinstance(x, torch.dtype) else x for x in args)
            if "dtype" in kwargs:
                kwargs = {**kwargs, "dtype": _WIDER.get(kwargs["dtype"], kwargs["dtype"])}
        if operation(name).drops:
            return args[0] if args else kwargs["input"]
        off = {"dropout_p": 0.0, **({"training": False} if "norm" not in name else {})}
        return func(*args, **{key: off.get(key, value) for key, value in kwargs.items()})

    def check(self, given: Sequence[Any]) -> None:
        """Refuse a copy of the model that goes on with weights of the original."""
        found = next((self.foreign[id(tensor)] for tensor in given if id(tensor) in self.foreign), None)
        if found is not None:
            raise ElastifyError(
                f"copies of this model go on with its own {found}",
                where=source_line(),
                why="a function or an object there holds the model, and is not copied with it",
                fix="make the function a method, or hand it what it needs when it is called",
            )


_WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch, Python and numpy (masks of training are drawn by it) from a seed, then as before."""
    with generators():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global state is what networks draw from
        yield
