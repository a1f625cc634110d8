"""Capture: the graph comes from running the model once.

`capture` runs forward on fake tensors (sizes without numbers: no memory, milliseconds) under a recorder that
writes down every tensor operation, with every integer still knowing which attribute or tensor size it came from.
The graph is analysed, never executed. Where control flow depends on the numbers themselves, fake tensors cannot
follow it: then the same run is made with real tensors (clones; the weights are never touched), the path that the
example takes is recorded, and a warning names the line. One capture runs at a time in a process.

Not seen: `range(n)`, a list indexed by n, `int(n / 2)` and `math.sqrt(n)` turn an integer with provenance into a plain
one; `int` freezes it, the others are found by the proofs. `round`, `math.floor` and `math.ceil` keep it.
"""

from __future__ import annotations

import inspect
import threading
import traceback
import warnings
import weakref
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from elastify import _adapters
from elastify._adapters import Run
from elastify._capture.examples import FORMS, INPUTS, Example
from elastify._capture.fx_writer import FxWriter
from elastify._capture.kernels import fake_tensor
from elastify._capture.leaks import forget_frames, release, remembering
from elastify._capture.memo import Memo
from elastify._capture.paths import attribute_value
from elastify._capture.quiet import recording
from elastify._capture.recorder import Recorder
from elastify._capture.sources import is_python, short_path
from elastify._capture.stand_ins import Swap, prepared
from elastify._capture.training import in_training, mode_reads
from elastify._capture.trees import in_words, named_tensors
from elastify._errors import ElastifyError
from elastify._ir import Graph, guard_log

_lock = threading.RLock()
_FIX = f"give what the model runs on: {FORMS}"


def capture(
    model: nn.Module, example: Example, *, training: bool = False, fake: bool = True, run: Run | None = None
) -> Graph:
    """The record of one forward pass.

    >>> graph = capture(nn.Linear(3, 4), Example((torch.zeros(2, 3),)))
    >>> graph.calls[0].op, graph.calls[0].inputs(), graph.outputs
    ('linear', [%2:input[2, 3], %0:weight[4, 3], %1:bias[4]], [%3[2, 4]])

    `fake=False` runs on real tensors, `run(model, args, kwargs)` calls the model as it likes. Raises ElastifyError
    where the model does not run on the inputs.
    """
    return _Session(model, example).run(training=training, fake=fake, call=run)


def capture_fx(model: nn.Module, example: Example) -> tuple[Graph, FxWriter]:
    """The record of one evaluation run, and the same run written as an FX graph."""
    session = _Session(model, example, writing=True)
    graph = session.run(training=False)
    assert session.writer is not None
    if graph.real:
        session.writer.refuse("the values of tensors decide what runs: this is the path that the example takes")
    return graph, session.writer


def capture_all(model: nn.Module, example: Example, run: Run | None = None) -> list[Graph]:
    """Records of an evaluation run, of a training run where that does something else, and of `run`.

    Some parameters are used in one of them only.
    """
    session = _Session(model, example)
    with _lock, mode_reads(model, session.ask):
        graphs = [session.run(training=False), *session.trained]
    if session.has_modes:
        graphs += _unless_it_fails(session, "training mode", training=True)
    if run is not None:
        graphs += _unless_it_fails(session, "a run with caches", training=False, call=run)
    return graphs


def _unless_it_fails(session: _Session, what: str, **how: Any) -> list[Graph]:
    try:
        return [session.run(**how)]
    except ElastifyError as error:
        reason = f"{error.where}: {error.why}"
        warnings.warn(f"{what} was not captured, so what only it uses stays as it is: {reason}", stacklevel=3)
        return []


