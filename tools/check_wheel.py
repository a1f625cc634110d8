"""Build the wheel and check what is in it: the typed library, the recipes under their installed name, no tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]


def expected() -> set[str]:
    """Paths in the wheel of every Python file of the library and the recipes, and of what they need beside."""
    files = {file.relative_to(ROOT).as_posix() for file in (ROOT / "elastify").rglob("*.py")}
    recipes = [*(ROOT / "recipes").rglob("*.py"), *(ROOT / "recipes").rglob("report_assets/*")]
    renamed = {f"elastify_recipes/{file.relative_to(ROOT / 'recipes').as_posix()}" for file in recipes}
    return files | {"elastify/py.typed"} | renamed


def built() -> set[str]:
    """Paths in a wheel built now, metadata left out."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)  # setuptools would pack what an earlier build left there
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, str(ROOT)]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with ZipFile(wheel) as archive:
            return {name for name in archive.namelist() if ".dist-info/" not in name}


def main() -> int:
    """Compare and print the differences."""
    wanted, found = expected(), built()
    for path in sorted(wanted - found):
        print(f"missing in the wheel: {path}")
    for path in sorted(found - wanted):
        print(f"not expected in the wheel: {path}")
    return int(wanted != found)


if __name__ == "__main__":
    sys.exit(main())
