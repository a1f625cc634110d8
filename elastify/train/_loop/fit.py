"""A trainer: epochs of steps with a strategy, a progress bar, mixed precision, clipping, checkpoints and resume.

`fit` makes a few values of its arguments (see `settings`) and what is missing beside them, and leaves the rest to a
`TrainingRun`. Whatever ends the run, training
flags and global random generators are as before, and an elastic model is the full network.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from elastify._errors import ElastifyError, whole_number
from elastify._files import make_folder
from elastify._rewrite import is_elastic
from elastify._search import Ranks, is_sharded
from elastify._verbs import activate
from elastify.train._batches import ForwardFn, batch_count, random_state, set_random_state
from elastify.train._loop.checkpoint import read_checkpoint
from elastify.train._loop.learner import Learner
from elastify.train._loop.plain import Plain
from elastify.train._loop.run import TrainingRun
from elastify.train._loop.schedule import Limits, make_schedule
from elastify.train._loop.settings import Checkpointing, Hook, Logging, Objective, Precision
from elastify.train._strategies import Distill, Losses, Strategy, check_optimizer, check_strategy


@dataclass(frozen=True, slots=True)
class History:
    """What `fit` did: the losses of every step, also those before a resume, and the seconds they took.

    `passes` are those of single subnets, a teacher's too. `macs` are of all samples: a pass that trains counts three
    times its forward, a teacher's once (a module that teaches counts as the full network); 0 where they are not known.
    """

    losses: tuple[Losses, ...]
    seconds: float
    interrupted: bool = False
    passes: int = 0
    macs: float = 0.0

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return len(self.losses)


def fit(
    model: nn.Module,
    data: Iterable[Any],
    loss: Callable[[Any, Any], Tensor],
    *,
    strategy: Strategy | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    macs: float | None = None,
    optimizer: Optimizer | Callable[[list[nn.Parameter]], Optimizer] | None = None,
    scheduler: Any = None,
    clip: float | None = None,
    accumulate: int = 1,
    amp: str | None = None,
    device: str | torch.device | None = None,
    forward_fn: ForwardFn | None = None,
    distill: Distill | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    checkpoint_keep: int = 0,
    resume: bool = True,
    seed: int = 0,
    log_dir: str | Path | None = None,
    tensorboard: bool = False,
    on_step: Hook | Sequence[Hook] = (),
    progress: bool = True,
) -> History:
    """Train a model, elastic with a `strategy` or plain without, until the first of the given limits.

    >>> from elastify import elastify
    >>> from elastify.train import Sandwich
    >>> model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(2, 4))
    >>> data = [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(5)]
    >>> fit(model, data, nn.functional.cross_entropy, strategy=Sandwich(model), epochs=2, progress=False).steps
    10

    `data` is a DataLoader or anything to iterate over once per epoch, of batches `(inputs, targets)` or dicts of
    arguments; `loss(outputs, targets)` is a scalar (for a dict: `loss(outputs, batch)`). With `forward_fn(model,
    batch)` for other batches it is `loss(outputs, batch)`. `distill` as in `Sandwich.step`.

    It ends with the first of the limits: `epochs`, `steps` (updates of the optimizer), `minutes`, or `macs`, those of
    all passes and samples. Trainings of different sizes are compared by their MACs (see `History`).

    `optimizer` is one, or a function of the parameters (None: AdamW at 1e-3, fused where torch has it). `scheduler` is
    a torch scheduler, a function of the optimizer that makes one, or "cosine" (5 % linear warm-up, then a cosine to
    zero at the first limit); it steps after every optimizer step. `clip` bounds the norm of the gradient. `amp` is
    "bf16" or "fp16". `accumulate` is the number of batches of a step, whose gradients are averaged: the strategy makes
    its passes, with subnets drawn anew, on each of them. The last step of an epoch may have fewer.

    `checkpoint` is a folder, written every `checkpoint_every` steps (None: every five minutes), at the end and on
    Ctrl-C; with `resume` a run that finds one there goes on from it, to the same losses (bit-equal on a CPU; a
    dataset with generators of its own needs `set_epoch(epoch)` for that). A finished one returns at once. Beside the
    newest, the `checkpoint_keep` ones before it stay; to go back to one, copy its `step-N.json` over
    `checkpoint.json`. `minutes` counts the time before a resume too. The order of the data depends on `seed` and the
    epoch alone; the global generators are given back.

    `log_dir` gets `losses.csv`, a line per step with the losses of the sizes and the learning rate; with `tensorboard`
    event files too.

    On several ranks (torchrun, after `init_process_group`) each trains on batches of its own: give every one its part
    (`DistributedSampler`). All train the same subnets, gradients are averaged once per step, losses are means over
    the ranks, an epoch ends with the first rank that has no batch left, and the first one writes the checkpoints.
    `model` may be in DistributedDataParallel or sharded by `fully_shard` (without `checkpoint`).

    `on_step(step, losses)` is called after each step; one that returns True ends the training.
    Raises ElastifyError for a loss that is not finite, and for a checkpoint that is damaged or another run's.
    """
    if not isinstance(model, nn.Module):
        raise ElastifyError(f"the model is a {type(model).__name__}", where="fit", fix="a torch.nn.Module")
    if not isinstance(data, Iterable) or isinstance(data, (str, Tensor)):
        raise ElastifyError(f"data are a {type(data).__name__}", fix="a DataLoader, or a list of (inputs, targets)")
    seed = whole_number("seed", seed, 0)
    limits = Limits(epochs, steps, minutes, macs, batch_count(data), accumulate)
    precision = Precision(amp, clip)
    folder = None if checkpoint is None else Path(checkpoint)
    checkpointing = Checkpointing(folder, checkpoint_every, checkpoint_keep)
    logging = Logging(log_dir, tensorboard, on_step, progress)
    objective = Objective(loss, distill, forward_fn)
    if distill is not None and strategy is None:
        raise ElastifyError(
            "there is no subnet to distil into", why="fit has no strategy", fix="strategy=Sandwich(model)"
        )
    if folder is not None:
        make_folder(folder, "checkpoint")
    stored = read_checkpoint(folder) if folder is not None and resume else None  # before anything changes
    if isinstance(model, DistributedDataParallel):
        model = model.module  # gradients are reduced once per step here, not in each backward
    chosen, ranks = _prepare(model, strategy, device)
    parameters = _trainable(model, stored=folder is not None)
    limits = replace(limits, batches=ranks.fewest(limits.batches))
    made = _make_optimizer(optimizer, parameters)
    if strategy is not None:
        check_optimizer(strategy, made)
    schedule = make_schedule(scheduler, made, limits)
    learner = Learner(model, chosen, made, schedule, parameters[0].device, precision.dtype)
    with logging.hooks(made, ranks.rank) as hooks, _given_back(model, chosen, parameters):
        run = TrainingRun(learner, objective, limits, precision.clip, checkpointing, ranks, hooks, seed)
        if stored is not None:
            run.restore(stored)
        if not model.training:
            model.train()
        run.train(data, logging.progress)
    return History(tuple(run.losses), run.seconds, run.interrupted, run.passes, run.macs)


def _prepare(
    model: nn.Module, strategy: Strategy | None, device: str | torch.device | None
) -> tuple[Strategy | Plain, Ranks]:
    """The model on its device and alike on all ranks, with what the strategy adds to it."""
    if device is not None:
        model.to(_device(device))
    if strategy is not None:
        check_strategy(strategy, model)
    elif is_elastic(model):
        activate(model, None)
    chosen = Plain(model) if strategy is None else strategy
    ranks = Ranks.of(next((p.device for p in model.parameters()), torch.device("cpu")))
    ranks.broadcast(iter([*model.parameters(), *model.buffers()]))  # before a strategy makes something of them
    chosen.prepare()
    return chosen, ranks


def _device(name: Any) -> torch.device:
    try:
        return torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ElastifyError(f"device={name!r} is not a device", fix='device="cuda", "cuda:1" or "cpu"') from error


def _trainable(model: nn.Module, *, stored: bool) -> list[nn.Parameter]:
    """The parameters to train; of sharded ones no checkpoints are `stored`."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ElastifyError("nothing to train", why="no parameter requires a gradient")
    if stored and any(is_sharded(p) for p in parameters):
        raise ElastifyError(
            "fit writes no checkpoints of sharded parameters", fix="torch.distributed.checkpoint, in on_step"
        )
    return parameters


