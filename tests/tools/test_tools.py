"""The repository's own checks find what they are for."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
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
        ("elastify/_a.py", '"""A story."""\nfrom timm.models import create_model\n', "names timm.models"),
        ("elastify/_b/c.py", '"""A story."""\nfrom elastify._a.d import e\n', "reaches into elastify._a"),
        ("elastify/_a.py", '"""A story."""\nknown = kind == "transformers"\n', "names transformers"),
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
