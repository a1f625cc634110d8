"""The repository's own checks find what they are for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
BENCHMARKS = TOOLS.with_name("benchmarks")


def tool(name: str, folder: Path = TOOLS) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("elastify/_a.py", "x = 1\n", "no prose at the top"),
        ("elastify/_a.py", '"""A story."""\n' + "x = 1\n" * 400, "401 lines"),
        ("elastify/_a.py", '"""A story."""\ndef f():\n    """Why."""\n' + "    x = 1\n" * 61, "body of f has 61 lines"),
        ("elastify/_a.py", '"""A story."""\nfrom timm.models import create_model\n', "names timm.models"),
        ("elastify/_b/c.py", '"""A story."""\nfrom elastify._a.d import e\n', "reaches into elastify._a"),
        ("elastify/_a.py", '"""A story."""\nknown = kind == "transformers"\n', "names transformers"),
        ("elastify/_adapters/build.py", '"""A story."""\nimport timm\n', "names timm outside elastify/_adapters/timm"),
        ("recipes/a/b.py", "torch.save(model, path)\n", "safetensors"),
        ("tests/test_a.py", "def test_a():\n    print(1)\n", "test_a asserts nothing"),
        ("tests/test_a.py", "@pytest.mark.skip\ndef test_a():\n    assert 1\n", "can be skipped"),
    ],
)
def test_breach_is_found(path: str, text: str, found: str) -> None:
    messages = [what for _, what in tool("check_house_rules").breaches(path, text)]
    assert len(messages) == 1
    assert found in messages[0]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("elastify/_adapters/timm.py", '"""A story."""\nimport timm\n'),
        ("elastify/_adapters/transformers/models.py", '"""A story."""\nimport transformers\n'),
        ("elastify/_a.py", '"""A story."""\ndef f():\n    """Why."""\n' + "    x = 1\n" * 60),
        ("elastify/_a.py", '"""For models of timm: `elastify inspect timm:NAME`."""\n'),
        ("tests/test_a.py", "def test_a():\n    check_model(model)\n"),
        ("tests/test_a.py", "def refuses(x):\n    assert x\n\n\ndef test_a():\n    refuses(1)\n"),
        ("tests/test_a.py", "def test_a():\n    with pytest.raises(ValueError):\n        run()\n"),
    ],
)
def test_what_is_allowed_passes(path: str, text: str) -> None:
    assert list(tool("check_house_rules").breaches(path, text)) == []


def test_commands_are_read_from_the_readme() -> None:
    command = tool("readme_command").command
    text = (TOOLS.parent / "README.md").read_text(encoding="utf-8")
    assert command("test", text).endswith("pytest -n auto")
    assert "elastify demo" in command("demo", text)
    assert "chromium" in command("system", text)
    with pytest.raises(SystemExit, match="0 commands are called 'nothing'"):
        command("nothing", text)


def test_ci_runs_the_readme_commands() -> None:
    script = (TOOLS.parent / ".ci" / "run").read_text(encoding="utf-8")
    assert "readme_command.py test" in script
    assert "readme_command.py system" in script


def built(folder: Path, text: str) -> Path:
    html = f"<nav>--8<-- <a href='nowhere'></a></nav><article><h1>Title</h1>\n<pre>{text}</pre></article>"
    (folder / "index.html").write_text(html, encoding="utf-8")
    return folder / "index.html"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("word " * 100 + '\n<i>--</i><i>8</i> <i>&lt;</i> --"docs/a.py"', 'an unresolved include: --8 < --"docs/a.py"'),
        ("word " * 100 + '\n--8&lt;-- "CHANGELOG.md"', 'an unresolved include: --8<-- "CHANGELOG.md"'),
        ("word " * 100 + "\n::: elastify.space", "an unresolved include: ::: elastify.space"),
        ("word", "nearly empty: 2 words"),
        ("word " * 100 + "<a href='docs/a.md#there'></a>", "a link that leads nowhere: docs/a.md"),
    ],
)
def test_breach_of_a_built_page_is_found(tmp_path: Path, text: str, found: str) -> None:
    messages = list(tool("check_site").page_breaches(built(tmp_path, text)))
    assert len(messages) == 1
    assert found in messages[0]


def test_a_whole_page_passes(tmp_path: Path) -> None:
    links = "".join(f"<a href='{link}'></a>" for link in ("", "#here", "https://a.b/c", "index.html#there", "./"))
    page = built(tmp_path, "word " * 100 + "a[1:::2], x --> y, 8 < 9" + links)
    assert list(tool("check_site").page_breaches(page)) == []


def test_a_site_is_checked_page_by_page(tmp_path: Path) -> None:
    breaches = tool("check_site").site_breaches
    assert [what for _, what in breaches(tmp_path)] == ["no pages"]
    (tmp_path / "404.html").write_text("", encoding="utf-8")
    (tmp_path / "a").mkdir()
    built(tmp_path / "a", "word")
    assert [name for name, _ in breaches(tmp_path)] == ["a/index.html"]


def test_ci_checks_the_built_site() -> None:
    assert 'check_site.py "$site"' in (TOOLS.parent / ".ci" / "run").read_text(encoding="utf-8")


def test_a_section_of_the_benchmarks_begins_with_its_finding() -> None:
    printed = "| a |\n|---|\n| **1** |\n\n**One finding.**\n\nGoal: 1.\n"
    arranged = tool("write", BENCHMARKS).arranged(["What is measured."], printed)
    assert arranged == ["**One finding.**", "What is measured.", "| a |\n|---|\n| **1** |", "Goal: 1."]


@pytest.mark.parametrize(("figures", "text"), [(["2.0", "**1,000**", "0.20"], "0.20 to 1,000"), (["3"], "3")])
def test_a_finding_gives_the_figures_of_the_table(figures: list[str], text: str) -> None:
    assert tool("common", BENCHMARKS).spread([("name", figure) for figure in figures], 1) == text


def test_every_section_of_the_benchmarks_has_a_finding() -> None:
    page = (TOOLS.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    sections = page.split("\n## ")[1:]
    assert len(sections) == len(tool("write", BENCHMARKS).SECTIONS)
    assert [section.partition("\n\n")[2][:2] for section in sections] == ["**"] * len(sections)
