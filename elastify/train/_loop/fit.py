"""A trainer: epochs of steps with a strategy, a progress bar, mixed precision, clipping, checkpoints and resume.

`fit` looks at its arguments, makes what is missing, and leaves the rest to a `Run`. Whatever ends the run, training
flags and global random generators are as before, and an elastic model is the full network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from elastify._errors import ElastifyError
from elastify._rewrite import is_elastic
from elastify._verbs import activate
from elastify.train._batches import ForwardFn, batch_count, random_state, set_random_state
from elastify.train._loop.checkpoint import make_folder, read_checkpoint
from elastify.train._loop.log import Log
from elastify.train._loop.plain import Plain
from elastify.train._loop.ranks import Ranks, is_sharded
from elastify.train._loop.run import Run
from elastify.train._loop.schedule import Limits, make_schedule
from elastify.train._strategies import Distill, Losses, Strategy, check_optimizer, check_strategy

_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class History:
    """What `fit` did: the losses of every step, also those before a resume, and the seconds they took."""

    losses: tuple[Losses, ...]
    seconds: float
    interrupted: bool = False

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
    on_step: Callable[[int, Losses], Any] | Sequence[Callable[[int, Losses], Any]] = (),
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

    `optimizer` is one, or a function of the parameters (None: AdamW, learning rate 1e-3). `scheduler` is a torch
    scheduler, a function of the optimizer that makes one, or "cosine" (5 % linear warm-up, then a cosine to zero at
    the first limit); it steps after every optimizer step. `clip` bounds the norm of the gradient. `amp` is "bf16" or
    "fp16". `accumulate` is the number of batches of a step, whose gradients are averaged: the strategy makes its
    passes, with subnets drawn anew, on each of them. The last step of an epoch may have fewer.

    `checkpoint` is a folder, written every `checkpoint_every` steps (None: every five minutes), at the end and on
    Ctrl-C; with `resume` a run that finds one there goes on from it, to the same losses (bit-equal on a CPU; a
    dataset with generators of its own needs `set_epoch(epoch)` for that). A finished one returns at once. Beside the
    newest, the `checkpoint_keep` ones before it stay; to go back to one, copy its `step-N.json` over
    `checkpoint.json`. `minutes` counts the time before a resume too. The order of the data depends on `seed` and the
    epoch alone; the global generators are given back.

    `log_dir` gets `losses.csv`, a row per step with the losses of the sizes and the learning rate; with `tensorboard`
    event files too.

    On several ranks (torchrun, after `init_process_group`) each trains on batches of its own: give every one its part
    (`DistributedSampler`). All train the same subnets, gradients are averaged once per step, losses are means over
    the ranks, an epoch ends with the first rank that has no batch left, and the first one writes the checkpoints.
    `model` may be in DistributedDataParallel or sharded by `fully_shard` (without `checkpoint`).

    `on_step(step, losses)` is called after each step; one that returns True ends the training.
    Raises ElastifyError for a loss that is not finite, and for a checkpoint that is damaged or another run's.
    """
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ElastifyError(f"accumulate={accumulate!r} is not a number of batches", fix="a whole number of at least 1")
    limits = Limits(epochs, steps, minutes, batch_count(data), accumulate)
    if amp not in (None, *_AMP):
        raise ElastifyError(f"unknown amp {amp!r}", fix='None, "bf16" or "fp16"')
    if clip is not None and not (isinstance(clip, Real) and clip > 0):
        raise ElastifyError(f"clip={clip!r} is no bound of a norm", fix="a number above 0, or None")
    if checkpoint_every is not None and (
        checkpoint is None or not isinstance(checkpoint_every, int) or checkpoint_every < 1
    ):
        raise ElastifyError(f"checkpoint_every={checkpoint_every!r} needs checkpoint='folder/' and at least 1 step")
    if not isinstance(checkpoint_keep, int) or checkpoint_keep < 0 or (checkpoint_keep and checkpoint is None):
        raise ElastifyError(f"checkpoint_keep={checkpoint_keep!r} needs checkpoint='folder/' and a number of them")
    if tensorboard and log_dir is None:
        raise ElastifyError("TensorBoard needs a folder", fix="log_dir='runs/first'")
    if distill is not None and strategy is None:
        raise ElastifyError("there is nobody to distil into", why="fit has no strategy", fix="strategy=Sandwich(model)")
    if checkpoint is not None:
        make_folder(Path(checkpoint))
    if isinstance(model, DistributedDataParallel):
        model = model.module  # gradients are reduced once per step here, not in each backward
    if device is not None:
        model.to(device)
    if strategy is None and is_elastic(model):
        activate(model, None)
    if strategy is not None:
        check_strategy(strategy, model)
    chosen = Plain(model) if strategy is None else strategy
    ranks = Ranks.of(next((p.device for p in model.parameters()), torch.device("cpu")))
    ranks.broadcast(iter([*model.parameters(), *model.buffers()]))  # before a strategy makes something of them
    chosen.prepare()
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ElastifyError("nothing to train", why="no parameter requires a gradient")
    if checkpoint is not None and any(is_sharded(p) for p in parameters):
        raise ElastifyError(
            "fit writes no checkpoints of sharded parameters", fix="torch.distributed.checkpoint, in on_step"
        )
    fewest = min(ranks.gather(-1 if limits.batches is None else limits.batches))
    limits = replace(limits, batches=None if fewest < 0 else fewest)
    made = _optimizer(optimizer, parameters)
    if strategy is not None:
        check_optimizer(strategy, made)
    hooks = [on_step] if callable(on_step) else [*on_step]
    log = Log(Path(log_dir), made, tensorboard) if log_dir is not None and ranks.rank == 0 else None
    if log is not None:
        hooks.insert(0, log)
    run = Run(
        model=model,
        strategy=chosen,
        optimizer=made,
        schedule=make_schedule(scheduler, made, limits),
        limits=limits,
        loss=loss,
        distill=distill,
        forward_fn=forward_fn,
        clip=clip,
        accumulate=accumulate,
        device=parameters[0].device,
        dtype=None if amp is None else _AMP[amp],
        folder=None if checkpoint is None else Path(checkpoint),
        every=checkpoint_every,
        keep=checkpoint_keep,
        seed=seed,
        ranks=ranks,
        hooks=tuple(hooks),
    )
    modes = [(module, module.training) for module in model.modules()]
    outside = random_state()
    try:
        stored = read_checkpoint(run.folder) if run.folder and resume else None
        if stored is not None:
            run.restore(stored)
        if not model.training:
            model.train()
        run.train(data, progress)
    finally:
        if log is not None:
            log.close()
        set_random_state(outside)
        if is_elastic(chosen.model):
            activate(chosen.model, None)  # also where a hook has left a subnet active
        for module, mode in modes:
            module.training = mode
        for parameter in parameters:
            parameter.grad = None
    return History(tuple(run.losses), run.seconds, run.interrupted)


def _optimizer(given: Any, parameters: list[nn.Parameter]) -> Optimizer:
    if given is None:
        return torch.optim.AdamW(parameters, 1e-3)
    made = given if isinstance(given, Optimizer) else given(parameters)
    if not isinstance(made, Optimizer):
        raise ElastifyError(
            f"optimizer gives a {type(made).__name__}",
            fix="optimizer=lambda parameters: torch.optim.AdamW(parameters, 3e-4)",
        )
    known = {id(p) for p in parameters}
    if not any(id(p) in known for group in made.param_groups for p in group["params"]):
        raise ElastifyError("the optimizer does not train this model", why="it holds none of its parameters")
    return made
