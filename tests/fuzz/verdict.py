"""What the whole check says of one random network."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

from elastify import ElastifyError
from elastify.testing import check_model

from .nets import make


@dataclass(frozen=True)
class Verdict:
    """`kind` is "passed", "refused" (nothing in it is elastic) or "wrong"; `text` says why.

    `smallest` is the share that the smallest of its configurations has: of the MACs, or of the units."""

    seed: int
    kind: str
    text: str = ""
    axes: int = 0
    stages: int = 0
    smallest: float = 1.0


def judge(seed: int, operations: int | None = None, **options: Any) -> Verdict:
    """Make a network and check it; `options` go to `check_model`."""
    net, inputs = make(seed, operations)
    try:
        report = check_model(net, inputs, **options)
    except ElastifyError as error:
        refused = error.what.startswith("nothing in this")
        return Verdict(seed, "refused" if refused else "wrong", str(error))
    except Exception:  # noqa: BLE001 - a crash is what a fuzzer looks for
        return Verdict(seed, "wrong", traceback.format_exc(limit=-3))
    kind = "wrong" if report.failures else "passed"
    return Verdict(seed, kind, "; ".join(report.failures), report.axes, report.stages, report.smallest_macs)
