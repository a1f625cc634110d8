"""Elastic sizes against what users do instead, from a pretrained start, at equal MACs.

    python benchmarks/quality.py --plan              # what is left, and how long it will take
    python benchmarks/quality.py --seeds 0 1 2       # run it; a cell that has its line is not run again
    python benchmarks/quality.py --table             # the table of docs/results.md

The network is all-MiniLM-L6-v2 with a classifier, on BBC News (`recipes/text_classification`), at five nested sizes.
Its parent has had 60 plain updates, then its units are sorted by importance. U is the number of updates of the elastic
training, in which each update trains one drawn size on a fresh batch.

- **elastic**: all sizes at once, from the sorted parent;
- **prune and fine-tune**: each size cut from the sorted parent, then trained alone for a fifth of the MACs that elastic
  used; what users do today;
- **alone, U**: the same start, U updates of each size: many more MACs;
- **sliced**: no training.

The rate of each method is one of three, the best on validation with seed 0; of the sizes trained alone each has its
own.
A cell (method, size, seed, rate) is one job, and leaves one line in `docs/results/text.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import mean, stdev
from typing import Any

import torch
from common import ROOT, start
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from elastify import activate, cost, elastify, extract, space
from elastify.train import History, Sorted, fit, sort_channels
from recipes.text_classification.data import check_sum, package_folder, read_texts
from recipes.text_classification.train import ENCODER, SHA256, Classifier, accuracy, encode

LINES = ROOT / "docs" / "results" / "text.jsonl"
RATES, SIZES, BATCH, PARENT = (1e-4, 2e-4, 4e-4), 5, 16, 60
METHODS = ("sliced", "elastic", "prune and fine-tune", "alone, U")
MACS = 2.7e12  # of the elastic training: a forward and a backward are three forwards


@dataclass(frozen=True)
class Cell:
    """One job; `size` is None where all five are trained at once, `rate` is 0 where nothing is trained."""

    method: str
    size: int | None
    seed: int
    rate: float


class Text:
    """The data, and the sorted parent of each seed."""

    def __init__(self) -> None:
        folder = check_sum(package_folder(ENCODER) / "model" / "model.safetensors", SHA256).parent
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.data: dict[str, Any] = {split: encode(some, tokenizer, 96) for split, some in read_texts(None).items()}
        self.folder, self.parents = folder, dict[int, dict[str, Tensor]]()

    def loader(self) -> DataLoader:
        """Training batches."""
        return DataLoader(self.data["train"], BATCH, shuffle=True, drop_last=True)

    def train(self, model: nn.Module, seed: int, rate: float, **options: Any) -> History:
        """One training, the same for all methods."""
        adam = partial(torch.optim.AdamW, lr=rate, fused=True)
        options |= {"optimizer": adam, "scheduler": "cosine", "clip": 1.0, "seed": seed, "progress": False}
        return fit(model, self.loader(), nn.functional.cross_entropy, **options)

    def parent(self, seed: int) -> nn.Module:
        """A new copy of the plainly trained network, elastic and sorted."""
        torch.manual_seed(seed)
        example = next(iter(self.loader()))[0]
        model = Classifier(self.folder, 1 + max(label for _, label in self.data["train"]))
        model = elastify(model, example, freeze=["*width"], min_ratio=0.25, verify=False)
        if seed not in self.parents:
            self.train(model, seed, RATES[0], steps=PARENT)
            few = DataLoader(self.data["train"][: 8 * BATCH], BATCH)
            sort_channels(model, "taylor", few, nn.functional.cross_entropy)
            self.parents[seed] = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.parents[seed])
        return model

    def scores(self, model: nn.Module) -> dict[str, float]:
        """Accuracy in percent on validation and test."""
        return {split: accuracy(model, DataLoader(self.data[split], 64)) for split in ("validation", "test")}


def run(text: Text, cell: Cell) -> Iterator[dict[str, Any]]:
    """The lines of a cell: one for each size that it has trained."""
    model = text.parent(cell.seed)
    configs = space(model).nested(SIZES)
    macs = [float(value) for value in cost(model, list(configs)).macs]
    begun = time.process_time()
    if cell.size is None:
        history = History((), 0.0)
        if cell.method == "elastic":
            history = text.train(
                model, cell.seed, cell.rate, strategy=Sorted(model, configs, seed=cell.seed), macs=MACS
            )
        seconds = time.process_time() - begun
        for number, config in enumerate(configs):
            with activate(model, config):
                yield line(cell, number, macs[number], history.steps, history.macs, seconds, text.scores(model))
        return
    network = extract(model, configs[cell.size])
    share = MACS / SIZES / (3 * macs[cell.size] * BATCH)
    steps = updates() if cell.method == "alone, U" else max(1, round(share))
    text.train(network, cell.seed, cell.rate, steps=steps)
    seconds = time.process_time() - begun
    yield line(
        cell, cell.size, macs[cell.size], steps, 3 * macs[cell.size] * BATCH * steps, seconds, text.scores(network)
    )


def line(
    cell: Cell, size: int, macs: float, updates: int, spent: float, seconds: float, scores: dict[str, float]
) -> dict[str, Any]:
    """What is kept of one size."""
    known = {"size": size, "size_macs": macs, "updates": updates, "macs": spent, "cpu_seconds": round(seconds, 1)}
    return asdict(cell) | known | {"all": cell.size is None, **scores, "commit": commit()}


def commit() -> str:
    """The commit that ran."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def lines() -> list[dict[str, Any]]:
    """What has been measured."""
    return [json.loads(text) for text in LINES.read_text().splitlines()] if LINES.exists() else []


