"""Two kinds of width in one separator: parallel branches, as in Subnetwork-to-go, and sliced channels, at equal MACs.

Three elastic networks of about the same size are trained in the same way, `loss(full) + loss(one random subnet)`, with
one width for all layers (Li & Luo, arXiv 2312.03464): BSRNNs whose recurrent layers are `--branches` small LSTMs side
by side, with the gate (TAC) and without, and an ordinary one whose LSTMs are sliced. Each depth and number of
branches is a size; the sliced network has one of about as many MACs for each. `--alone` trains sizes alone, too.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from elastify import SubnetConfig, activate, cost, elastify, extract, space
from elastify.nn import ParallelResidual
from elastify.train import FullPlusRandom

from ..reporting import Measurements, curve, print_table, settings_of, spread, write_figure
from .model import BSRNN, ResRNN, small_settings
from .train import Music, add_options, held_out_score, open_music, train_separator

KINDS = {"branches, TAC": "tac", "branches, no gate": "none", "sliced channels": None}


def separator(args: argparse.Namespace, gate: str | None, sample_rate: int) -> BSRNN:
    """A small BSRNN; with a gate its recurrent layers are branches side by side."""
    net = BSRNN(**small_settings(sample_rate, bands=args.bands, width=args.width, depth=args.depth))
    for block in net.blocks if gate else ():
        for name in ("time", "band"):
            branches = [ResRNN(args.width, args.hidden, residual=False) for _ in range(args.branches)]
            setattr(block, name, ParallelResidual(branches, gate, channels=args.width, dim=2))
    return net


class Kind:
    """One elastic network, the configuration of every (depth, width), and what has been measured of them."""

    def __init__(self, args: argparse.Namespace, seed: int, music: Music, gate: str | None) -> None:
        self.args, self.seed, self.music = args, seed, music
        self.folder = args.out / f"seed{seed}" / (gate or "sliced")
        self.found = Measurements(self.folder / "measurements.json", {**settings_of(args), "data": args.data})
        rate = music.train[0].sample_rate
        torch.manual_seed(seed)
        self.samples = round(args.seconds * rate)
        net = separator(args, gate, rate)
        self.model = elastify(net, torch.zeros(2, self.samples).uniform_(-0.1, 0.1))
        self.new = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.sizes = [(d, w) for d in range(1, args.depth + 1) for w in range(1, args.branches + 1)]

    def configs(self, macs: list[int] | None = None) -> list[SubnetConfig]:
        """One per size: by number of branches, or the sliced one of that depth whose MACs are nearest."""
        where = space(self.model)
        if macs is None:
            return [where.config({"*branches": w, "blocks": d}) for d, w in self.sizes]
        widest = next(axis.size for axis in where.axes if axis.name == "blocks.0.time.hidden")
        found = []
        for (depth, _), wanted in zip(self.sizes, macs, strict=True):
            several = [where.config({"blocks.*.hidden": h, "blocks": depth}) for h in range(widest // 4, widest + 1)]
            costs = cost(self.model, several).macs.tolist()
            found.append(min(zip(several, costs, strict=True), key=lambda pair: abs(pair[1] - wanted))[0])
        return found

    def train(
        self, name: str, model: nn.Module, strategy: FullPlusRandom | None = None, steps: int | None = None
    ) -> None:
        folder, steps = self.folder / name, steps or self.args.steps
        train_separator(model, self.music, self.args, folder, steps=steps, seed=self.seed, strategy=strategy)

    def run(self, configs: list[SubnetConfig]) -> dict[str, Any]:
        """SI-SDR improvements in dB on the held-out songs."""
        self.train("elastic", self.model, FullPlusRandom(self.model, configs, cycle=False, seed=self.seed))
        for size, config in zip(self.sizes, configs, strict=True):
            with activate(self.model, config):
                self.found.once(f"elastic {size}", partial(held_out_score, self.model, self.music))
        macs = cost(self.model, configs).macs
        some = [n for n, (_, width) in enumerate(self.sizes) if width in (1, self.args.branches)]
        for kind in ["alone"] * self.args.alone + ["share"] * self.args.equal_compute:
            for number in some:
                size = self.sizes[number]
                if f"{kind} {size}" not in self.found.content["values"]:
                    part = (macs[-1] + macs.mean()) / macs[number] / len(some) if kind == "share" else 1.0
                    self.model.load_state_dict(self.new)
                    network = extract(self.model, configs[number])
                    self.train(f"{kind}-{size[0]}-{size[1]}", network, steps=max(1, round(part * self.args.steps)))
                    self.found.once(f"{kind} {size}", partial(held_out_score, network, self.music))
        return self.found.content["values"]


def main(argv: list[str] | None = None) -> list[list[str]]:
    """Train, measure; print the table, write the plot, return the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add_options(parser, bands=16)
    add("--seeds", type=int, nargs="+", default=[0], help="one whole run each (default 0)")
    add("--branches", type=int, default=4, help="LSTMs side by side (default 4)")
    add("--hidden", type=int, default=12, help="units of each per direction (default 12: 4 have the MACs of one of 32)")
    add("--alone", action="store_true", help="also train the narrowest and widest of each depth alone, as many steps")
    add("--equal-compute", action="store_true", help="and all these for the MACs of the elastic training together")
    add("--out", type=Path, default=Path("runs/parallel"), help="folder of checkpoints and results")
    args = parser.parse_args(argv)
    if args.quick:
        args.steps, args.batch, args.seconds, args.bands, args.width, args.hidden = 4, 2, 0.5, 6, 8, 6
    music = open_music(args.data, args.target)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in KINDS}
    macs: dict[str, list[int]] = {}
    for seed in args.seeds:
        wanted: list[int] | None = None
        for name, gate in KINDS.items():
            kind = Kind(args, seed, music, gate)
            configs = kind.configs(None if gate else wanted)
            macs[name] = cost(kind.model, configs).macs.tolist()
            wanted = wanted or macs[name]
            results[name].append(kind.run(configs))
    baselines = {"alone": "alone"} if args.alone else {}
    baselines |= {"share": f"alone, 1/{2 * args.depth} of MACs"} if args.equal_compute else {}
    rows = []
    for number, size in enumerate(kind.sizes):
        row = [f"{size[0]} x {size[1]}"]
        for name, runs in results.items():
            row += [f"{macs[name][number] / 1e6:.1f}", spread(values[f"elastic {size}"] for values in runs)]
            for which in baselines:
                alone = [values[f"{which} {size}"] for values in runs if f"{which} {size}" in values]
                row.append(spread(alone) if alone else "")
        rows.append(row)
    header = ["blocks x branches"]
    for name in KINDS:
        header += ["M MACs", name, *baselines.values()]
    print_table(f"SI-SDR improvement, dB ({music.target}, {len(music.test)} held-out songs)", header, rows)
    lines = []
    for name, runs in results.items():
        lines.append(
            curve(
                name,
                sorted(zip(macs[name], (runs[0][f"elastic {size}"] for size in kind.sizes), strict=True)),
                "markers",
            )
        )
    write_figure(
        args.out / "parallel.html", lines, "two kinds of width", f"MACs of {args.seconds:g} s", "SI-SDR improvement, dB"
    )
    (args.out / "parallel.json").write_text(json.dumps({"header": header, "rows": rows}, indent=1))
    return rows


if __name__ == "__main__":
    main()
