"""A script as a user starts it on several ranks: a few steps of `ElasticTrainer`; the first rank writes its losses.

torchrun --nproc-per-node 2 tests/train/loop/trainer_job.py losses.json 4
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from elastify import elastify
from elastify.train import ElasticTrainer, Sandwich


def losses(folder: Path, batch: int) -> list[list[float]]:
    """Those of the full, smallest and random subnets, step by step, with `batch` rows a rank."""
    torch.manual_seed(0)
    ids = torch.randint(3, 32, (48, 8))
    rows = [{"input_ids": row, "labels": row} for row in ids]
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    net = LlamaForCausalLM(LlamaConfig(vocab_size=32, max_position_embeddings=16, **sizes))
    model = elastify(net, example_kwargs={"input_ids": ids[:2], "use_cache": False}, verify=False)
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        max_steps=5,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
    )
    trainer = ElasticTrainer(model, args, strategy=Sandwich(model, n_random=1, cycle=False), train_dataset=rows)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [[entry[name] for name in ("loss_max", "loss_min", "loss_random")] for entry in logs]


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    found = losses(target.parent, int(sys.argv[2]))
    if torch.distributed.get_rank() == 0:
        target.write_text(json.dumps({"ranks": torch.distributed.get_world_size(), "losses": found}))
    # a group that is left to the end of the process may still have threads then, and abort it
    torch.distributed.destroy_process_group()
