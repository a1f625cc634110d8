"""One network with 160 nested subnets, 20 widths x 8 depths: how good are all of them, beside sizes trained alone?"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from itertools import islice
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from elastify import SubnetConfig, activate, cost, elastify, extract, space
from elastify.train import FullPlusRandom, Sandwich, Sorted, Strategy, sort_channels

from ..reporting import Measurements, heat_map, print_table, settings_of, spread, write_figure
from .blocks import ResidualNet
from .protocol import Task, add_options

WIDTHS, DEPTHS, ALONE = 20, 8, 8
BLOCKS = 9  # of the full network: depths of 2 to 9
GOAL = 96.0  # percent of the full network's accuracy
BUDGETS = {"each": 1, "together": ALONE}  # by what the MACs of the elastic training are divided for a size alone


class Seed:
    """The trainings and measurements of one seed; what a file already has is not done again."""

    def __init__(self, args: argparse.Namespace, seed: int, task: Task) -> None:
        self.args, self.seed, self.task = args, seed, task
        self.folder = args.out / f"seed{seed}"
        self.found = Measurements(self.folder / "measurements.json", settings_of(args))
        torch.manual_seed(seed)
        net = ResidualNet(task.example.shape[1], args.width, BLOCKS)
        step = 2 if args.width >= 2 * WIDTHS + 2 else 1
        least = (args.width - (WIDTHS - 1) * step) / args.width
        self.model = elastify(
            net, task.example, min_ratio={"*": least, "blocks": (BLOCKS - DEPTHS + 1) / BLOCKS}, multiple_of=step
        )
        self.configs = space(self.model).grid(WIDTHS, DEPTHS)
        self.draws = 2 if args.strategy == "full+random" else args.draws
        self.new = {name: value.clone() for name, value in self.model.state_dict().items()}

    def strategy(self) -> Strategy:
        """How the subnets are trained: `draws` of them in each step, the full one and a random one in S2G's."""
        if self.args.strategy == "sorted":
            return Sorted(self.model, self.configs, self.draws, "even", seed=self.seed)
        if self.args.strategy == "sandwich":
            return Sandwich(self.model, n_random=self.draws - 2, cycle=False, seed=self.seed)
        return FullPlusRandom(self.model, subnets=self.configs, cycle=False, seed=self.seed)

    def train(self, name: str, model: nn.Module, strategy: Strategy | None = None, steps: int | None = None) -> None:
        """One training, and the CPU seconds that it took where it was not interrupted."""
        adam = partial(torch.optim.AdamW, lr=self.args.rate, weight_decay=self.args.decay)
        options = {"strategy": strategy, "optimizer": adam, "clip": 1.0, "seed": self.seed}
        new, start = not (self.folder / name).exists(), time.process_time()
        self.task.fit(model, self.folder / name, steps=steps or self.args.steps, **options)
        if new:
            self.found.once(f"seconds {name}", lambda: time.process_time() - start)

    def run(self) -> dict[str, Any]:
        """Accuracy of all subnets, and of some sizes trained alone or cut out of the plainly trained network."""
        configs, model, values = self.configs, self.model, self.found.content["values"]
        if self.args.sort:
            self.train("first", model)
            few = islice(self.task.loader(), 8)
            sort_channels(model, self.args.sort, few, nn.functional.cross_entropy, seed=self.seed)
        self.train("sorted", model, self.strategy())
        for number, config in enumerate(configs):
            self.found.once(f"subnet {number}", partial(self.subnet_accuracy, config))
        self.found.once("switch ms", self.switching)
        self.found.once("bytes", self.sizes)
        if self.args.alone or self.args.equal_compute:
            self.baselines()
        return values

    def baselines(self) -> None:
        """Sizes trained alone, and the same cut out of the network that was trained plainly."""
        configs, model, values = self.configs, self.model, self.found.content["values"]
        plain = [configs[number] for number in alone_sizes(len(configs))]
        macs = cost(model, list(configs)).macs
        always = {"sorted": [], "sandwich": [macs[-1], macs[0]], "full+random": [macs[-1]]}[self.args.strategy]
        step_macs = float(sum(always) + (self.draws - len(always)) * macs.mean())
        for number, config in enumerate(plain):
            model.load_state_dict(self.new)
            network = extract(model, config)
            if f"alone {number}" not in values or config == plain[-1]:
                self.train(f"alone{number}", network)
                self.found.once(f"alone {number}", partial(self.task.score, network))
            share = step_macs / cost(model, config).macs
            for kind in self.args.equal_compute:
                if f"{kind} {number}" not in values:
                    model.load_state_dict(self.new)
                    other, steps = extract(model, config), share * self.args.steps / BUDGETS[kind]
                    self.train(f"{kind}{number}", other, steps=max(1, round(steps)))
                    self.found.once(f"{kind} {number}", partial(self.task.score, other))
        model.load_state_dict(network.state_dict())  # the plain full network; its slices are the naive baseline
        for number, config in enumerate(plain):
            self.found.once(f"sliced {number}", partial(self.subnet_accuracy, config))

    def subnet_accuracy(self, config: SubnetConfig) -> float:
        with activate(self.model, config):
            return self.task.score(self.model)

    def switching(self) -> float:
        """Median milliseconds from one subnet to another, in random order."""
        times = []
        for number in torch.randperm(len(self.configs)).tolist():
            start = time.perf_counter()
            activate(self.model, self.configs[number])
            times.append(1000 * (time.perf_counter() - start))
        activate(self.model, None)
        return statistics.median(times)

    def sizes(self) -> list[int]:
        """Bytes of the one file that holds all subnets, and of the full network extracted from it."""
        names = self.folder / "all.safetensors", self.folder / "full.safetensors"
        for path, network in zip(names, (self.model, extract(self.model)), strict=True):
            save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
        return [path.stat().st_size for path in names]


