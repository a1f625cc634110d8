"""The trainer of transformers with strategies: it learns, logs, evaluates subnets, and resumes to the same losses."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
    TrainingArguments,
)

from elastify import ElastifyError, activate, elastify, space
from elastify._rewrite import all_statistics
from elastify.train import (
    AllExits,
    AlternateCore,
    Compressible,
    ElasticTrainer,
    FullPlusRandom,
    GumbelMask,
    ProgressiveShrinking,
    Sandwich,
    Sorted,
    Strategy,
    recalibrate,
    soft_cross_entropy,
)

IDS = torch.randint(3, 32, (48, 8), generator=torch.Generator().manual_seed(0))
ROWS = [{"input_ids": row, "labels": int(row[0] > 16)} for row in IDS]
TEXT = [{"input_ids": row, "labels": row} for row in IDS]


@pytest.fixture(scope="module")
def made() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    bert = BertForSequenceClassification(BertConfig(vocab_size=32, max_position_embeddings=16, **sizes))
    return elastify(bert, example_kwargs={"input_ids": IDS[:2]}, verify=False)


@pytest.fixture
def bert(made: nn.Module) -> nn.Module:
    return copy.deepcopy(made)


@pytest.fixture(scope="module")
def llama() -> Iterator[nn.Module]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, max_position_embeddings=16, **sizes))
    return elastify(model, example_kwargs={"input_ids": IDS[:2], "use_cache": False}, verify=False)


def trainer(model: nn.Module, folder: Path, strategy: Strategy, rows: Any = ROWS, **options: Any) -> ElasticTrainer:
    named = {name: options.pop(name) for name in ("eval_configs", "distill", "eval_dataset") if name in options}
    options = {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        **options,
    }
    args = TrainingArguments(output_dir=str(folder), use_cpu=True, disable_tqdm=True, report_to=[], **options)
    return ElasticTrainer(model, args, strategy=strategy, train_dataset=rows, **named)


def logged(run: ElasticTrainer, name: str = "loss") -> list[float]:
    return [entry[name] for entry in run.state.log_history if name in entry]


def test_all_sizes_learn_and_are_logged(bert: nn.Module, tmp_path: Path) -> None:
    run = trainer(
        bert,
        tmp_path,
        Sandwich(bert, n_random=1),
        max_steps=36,
        logging_steps=6,
        eval_strategy="steps",
        eval_steps=18,
        eval_dataset=ROWS,
        eval_configs={"half": {"*": 0.5}},
    )
    run.train()
    losses = logged(run)
    assert losses == pytest.approx(logged(run, "loss_max"), abs=1e-3)  # the trainer rounds its own
    assert losses[-1] < 0.7 * losses[0]
    assert len(losses) == len(logged(run, "loss_min")) == len(logged(run, "loss_random")) == 6
    assert len(logged(run, "eval_loss")) == len(logged(run, "eval_half_loss")) == 2
    with activate(bert, {"*": 0.5}), torch.no_grad():
        expected = float(bert.eval()(IDS, labels=torch.tensor([row["labels"] for row in ROWS])).loss)
    assert logged(run, "eval_half_loss")[-1] == pytest.approx(expected, abs=1e-3)
    assert logged(run, "eval_half_loss") != logged(run, "eval_loss")


STRATEGIES = {
    "Sandwich": lambda model: Sandwich(model, n_random=1),
    "Sorted": lambda model: Sorted(model, 4),
    "AllExits": AllExits,
    "Progressive": lambda model: ProgressiveShrinking(model, draws=1),
    "Compressible": lambda model: Compressible(model, "sparsity"),
    "FullPlusRandom": FullPlusRandom,
    "AlternateCore": AlternateCore,
    "GumbelMask": GumbelMask,
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_resumed_run_goes_on_to_the_same_losses(name: str, made: nn.Module, tmp_path: Path) -> None:
    def run(folder: Path, resume: str | None) -> ElasticTrainer:
        model = copy.deepcopy(made)
        torch.manual_seed(0)
        new = trainer(model, folder, STRATEGIES[name](model), save_strategy="steps", save_steps=3)
        new.train(resume_from_checkpoint=resume)
        return new

    whole = run(tmp_path, None)
    resumed = run(tmp_path, str(tmp_path / "checkpoint-3"))
    assert logged(resumed) == logged(whole)
    assert len(logged(whole)) == 6
    for key, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], tensor), key


def test_checkpoints_load_without_elastify(bert: nn.Module, tmp_path: Path) -> None:
    trainer(bert, tmp_path, FullPlusRandom(bert), save_strategy="steps", save_steps=6).train()
    plain = BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-6").eval()
    torch.testing.assert_close(plain(IDS).logits, bert.eval()(IDS).logits)
    with pytest.raises(ElastifyError, match="cannot be resumed with this strategy"):
        trainer(bert, tmp_path, Sorted(bert, 4)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    with pytest.raises(ElastifyError, match="a different value of seed"):
        trainer(bert, tmp_path, FullPlusRandom(bert, seed=1)).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-6")
        )


def test_all_batches_of_a_step_train_the_same(bert: nn.Module, tmp_path: Path) -> None:
    run = trainer(bert, tmp_path, AlternateCore(bert), max_steps=4, gradient_accumulation_steps=2)
    run.train()
    kinds = [{"loss_max", "loss_min"} & entry.keys() for entry in run.state.log_history if "loss" in entry]
    assert kinds == [{"loss_min"}, {"loss_max"}] * 2
    for entry, (kind,) in zip(run.state.log_history, kinds, strict=False):
        assert entry["loss"] == pytest.approx(entry[kind], abs=1e-3)


@pytest.mark.parametrize("rows", [ROWS, TEXT], ids=["mean", "num_items_in_batch"])
def test_gradients_are_those_of_one_large_batch(
    rows: list[Any], made: nn.Module, llama: nn.Module, tmp_path: Path
) -> None:
    def weights(batch: int, accumulate: int) -> tuple[list[float], dict[str, torch.Tensor]]:
        model = copy.deepcopy(made if rows is ROWS else llama)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        parts = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulate}
        strategy = Sandwich(model, n_random=0)
        run = trainer(model, tmp_path, strategy, rows, max_steps=3, optim="sgd", learning_rate=0.1, **parts)
        if rows is ROWS:
            run.loss_is_scaled_for_ga = False  # BERT takes num_items_in_batch and does nothing with it
        run.train()
        return logged(run, "loss_min"), model.state_dict()

    losses, expected = weights(12, 1)
    parts, found = weights(4, 3)
    assert parts == pytest.approx(losses, rel=1e-4)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_smaller_sizes_learn_from_the_full_network(bert: nn.Module, tmp_path: Path) -> None:
    for module in bert.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        full = bert(IDS[:8]).logits
        with activate(bert, space(bert).min):
            small = bert(IDS[:8]).logits
    expected = F.cross_entropy(small, full.softmax(-1))
    for distill in (None, soft_cross_entropy):
        model = copy.deepcopy(bert)
        run = trainer(model, tmp_path, Sandwich(model, n_random=0), ROWS[:8], max_steps=1, distill=distill)
        run.train()
        assert logged(run, "loss_min")[0] == pytest.approx(float(expected), rel=1e-4)


def test_mixed_precision_clipping_and_label_smoothing(bert: nn.Module, tmp_path: Path) -> None:
    options = {"bf16": True, "max_grad_norm": 0.5, "label_smoothing_factor": 0.1}
    run = trainer(bert, tmp_path, Sandwich(bert, n_random=1), **options)
    run.train()
    assert len(logged(run, "grad_norm")) == 6
    assert all(torch.isfinite(torch.tensor(logged(run, "loss_random"))))


class Moving(nn.Module):
    """A head that keeps statistics, and a moving average of what it sees; the label 9 makes its loss infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 2)
        self.register_buffer("seen", torch.zeros(16))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        x = self.norm(self.a(input_ids / 16))
        if self.training:
            self.seen = self.seen * 0.9 + x.detach().mean(0) * 0.1
        logits = self.b((x + self.seen).relu())
        if labels is None:
            return {"logits": logits}
        loss = F.cross_entropy(logits, labels.clamp(max=1))
        return {"loss": loss * torch.where((labels == 9).any(), torch.inf, 1.0), "logits": logits}


