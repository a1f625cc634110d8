"""`check_model`: everything that elastify claims, checked on one model.

Use it on your own network before you trust its subnets:

    from elastify.testing import check_model
    report = check_model(model, example_inputs)
    report.assert_passed()
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from elastify._capture import Example, capture
from elastify._deploy import copied
from elastify._elastify import Built, build
from elastify._errors import ElastifyError
from elastify._ir import Plan
from elastify._proofs import UNPROVEN, compare, failing_axes, redraw, seeded
from elastify._rewrite import remembered
from elastify._space import CostModel, SearchSpace, SubnetConfig
from elastify._verbs import activate, cost, extract, graph, space
from elastify.testing.attention import other_ways
from elastify.testing.oracle import oracle_macs
from elastify.testing.others import other_examples
from elastify.testing.twins import Twins, deviation, identical, learns

_RAISED = (ElastifyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, AssertionError)

__all__ = ["Report", "check_model", "check_sizes", "oracle_macs"]


@dataclass(slots=True)
class Report:
    """What `check_model` measured. `failures` is empty where every check passed; shares are of the full network.
    `other_sizes` are those of inputs that it was also run with. `cannot_run` says why the graph can only be read."""

    model: str
    axes: int = 0
    stages: int = 0
    roles: tuple[str, ...] = ()
    full_macs: int = 0
    smallest_macs: float = 1.0
    smallest_params: float = 1.0
    seconds: float = 0.0
    space: SearchSpace | None = None
    worst_error: float = 0.0
    worst_gradient: float = 0.0
    other_sizes: tuple[str, ...] = ()
    cannot_run: str = ""
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def assert_passed(self) -> None:
        """Raise AssertionError with every failed check."""
        if self.failures:
            raise AssertionError(f"{self.model}:\n  " + "\n  ".join(self.failures))


def check_model(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    configurations: int = 20,
    tolerance: float = 1e-5,
    costs: int = 3,
    gradients: int = 1,
    seed: int = 0,
    **options: Any,
) -> Report:
    """Make a copy of `model` elastic and check it.

    The full configuration gives bit-identical outputs and `state_dict`; `configurations` random ones give the same
    output activated and extracted (to `tolerance` of the largest output, with parameters drawn anew); both proofs of
    `elastify` demote nothing; `costs` of them cost exactly what the kernels count; `gradients` of them learn and write
    what the extracted model does, in both modes: its outputs, its gradients and the buffers that forward writes, on
    their own entries and none elsewhere; it is not moved by the weights of the original, and gives the same with fused
    attention and with attention by hand where the original does; the graph of the model computes what the model
    computes, or says that it cannot run; a deep copy and a `state_dict` round trip behave; at another length, picture
    size and batch, where the model runs with them, units are proven once more and activated equals extracted. Other
    keywords go to `elastify`. The model itself is not changed.
    """
    report = Report(type(model).__name__)
    elastic = copied(model).eval()
    started = time.perf_counter()
    with _collected(report.warnings):
        built = build(elastic, example_inputs, example_kwargs=example_kwargs, **options)
    report.seconds = time.perf_counter() - started
    _describe(report, elastic)
    check = _Check(report, copied(model).eval(), elastic, built, seed, tolerance)
    check.full()
    redraw(elastic, seed)  # what initialisation leaves at zero would hide differences
    check.plain = copied(model).eval()  # anew, because a model may cache what it made of its weights
    check.plain.load_state_dict(elastic.state_dict())
    _take_buffers(check.plain, elastic)
    check.view()
    drawn = _drawn(space(elastic), configurations, seed)
    for index, config in enumerate(drawn):
        check.configuration(config, count=index < costs, gradients=index < gradients)
    check.copies(drawn[-1])
    check.other_sizes(model, drawn[0])
    return report


def check_sizes(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    configurations: int = 3,
    numeric: int = 2,
    tolerance: float = 1e-5,
    seed: int = 0,
    **options: Any,
) -> Report:
    """The lighter check, for networks that are large or without weights (on the meta device). `model` is made elastic.

    The smallest and random configurations, `configurations` in all, are captured again on fake tensors: each must be
    the network that the plan predicts. With weights, `numeric` of them must give the same output activated and
    extracted. Sizes are proven, units are not. Other keywords go to `elastify`.
    """
    report = Report(type(model).__name__)
    model.eval()
    started = time.perf_counter()
    with _collected(report.warnings):
        built = build(model, example_inputs, example_kwargs=example_kwargs, units=False, **options)
    report.seconds = time.perf_counter() - started
    _describe(report, model)
    drawn = _drawn(space(model), configurations, seed + 2)  # the proof has seen those of 0 and 1
    report.failures += filter(None, (_unlike_the_plan(model, built, config) for config in drawn))
    if not any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        redraw(model, seed)
        check = _Check(report, model, model, built, seed, tolerance)
        for config in drawn[:numeric]:
            check.configuration(config, count=False, gradients=False)
    return report


def _take_buffers(model: nn.Module, other: nn.Module) -> None:
    """What a `state_dict` leaves out; a buffer may have another shape since forward ran, or have been emptied."""
    theirs = dict(other.named_buffers())
    for name, buffer in list(model.named_buffers()):
        their = theirs.get(name)
        if their is None or buffer.shape != their.shape:
            path, _, local = name.rpartition(".")
            model.get_submodule(path)._buffers[local] = None if their is None else their.detach().clone()
        elif not identical(buffer, their):
            with torch.no_grad():
                buffer.copy_(their)


def _drawn(found: SearchSpace, count: int, seed: int) -> list[SubnetConfig]:
    return [found.min, *(found.sample(seed + i) for i in range(count - 1))]


def _unlike_the_plan(model: nn.Module, built: Built, config: SubnetConfig) -> str:
    """How a reduced network, captured again, differs from the plan."""
    where = space(model)
    try:
        with activate(model, config):
            reduced = capture(model, built.example)
    except ElastifyError as error:
        return f"the smaller network does not run for {config!r}: {error.why or error.what}"
    found = compare(built.analysis, where.plan, reduced, where.by_id(config))
    return f"the plan is wrong for {config!r}: {found.text}" if found else ""


def _describe(report: Report, model: nn.Module) -> None:
    report.space = found = space(model)
    full, least = cost(model, found.max), cost(model, found.min)
    report.axes, report.stages = len(found.axes), len(found.stages)
    report.roles = tuple(sorted({axis.role for axis in found.axes}))
    report.full_macs = full.macs
    report.smallest_macs = least.macs / full.macs if full.macs else 1.0
    report.smallest_params = least.params / full.params
    report.failures += [f"verification: {text}" for text in report.warnings if text.startswith("verification")]


class _Check:
    def __init__(
        self, report: Report, plain: nn.Module, elastic: nn.Module, built: Built, seed: int, tolerance: float
    ) -> None:
        self.report, self.plain, self.elastic, self.built = report, plain, elastic, built
        self.seed, self.tolerance = seed, tolerance

    def run(self, model: nn.Module, example: Example | None = None) -> list[Tensor]:
        """What a model returns; it is afterwards as it was."""
        put_back = remembered((module._buffers, list(module._buffers)) for module in model.modules())
        try:
            return [output.clone() for output in self.run_once(model, example)]  # it may be a buffer
        finally:
            put_back()

    def run_once(self, model: nn.Module, example: Example | None = None) -> list[Tensor]:
        """What a model returns and may write."""
        with seeded(self.seed):
            return self.built.outputs.tensors((example or self.built.example)(model))

    def fail(self, text: str) -> None:
        self.report.failures.append(text)

    def full(self) -> None:
        """The full configuration is the original, to the bit."""
        with torch.no_grad():
            pairs = zip(self.run(self.plain), self.run(self.elastic), strict=True)
            if not all(identical(a, b) for a, b in pairs):
                self.fail("the full configuration is not bit-identical to the original")
        before, after = self.plain.state_dict(), self.elastic.state_dict()
        if list(before) != list(after) or not all(identical(before[k].to_dense(), after[k].to_dense()) for k in before):
            self.fail("the state_dict has changed")

    def view(self) -> None:
        """What `elastify.graph` gives computes what the model computes, to the bit, or says that it cannot run."""
        fused = torch.backends.mha.get_fastpath_enabled()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            activate(self.elastic, None)  # empties what forward has cached of weights that were redrawn since
            view = graph(self.elastic, self.built.example.args, example_kwargs=self.built.example.kwargs)
            self.report.cannot_run = view.meta["cannot_run"]
            if self.report.cannot_run:
                return
            try:
                torch.backends.mha.set_fastpath_enabled(False)  # a graph has the parts of what it fuses
                pairs = zip(self.run(self.plain), self.run(view), strict=True)
                if not all(identical(a, b) for a, b in pairs):
                    self.fail("the graph does not compute what the model computes")
            finally:
                torch.backends.mha.set_fastpath_enabled(fused)

    def configuration(self, config: Any, *, count: bool, gradients: bool) -> None:
        try:
            small = extract(self.elastic, config)
            with torch.no_grad(), activate(self.elastic, config):
                active = self.run(self.elastic)
            with torch.no_grad():
                extracted = self.run(small)
            error = deviation(active, extracted)
            self.report.worst_error = max(self.report.worst_error, error)
            if not error <= self.tolerance:
                self.fail(f"activated and extracted differ by {error:.1e} for {config!r}")
            if count:
                self.count(small, config)
            if gradients:
                self.attention(small, extracted, config)
                if not self.stands_alone(small):
                    self.fail(f"the extracted model changes when weights of the original do, for {config!r}")
                self.learning(config)
        except _RAISED as error:
            self.fail(f"{type(error).__name__} for {config!r}: {error}")
            activate(self.elastic, None)

    def stands_alone(self, small: nn.Module) -> bool:
        """Whether an extracted model computes the same when the original has lost its weights."""
        tensors = [
            tensor
            for tensor in (*self.elastic.parameters(), *self.elastic.buffers())
            if tensor.is_floating_point() and tensor.layout is torch.strided
        ]
        kept = [tensor.detach().clone() for tensor in tensors]
        with torch.no_grad():
            before = self.run(small)
            try:
                for tensor in tensors:
                    tensor.zero_()
                return all(identical(a, b) for a, b in zip(before, self.run(small), strict=True))
            finally:
                for tensor, value in zip(tensors, kept, strict=True):
                    tensor.copy_(value)

    @torch.no_grad()
    def attention(self, small: nn.Module, extracted: list[Tensor], config: Any) -> None:
        """Where attention by hand gives in the original what the fused one does, it does so in a subnet."""
        ops = {call.op for graph in self.built.analysis.graphs for call in graph.calls}
        for text, way in other_ways(self.plain, ops):
            try:
                with way(self.plain):
                    whole = self.run(self.plain)
            except _RAISED:
                continue  # nor does the original run this way
            rounding = deviation(whole, self.run(self.plain))
            if not rounding <= 10 * self.tolerance:
                continue  # nor is the original the same
            with way(small):
                error = deviation(self.run(small), extracted)
            with activate(self.elastic, config), way(self.elastic):
                error = max(error, deviation(self.run(self.elastic), extracted))
            if not error <= 10 * max(self.tolerance, rounding):
                self.fail(f"a subnet gives something else {text}, by {error:.1e} for {config!r}")

    def other_sizes(self, model: nn.Module, config: Any) -> None:
        """Units are units on inputs of other sizes, too, and subnets are as extracted; `model` has not run before."""
        outputs, plan = self.built.outputs, space(self.elastic).plan
        layouts = outputs.moving(self.built.analysis, training=False)
        small = extract(self.elastic, config)
        known, batch = self.built.analysis, self.built.batch
        for sizes, other, same in other_examples(copied(model).eval(), known, batch, self.built.example):
            self.report.other_sizes += (sizes,)
            fewer = batch.resized(model, other, 1) if batch.axes else None
            options: Any = {"layouts": lambda _: layouts, "fewer": fewer, "control": False}
            failed = {} if same else failing_axes(model, plan, other, outputs.tensors, **options)
            names = {axis.id: axis.name for axis in plan.axes}
            if wrong := {names[ident]: text for ident, text in failed.items() if text != UNPROVEN}:
                self.fail(f"not symmetric with inputs of {sizes}: {wrong}")
            try:
                with torch.no_grad(), activate(self.elastic, config):
                    active = self.run(self.elastic, other)
                with torch.no_grad():
                    error = deviation(active, self.run(small, other))
            except _RAISED as raised:
                self.fail(f"{type(raised).__name__} with inputs of {sizes} for {config!r}: {raised}")
                continue
            if not error <= self.tolerance:
                self.fail(f"activated and extracted differ by {error:.1e} with inputs of {sizes} for {config!r}")

    def count(self, small: nn.Module, config: Any) -> None:
        """The closed form equals what the kernels count on the extracted model, for one sample.

        Where the values of tensors decide what runs (the tokens of an expert, the rounds of a loop), they may decide
        otherwise here than in the run that was captured: then a record of this very run must say what is counted.
        """
        given, analysis, batch = self.built.example, self.built.analysis, self.built.batch
        samples = 1 if batch.axes else batch.count  # else a list of samples, perhaps of different sizes
        given = batch.resized(self.elastic, given, 1)
        counted = given(lambda *args, **kwargs: oracle_macs(small, args, kwargs))
        said = cost(self.elastic, config)
        wrong = counted // samples != said.macs
        if wrong and analysis.graphs[0].real:
            recorded = CostModel(capture(small, given, fake=False), {}, Plan())
            wrong = counted != recorded.of().macs
        if wrong:
            self.fail(f"cost says {said.macs} MACs, the kernels count {counted // samples} for {config!r}")
        params = sum(p.numel() for p in small.parameters())
        if params != said.params:
            self.fail(f"cost says {said.params} parameters, the model has {params} for {config!r}")

    def learning(self, config: Any) -> None:
        """What a subnet learns and writes, in evaluation mode and, where the original has one, in training mode."""
        for training in (False, True):
            try:
                twins = Twins(self.elastic, extract(self.elastic, config), self.run_once, config, training)
            except Exception:
                if learns(self.plain, self.run_once, training):
                    raise
                continue  # nor does the original: reversible layers go back in training mode only
            worst, failures = twins.compare(self.tolerance)
            self.report.worst_gradient = max(self.report.worst_gradient, worst)
            for text in failures:
                self.fail(f"{text} for {config!r}{' in training mode' if training else ''}")

    def copies(self, config: Any) -> None:
        """A deep copy is elastic on its own, and weights go through a state_dict."""
        twin = copied(self.elastic)
        with torch.no_grad():
            with activate(twin, config):
                theirs = self.run(twin)
                full = self.run(self.elastic)
            if not all(identical(a, b) for a, b in zip(full, self.run(self.plain), strict=True)):
                self.fail("activating a copy has changed the original")
            with activate(self.elastic, config):
                if deviation(self.run(self.elastic), theirs) > self.tolerance:
                    self.fail("a deep copy behaves differently")
        twin.load_state_dict(self.plain.state_dict())
        with torch.no_grad():
            if not all(identical(a, b) for a, b in zip(self.run(twin), self.run(self.plain), strict=True)):
                self.fail("loading a state_dict does not give the original back")


@contextmanager
def _collected(texts: list[str]) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