class _Session:
    """Captures of one model on one example; fake tensors are made once and shared by its runs."""

    def __init__(self, model: nn.Module, example: Example, *, writing: bool = False) -> None:
        self.model, self.example = model, example
        self.paths: dict[int, list[str]] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            self.paths.setdefault(id(module), []).append(path)
        self.real_only = False
        self.call: Run | None = None
        self.writing = writing
        self.writer: FxWriter | None = None
        self.remembering = remembering(model)
        self.exchanged: str | None = None
        self.recorder: Recorder | None = None
        self.has_modes = False
        self.trained: list[Graph] = []  # what a run in training mode does, where one in evaluation mode has shown it
        self.tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        owned = [tensor for _, tensor in self.tensors]
        mode = next((t.fake_mode for t in owned if isinstance(t, FakeTensor)), None)
        self.mode = mode or FakeTensorMode(allow_non_fake_inputs=True)
        self.memo = Memo(self.mode)
        self.real = not any(t.is_meta or isinstance(t, FakeTensor) for t in [*owned, *example.tensors()])
        self.fakes: dict[int, tuple[Tensor, Tensor]] = {}
        lazy = next((name for name, tensor in self.tensors if nn.parameter.is_lazy(tensor)), None)
        if lazy is not None:
            raise ElastifyError(
                "the model has parameters that are not initialised yet", where=lazy, fix="run it once before elastify"
            )
        try:
            self.bound = example.bound(inspect.signature(model.forward))
        except TypeError as error:
            raise ElastifyError(
                "example inputs do not fit forward",
                where=self.place(f"{type(model).__name__}.forward{inspect.signature(model.forward)}"),
                why=f"{error}; given were {self.given()}",
                fix=_FIX if example.name else INPUTS,
            ) from error

    def given(self) -> str:
        """The example in words."""
        args, kwargs = self.example.args, self.example.kwargs.items()
        described = [*map(in_words, args), *(f"{name}={in_words(value)}" for name, value in kwargs)]
        return f"({', '.join(described)})"

    def place(self, *names: str) -> str:
        """Names of places in one text, that of the example first."""
        return ", ".join(filter(None, (self.example.name, *names)))

    def ask(self) -> None:
        """Note that the mode of a module is read, by code other than that of torch.nn."""
        if self.recorder is None:
            self.has_modes = True  # told of before anything runs
        else:
            self.recorder.ask()

    def run(self, *, training: bool, fake: bool = True, call: Run | None = None) -> Graph:
        self.call = call
        graph = self.graph(training, fake)
        if self.exchanged is not None:
            raise ElastifyError(
                "forward replaces modules of the model",
                where=self.exchanged or type(self.model).__name__,
                why="what it puts in their place would not follow the sizes of a subnet",
                fix="model(*example_inputs) once before elastify, if it does so on its first run only",
            )
        return graph

    def graph(self, training: bool, fake: bool) -> Graph:
        with _lock:
            if not fake or self.real_only:
                return self.on_real_tensors(training)
            try:
                return self.record(training, fake=True)
            except Exception as error:
                if not self.real:
                    raise self.failure("the model cannot be captured", error) from error
                line = self.line(error)
                forget_frames(error)
                release(self.made)  # what ran before the error may have been kept as well
                graph = self.on_real_tensors(training)
                self.real_only = True
                warnings.warn(
                    f"{type(self.model).__name__} depends on the values of tensors{line and f' at {line}'} "
                    f"({type(error).__name__}): the path that the example takes was captured",
                    stacklevel=4,
                )
                return graph

    def on_real_tensors(self, training: bool) -> Graph:
        try:
            return self.record(training, fake=False)
        except Exception as error:
            raise self.explain(error, training) from error

    def record(self, training: bool, fake: bool) -> Graph:
        graph = Graph(training=training, real=not fake, other=self.call is not None)
        recorder = self.recorder = Recorder(graph, self.paths, self.memo if fake else None)
        convert = self.fake if fake else _clone
        for function in self.remembering:
            function.cache_clear()
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                swap = stack.enter_context(prepared(self.model, convert, training=training))
                with torch._C.DisableTorchFunction():
                    given = self.example.mapped(convert)
                self.name_tensors(recorder, swap, given)
                if self.writing:
                    self.start_writer(recorder, swap, given)
                stack.enter_context(_watching(self.mode, recorder) if fake else _Watch(recorder))
                stack.enter_context(recorder.modules())
                stack.enter_context(guard_log(recorder.guard))
                stack.enter_context(recording(recorder))
                stack.enter_context(recorder)
                out = run_recorded(self.model, given, self.call)
                if self.writer is not None:
                    with torch._C.DisableTorchFunction():
                        self.writer.end(out)
                self.exchanged = next(swap.exchanged(), None)
                with torch._C.DisableTorchFunction():
                    graph.caches = list(swap.caches())
                    graph.assigned = {name: recorder.value(tensor) for name, tensor in swap.assigned()}
                if recorder.asking and not training and not self.has_modes:
                    found = in_training(recorder, self.model) if fake else None
                    self.has_modes, self.trained = found is None, found or []
        finally:
            given = out = recorder.writer = None
            recorder.askers.clear()
            recorder.ran.clear()
            if fake:
                self.made = self.made_by(recorder)
                recorder.known.clear()
        if fake:
            release(self.made)
        graph.guards = list(recorder.guards)
        for one in (graph, *self.trained):
            one.outputs = list(one.results(_adapters.of(self.model).auxiliary_outputs))
        return graph

    def made_by(self, recorder: Recorder) -> list[weakref.ref[Tensor]]:
        """The fake tensors of a run, but for those of the model and its inputs."""
        owned = {id(made) for _, made in self.fakes.values()}
        found = (tensor for tensor, _ in recorder.known.values())
        return [weakref.ref(t) for t in found if id(t) not in owned and type(t) is FakeTensor]

    def start_writer(self, recorder: Recorder, swap: Swap, given: Example) -> None:
        recorder.writer = self.writer = writer = FxWriter(
            partial(attribute_value, self.model),
            {id(new): old for old, new in swap.copies.values() if isinstance(new, Tensor)},
            recorder.where,
        )
        with torch._C.DisableTorchFunction():
            for name, original in self.tensors:
                writer.name(swap.stand_in(original), name)
            writer.begin(given.bound(self.bound.signature))

    def name_tensors(self, recorder: Recorder, swap: Swap, given: Example) -> None:
        """Values for parameters, buffers and inputs, before anything runs."""
        graph = recorder.graph
        for name, original in self.tensors:
            tensor = swap.stand_in(original)
            found = recorder.known.get(id(tensor))
            graph.tensors[name] = found[1] if found else recorder.new(tensor, name)
            if original.layout is not torch.strided:
                graph.uncut.append(graph.tensors[name])
        bound = given.bound(self.bound.signature)
        for name, tensor in named_tensors(bound.arguments, self.bound.signature):
            if id(tensor) not in recorder.known:
                graph.inputs.append(recorder.new(tensor, name))

    def fake(self, tensor: Tensor) -> Tensor:
        """The fake of a tensor; meta tensors become fakes on the CPU, where the inputs are."""
        found = self.fakes.get(id(tensor))
        if found is None:
            if type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided:
                # what from_tensor does, without its care for views and subclasses: a third of the whole time
                size, device = tensor.shape, torch.device("cpu") if tensor.is_meta else tensor.device
                empty = torch.empty_strided(size, tensor.stride(), dtype=tensor.dtype, device="meta")
                made = fake_tensor(self.mode, empty.requires_grad_(tensor.requires_grad), device)
                if isinstance(tensor, nn.Parameter):
                    made._is_param = True  # type: ignore[attr-defined]
            else:
                made = self.mode.from_tensor(tensor)
            found = self.fakes[id(tensor)] = (tensor, made)
        return found[1]

    # -- what went wrong ---------------------------------------------------------------------------------------

    def frames(self, error: BaseException) -> list[tuple[Any, int]]:
        return [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]

    def line(self, error: BaseException) -> str:
        """The innermost line outside torch and elastify that led to the error."""
        found = ""
        for frame, line in self.frames(error):
            module = frame.f_globals.get("__name__", "")
            file = frame.f_code.co_filename
            if module.partition(".")[0] != "torch" and not module.startswith("elastify._") and not is_python(file):
                found = f"{short_path(file, module)}:{line}"
        return found

    def failure(self, what: str, error: BaseException) -> ElastifyError:
        place = ""
        for frame, _ in self.frames(error):
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and id(owner) in self.paths:
                place = self.paths[id(owner)][0] or type(self.model).__name__
        return ElastifyError(
            what,
            where=self.place(place, self.line(error)),
            why=f"{type(error).__name__}: {str(error).strip()}; the inputs were {self.given()}",
            fix=_FIX
            if self.example.name
            else "pass example_inputs (and example_kwargs) with which model(*example_inputs) runs",
        )

    def explain(self, error: BaseException, training: bool) -> ElastifyError:
        """Tell inputs that the model refuses from a model that runs, but not under the recorder."""
        try:
            with torch.no_grad(), prepared(self.model, _clone, training=training, tag=False):
                self.example.mapped(_clone)(self.model)
        except Exception as plain:  # noqa: BLE001 - whatever it is, it is the reason
            return self.failure("the model does not run on the example inputs", plain)
        return self.failure("the model cannot be captured", error)


def run_recorded(model: nn.Module, example: Example, run: Run | None) -> Any:
    """The model's own call, or another run of it; its name ends the search for source lines."""
    return model(*example.args, **example.kwargs) if run is None else run(model, example.args, dict(example.kwargs))


class _Watch(TorchDispatchMode):
    """Tells the recorder about ATen operations outside any recorded call, with real tensors."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.recorder.watched(func, args, kwargs or {}, func)


class _watching:  # noqa: N801 - a context manager
    """The same for a FakeTensorMode, which must stay the innermost mode: its dispatch method is wrapped."""

    def __init__(self, mode: FakeTensorMode, recorder: Recorder) -> None:
        self.mode, self.recorder = mode, recorder

    def __enter__(self) -> None:
        plain = self.mode.dispatch

        def dispatch(func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if self.recorder.busy:
                return plain(func, types, args, kwargs or {})
            return self.recorder.watched(func, args, kwargs or {}, lambda *a, **k: plain(func, types, a, k))

        self.mode.dispatch = dispatch  # type: ignore[method-assign]
        self.mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.mode.__exit__(*error)
        del self.mode.dispatch


def _clone(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy
