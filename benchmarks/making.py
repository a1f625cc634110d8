"""Time to make a model elastic, against a bare `torch.export.export(strict=False)` of the same model.

    python benchmarks/making.py [--repeats 3] [--models timm:resnet50 ...]

`elastify` runs without the proofs, on copies of one model, with the inputs of the zoo's first suite. *of capture* is
the time of the analysis as a share of that of capture. *proofs* is the additional time of both proofs, measured once.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any
from unittest import mock

import torch
from common import interleaved, limit, machine, print_finding, print_table, ratio, seconds, spread, start
from suite_first import FIRST
from zoo_entry import Entry

from elastify import _elastify, elastify


def timed(name: str, found: dict[str, list[float]]) -> Callable[..., Any]:
    """A function of the pipeline that notes how long it takes."""
    inner = getattr(_elastify, name)

    def run(*args: Any, **kwargs: Any) -> Any:
        begun = time.process_time()
        result = inner(*args, **kwargs)
        found.setdefault(name, []).append(time.process_time() - begun)
        return result

    return run


def measure(entry: Entry, repeats: int) -> tuple[str, ...]:
    model, args, kwargs = entry.make()
    copies = iter([copy.deepcopy(model) for _ in range(repeats + 1)])
    parts: dict[str, list[float]] = {}
    watched = {name: timed(name, parts) for name in ("capture_all", "analyse")}
    with warnings.catch_warnings(), mock.patch.multiple(_elastify, **watched):
        warnings.simplefilter("ignore")
        ours, export = interleaved(
            repeats,
            lambda: elastify(next(copies), args, example_kwargs=kwargs, verify=False),
            lambda: torch.export.export(model, args, kwargs, strict=False),
        )
        verified = seconds(lambda: elastify(model, args, example_kwargs=kwargs))
    capture, analysis = (median(parts[name][1 : repeats + 1]) for name in ("capture_all", "analyse"))
    slow = analysis > 0.1 * capture and analysis > 0.03
    share = f"{analysis / capture:.0%}"
    return (
        entry.name,
        f"{median(ours):.2f}",
        f"{median(export):.2f}",
        limit(ratio(ours, export), 0.9),
        f"{capture:.2f}",
        f"{1000 * analysis:.0f}",
        f"**{share}**" if slow else share,
        f"{verified - median(ours):.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=[e.name for e in FIRST], choices=[e.name for e in FIRST])
    options = parser.parse_args()
    start()

    def rows() -> Iterator[tuple[str, ...]]:
        return (measure(entry, options.repeats) for entry in FIRST if entry.name in options.models)

    header = "model", "elastify (s)", "export (s)", "ratio", "capture (s)", "analysis (ms)", "of capture", "proofs (s)"
    done = print_table(header, rows())
    print_finding(f"Without the proofs, `elastify` takes {spread(done, 3)} times as long as a bare `torch.export`.")
    print(
        "\nGoal: a ratio of at most 0.9, and an analysis of at most 10 % of capture or 30 ms.\n\n"
        f"{machine(options.repeats)}"
    )


if __name__ == "__main__":
    main()
