"""The verdict on one network by its constructor: what a subnet computes, learns and writes is what the class makes.

1. Elastify a network that was built from a `Spec`, with every axis that it has; sort its channels now and then. Units
   may have moved, so the network at its full numbers, with the weights as they are now, must still compute what it did.
2. Which number an axis is tells its members: all dimensions that are made of the number, and as many units. An axis
   that is no number is wrong. So sizes of a configuration are numbers, and blocks left out are nodes left out.
3. Give the subnet statistics of its own, now and then. Build that smaller network by its constructors and give it the
   tensors that `units` cuts. Activated and extracted must compute the same in evaluation mode, at other sizes too, and
   in training mode give the same outputs, gradients and buffers. Statistics are a configuration's own, other buffers
   are written where it has units and nowhere else. Afterwards both are compared in evaluation mode once more.

Numbers that `space` lists as staying keep their value in the smaller network; of those that it lists as unclear, it
takes the value that extraction gave. Nothing else is taken from the library.
"""

from __future__ import annotations

import copy
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from elastify import ElastifyError, SubnetConfig, activate, extract, space
from elastify.train import recalibrate, sort_channels
from tests.every_axis import every_axis
from tests.fuzz.verdict import Verdict

from .nodes import Node, build, caches, local_units, placed, smaller, tensors, weights
from .specs import Spec, make
from .units import Units, cut, dims_of, read

TOLERANCE = 1e-8  # of the largest value of a tensor; everything is computed in double precision