def spoilt_at(row: int) -> list[dict[str, Any]]:
    return [{**each, "labels": 9} if number == row else each for number, each in enumerate(ROWS)]


@pytest.mark.parametrize(("accumulate", "row"), [(1, 20), (2, 36), (2, 44)])
@pytest.mark.parametrize("own", [False, True])
def test_a_loss_that_is_not_finite_moves_nothing(accumulate: int, row: int, own: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = elastify(Moving(), example_kwargs={"input_ids": IDS[:4]})
    half = space(model).config(0.5)
    if own:
        recalibrate(model, [{"input_ids": IDS}], half)
    strategy = FullPlusRandom(model, [half])
    run = trainer(model, tmp_path, strategy, spoilt_at(row), gradient_accumulation_steps=accumulate, num_train_epochs=1)
    run._get_train_sampler = lambda *_: None  # in their order
    states: list[list[torch.Tensor]] = []

    def state() -> list[torch.Tensor]:
        kept = [t for *_, each in all_statistics(model) for t in each.values()]
        return [t.detach().clone() for t in (*model.parameters(), *model.buffers(), *kept)]

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            states.append(state())

    run.add_callback(Watch)
    with pytest.raises(ElastifyError, match="the loss is not finite in step 3") as caught:
        run.train()
    assert "max_grad_norm=1.0" in str(caught.value)
    assert len(states) == 2
    assert all(map(torch.equal, state(), states[-1]))
    assert not torch.equal(states[0][-1], states[1][-1])


class TestMistakes:
    def test_what_is_refused(self, bert: nn.Module, llama: nn.Module, tmp_path: Path) -> None:
        with pytest.raises(ElastifyError, match="this Sandwich trains another model"):
            trainer(bert, tmp_path, Sandwich(llama))
        strategy = Compressible(bert, "sparsity")
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], max_steps=1)
        made = torch.optim.SGD(bert.parameters(), 0.1), None
        with pytest.raises(ElastifyError, match="the optimizer does not know"):
            ElasticTrainer(bert, args, strategy=strategy, train_dataset=ROWS, optimizers=made).train()

    def test_it_is_imported_only_when_asked_for(self) -> None:
        code = (
            "import sys\n"
            "sys.modules['accelerate'] = None\n"
            "import elastify\n"
            "import elastify.train as train\n"
            "assert 'transformers' not in sys.modules\n"
            "try:\n"
            "    train.ElasticTrainer\n"
            "except elastify.ElastifyError as error:\n"
            "    print(error)\n"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "'accelerate' is missing" in run.stdout, run.stderr
        assert 'pip install "elastify[trainer]"' in run.stdout
