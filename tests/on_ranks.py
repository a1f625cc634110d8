"""What two processes give that talk through gloo."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from elastify import ElastifyError

_IMPORTED = ["torch.fx.experimental.symbolic_shapes", "tests.search.test_on_ranks", "tests.train.loop.test_ranks"]


def process(work: Callable[[int, Path], Any], rank: int, folder: Path) -> None:
    """What one of them does."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", f"file://{folder}/meeting", timedelta(seconds=20), rank=rank, world_size=2)
    try:
        found = work(rank, folder)
    except ElastifyError as error:
        found = f"ElastifyError: {error}"
    except BaseException:  # noqa: BLE001 - told to the test
        found = traceback.format_exc()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    if not isinstance(found, str):
        for _ in range(100):  # who leaves at once may cut off the other's last words
            if (folder / f"{1 - rank}.json").exists():
                break
            time.sleep(0.05)
    os._exit(0)


def on_two(work: Callable[[int, Path], Any], folder: Path, seconds: float = 40) -> list[Any]:
    """What `work(rank, folder)` gives in two processes: its value, or the text of its error, or its exit code."""
    folder.mkdir(exist_ok=True)

    for left in [folder / "meeting", *folder.glob("*.json")]:
        left.unlink(missing_ok=True)
    context = multiprocessing.get_context("forkserver")  # imports once; a fork of this process has no autograd
    context.set_forkserver_preload(_IMPORTED)
    processes = [context.Process(target=process, args=(work, rank, folder), daemon=True) for rank in (0, 1)]
    for each in processes:
        each.start()
    end = time.monotonic() + seconds
    for each in processes:
        each.join(max(0.0, end - time.monotonic()))
    alive = [each.is_alive() for each in processes]
    for each in processes:
        each.kill()
    assert not any(alive), "the processes wait for each other"
    files = [folder / f"{rank}.json" for rank in (0, 1)]
    return [json.loads(f.read_text()) if f.exists() else p.exitcode for f, p in zip(files, processes, strict=True)]
