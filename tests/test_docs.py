"""The Python code of the READMEs, CONTRIBUTING and the documentation runs, each page as one program; so does the
miniature. The README leads to pages that can be read on a code host, and the API page lists every public name.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "elastify").rglob("README.md")])


def program(text: str) -> str:
    """All Python blocks of a page at their own line numbers, so that an error names the page's line."""
    lines = [""] * (text.count("\n") + 1)
    for block in re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        first = text.count("\n", 0, block.start(1))
        for offset, line in enumerate(block[1].splitlines()):
            lines[first + offset] = line
    return "\n".join(lines)


WITH_CODE = [page for page in PAGES if program(page.read_text(encoding="utf-8")).strip()]


def test_pages_with_code_are_found() -> None:
    names = {page.name for page in WITH_CODE}
    assert {"README.md", "CONTRIBUTING.md", "how-to.md", "concepts.md"} <= names


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_runs(page: Path, tmp_path: Path) -> None:
    # Its own process: a page may register rules. Under the page's line numbers, and outside the checkout.
    script = tmp_path / f"{page.stem}.py"
    script.write_text(program(page.read_text(encoding="utf-8")), encoding="utf-8")
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({str(script)!r})"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, f"{page.name}:\n{run.stderr}"


def test_elastify_in_miniature_runs(tmp_path: Path) -> None:
    script = ROOT / "docs" / "how_it_works.py"
    run = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "an axis of 10 units runs through up.weight[0], up.bias[0], down.weight[1]" in run.stdout
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 400


def prose(page: Path) -> list[str]:
    """The words of a page that are there without a documentation tool: no headings, includes or directives."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return " ".join(line for line in lines if not re.match(r"#|:::|--8<--", line)).split()


def test_the_readme_leads_to_pages_with_text() -> None:
    links = re.findall(r"\]\((?!https:)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert {"CONTRIBUTING.md", "CHANGELOG.md", "docs/api/index.md"} <= set(links)
    assert [link for link in links if not (ROOT / link).is_file() or len(prose(ROOT / link)) < 50] == []


def test_installing_comes_before_the_first_import() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.index("pip install") < text.index("import ")


@pytest.mark.parametrize("module", ["elastify", "elastify.train", "elastify.nn", "elastify.testing"])
def test_the_api_page_lists_every_public_name(module: str) -> None:
    listed = " ".join(re.findall(r"`[^`]+`", (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8")))
    names = importlib.import_module(module).__all__
    assert [name for name in names if not re.search(rf"`{name}\b", listed)] == []