def alone_sizes(count: int) -> list[int]:
    """Numbers of the subnets along the diagonal of the grid, the smallest first."""
    widths = count // DEPTHS
    return [d * widths + round(d * (widths - 1) / (ALONE - 1)) for d in range(ALONE)]


def sizes_table(results: list[dict[str, Any]], seed: Seed) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the subnets along the diagonal beside their baselines, as far as these were measured."""
    kinds = {"trained alone": "alone", "plain, sliced": "sliced"}
    kinds |= {"alone, 1/8 of MACs": "together", "alone, all MACs": "each"}
    kinds = {title: kind for title, kind in kinds.items() if all(f"{kind} {ALONE - 1}" in one for one in results)}
    costs, rows = cost(seed.model, list(seed.configs)), []
    for number, place in enumerate(alone_sizes(len(seed.configs))):
        config, names = seed.configs[place], [f"subnet {place}", *(f"{kind} {number}" for kind in kinds.values())]
        name = f"{config.sizes['width']} x {len(config.depths['blocks'])}"
        columns = (spread(values[name] for values in results) for name in names)
        rows.append([name, f"{costs.macs[place]:,}", f"{costs.params[place]:,}", *columns])
    return ["width x depth", "MACs", "parameters", "one for all", *kinds], rows


def claims(results: list[dict[str, Any]], seed: Seed) -> dict[str, Any]:
    """What is claimed of all subnets, a value per seed."""
    count = len(seed.configs)
    relative = [[100 * r[f"subnet {n}"] / r[f"subnet {count - 1}"] for n in range(count)] for r in results]
    costs = cost(seed.model, list(seed.configs))
    claim = {
        "subnets": count,
        "reach": [sum(value >= GOAL for value in one) for one in relative],
        "mean relative accuracy": [statistics.fmean(one) for one in relative],
        "least relative accuracy": [min(one) for one in relative],
        "full accuracy": [r[f"subnet {count - 1}"] for r in results],
        "file size ratio": results[0]["bytes"][0] / results[0]["bytes"][1],
        "switch ms": [r["switch ms"] for r in results],
        "relative": [statistics.fmean(column) for column in zip(*relative, strict=True)],
        "macs": costs.macs.tolist(),
        "params": costs.params.tolist(),
        "seconds": [
            r["seconds sorted"] + r.get("seconds first", 0) if "seconds sorted" in r else None for r in results
        ],
    }
    if all(f"alone {ALONE - 1}" in r for r in results):
        places = list(enumerate(alone_sizes(count)))
        claim["at least alone"] = [sum(r[f"subnet {p}"] >= r[f"alone {n}"] for n, p in places) for r in results]
        alone = [[r.get(f"seconds alone{n}") for n in range(ALONE)] for r in results]
        claim["seconds alone"] = [None if None in times else sum(times) for times in alone]
    return claim


def facts(claim: dict[str, Any]) -> list[tuple[str, str]]:
    """The claims in words; CPU seconds of seeds whose trainings were not interrupted."""
    each = {name: ", ".join(map(str, claim[name])) for name in ("reach", "at least alone") if name in claim}
    found = [
        (
            f"subnets with at least {GOAL:.0f} % of the full network's accuracy",
            f"{each['reach']} of {claim['subnets']}",
        ),
        ("mean relative accuracy in %", spread(claim["mean relative accuracy"])),
        ("least relative accuracy in %", spread(claim["least relative accuracy"])),
        ("accuracy of the full network in %", spread(claim["full accuracy"])),
        (
            "MACs and parameters of the smallest, % of the full network's",
            " and ".join(f"{100 * claim[name][0] / claim[name][-1]:.1f}" for name in ("macs", "params")),
        ),
        ("one file for all, in files of the full network", f"{claim['file size ratio']:.3f}"),
        ("switching from one to another, ms", spread(claim["switch ms"], 2)),
    ]
    if "at least alone" in claim:
        found.append(("sizes at least as good as trained alone", f"{each['at least alone']} of {ALONE}"))
    for what, name in (("the one training", "seconds"), (f"the {ALONE} trained alone", "seconds alone")):
        if known := [seconds for seconds in claim.get(name, []) if seconds is not None]:
            found.append((f"CPU seconds of {what} ({len(known)} of {len(claim['seconds'])} seeds)", spread(known, 0)))
    return found


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Train, measure all subnets; print the tables, write the heat map, and return what is claimed."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, "sorted", steps=3000, rate=4e-3)
    parser.add_argument("--strategy", choices=("sorted", "sandwich", "full+random"), default="sorted", help="(sorted)")
    kinds = ("magnitude", "taylor", "activation", "scale", "random")
    parser.add_argument("--sort", choices=kinds, help="first train the full network plainly, and sort its channels")
    parser.add_argument("--draws", type=int, default=4, help="subnets that a step trains (default 4)")
    parser.add_argument("--width", type=int, default=40, help="channels of the full network (default 40)")
    parser.add_argument("--decay", type=float, default=0.0, help="weight decay (default 0)")
    parser.add_argument("--alone", action="store_true", help="also trains eight sizes alone, for as many steps")
    parser.add_argument(
        "--equal-compute",
        nargs="+",
        default=[],
        choices=list(BUDGETS),
        help="and for the MACs of the elastic training, which each of the eight gets, or all together",
    )
    args = parser.parse_args(argv)
    if args.sort and args.equal_compute:
        parser.error("--equal-compute does not count the first training of --sort")
    if args.quick:
        args.alone, args.equal_compute, args.steps, args.batch, args.width = True, ["together"], 30, 32, 24
    task = Task(args)
    results = []
    for number in args.seeds:
        seed = Seed(args, number, task)
        results.append(seed.run())
    claim = claims(results, seed)
    print_table(f"{task.name} accuracy in %", *sizes_table(results, seed))
    print_table(f"all {claim['subnets']} subnets, {task.name}, per seed", ("", ""), facts(claim))
    (args.out / "sorted.json").write_text(json.dumps({"settings": settings_of(args), **claim}, indent=1))
    sizes = [config.sizes["width"] for config in seed.configs[-WIDTHS:]]
    grid = [claim["relative"][start : start + WIDTHS] for start in range(0, claim["subnets"], WIDTHS)]
    title = f"accuracy of {claim['subnets']} subnets, % of the full network's"
    depths = list(range(BLOCKS - DEPTHS + 1, BLOCKS + 1))
    rows = [[str(size), *(f"{row[number]:.1f}" for row in grid)] for number, size in enumerate(sizes)]
    print_table(title, ["width", *(f"{depth} blocks" for depth in depths)], rows)
    write_figure(args.out / "sorted.html", [heat_map(grid, sizes, depths, "%")], title, "width", "blocks")
    return claim


if __name__ == "__main__":
    main()
