"""The trainer of transformers with a strategy in the place of its backward.

A step of the strategy runs where one loss was computed and one backward called; all the rest (data, optimizer,
scheduler, callbacks, logs, checkpoints, evaluation) is the trainer's own. Its models compute their loss inside
forward, so a pass hands the strategy no outputs: everything happens in the loss, where distillation sees the labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from elastify._adapters.transformers.trainer import Trainer
from elastify._errors import ElastifyError
from elastify._rewrite import all_statistics, restore_statistics
from elastify._search import Ranks
from elastify._verbs import activate, space
from elastify.train._loop.checkpoint import UNREADABLE, damaged, read_checkpoint, write_checkpoint
from elastify.train._loop.learner import buffers_as_they_are
from elastify.train._loop.ranks import one_reduction
from elastify.train._loop.run import OVERFLOWS_IN_FP16, not_finite
from elastify.train._strategies import Distill, Losses, Strategy, check_arguments, check_optimizer, check_strategy

_FOLDER = "strategy"
_IN_BACKWARD = ("lomo", "adalomo")  # optimizers that step inside a backward, of which there are several here


class ElasticTrainer(Trainer):
    """transformers' `Trainer` for elastic models: `strategy` says how a batch trains them.

    `ElasticTrainer(model, args, strategy=Sandwich(model), train_dataset=...)`; all other arguments are those of
    `Trainer`, by name. The strategy is prepared here: an optimizer that is passed in `optimizers` must have been made
    after a `strategy.prepare()` of your own. `distill(outputs, teacher_outputs)` is as for `Sandwich.step`.

    Logs have `loss`, that of the full network where it is trained, and `loss_max`, `loss_min`, `loss_random` (mean of
    the random subnets), as means over the steps since the last log. Evaluation is of the full network, and of the
    subnets in `eval_configs` after it: under its name in the metrics, as `eval_half_loss` for `{"half": {"*": 0.5}}`.
    Checkpoints have a folder `strategy` beside what is in them anyway, and resume to the same losses.
    A loss that is not finite, on any rank, is an ElastifyError, and no buffer moves in its step. (In fp16 that step is
    skipped, up to 20 in a row.) So are DeepSpeed, several GPUs in one process, and optimizers that step in backward.
    """

    def __init__(
        self,
        model: nn.Module,
        args: Any = None,
        *,
        strategy: Strategy,
        distill: Distill | None = None,
        eval_configs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        check_strategy(strategy, model)
        self.strategy, self.distill = strategy, distill
        self.eval_configs = {
            name: space(strategy.model).config(wishes) for name, wishes in (eval_configs or {}).items()
        }
        self._seen: dict[int, dict[str, float]] = {}  # by step: losses since the last log
        self._within = False  # whether the last batch has begun a step that goes on
        self._put_back: Callable[[], None] = lambda: None  # the buffers, to what they were before the step
        self._spoilt, self._not_finite = (
            False,
            0,
        )  # whether the loss of this step is not finite, and of how many in a row
        super().__init__(model, args, **others)
        self._refuse()
        Ranks.of(self.args.device).broadcast(iter([*model.parameters(), *model.buffers()]))  # before a teacher is made
        strategy.prepare()

    def _refuse(self) -> None:
        name = str(getattr(self.args.optim, "value", self.args.optim))
        for refused, why, fix in (
            (self.is_deepspeed_enabled, "DeepSpeed makes one backward per step", "torchrun, with or without FSDP"),
            (self.args.n_gpu > 1, "one process cannot copy an elastic model to several GPUs", "torchrun"),
            (name in _IN_BACKWARD, f"{name} steps within a backward, and there are several", 'optim="adamw_torch"'),
        ):
            if refused:
                raise ElastifyError("a strategy cannot be used in this setup", where="ElasticTrainer", why=why, fix=fix)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As ever; refused is one that does not know the parameters that the strategy has added."""
        if self.optimizer is not None:
            check_optimizer(self.strategy, self.optimizer)
        return super().create_optimizer(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Add the gradients of one batch, as the strategy does; the loss of the full network."""
        model.train()
        optimizer: Any = self.optimizer
        if callable(getattr(optimizer, "train", None)):
            optimizer.train()
        inputs = self._prepare_inputs(inputs)
        scale = 1.0 if self._is_scaled(num_items_in_batch) else 1 / self.current_gradient_accumulation_steps
        self.strategy.advance(self.state.global_step / max(1, self.state.max_steps))
        self.strategy.same_step(self._within)

        def both() -> tuple[Tensor, Any]:
            copied = dict(inputs)  # compute_loss may take the labels out
            with self.compute_loss_context_manager():
                pair: Any = self.compute_loss(model, copied, return_outputs=True, num_items_in_batch=num_items_in_batch)
                return pair

        if not self._within:
            self._put_back, self._spoilt = buffers_as_they_are(model, all_statistics(self.strategy.model)), False
        with one_reduction(model, self.strategy, last=self.accelerator.sync_gradients):
            losses = self._step(both, scale)
        self._check(losses)
        self._within = not self.accelerator.sync_gradients
        self.strategy.same_step(False)
        self._note(losses)
        return torch.tensor(losses.largest, device=self.args.device)

    def _step(self, both: Callable[[], tuple[Tensor, Any]], scale: float) -> Losses:
        backward, distance = self.accelerator.backward, self.distill
        if distance is None:
            return self.strategy.step(lambda: None, lambda _: both()[0] * scale, backward=backward)
        return self.strategy.step(
            both,
            lambda pair: pair[0] * scale,
            distill=lambda pair, teacher: distance(pair[1], teacher[1]) * scale,
            backward=backward,
        )

    def _check(self, losses: Losses) -> None:
        """A loss that is not finite on some rank moves no buffer, and is an error unless a scaler skips the step."""
        if not self._spoilt and any(Ranks.of(self.args.device).sum([not math.isfinite(losses.total)])):
            self._spoilt, self._not_finite = True, self._not_finite + 1
        if self._spoilt:
            self._put_back()
            if self._not_finite > (0 if self.accelerator.scaler is None else OVERFLOWS_IN_FP16):
                raise not_finite(self.state.global_step + 1, losses, "max_grad_norm=1.0")
        elif self.accelerator.sync_gradients:
            self._not_finite = 0

    def _is_scaled(self, num_items_in_batch: Any) -> bool:
        """Whether a loss is divided by what the batches of the whole step hold, and not yet by their number."""
        said = getattr(self, "loss_is_scaled_for_ga", None)
        if said is not None:
            return said
        return (self.model_accepts_loss_kwargs and num_items_in_batch is not None) or bool(self.compute_loss_func)

    # -- logs and evaluation -----------------------------------------------------------------------------

    def _note(self, losses: Losses) -> None:
        """Batches of one step add up to its loss."""
        sums = self._seen.setdefault(self.state.global_step, {})
        for name, value in (("max", losses.max), ("min", losses.min), ("random", losses.mean_random)):
            if value is not None:
                sums[name] = sums.get(name, 0.0) + value

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As ever, with the losses of the sizes beside `loss`."""
        if "loss" in logs and self._seen:
            for name in ("max", "min", "random"):
                values = [sums[name] for sums in self._seen.values() if name in sums]
                if values:
                    mean: Any = self.accelerator.reduce(torch.tensor(fmean(values), device=self.args.device), "mean")
                    logs[f"loss_{name}"] = float(mean)
            self._seen.clear()
        super().log(logs, *args, **kwargs)

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Metrics of the full network, and of each of the `eval_configs` under its name."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if isinstance(self.eval_dataset if eval_dataset is None else eval_dataset, dict):
            return metrics  # each data set has come through here by itself
        for name, config in self.eval_configs.items():
            with activate(self.strategy.model, config):
                metrics.update(super().evaluate(eval_dataset, ignore_keys, f"{metric_key_prefix}_{name}"))
        return metrics

    # -- checkpoints -------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            state = {
                "kind": type(self.strategy).__name__,
                "arguments": self.strategy.arguments,
                "state": self.strategy.state_dict(),
                "statistics": all_statistics(self.strategy.model),
            }
            write_checkpoint(Path(output_dir) / _FOLDER, self.state.global_step, state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        folder, mine = Path(checkpoint) / _FOLDER, type(self.strategy).__name__
        stored = read_checkpoint(folder)
        if stored is None or stored.get("kind") != mine:
            raise ElastifyError(
                "the checkpoint cannot be resumed with this strategy",
                where=checkpoint,
                why=f"it holds the state of {stored.get('kind') if stored else 'none'}, not of {mine}",
                fix="the same strategy as before, and save_only_model=False",
            )
        check_arguments(self.strategy, stored.get("arguments", {}), checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)
        try:
            self.strategy.load_state_dict(stored["state"])
            restore_statistics(self.strategy.model, stored.get("statistics", []))
        except UNREADABLE as error:
            raise damaged(folder, f"{type(error).__name__}: {error}") from error
