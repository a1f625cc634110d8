"""Spoil saved folders, checkpoints and study files at random, and see that nothing but ElastifyError comes of it.

    python tools/fuzz_files.py --count 10000 --seed 0      # about a quarter of an hour on one core
    python tools/fuzz_files.py --only 17                   # one of them, with its traceback

Bytes are flipped, files cut, lengthened, emptied and swapped with those of another run; in JSON digits are edited,
keys deleted, values replaced by huge, deep and foreign ones. Half of the spoilt JSON is given a new checksum, as if it
had been so from the start. What is read without a new checksum must be what was written; a refused checkpoint must
have changed nothing; each has seconds and two gigabytes to be read in. The exit code is 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from elastify import ElastifyError, activate, cost, elastify, extract, load, save, search  # noqa: E402
from elastify._files import sealed  # noqa: E402
from elastify.train import Sandwich, fit  # noqa: E402

SECONDS, MEMORY = 20.0, 2 << 30
X, Y = torch.linspace(-1, 1, 32).view(8, 4), torch.arange(8) % 3
SAVED = ("elastify.json", "model.safetensors")
READ = {"own": SAVED, "library": SAVED, "checkpoint": ("checkpoint.json", "step-00000003.safetensors")}
READ["study"] = ("study.log",)
VALUES = [
    None,
    True,
    -1,
    0,
    10**9,
    10**30,
    1e308,
    float("nan"),
    "",
    "x" * 10_000,
    "../x",
    "__class__",
    [],
    {},
    [[]] * 3,
]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.heads = nn.Linear(16, 24), nn.Linear(24, 16), 4

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.relu(self.first(x)).view(len(x), self.heads, -1)
        return x + self.last((parts * parts.softmax(-1)).flatten(1))


class Net(nn.Module):
    """Heads, blocks that can be left out, tied weights and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Linear(4, 16), nn.ModuleList(Block() for _ in range(3))
        self.norm, self.head, self.tied = nn.BatchNorm1d(16), nn.Linear(16, 3), nn.Linear(4, 16)
        self.tied.weight = self.stem.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) + self.tied(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def made(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return elastify(Net().eval(), X, verify=False)


def trained(model: nn.Module, folder: Path, strategy: Any = None, optimizer: Any = None) -> Any:
    strategy = strategy or Sandwich(model)
    options = {"checkpoint": folder, "checkpoint_every": 1, "checkpoint_keep": 1, "progress": False}
    return fit(model, [(X, Y)], F.cross_entropy, strategy=strategy, steps=3, optimizer=optimizer, **options)


def mean(model: nn.Module) -> float:
    return model(X).square().mean().item()


def scored(model: nn.Module, config: Any) -> float:
    with activate(model, config):
        return mean(model)


def searched(path: Path, n_trials: int, seed: int = 0) -> Any:
    return search(made(seed), "60%", evaluate=mean, n_trials=n_trials, study=path, progress=False, seed=seed)


def write_all(home: Path) -> None:
    """One of each kind, twice."""
    import transformers

    config = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    for seed in (0, 1):
        save(extract(made(seed), {"*": 0.5}), home / f"own{seed}")
        torch.manual_seed(seed)
        bert = transformers.BertModel(transformers.BertConfig(**config, intermediate_size=24)).eval()
        save(extract(elastify(bert, torch.arange(12).view(2, 6), verify=False), 0.5), home / f"library{seed}")
        trained(made(seed).train(), home / f"checkpoint{seed}")
        searched(home / f"study{seed}" / "study.log", 5, seed)


# -- what is done to a file ------------------------------------------------------------------------------------


def spoil_bytes(file: Path, other: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    place, size = rng.randrange(len(data) + 1), rng.choice([1, 1, 8, 100])
    kind = rng.choice(["flip", "cut", "longer", "empty", "swap", "zeros", "out", "digit"])
    if kind == "flip" and place < len(data):
        data[place] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[place:]
    elif kind == "longer":
        data[place:place] = rng.randbytes(size)
    elif kind == "swap":
        data = bytearray(other.read_bytes()) if other.is_file() else data
    elif kind == "zeros":
        data[place : place + size] = bytes(min(size, len(data) - place))
    elif kind == "out":
        del data[place : place + size]
    elif kind == "digit":
        digits = [n for n, byte in enumerate(data[:20_000]) if 48 <= byte < 58]
        if digits:
            data[rng.choice(digits)] = rng.randrange(48, 58)
    file.write_bytes(b"" if kind == "empty" else data)


def places(data: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside JSON data."""
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in inside for place in [(data, key), *places(value)]]


def spoil_json(data: Any, rng: random.Random) -> None:
    container, key = rng.choice(places(data))
    if rng.random() < 0.25:
        del container[key]
    elif rng.random() < 0.1:
        for _ in range(200):
            container[key] = [container[key]]
    elif isinstance(container[key], (int, float)) and rng.random() < 0.6:
        container[key] = rng.choice([container[key] + 1, -container[key], container[key] * 1000, 10**9, 1 << 63, 0.5])
    else:
        container[key] = rng.choice(VALUES)


def spoil(folder: Path, other: Path, rng: random.Random) -> bool:
    """Spoil a file of a folder; whether its checksum was made anew."""
    file = rng.choice(sorted(folder.iterdir()))
    if rng.random() < 0.4 or file.suffix not in (".json", ".log"):
        spoil_bytes(file, other / file.name, rng)
        return False
    anew, is_journal = rng.random() < 0.7, file.suffix == ".log"
    try:
        logs = [json.loads(text) for text in (file.read_text().splitlines() if is_journal else [file.read_text()])]
        chosen = rng.choice(logs)
        name = "crc32" if is_journal else "sha256"
        checksum = chosen.pop(name)
        spoil_json(chosen, rng)
        fresh = zlib.crc32(json.dumps(chosen, sort_keys=True).encode()) if is_journal else None
        if not is_journal and anew:
            fresh = json.loads(sealed(chosen))["sha256"]
        chosen[name] = fresh if anew else checksum
        file.write_text("".join(json.dumps(log) + "\n" for log in logs))
    except (ValueError, LookupError, AttributeError):  # it is spoilt already
        spoil_bytes(file, other / file.name, rng)
    return anew


# -- what is read of it ----------------------------------------------------------------------------------------


class Originals:
    """What each kind of file gives as it was written."""

    def __init__(self, home: Path) -> None:
        self.home, self.like = home, Net()
        self.own = load(home / "own0", like=self.like)(X)
        self.ids = torch.arange(12).view(2, 6)
        self.library = load(home / "library0")(self.ids)[0]
        self.model = made(0).train()
        self.losses = trained(self.model, home / "checkpoint0").losses
        self.weights = copy.deepcopy(self.model.state_dict())
        searching = made(0)
        self.score, self.costs = lru_cache(lambda config: scored(searching, config)), lambda c: cost(searching, c)

    def read_own(self, folder: Path) -> bool:
        return gives(load(folder, like=self.like), X, self.own)

    def read_library(self, folder: Path) -> bool:
        return gives(load(folder), self.ids, self.library)

    def read_checkpoint(self, folder: Path) -> bool:
        model, strategy = self.model, Sandwich(self.model)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.25)
        before = copy.deepcopy([model.state_dict(), strategy.state_dict(), torch.get_rng_state()])
        try:
            losses = trained(model, folder, strategy, optimizer).losses
        except ElastifyError:
            after = [model.state_dict(), strategy.state_dict(), torch.get_rng_state()]
            assert same(before, after), "a refused checkpoint has changed something"
            assert not optimizer.state, "a refused checkpoint has changed the optimizer"
            raise
        return losses == self.losses and same(model.state_dict(), self.weights)

    def read_study(self, folder: Path) -> bool:
        found = searched(folder / "study.log", 6).history
        return all(
            trial.score == self.score(trial.config) and trial.cost == self.costs(trial.config) for trial in found
        )


def gives(model: Any, inputs: Tensor, expected: Tensor) -> bool:
    """Whether a model that was loaded computes this; a number with a new checksum may be one that it cannot use."""
    try:
        found = model(inputs)
    except (RuntimeError, TypeError, ValueError, ArithmeticError, LookupError):
        return False
    return torch.equal(found if isinstance(found, Tensor) else found[0], expected)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def judge(number: int, originals: Originals) -> tuple[str, str]:
    """What became of one: refused, the same, other (only with a new checksum), or wrong, and why."""
    rng = random.Random(number)
    kind = rng.choices(["own", "library", "checkpoint", "study"], [4, 1, 3, 2])[0]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "spoilt"
        shutil.copytree(originals.home / f"{kind}0", folder)
        twin = originals.home / f"{kind}1"
        anew = [spoil(folder, twin, rng) for _ in range(rng.choice([1, 1, 1, 2]))]
        anew += [all((folder / name).read_bytes() == (twin / name).read_bytes() for name in READ[kind])]  # swapped
        read: Callable[[Path], bool] = getattr(originals, f"read_{kind}")
        begun = time.process_time()
        try:
            verdict = "the same" if read(folder) else "other"
        except ElastifyError as error:
            verdict = "refused" if error.why and error.where else f"wrong: it says too little: {error}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            verdict = f"wrong: {''.join(traceback.format_exception(error)[-6:])}"
        if verdict == "other" and not any(anew):
            verdict = "wrong: it is not what was written"
        if time.process_time() - begun > SECONDS:
            verdict = f"wrong: it took {time.process_time() - begun:.0f} seconds"
        return kind, verdict


def run(numbers: range, home: Path) -> Counter[tuple[str, str]]:
    """Verdicts on these, by kind."""
    warnings.simplefilter("ignore")
    logging.getLogger("elastify").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    write_all(home)
    originals, limits = Originals(home), resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    found: Counter[tuple[str, str]] = Counter()
    try:
        for number in numbers:
            kind, verdict = judge(number, originals)
            found[kind, verdict.partition(":")[0]] += 1
            if verdict.startswith("wrong"):
                print(f"{number} ({kind}): {verdict}", flush=True)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="number of the first")
    parser.add_argument("--only", type=int, help="number of the only one")
    options = parser.parse_args()
    numbers = range(options.seed, options.seed + options.count)
    with tempfile.TemporaryDirectory() as home:
        found = run(numbers if options.only is None else range(options.only, options.only + 1), Path(home))
    for (kind, verdict), count in sorted(found.items()):
        print(f"{kind:12} {verdict:10} {count:6}")
    return int(any(verdict == "wrong" for _, verdict in found))


if __name__ == "__main__":
    sys.exit(main())
