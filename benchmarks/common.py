"""What the benchmarks share: a clock, interleaved repeats, tables, findings, the line about the machine.

Times are CPU seconds of one thread, so that other work on the machine does not count; on an idle machine they equal the
wall clock. What is compared is run in turn, and the figure given is the median of the ratios of neighbouring runs.
"""

from __future__ import annotations

import gc
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "zoo")]
SEED = 0


def start() -> None:
    """One thread, one seed."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)


def seconds(run: Callable[[], Any]) -> float:
    """CPU seconds of one call, garbage collected before it and not during it."""
    gc.collect()
    gc.disable()
    begun = time.process_time()
    run()
    elapsed = time.process_time() - begun
    gc.enable()
    return elapsed


def interleaved(repeats: int, *runs: Callable[[], Any]) -> list[list[float]]:
    """Seconds of each run, `repeats` times in turn, after one warm-up of each."""
    for run in runs:
        run()
    rounds = [[seconds(run) for run in runs] for _ in range(repeats)]
    return [list(column) for column in zip(*rounds, strict=True)]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of neighbouring runs."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[Sequence[Any]]:
    """A markdown table, each row as soon as it is known; the first column is text, the others are numbers."""
    print(f"| {' | '.join(header)} |")
    print(f"|---|{'---:|' * (len(header) - 1)}")
    printed = []
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)
        printed.append(row)
    return printed


def spread(rows: Iterable[Sequence[Any]], column: int) -> str:
    """The least and the largest figure of a column, as the table prints them."""
    figures = sorted((str(row[column]).strip("*") for row in rows), key=lambda text: float(text.replace(",", "")))
    return f"{figures[0]} to {figures[-1]}" if figures[0] != figures[-1] else figures[0]


def print_finding(text: str) -> None:
    """What the table says, in one line; `write.py` puts it at the top of the section."""
    print(f"\n**{text}**")


def limit(value: float, most: float, digits: int = 2) -> str:
    """A figure that should not be above a limit; what misses it is set in bold."""
    text = f"{value:.{digits}f}"
    return text if value <= most else f"**{text}**"


def machine(repeats: int) -> str:
    """Where and how the figures above came to be."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    command = f"python {Path(sys.argv[0]).resolve().relative_to(ROOT)} {' '.join(sys.argv[1:])}".strip()
    return (
        f"`{command}`; {cpu}, one thread, torch {torch.__version__}, Python {platform.python_version()}, "
        f"seed {SEED}, {repeats} repeats."
    )
