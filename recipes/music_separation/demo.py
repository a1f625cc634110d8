"""`elastify demo`: one small separator trained at all its sizes, three of them taken out, heard and compared.

1. Music is prepared once and kept (`prepare`), or is a folder of the user's own.
2. A small BSRNN is trained plainly for two fifths of the time. The time is turned into a number of steps by
   timing a few, so that a run that is stopped and started again ends as one that was not.
3. It becomes elastic and is trained on, full, smallest and one random size in each step, for three fifths.
4. Under 60, 35 and 15 % of the MACs the best subnetwork is searched on songs kept back from training, and extracted.
5. Each is compared on held-out songs with the same sizes cut out of the plainly trained network, and, with
   `--full`, with the same sizes trained alone for as many steps.

Everything is written into one folder; running again finds what is there and goes on. This is channel slicing of a
BSRNN, not the parallel sub-modules of Subnetwork-to-go.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from elastify import ElastifyError, cost, elastify, extract, search, space
from elastify.train import Sandwich, fit, sort_channels

from .data import Song
from .model import BSRNN, small_settings
from .report import write_report
from .separate import save_separator, separate
from .train import (
    Music,
    held_out_score,
    loss_for,
    make_loader,
    mean_improvement,
    on_mixture,
    open_music,
    real_time_factor,
    validate,
)

console = Console()


def say(text: object) -> None:
    """Print as it is: no line is broken, so that commands can be copied, and brackets mean nothing."""
    console.print(str(text), markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Options:
    """What a run depends on; a run goes on only with the options that it was begun with."""

    data: str = "chorales"
    target: str | None = None
    minutes: float = 5.0
    full: bool = False
    seed: int = 0
    width: int = 16
    depth: int = 2
    bands: int = 24
    batch: int = 4
    seconds: float = 1.5
    steps_per_minute: int = 160  # at least, however slow the machine
    trials: int = 48
    budgets: tuple[float, ...] = (0.6, 0.35, 0.15)


class Interrupted(Exception):  # noqa: N818 - not an error: what was trained is kept
    """Ctrl-C ended a training; its checkpoint is written."""


def run(options: Options, out: Path, cache: Path | None = None) -> dict[str, Any]:
    """The whole demonstration; returns what the report was made from."""
    out.mkdir(parents=True, exist_ok=True)
    notes = Notes(out / "run.json", options)
    torch.manual_seed(options.seed)
    music = open_music(options.data, options.target, cache)
    rate = music.train[0].sample_rate
    settings = small_settings(rate, bands=options.bands, width=options.width, depth=options.depth)
    net = BSRNN(**settings)
    samples = round(options.seconds * rate)
    # Costs are per sample of `samples`; a second of audio has rate / hop frames.
    per_second = rate / net.hop / (1 + samples // net.hop)
    say(
        f"{len(music.train)} songs to train on, {len(music.search)} to search with, {len(music.test)} held out; "
        f"stem: {music.target}\n{music.licence}"
    )

    plain_steps = notes.steps("plain", net, None, options, music, 0.4)
    train(net, None, options, music, plain_steps, out / "plain", "plain training")
    elastify(net, torch.zeros(2, samples).uniform_(-0.1, 0.1))
    full = cost(net)
    say(space(net))
    say(f"the full network: {full.params:,} parameters, {full.macs * per_second / 1e6:.1f} M MACs per second of audio")
    naive = copy.deepcopy(net)  # the plainly trained one, to cut naively
    sort_channels(net)
    elastic_steps = notes.steps("elastic", net, Sandwich, options, music, 0.6)
    train(
        net,
        Sandwich(net, n_random=1, cycle=False, seed=options.seed),
        options,
        music,
        elastic_steps,
        out / "elastic",
        "elastic training",
    )

    def evaluate(candidate: nn.Module) -> float:
        return mean_improvement(validate(candidate, music.search, music.target, seconds=6.0))

    submodels, estimates, pareto = [], {}, []
    for budget in options.budgets:
        name = f"{100 * budget:.0f} %"
        say(f"searching the best subnetwork with {name} of the MACs")
        found = search(
            net,
            budget * full.macs,
            evaluate=evaluate,
            n_trials=options.trials,
            population=16,
            seed=options.seed,
            study=str(out / f"search-{100 * budget:.0f}.db"),
        )
        pareto += [{"macs": p.cost.macs * per_second, "score": p.score} for p in found.pareto]
        folder = out / f"model-{100 * budget:.0f}"
        save_separator(found.model, folder, settings, music.target)
        alone = None
        if options.full:
            alone = trained_alone(
                extract(naive, found.config),
                options,
                music,
                plain_steps + elastic_steps,
                out / f"alone-{100 * budget:.0f}",
            )
        estimates[name] = estimate_song(found.model, music.test[0])
        submodels.append(
            {
                "name": name,
                "budget": budget,
                "config": {**found.config.sizes, **{stage: len(kept) for stage, kept in found.config.depths.items()}},
                "macs": found.cost.macs * per_second,
                "params": found.cost.params,
                "rtf": real_time_factor(found.model.eval(), rate),
                "si_sdri": held_out_score(found.model, music),
                "si_sdri_naive": held_out_score(extract(naive, found.config), music),
                "si_sdri_alone": None if alone is None else held_out_score(alone, music),
                "folder": folder.name,
            }
        )
    results = {
        "title": f"{music.target.capitalize()} out of a mixture, at three sizes",
        "model": {
            "name": f"BSRNN, N = {options.width}, R = {options.depth}, {options.bands} bands, {rate / 1000:g} kHz",
            "params": full.params,
            "macs_per_second": full.macs * per_second,
            "si_sdri": held_out_score(net, music),
            "si_sdri_plain": held_out_score(naive, music),
            "steps": {"plain": plain_steps, "elastic": elastic_steps},
        },
        "space": describe_space(net),
        "submodels": submodels,
        "pareto": pareto,
        "licence": music.licence,
    }
    show_table(results)
    write_results(out, results, music, estimates)
    return results


class Notes:
    """`run.json`: the options of the run and the numbers of steps that were settled for it."""

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        wanted = json.loads(json.dumps(asdict(options)))
        self.content = json.loads(path.read_text()) if path.is_file() else {"options": wanted}
        known = {**self.content["options"], "full": wanted["full"]}  # the extra trainings may be asked for later
        if known != wanted:
            different = [key for key in wanted if known.get(key) != wanted[key]]
            raise ElastifyError(
                "the folder holds a run with other options",
                where=str(path.parent),
                why=f"they differ in {', '.join(different)}",
                fix="give the same options to go on with it, or another folder with --out",
            )
        self.write()

    def write(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.content, indent=1))
        partial.replace(self.path)

    def steps(
        self,
        phase: str,
        net: nn.Module,
        strategy: Callable[..., Any] | None,
        options: Options,
        music: Music,
        share: float,
    ) -> int:
        """Steps that take `share` of the minutes here, and at least that share of the fewest; settled once."""
        if phase not in self.content:
            trial = copy.deepcopy(net)
            chosen = strategy(trial, n_random=1) if strategy else None
            loader = make_loader(music.train, music.target, steps=4, batch=options.batch, seconds=options.seconds)
            moments = [time.perf_counter()]
            fit(
                trial,
                loader,
                loss_for(trial),
                strategy=chosen,
                steps=4,
                forward_fn=on_mixture,
                progress=False,
                on_step=lambda *_: moments.append(time.perf_counter()),
            )
            each = float(np.median(np.diff(moments[1:])))
            fewest = options.steps_per_minute * options.minutes * share
            self.content[phase] = max(round(fewest), round(60 * options.minutes * share / each), 1)
            self.write()
        return self.content[phase]


def train(
    net: nn.Module, strategy: Sandwich | None, options: Options, music: Music, steps: int, folder: Path, what: str
) -> None:
    """`steps` optimizer steps, from the checkpoint on where there is one."""
    say(f"{what}: {steps} steps")
    # Both trainings of one network draw different examples; every plain one the same.
    seed = options.seed + (0 if strategy is None else 1)
    loader = make_loader(
        music.train, music.target, steps=steps, batch=options.batch, seconds=options.seconds, seed=seed
    )
    history = fit(
        net,
        loader,
        loss_for(net),
        strategy=strategy,
        steps=steps,
        forward_fn=on_mixture,
        clip=5.0,
        scheduler="cosine",
        optimizer=lambda parameters: torch.optim.Adam(parameters, 3e-3),
        checkpoint=folder,
        checkpoint_every=50,
        seed=options.seed,
    )
    if history.interrupted and history.steps < steps:
        raise Interrupted(f"{what} stopped after {history.steps} of {steps} steps")


def trained_alone(net: nn.Module, options: Options, music: Music, steps: int, folder: Path) -> nn.Module:
    """A network of the same size trained from its beginning."""
    torch.manual_seed(options.seed)
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    train(net, None, options, music, steps, folder, f"the same size alone ({folder.name})")
    return net


def estimate_song(net: nn.Module, song: Song) -> np.ndarray:
    """Estimate [channels, samples] of one whole song."""
    mixture = torch.from_numpy(song.read("mixture").copy())
    return separate(net.eval(), mixture, sample_rate=song.sample_rate).numpy()


def describe_space(net: nn.Module) -> dict[str, Any]:
    """Axes and stages as plain values, for the report."""
    found = space(net)
    return {
        "axes": [{"name": a.name, "size": a.size, "choices": list(a.choices)} for a in found.axes],
        "stages": [{"name": s.name, "blocks": list(s.blocks), "choices": list(s.choices)} for s in found.stages],
    }


def show_table(results: dict[str, Any]) -> None:
    """SI-SDR improvements in dB on the held-out songs, a row per submodel."""
    alone = any(row["si_sdri_alone"] is not None for row in results["submodels"])
    table = Table(title="SI-SDR improvement over the mixture, dB, mean of the held-out songs")
    for column in (
        "budget",
        "this",
        "naive slice",
        *(["trained alone"] if alone else []),
        "M MACs/s",
        "parameters",
        "real-time factor",
    ):
        table.add_column(column, justify="right")
    model = results["model"]
    rest = (f"{model['macs_per_second'] / 1e6:.1f}", f"{model['params']:,}", "")
    table.add_row("full", f"{model['si_sdri']:.1f}", f"{model['si_sdri_plain']:.1f}", *([""] if alone else []), *rest)
    for row in results["submodels"]:
        scores = [f"{row['si_sdri']:.1f}", f"{row['si_sdri_naive']:.1f}"] + (
            [f"{row['si_sdri_alone']:.1f}"] if alone else []
        )
        table.add_row(row["name"], *scores, f"{row['macs'] / 1e6:.1f}", f"{row['params']:,}", f"{row['rtf']:.3f}")
    console.print(table)


def write_results(out: Path, results: dict[str, Any], music: Music, estimates: dict[str, np.ndarray]) -> None:
    """`results.json`, the separated song as float WAVs, and `report.html`."""
    song = music.test[0]
    waves = {"mixture": song.read("mixture"), "target": song.read(music.target)}
    waves |= {f"estimate-{name.split()[0]}": wave for name, wave in estimates.items()}
    for name, wave in waves.items():
        soundfile.write(out / f"{name}.wav", wave.T, song.sample_rate, subtype="FLOAT")
    (out / "results.json").write_text(json.dumps(results, indent=1))
    audio = {
        "sample_rate": song.sample_rate,
        "song": song.name,
        "mixture": waves["mixture"].mean(0),
        "target": waves["target"].mean(0),
        "estimates": {name: wave.mean(0) for name, wave in estimates.items()},
    }
    write_report(out / "report.html", {**results, "audio": audio})
    first = results["submodels"][0]["folder"]
    say(
        f"look and listen: {out / 'report.html'}\nthe song {song.name}: {out}/*.wav\n"
        f"separate another: python -m {__package__}.separate SONG.wav --model {out / first} --out {music.target}.wav"
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit code 2 for a mistake of the user, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="elastify demo",
        description="Train an elastic music separator for minutes, search three budgets, extract three models.",
        epilog="examples: elastify demo; elastify demo --data games; elastify demo --data MUSDB18-HQ --target bass",
    )
    parser.add_argument(
        "--data",
        default="chorales",
        help="chorales, games (on Debian), or a folder in MUSDB18-HQ layout (default: %(default)s)",
    )
    parser.add_argument("--target", help="the stem to separate (default: the easiest of the data)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training in all (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tiny network for seconds: shows that everything works")
    parser.add_argument("--full", action="store_true", help="also train the three sizes alone, for as many steps")
    parser.add_argument("--out", type=Path, help="folder of the run (default: elastify-demo/DATA, or DATA-quick)")
    parser.add_argument("--cache", type=Path, help="where prepared music is kept (default: the user's cache folder)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, examples and search (default: %(default)s)")
    given = parser.parse_args(arguments)
    options = Options(given.data, given.target, given.minutes, given.full, given.seed)
    if given.quick:
        options = replace(options, minutes=min(0.1, given.minutes), width=8, bands=6, batch=2, seconds=0.5, trials=4)
    out = given.out or Path("elastify-demo") / (Path(given.data).name + ("-quick" if given.quick else ""))
    try:
        if not given.minutes > 0:
            raise ElastifyError(f"--minutes must be above 0, not {given.minutes:g}")
        run(options, out, given.cache)
    except ElastifyError as error:
        print(error, file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt) as stopped:
        say(f"{stopped or 'stopped'}: what was trained is kept in {out}; run the same command again to go on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