def judge(seed: int, configurations: int = 3) -> Verdict:
    """Make a network, elastify it, and compare so many of its subnets."""
    spec, model = make(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _Judge(seed, spec, model).judge(configurations)
    except ElastifyError as error:
        refused = error.what.startswith("nothing in this")
        return Verdict(seed, "refused" if refused else "wrong", str(error))
    except Exception:  # noqa: BLE001 - a crash is what a fuzzer looks for
        return Verdict(seed, "wrong", traceback.format_exc(limit=-4))


@dataclass
class Subnet:
    """One configuration, as a tree and its numbers."""

    config: SubnetConfig
    root: Node
    units: dict[str, Units]
    measured: bool = False


@dataclass
class _Judge:
    seed: int
    spec: Spec
    model: nn.Module
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)

    def judge(self, configurations: int) -> Verdict:
        plain = copy.deepcopy(self.model)
        every_axis(self.model, self.spec.example(self.seed), min_ratio=0.1)
        self.found = space(self.model)
        self.axes = self._axes()
        self.listed = [*self.found.plan.staying, *self.found.plan.unclear]
        if self.seed % 2:
            sort_channels(self.model, "random", seed=self.seed)
        self._full(plain)
        drawn = [self.found.min, *(self.found.sample(self.seed + i) for i in range(1, configurations))]
        subnets = [self._subnet(config) for config in dict.fromkeys(drawn)]
        for subnet in subnets:
            subnet.measured = self._measured(subnet)
            self._compare(subnet)
        share = min(sum(len(u.kept) for u in s.units.values()) for s in subnets) / sum(self.spec.numbers.values())
        kind = "wrong" if self.failures else "passed"
        text = "; ".join(dict.fromkeys(self.failures))
        return Verdict(self.seed, kind, text, len(self.found.axes), len(self.found.stages), share)

    # which numbers the axes are

    def _axes(self) -> dict[str, str]:
        """The axis of each number that has one."""
        places, names = self._places(), self._first_names()
        found: dict[str, str] = {}
        for axis in self.found.axes:
            members = {(names[name], dim) for name, dim in axis.members}
            own = [
                number
                for number, size in self.spec.numbers.items()
                if size == axis.size and places[number] and places[number] <= members
            ]
            explained = set().union(*(places[number] for number in own))
            if not own or explained != members:
                self.failures.append(f"axis {axis.name} of {axis.size} is none of the numbers: {sorted(members)}")
            found.update((number, axis.name) for number in own)
        return found

    def _places(self) -> dict[str, set[tuple[str, int]]]:
        """Dimensions of tensors that each number is in."""
        places: dict[str, set[tuple[str, int]]] = {number: set() for number in self.spec.numbers}
        names = self._first_names()
        for name, _, text, numbers, _ in tensors(self.spec.root, self.model):
            for dim, part in enumerate(dims_of(text) if text else []):
                for number, size in self.spec.numbers.items():
                    less = local_units(numbers, self.spec.units({number: size - 1}))
                    if name in names and len(read(part, less).kept) != read(part, less).size:
                        places[number].add((names[name], dim))
        return places

    def _first_names(self) -> dict[str, str]:
        """A tensor that two modules share stands under its first name."""
        first: dict[int, str] = {}
        return {name: first.setdefault(id(tensor), name) for name, tensor in _tensors(self.model).items()}

    def _subnet(self, config: SubnetConfig) -> Subnet:
        paths = {node.path for node in self.spec.root.all()}
        without: list[str] = []
        for stage in self.found.stages:
            left_out = [path for i, path in enumerate(stage.blocks) if i not in config.depths[stage.name]]
            if not paths.issuperset(left_out):  # parts of a node: the constructor cannot leave them out
                config = self.found.config({**config.sizes, **config.depths, stage.name: range(len(stage.blocks))})
            else:
                without += left_out
        kept = {number: config.sizes[axis] for number, axis in self.axes.items()}
        return Subnet(config, smaller(self.spec.root, without), self.spec.units(kept))

    def _measured(self, subnet: Subnet) -> bool:
        """Give a subnet statistics of its own, now and then, where all are those of norms of torch."""
        own = any(node.part.STATISTICS for node in subnet.root.all())
        if own or self.rng.random() < 0.5 or subnet.config == self.found.max:
            return False
        batches = [self.spec.example(self.seed + i, batch=4) for i in range(2)]
        return recalibrate(self.model, batches, subnet.config, lambda model, batch: model(*batch)) > 0

    # the smaller network, by its constructor

    def _built(self, subnet: Subnet, small: nn.Module | None) -> nn.Module:
        """The smaller network, with the tensors of the large one as they are now."""
        model = build(subnet.root, subnet.units).double()
        taken = weights(subnet.root, model, subnet.units, _tensors(self.model))
        own = _tensors(model)
        if subnet.measured:
            with activate(self.model, subnet.config):
                seen = {there: _get(self.model, there).detach().clone() for there in self._names(subnet)}
            taken |= {name: seen[there] for name, there, _, _, mine in tensors(subnet.root, model) if mine}
        missing = own.keys() - taken.keys() - caches(placed(subnet.root))
        assert not missing, f"{sorted(missing)} have no layout"
        with torch.no_grad():
            for name, tensor in taken.items():
                assert own[name].shape == tensor.shape, f"{name}: {own[name].shape} is built, {tensor.shape} is cut"
                own[name].copy_(tensor)
        for new, old in zip(placed(subnet.root).all(), subnet.root.all(), strict=True):
            for attr in self.listed:
                if attr.owner == old.path and small is not None:
                    stays = attr in self.found.plan.staying
                    source = self.model if stays else small
                    value = getattr(source.get_submodule(old.path if stays else new.path), attr.name)
                    setattr(model.get_submodule(new.path), attr.name, value)
        return model

    def _full(self, plain: nn.Module) -> None:
        """The units may have another order now; the full network computes what it did."""
        built = self._built(Subnet(self.found.max, self.spec.root, self.spec.full()), None)
        for what, example in self._examples():
            expected = _run(self._may_write(plain), example)
            self._same(f"the full network {what}", _run(self._may_write(self.model), example), expected)
            self._same(f"the full network, built anew, {what}", _run(self._may_write(built), example), expected)

    def _may_write(self, model: nn.Module) -> nn.Module:
        """The network; where it writes buffers in evaluation mode, too, a copy that may do so."""
        writes = any(node.options.get("style") == "always" for node in self.spec.root.all())
        return copy.deepcopy(model) if writes else model

    def _examples(self) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
        yield "at the example", self.spec.example(self.seed)
        yield "at another batch", self.spec.example(self.seed + 1, batch=5)
        if self.spec.resizes:
            yield "at another size", self.spec.example(self.seed + 2, batch=2, places=8)

    # the comparison

    def _compare(self, subnet: Subnet) -> None:
        try:
            small = extract(self.model, subnet.config)
            built = self._built(subnet, small)
        except Exception as error:  # noqa: BLE001 - one more thing that is wrong with this configuration
            self.failures.append(f"{type(error).__name__}: {error} for {subnet.config!r}")
            return
        known = len(self.failures)
        self._shapes(small, built)
        self._evaluated(subnet, small, built, built, "")
        before = copy.deepcopy(built)
        self._trained(subnet, small, built)
        active = built if subnet.measured else self._with_statistics(subnet, built, before)
        self._evaluated(subnet, small, built, active, " after training")
        if len(self.failures) > known:
            self.failures[-1] += f" for {subnet.config!r}"

    def _shapes(self, small: nn.Module, built: nn.Module) -> None:
        theirs = {name: tuple(t.shape) for name, t in _tensors(built).items()}
        ours = {name: tuple(t.shape) for name, t in _tensors(small).items() if name in theirs}
        if ours != theirs:
            wrong = [name for name in theirs if ours.get(name) != theirs[name]]
            self.failures.append(f"the constructor makes other shapes of {wrong}")

    def _evaluated(self, subnet: Subnet, small: nn.Module, built: nn.Module, active: nn.Module, when: str) -> None:
        """`built` is what the extracted network must be, `active` the activated one."""
        for what, example in islice(self._examples(), 2 if when else None):
            elastic, expected = self._may_write(self.model), _run(self._may_write(built), example)
            with activate(elastic, subnet.config):
                ours = _run(elastic, example)
            theirs = expected if active is built else _run(self._may_write(active), example)
            self._same(f"activated {what}{when}", ours, theirs)
            self._same(f"extracted {what}{when}", _run(self._may_write(small), example), expected)

    def _with_statistics(self, subnet: Subnet, model: nn.Module, of: nn.Module) -> nn.Module:
        """A subnet that was not measured has no statistics of its own."""
        model, theirs = copy.deepcopy(model), _tensors(of)
        with torch.no_grad():
            for name, _, _, _, statistic in tensors(subnet.root, model):
                if statistic:
                    _tensors(model)[name].copy_(theirs[name])
        return model

    def _trained(self, subnet: Subnet, small: nn.Module, built: nn.Module) -> None:
        """One pass in training mode: outputs, gradients and buffers."""
        example = self.spec.example(self.seed + 4, batch=4)
        before = {name: buffer.clone() for name, buffer in _buffers(self.model).items()}
        expected = _learn(built, example)
        self._same("extracted in training mode", _learn(small, example), expected)
        with activate(self.model, subnet.config):
            ours = _learn(self.model, example)
            seen = {name: _get(self.model, name).detach().clone() for name in self._names(subnet)}
        self._same("activated in training mode", ours, expected)
        own, theirs = _tensors(built), _tensors(small)
        full = {**dict(self.model.named_parameters(remove_duplicate=False)), **_buffers(self.model)}
        for name, there, text, numbers, statistic in tensors(subnet.root, built):
            units = local_units(numbers, subnet.units)
            if isinstance(own[name], nn.Parameter):
                self._same(f"gradient of {name}, extracted,", _grad(theirs[name]), _grad(own[name]))
                self._same(f"gradient of {there}", cut(_grad(full[there]), text, units), _grad(own[name]))
                self._nothing_else(f"gradient of {there}", _grad(full[there]), _grad(own[name]))
                continue
            self._same(f"buffer {name}, extracted,", theirs[name], own[name])
            self._same(f"buffer {there}, active,", seen[there], own[name])
            kept = before[there] if statistic else _with(before[there], own[name], text, units)
            self._same(f"buffer {there} of the full network", full[there], kept)
        left_out = before.keys() - {there for _, there, *_ in tensors(subnet.root, built)} - caches(self.spec.root)
        for name in left_out:
            self._same(f"buffer {name}, left out,", full[name], before[name])

    def _names(self, subnet: Subnet) -> list[str]:
        """Buffers of the full network that this subnet has."""
        kept = {there for _, there, *_ in tensors(subnet.root, build(subnet.root, subnet.units))}
        return [name for name in _buffers(self.model) if name in kept]

    def _nothing_else(self, what: str, whole: Tensor, part: Tensor) -> None:
        """A gradient is zero where the subnet has no units."""
        rest = float(whole.abs().sum() - part.abs().sum())
        if rest > 1e-6 * float(part.abs().sum()) + 1e-9:
            self.failures.append(f"{what} is not zero outside the subnet")

    def _same(self, what: str, ours: Tensor, theirs: Tensor) -> None:
        if ours.shape != theirs.shape:
            self.failures.append(f"{what} has shape {list(ours.shape)}, not {list(theirs.shape)}")
        elif ours.numel():
            error = float((ours - theirs).abs().max()) / max(1e-3, float(theirs.abs().max()))
            if not error <= TOLERANCE:
                self.failures.append(f"{what} differs by {error:.1e}")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **_buffers(model)}


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_buffers(remove_duplicate=False))


def _run(model: nn.Module, example: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return model.eval()(*example)


def _learn(model: nn.Module, example: tuple[Tensor, ...]) -> Tensor:
    """The output in training mode, after the backward of a number that each entry of it moves."""
    model.zero_grad(set_to_none=True)
    out = model.train()(*example)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)).sum().backward()
    return out.detach()


def _grad(tensor: Any) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _get(model: nn.Module, name: str) -> Tensor:
    path, _, local = name.rpartition(".")
    return getattr(model.get_submodule(path), local)


def _with(whole: Tensor, part: Tensor, text: str, units: dict[str, Units]) -> Tensor:
    """A tensor with what a subnet has written to its own entries."""
    places = cut(torch.arange(whole.numel()).view(whole.shape), text, units)
    return whole.flatten().index_copy(0, places.flatten(), part.flatten()).view(whole.shape)
