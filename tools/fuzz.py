"""Check random networks, in chunks of a process each, and count what became of them.

    python tools/fuzz.py --nets 2000 --seed 0            # finished chunks are not run again
    python tools/fuzz.py --nets 2000 --by constructor    # the other oracle
    python tools/fuzz.py --only 17 --verbose             # one network, with its steps

`--by check` puts networks of random pieces through `elastify.testing.check_model`, which is a part of the library.
`--by constructor` makes networks whose classes take their widths. Every subnet is compared with what the class makes at
these widths, and nothing of the library says which weights that has (`tests/fuzz/constructed/oracle.py`).

A network is wrong if any part of its check fails or it crashes, refused if nothing is elastic.
A chunk leaves a JSON file that names the state of the library's source and of the generator; what was measured with
another state is run again unless `--any-state` is given. The exit code is 1 if a network is wrong or 5 % are refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
CONFIGURATIONS, COSTS = 5, 2
WHAT = {"check": "MACs", "constructor": "units"}  # that `smallest` is a share of


def source_state() -> str:
    """A short name for the source text of the library and of the generator."""
    digest = hashlib.sha256()
    for file in sorted([*(ROOT / "elastify").rglob("*.py"), *(ROOT / "tests" / "fuzz").rglob("*.py")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def judge_of(by: str) -> Callable[[int], Any]:
    """What makes a network of a seed and gives its verdict."""
    if by == "constructor":
        from tests.fuzz.constructed.oracle import judge

        return judge
    from tests.fuzz.verdict import judge

    return partial(judge, configurations=CONFIGURATIONS, costs=COSTS)


def run_chunk(first: int, count: int, by: str) -> list[dict[str, Any]]:
    """Verdicts on networks `first` to `first + count`, in this process."""
    import torch

    judge = judge_of(by)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = []
    for seed in range(first, first + count):
        begun = time.process_time()
        verdict = judge(seed)
        found.append({**asdict(verdict), "seconds": round(time.process_time() - begun, 3)})
    return found


def finished(file: Path, state: str, any_state: bool) -> bool:
    return file.exists() and (any_state or json.loads(file.read_text("utf-8"))["state"] == state)


def start_chunk(first: int, count: int, by: str, file: Path, state: str) -> None:
    """Run a chunk in a process of its own; if the process dies, its networks are wrong."""
    command = [sys.executable, __file__, "--first", str(first), "--chunk", str(count), "--by", by, "--out", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    if done.returncode:
        text = f"the process ended with code {done.returncode}: {done.stderr.strip()[-400:]}"
        found = [{"seed": first + i, "kind": "wrong", "text": text} for i in range(count)]
    else:
        found = json.loads(file.read_text("utf-8"))["nets"]
    file.write_text(json.dumps({"state": state, "nets": found}, indent=1) + "\n", encoding="utf-8")
    for net in found:
        if net["kind"] == "wrong":
            print(f"seed {net['seed']}: {' '.join(net['text'].split())[:600]}", flush=True)
    print(f"{first} to {first + count - 1}: {dict(Counter(net['kind'] for net in found))}", flush=True)


def show(seed: int, by: str, verbose: bool) -> int:
    from tests.fuzz.constructed import specs
    from tests.fuzz.nets import make
    from tests.fuzz.verdict import judge

    if verbose and by == "constructor":
        spec, _ = specs.make(seed)
        print(spec.numbers, *(f"{n.path or by} {n.kind} {n.numbers} {n.options}" for n in spec.root.all()), sep="\n")
    elif verbose:
        net, inputs = make(seed)
        print(net, [tuple(x.shape) for x in inputs], *net.wires, sep="\n")
    verdict = judge(seed) if by == "check" else judge_of(by)(seed)
    print(verdict)
    return int(verdict.kind == "wrong")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=int, default=2000)
    parser.add_argument("--by", choices=["check", "constructor"], default="check", help="what says that one is right")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--chunk", type=int, default=100, help="networks per process")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "fuzz", help="folder of the results")
    parser.add_argument("--any-state", action="store_true", help="keep results of another state of the source")
    parser.add_argument("--only", type=int, help="check one seed, with all configurations")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        return show(options.only, options.by, options.verbose)
    if options.first is not None:
        nets = run_chunk(options.first, options.chunk, options.by)
        options.out.write_text(json.dumps({"nets": nets}), encoding="utf-8")
        return 0
    state = source_state()
    kept = options.cache / options.by
    kept.mkdir(parents=True, exist_ok=True)
    end = options.seed + options.nets
    chunks = [(first, min(options.chunk, end - first)) for first in range(options.seed, end, options.chunk)]
    files = {first: kept / f"{first:06d}-{count}.json" for first, count in chunks}
    due = [chunk for chunk in chunks if not finished(files[chunk[0]], state, options.any_state)]
    print(f"{len(chunks) - len(due)} of {len(chunks)} chunks are done", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda chunk: start_chunk(*chunk, options.by, files[chunk[0]], state), due))
    return report([net for file in files.values() for net in json.loads(file.read_text("utf-8"))["nets"]], options.by)


def report(nets: list[dict[str, Any]], by: str) -> int:
    """Print the counts; 1 where a network is wrong or too many are refused."""
    kinds = Counter(net["kind"] for net in nets)
    passed = [net for net in nets if net["kind"] == "passed"]
    seconds = sum(net.get("seconds", 0) for net in nets)
    print(
        f"{len(nets)} networks: {kinds['passed']} passed, {kinds['refused']} refused "
        f"({kinds['refused'] / len(nets):.1%}), {kinds['wrong']} wrong; {seconds:.0f} CPU seconds"
    )
    if passed:
        shares = sorted(net["smallest"] for net in passed)
        print(
            f"of those passed: {sum(n['axes'] for n in passed)} axes, {sum(n['stages'] for n in passed)} stages, "
            f"smallest configuration at the median {shares[len(shares) // 2]:.0%} of the {WHAT[by]}"
        )
    return int(kinds["wrong"] > 0 or kinds["refused"] >= 0.05 * len(nets))


if __name__ == "__main__":
    sys.exit(main())
