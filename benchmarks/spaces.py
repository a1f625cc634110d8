"""How many configurations can be costed per second, and how much memory an elastic model takes beyond the original.

    python benchmarks/spaces.py [--repeats 5] [--models timm:resnet50 ...]

Costs are computed for an encoded array of 20,000 random configurations. Memory counts everything that is reachable from
the elastic model and not from a plain copy of it: tensors by their storages, Python objects by `sys.getsizeof`.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import types
import warnings
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
from common import limit, machine, print_finding, print_table, spread, start
from subnets import CASES, build

from elastify import cost, elastify, space

CONFIGURATIONS = 20_000
# Shared by all models of a process, not part of one.
_SHARED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType, types.MethodType)


def reachable(root: Any) -> dict[int, int]:
    """Bytes of every object that can be reached, by identity; storages count once."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, _SHARED):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            if item.device.type != "meta":
                storage = item.untyped_storage()
                found[-storage.data_ptr()] = storage.nbytes()
            waiting.append(item.__dict__)
            continue
        found[id(item)] = sys.getsizeof(item)
        if isinstance(item, np.ndarray):
            waiting += [item.base] if item.base is not None else []
        else:
            waiting += gc.get_referents(item)
    return found


def measure(name: str, repeats: int) -> tuple[str, ...]:
    shape, *_ = CASES[name]
    model = build(name).eval()
    before = sum(reachable(model).values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        elastify(model, torch.randn(2, *shape), verify=False)
    found = space(model)
    after = sum(reachable(model).values())
    row = found.rows
    rng = np.random.default_rng(0)
    drawn = np.stack([row.sample(rng) for _ in range(500)])
    encoded = drawn[rng.integers(len(drawn), size=CONFIGURATIONS)]
    rates = []
    for _ in range(repeats):
        begun = time.process_time()
        cost(model, encoded)
        rates.append(CONFIGURATIONS / (time.process_time() - begun))
    rate = median(rates)
    wanted = name != "timm:resnet50" or rate >= 200_000
    return (
        name,
        str(len(found.columns)),
        f"{rate:,.0f}" if wanted else f"**{rate:,.0f}**",
        f"{before / 1e6:.1f}",
        f"{(after - before) / 1e6:.2f}",
        limit(after / before, 1.05, 3),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    start()

    def rows() -> Iterator[tuple[str, ...]]:
        return (measure(name, options.repeats) for name in options.models)

    header = "model", "columns", "costs per second", "model (MB)", "elastify adds (MB)", "ratio"
    done = print_table(header, rows())
    print_finding(
        f"{spread(done, 2)} configurations are costed per second. An elastic model takes {spread(done, 5)} times the "
        "memory of the original."
    )
    print(
        f"\nGoal: 200,000 costs a second on resnet50, and at most 1.05 times the memory.\n\n{machine(options.repeats)}"
    )


if __name__ == "__main__":
    main()
