"""Print a command of the README, so that what CI runs is what the reader is told.

A command is the fenced block that follows `<!-- command: NAME -->`. An unknown name, or one given twice, is an error.

    python tools/readme_command.py test
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

BLOCK = r"<!-- command: {name} -->\n```bash\n(.*?)\n```"


def command(name: str, text: str) -> str:
    """The command called `name` in the README's text."""
    found = re.findall(BLOCK.format(name=re.escape(name)), text, flags=re.DOTALL)
    if len(found) != 1:
        raise SystemExit(f"README.md: {len(found)} commands are called {name!r}, expected one")
    return found[0]


if __name__ == "__main__":
    print(command(sys.argv[1], (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")))
