"""Run all benchmarks and write `docs/benchmarks.md`.

    python benchmarks/write.py [making subnets ...]

Each script runs in a process of its own; what it prints becomes a section. Sections that are not run again stay as
they are.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
SECTIONS = {
    "capture": "Recording a model",
    "making": "Making a model elastic",
    "subnets": "Choosing and running a subnet",
    "spaces": "Costs and memory",
    "training": "A step of training",
    "scale": "Large models",
    "pruning": "Against Torch-Pruning",
}
INTRODUCTION = """# Benchmarks

Written by `python benchmarks/write.py` from what the scripts in `benchmarks/` print. Each compares with its baseline in
the same process, in turn; ratios are medians over neighbouring runs. Times are CPU seconds of one thread."""


def section(name: str) -> str:
    """Title, what is measured, and what the script prints."""
    script = HERE / f"{name}.py"
    story = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    prose = [part for part in story.split("\n\n") if not part.startswith("    ")]
    places = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return "\n\n".join([f"## {SECTIONS[name]}", *prose, done.stdout.strip()])


def main() -> None:
    known = {}
    if PAGE.exists():
        for part in re.split(r"^(?=## )", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            known[part.partition("\n")[0].removeprefix("## ")] = part.strip()
    for name in sys.argv[1:] or SECTIONS:
        known[SECTIONS[name]] = section(name)
        parts = [known[title] for title in SECTIONS.values() if title in known]
        PAGE.write_text("\n\n".join([INTRODUCTION, *parts]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
