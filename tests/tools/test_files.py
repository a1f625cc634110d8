"""A sample of what `tools/fuzz_files.py` and `tools/kill_files.py` try at length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*words: str) -> str:
    """What a tool says, in a process of its own: it limits its memory, forks and is killed."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_spoilt_files_are_refused() -> None:
    said = run("tools/fuzz_files.py", "--count", "150", "--seed", "7")
    assert "wrong" not in said
    assert "refused" in said


@pytest.mark.slow
def test_killed_processes_lose_nothing() -> None:
    assert "0 folders wrong" in run("tools/kill_files.py", "--count", "3", "--seed", "4")
