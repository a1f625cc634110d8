"""Kill training, saving and searching at random moments, and see that nothing is lost and the next start goes on.

    python tools/kill_files.py --count 200 --seed 0      # half an hour on one core

Each process tells what it has done, and gets SIGKILL at a random moment. Then another one goes on in
the same folder: `fit` from the last checkpoint that was due, to the losses of a run that was never killed; a saved
model is the last one told or the one after it, whole; `search` with every trial that was told. Several kills in a row
hit the same folder. The exit code is 1 if anything is lost.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from elastify import elastify, extract, load, save, search  # noqa: E402
from elastify.train import Sandwich, fit  # noqa: E402

STEPS, TRIALS, _WORK = 30, 12, "--work"
X = torch.linspace(-1, 1, 32).view(8, 4)
Tell = Callable[[Any], None]


def made() -> nn.Module:
    torch.manual_seed(0)
    return elastify(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)), X, verify=False)


def train(folder: Path, tell: Tell) -> None:
    model, data = made(), [(X * n, torch.arange(8) % 3) for n in range(1, 8)]
    options = {"checkpoint": folder, "checkpoint_every": 1, "checkpoint_keep": 2, "log_dir": folder, "progress": False}

    def on_step(step: int, losses: Any) -> None:
        tell(step)

    history = fit(model, data, F.cross_entropy, strategy=Sandwich(model), steps=STEPS, on_step=on_step, **options)
    tell(",".join(str(step.total) for step in history.losses))


def keep_saving(folder: Path, tell: Tell) -> None:
    small, number = extract(made(), 0.5), 0
    if (folder / "elastify.json").exists():
        number = round(load(folder, like=made())[0].bias[0].item())
    while True:
        number += 1
        with torch.no_grad():
            for parameter in small.parameters():
                parameter.fill_(number)
        save(small, folder)
        tell(number)


def look(folder: Path, tell: Tell, n_trials: int = TRIALS) -> int:
    def evaluate(model: nn.Module) -> float:
        tell("evaluating")
        return model(X).square().mean().item()

    result = search(made(), "60%", evaluate=evaluate, n_trials=n_trials, study=folder / "study.log", progress=False)
    return len(result.history)


def told(work: Callable[[Path, Tell], Any], folder: Path, seconds: float | None = None) -> list[str]:
    """The words of a process, killed so many seconds after its first one; it may have come to its end before."""
    read, write = os.pipe()
    command = [sys.executable, __file__, _WORK, work.__name__, str(folder), str(write)]
    process = subprocess.Popen(command, pass_fds=(write,))  # no fork: torch aborts some that have had threads
    os.close(write)
    with os.fdopen(read) as words:
        words.readline()
        if seconds is not None:
            time.sleep(seconds)
            process.kill()
        found = words.read().splitlines()
    assert process.wait() in (0, -signal.SIGKILL), "it failed by itself"
    return found


def do(name: str, folder: str, write: str) -> None:
    """What such a process does: one of the functions above."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.write(int(write), b"begun\n")
    globals()[name](Path(folder), lambda word: os.write(int(write), f"{word}\n".encode()))


def check_fit(folder: Path, rng: random.Random, kills: int, straight: str) -> None:
    done = 0
    for seconds in [*(rng.uniform(0, 0.5) for _ in range(kills)), None]:
        words = told(train, folder, seconds)
        steps = [int(word) for word in words if "." not in word]
        assert not steps or steps[0] in (done, done + 1), f"it went on at {steps[0]} after {done} steps"
        done = max([done, *steps])
    assert words[-1] == straight
    left = sorted(path.name for path in folder.iterdir())
    assert len(left) == 7, f"litter: {left}"  # the newest, two before it, the table


def check_save(folder: Path, rng: random.Random, kills: int) -> None:
    last = 0
    for _ in range(kills):
        words = told(keep_saving, folder, rng.uniform(0, 0.1))
        last = max([last, *map(int, words)])
        if not (folder / "elastify.json").exists():
            assert not last, f"{last} was saved, and nothing is there"
            continue
        found = {parameter.item() for p in load(folder, like=made()).parameters() for parameter in p.flatten()}
        assert found in ({last}, {last + 1}), f"{last} was saved, {found} is there"
        last = int(found.pop())
    save(extract(made(), 0.5), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["elastify.json", "model.safetensors"]


def check_search(folder: Path, rng: random.Random, kills: int) -> None:
    finished = 0
    for _ in range(kills):
        words = told(look, folder, rng.uniform(0, 0.6))
        finished += max(0, len(words) - 1)  # the next is evaluated when one has been written
    found = look(folder, lambda word: None)
    assert found >= max(TRIALS, finished), f"{finished} trials were made, {found} are there"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30, help="kills in all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        straight = told(train, Path(home))[-1]
    done: Counter[str] = Counter()
    wrong, number = 0, options.seed
    while done.total() < options.count:
        rng, kind = random.Random(number), ("fit", "save", "search")[number % 3]
        kills = rng.randint(1, 4)
        with tempfile.TemporaryDirectory() as home:
            try:
                if kind == "save":
                    check_save(Path(home), rng, kills)
                elif kind == "fit":
                    check_fit(Path(home), rng, kills, straight)
                else:
                    check_search(Path(home), rng, kills)
            except Exception:  # noqa: BLE001 - whatever it is, it is counted
                wrong += 1
                print(f"{number} ({kind}):", traceback.format_exc(), flush=True)
        done[kind] += kills
        number += 1
    print(", ".join(f"{count} kills of {kind}" for kind, count in done.items()), f": {wrong} folders wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(do(*sys.argv[2:]) if sys.argv[1:2] == [_WORK] else main())
