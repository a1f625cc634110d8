"""One elastic training of the separator from its beginning, and what every training of one is made of.

`main` trains all sizes at once, full, smallest and one random size in each step, and measures and saves four of them.
`--alone` trains each of the four alone for as many steps. The functions before it are shared with the demonstration
and with `parallel`: music, batches, loss, validation, speed. None of them knows whether the network is elastic.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from elastify import ElastifyError, cost, elastify, extract, space
from elastify.train import Sandwich, Strategy, fit

from ..reporting import Measurements, curve, must_be_done, print_table, settings_of, write_figure
from .data import Chunks, Song, read_songs
from .losses import separation_loss
from .metrics import si_sdr
from .model import BSRNN, small_settings
from .prepare import SOURCES, prepare
from .separate import save_separator, separate

SIZES = (1.0, 0.75, 0.5, 0.25)  # of every axis and of the depth


@dataclass(frozen=True, slots=True)
class Music:
    """Songs to learn from, to search with, and to test on."""

    train: list[Song]
    search: list[Song]
    test: list[Song]
    target: str
    licence: str


@dataclass(frozen=True, slots=True)
class Score:
    """SI-SDR of one song in dB: of the mixture as it is, and of the estimate."""

    song: str
    mixture: float
    estimate: float

    @property
    def improvement(self) -> float:
        return self.estimate - self.mixture


def on_mixture(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The network sees the mixture of a batch of (mixture, target)."""
    return model(batch[0])


def loss_for(net: nn.Module) -> Callable[[Tensor, tuple[Tensor, Tensor]], Tensor]:
    """The loss of an estimate given the batch it was made from, with the network's own spectrogram."""

    def loss(estimate: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        mixture, target = batch
        return separation_loss(estimate, target, mixture, n_fft=net.n_fft, hop=net.hop)

    return loss


def make_loader(
    songs: Sequence[Song],
    target: str,
    *,
    steps: int,
    batch: int = 4,
    seconds: float = 1.5,
    seed: int = 0,
    **chunks: float,
) -> DataLoader:
    """`steps` batches of (mixture, target), each [batch, samples]; the same ones for the same seed."""
    data = Chunks(songs, target, seconds=seconds, length=steps * batch, seed=seed, **chunks)
    return DataLoader(data, batch)


def hold_out(songs: Sequence[Song], count: int = 3) -> tuple[list[Song], list[Song]]:
    """Training songs without, and validation songs: every so many-th of them, `count` in all."""
    picked = {round((k + 0.5) * len(songs) / count - 0.5) for k in range(min(count, len(songs) - 1))}
    return [s for k, s in enumerate(songs) if k not in picked], [s for k, s in enumerate(songs) if k in picked]


def open_music(data: str, target: str | None = None, cache: Path | None = None) -> Music:
    """Prepared songs of that name, or a folder in the layout of MUSDB18-HQ; without `target` the easiest stem."""
    if data in SOURCES:
        made = prepare(data, cache=cache)
        root, stems, target, licence = made.root, made.stems, target or made.target, made.licence
    else:
        root, stems, licence = Path(data), None, f"music of {data}: its own terms hold"
    songs = read_songs(root, "train", stems)
    target = target or ("vocals" if "vocals" in songs[0].stems else songs[0].stems[0])
    test = read_songs(root, "test", songs[0].stems, sample_rate=songs[0].sample_rate, channels=songs[0].channels)
    train, kept = hold_out(songs, min(3, max(1, len(songs) // 5)))
    if not kept:
        raise ElastifyError("one training song is too few", where=str(root), why="validation needs songs of its own")
    return Music(train, kept, test, target, licence)


def validate(
    model: Callable[[Tensor], Tensor], songs: Sequence[Song], target: str, *, seconds: float | None = None
) -> list[Score]:
    """Scores on whole songs, or on the middle `seconds` of each; the network is in eval mode meanwhile."""
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.eval()
    scores = []
    for song in songs:
        frames = song.frames if seconds is None else min(song.frames, round(seconds * song.sample_rate))
        start = (song.frames - frames) // 2
        mixture, wanted = (torch.from_numpy(song.read(stem, start, frames).copy()) for stem in ("mixture", target))
        estimate = separate(model, mixture, sample_rate=song.sample_rate)
        before, after = (float(si_sdr(wave.flatten(), wanted.flatten())) for wave in (mixture, estimate))
        scores.append(Score(song.name, before, after))
    if training and isinstance(model, nn.Module):
        model.train()
    return scores


def mean_improvement(scores: Sequence[Score]) -> float:
    """Mean over songs of the SI-SDR improvement, in dB."""
    return statistics.fmean(score.improvement for score in scores)


def held_out_score(net: nn.Module, music: Music) -> float:
    """Mean SI-SDR improvement on the test songs, in dB."""
    return mean_improvement(validate(net, music.test, music.target))


def real_time_factor(model: nn.Module, sample_rate: int, *, seconds: float = 6.0, repeats: int = 5) -> float:
    """Seconds of computing per second of mono audio (below 1 is faster than real time): median of `repeats` runs."""
    wave = torch.randn(1, round(seconds * sample_rate)) * 0.1
    times = []
    with torch.no_grad():
        model(wave)
        for _ in range(repeats):
            start = time.perf_counter()
            model(wave)
            times.append(time.perf_counter() - start)
    return statistics.median(times) / seconds


def add_options(parser: argparse.ArgumentParser, *, bands: int) -> None:
    """Options of all trainings here: music, lengths, learning rate and the size of the separator."""
    add = parser.add_argument
    add("--data", default="chorales", help="chorales, games, or a folder in MUSDB18's layout (default chorales)")
    add("--target", help="the stem (default: the one that suits the data)")
    add("--steps", type=int, default=800, help="steps of each training (default 800)")
    add("--batch", type=int, default=4, help="chunks per step (default 4)")
    add("--seconds", type=float, default=1.5, help="length of a chunk (default 1.5)")
    add("--rate", type=float, default=3e-3, help="learning rate of Adam (default 3e-3)")
    add("--bands", type=int, default=bands, help=f"of the separator (default {bands})")
    add("--width", type=int, default=16, help="its N (default 16)")
    add("--depth", type=int, default=2, help="its R (default 2)")
    add("--quick", action="store_true", help="shows in a minute that everything works")


def train_separator(
    net: nn.Module,
    music: Music,
    args: argparse.Namespace,
    folder: Path,
    *,
    steps: int,
    seed: int,
    strategy: Strategy | None = None,
    log_dir: Path | None = None,
) -> None:
    """Train a separator, elastic with a strategy, on the options' batches; goes on where it was."""
    lengths = {"steps": steps, "batch": args.batch, "seconds": args.seconds}
    history = fit(
        net,
        make_loader(music.train, music.target, **lengths, seed=seed),
        loss_for(net),
        strategy=strategy,
        steps=steps,
        forward_fn=on_mixture,
        clip=5.0,
        scheduler="cosine",
        optimizer=partial(torch.optim.Adam, lr=args.rate),
        checkpoint=folder,
        log_dir=log_dir,
        seed=seed,
    )
    must_be_done(history, steps)


def main(argv: list[str] | None = None) -> list[list[str]]:
    """Train, measure, save; print the table, write the plot, return the rows."""
    parser = argparse.ArgumentParser(description="Train a music separator at all its sizes, measure and save four.")
    add = parser.add_argument
    add_options(parser, bands=24)
    add("--seed", type=int, default=0, help="of weights, examples and sizes (default 0)")
    add("--alone", action="store_true", help="also train each of the four sizes alone, as many steps")
    add("--out", type=Path, help="of checkpoints, networks and results (default runs/separation, or separation-quick)")
    args = parser.parse_args(argv)
    args.out = args.out or Path("runs") / ("separation-quick" if args.quick else "separation")
    if args.quick:
        args.steps, args.batch, args.seconds, args.bands, args.width = 4, 2, 0.5, 6, 8
    music = open_music(args.data, args.target)
    found = Measurements(args.out / "measurements.json", {**settings_of(args), "data": args.data})
    sample_rate = music.train[0].sample_rate
    settings = small_settings(sample_rate, bands=args.bands, width=args.width, depth=args.depth)
    torch.manual_seed(args.seed)
    samples = round(args.seconds * sample_rate)
    model = elastify(BSRNN(**settings), torch.zeros(2, samples).uniform_(-0.1, 0.1))
    print(space(model))
    new = copy.deepcopy(model)

    def train(name: str, net: nn.Module, strategy: Sandwich | None = None) -> nn.Module:
        folder = args.out / name
        train_separator(net, music, args, folder, steps=args.steps, seed=args.seed, strategy=strategy, log_dir=folder)
        return net

    train("elastic", model, Sandwich(model, n_random=1, cycle=False, seed=args.seed))
    rows, macs = [], []
    for size in SIZES:
        name, config = f"{100 * size:.0f}", space(model).config({"*": size})
        spent, network = cost(model, config), extract(model, config)
        save_separator(network, args.out / f"model-{name}", settings, music.target)
        scores = [found.once(f"elastic {name}", partial(held_out_score, network, music))]
        if args.alone:
            alone = train(f"alone-{name}", extract(new, config))
            scores.append(found.once(f"alone {name}", partial(held_out_score, alone, music)))
        macs.append(spent.macs)
        rows.append([name, f"{spent.macs / 1e6:.1f}", f"{spent.params:,}", *(f"{score:.1f}" for score in scores)])
    kinds = ("elastic", "alone")[: 1 + args.alone]
    title = f"SI-SDR improvement, dB ({music.target}, {len(music.test)} held-out songs)"
    print_table(title, ("size %", "M MACs", "parameters", *kinds), rows)
    values = found.content["values"]
    lines = [
        curve(kind, [(x, values[f"{kind} {row[0]}"]) for x, row in zip(macs, rows, strict=True)]) for kind in kinds
    ]
    title = "one separator, four sizes"
    write_figure(args.out / "separation.html", lines, title, f"MACs of {args.seconds:g} s", "SI-SDR improvement, dB")
    return rows


if __name__ == "__main__":
    main()