@contextmanager
def _given_back(model: nn.Module, strategy: Strategy | Plain, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Afterwards modes and generators are as before, the full network is active, and there are no gradients."""
    modes = [(module, module.training) for module in model.modules()]
    generators = random_state()
    try:
        yield
    finally:
        set_random_state(generators)
        if is_elastic(strategy.model):
            activate(strategy.model, None)  # also where a hook has left a subnet active
        for module, mode in modes:
            module.training = mode
        for parameter in parameters:
            parameter.grad = None


def _make_optimizer(given: Any, parameters: list[nn.Parameter]) -> Optimizer:
    if given is None:
        try:  # one kernel for all tensors: many small updates cost several times less
            return torch.optim.AdamW(parameters, 1e-3, fused=True)
        except RuntimeError:  # devices and dtypes without such a kernel
            return torch.optim.AdamW(parameters, 1e-3)
    fix = "optimizer=lambda parameters: torch.optim.AdamW(parameters, 3e-4)"
    if not callable(given) and not isinstance(given, Optimizer):
        raise ElastifyError(f"optimizer is a {type(given).__name__}", fix=fix)
    made = given if isinstance(given, Optimizer) else given(parameters)
    if not isinstance(made, Optimizer):
        raise ElastifyError(f"optimizer returns a {type(made).__name__}", fix=fix)
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        why = "it asks for the loss again within a step, and a step of fit has gradients of several subnets"
        raise ElastifyError(f"fit cannot use {type(made).__name__}", why=why, fix=fix)
    known = {id(p) for p in parameters}
    if not any(id(p) in known for group in made.param_groups for p in group["params"]):
        raise ElastifyError("the optimizer does not train this model", why="it holds none of its parameters")
    return made
