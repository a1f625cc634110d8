"""Run all benchmarks and write `docs/benchmarks.md`.

    python benchmarks/write.py [making subnets ...]

Each script runs in its own process. What it prints becomes a section: first the finding, which is a paragraph in bold,
then the prose of the script, then its tables. Sections that are not run again stay as they are.
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

What elastify costs in time and memory. Times are CPU seconds of one thread. Each script runs elastify and its baseline
in turn, in one process. A ratio is the median over neighbouring runs. Most tables have a goal, and a figure that misses
it is bold.

`python benchmarks/write.py` runs the scripts and writes this page. The command of a section stands below its table."""


def section(name: str) -> str:
    """Title, finding, what is measured, and the rest of what the script prints."""
    script = HERE / f"{name}.py"
    story = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    prose = [part for part in story.split("\n\n") if not part.startswith("    ")]
    places = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return "\n\n".join([f"## {SECTIONS[name]}", *arranged(prose, done.stdout)])


def arranged(prose: list[str], printed: str) -> list[str]:
    """The paragraphs of a section: those in bold first, then the prose, then the others."""
    parts = [part.strip() for part in printed.split("\n\n")]
    findings = [part for part in parts if part.startswith("**") and part.endswith("**")]
    return [*findings, *prose, *(part for part in parts if part not in findings)]


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