def done(cell: Cell) -> bool:
    """Whether a cell has its lines."""
    return any(
        (known["method"], known["seed"], known["rate"]) == (cell.method, cell.seed, cell.rate)
        and cell.size in (None, known["size"])
        for known in lines()
    )


def updates() -> int:
    """U, of the elastic training."""
    return next(known["updates"] for known in lines() if known["method"] == "elastic")


def rate_of(method: str, size: int) -> float:
    """The best rate on validation with seed 0: one for all sizes of elastic, and one for each that is trained alone."""
    if method == "sliced":
        return 0.0
    tried: dict[float, list[float]] = {}
    for known in lines():
        of_size = method == "elastic" or known["size"] == size
        if known["method"] == method.replace("alone, U", "prune and fine-tune") and known["seed"] == 0 and of_size:
            tried.setdefault(known["rate"], []).append(known["validation"])
    return max(tried, key=lambda rate: mean(tried[rate]))


def cells(seeds: Sequence[int]) -> Iterator[Callable[[], Cell]]:
    """All jobs in their order; a rate that is chosen is known only when it is asked for."""
    for method in METHODS:
        for size in [None] if method in ("sliced", "elastic") else range(SIZES):
            tuned = method in ("elastic", "prune and fine-tune")
            if tuned:
                yield from (partial(Cell, method, size, 0, rate) for rate in RATES)
            for seed in seeds:
                if seed or not tuned:
                    yield lambda m=method, k=size, s=seed: Cell(m, k, s, rate_of(m, k or 0))


def table(seeds: Sequence[int]) -> str:
    """Test accuracy of each size: mean over the seeds, and the paired difference to elastic with its standard error."""
    known = {(x["method"], x["size"], x["seed"], x["rate"]): x for x in lines()}
    methods = [method for method in METHODS if all(measured(known, method, seed) for seed in seeds)]
    rows = [f"| MACs | {' | '.join(methods)} | elastic - prune and fine-tune |", "|---|" + "---:|" * (len(methods) + 1)]
    for size in range(SIZES):
        scores = {m: [known[m, size, seed, rate_of(m, size)]["test"] for seed in seeds] for m in methods}
        gaps = [a - b for a, b in zip(scores["elastic"], scores["prune and fine-tune"], strict=True)]
        error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
        means = " | ".join(f"{mean(some):.1f}" for some in scores.values())
        macs = known["sliced", size, seeds[0], 0.0]["size_macs"]
        rows.append(f"| {macs / 1e6:.0f} M | {means} | {mean(gaps):+.1f} ± {error:.1f} |")
    return "\n".join(rows)


def measured(known: Collection[tuple[str, int, int, float]], method: str, seed: int) -> bool:
    """Whether a method has a line for every size."""
    return all((method, size, seed, rate_of(method, size)) in known for size in range(SIZES))


def plan(text: Text, seeds: Sequence[int]) -> str:
    """How much is left, from ten timed updates of the full network."""
    model = text.parent(0)
    begun = time.process_time()
    macs = text.train(model, 0, RATES[0], steps=10).macs
    rate = (time.process_time() - begun) / macs
    tuned = 2 * (len(RATES) + len(seeds) - 1) * MACS
    hours = f"{tuned * rate / 3600:.1f} core-hours without `alone, U`"
    return f"about {hours}; {len(lines())} of {5 * (len(RATES) + len(seeds) - 1) * 2 + 10 * len(seeds)} lines are there"


def main() -> None:
    """Run what is missing, or say what it is, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--plan", action="store_true", help="print how long it takes, from ten timed updates")
    parser.add_argument("--table", action="store_true", help="print the table of what has been measured")
    args = parser.parse_args()
    if args.table:
        print(table(args.seeds))
        return
    start()
    if args.plan:
        print(plan(Text(), args.seeds))
        return
    LINES.parent.mkdir(exist_ok=True)
    text = Text()
    for make in cells(args.seeds):
        cell = make()
        if done(cell):
            continue
        for found in run(text, cell):
            with LINES.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
