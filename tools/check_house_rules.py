"""The habits of CONTRIBUTING.md that no linter knows, as checks on the source text.

- A module of the library opens with prose that tells its algorithm and stays under 400 lines; a function's body stays
  under 60 lines. At most 22 entries stand side by side in `elastify/`.
- A model library is imported and named in its own file of `elastify/_adapters/` only (text for people may mention it).
- A private package is entered through its `__init__`: no file of it is imported from outside.
- Weights are read and written without pickle.
- No test skips itself, and every test asserts something (helpers that do, or are called `check…` or `assert…`, count).

Prints every breach as `file:line: what` and exits with 1 if there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Set
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_LINES = 400
MAX_BODY = 60  # lines of a function, without its docstring
MAX_ENTRIES = 22
MODEL_LIBRARIES = re.compile(r"(timm|torchvision|transformers)(\.[\w.]+)?")
# Files that need an optional library are imported by their own name, so that the package can be imported without it.
NEEDS_A_LIBRARY = {"elastify._adapters.transformers.trainer", "elastify.train._loop.trainer"}
PICKLE = re.compile(r"\bimport pickle\b|\btorch\.(load|save)\(|weights_only=False")
SKIP = re.compile(r"pytest\.(mark\.)?(skip|skipif|xfail|importorskip)|unittest\.skip\w*")
ASSERTING = re.compile(r"^(assert|check|raises|warns|deprecated_call|fail)")


def library_breaches(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Breaches of one file of the library as (line number, what)."""
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        yield MAX_LINES, f"{len(lines)} lines, at most {MAX_LINES} are allowed"
    if lines and not ast.get_docstring(ast.parse(text)):
        yield 1, "no prose at the top that tells what the module does"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and (length := body_lines(node)) > MAX_BODY:
            yield node.lineno, f"the body of {node.name} has {length} lines, at most {MAX_BODY} are allowed"
        if isinstance(node, ast.ImportFrom) and (package := entered_from_outside(path, node.module or "")):
            yield node.lineno, f"reaches into {package}: import the name from the package, whose __init__ hands it out"
        for found in filter(None, map(MODEL_LIBRARIES.fullmatch, names(node))):
            if not path.startswith(own := f"elastify/_adapters/{found[1]}"):
                yield getattr(node, "lineno", 1), f"names {found[0]} outside {own}"


def body_lines(function: ast.FunctionDef) -> int:
    """Lines from the first statement to the last; a docstring is not counted."""
    first = function.body[min(len(function.body) - 1, ast.get_docstring(function) is not None)]
    return (function.end_lineno or 0) - first.lineno + 1


def entered_from_outside(path: str, module: str) -> str:
    """The private package whose file `module` is, if the importing file at `path` is not of that package."""
    parts = module.split(".") if module.startswith("elastify.") and module not in NEEDS_A_LIBRARY else []
    for depth in range(2, len(parts)):
        if parts[depth - 1].startswith("_") and not path.startswith("/".join(parts[:depth]) + "/"):
            return ".".join(parts[:depth])
    return ""


def names(node: ast.AST) -> list[str]:
    """What a node of the code refers to: modules, identifiers, and strings that are nothing but a name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    if isinstance(node, ast.Name):
        return [node.id]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def test_breaches(text: str) -> Iterator[tuple[int, str]]:
    """Breaches of one test file."""
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    helpers = {node.name for node in functions if not node.name.startswith("test") and asserts(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and SKIP.fullmatch(ast.unparse(node)):
            yield node.lineno, "a test that can be skipped: let it fail with a message instead"
    for node in functions:
        if node.name.startswith("test") and not asserts(node, helpers):
            yield node.lineno, f"{node.name} asserts nothing"


def asserts(function: ast.FunctionDef, helpers: Set[str] = frozenset()) -> bool:
    """Whether a function contains an assertion, or calls one of the helpers or something named like an assertion."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in helpers or ASSERTING.match(name.lstrip("_")):
                return True
    return False


def breaches(path: str, text: str) -> Iterator[tuple[int, str]]:
    """All breaches of one Python file of the repository."""
    if path.startswith("elastify/"):
        yield from library_breaches(path, text)
    if path.startswith("tests/"):
        yield from test_breaches(text)
    if not path.startswith(("tools/", "tests/")):
        for number, line in enumerate(text.splitlines(), 1):
            if found := PICKLE.search(line):
                yield number, f"{found[0]}: weights go through safetensors"


def main() -> int:
    """Check every Python file; the number of breaches decides the exit code."""
    entries = [path for path in (ROOT / "elastify").iterdir() if path.name != "__pycache__"]
    count = int(len(entries) > MAX_ENTRIES)
    if count:
        print(f"elastify: {len(entries)} entries side by side, at most {MAX_ENTRIES} are allowed")
    for folder in ("elastify", "recipes", "tests", "benchmarks", "tools", "docs"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            for line, what in breaches(path, file.read_text(encoding="utf-8")):
                count += 1
                print(f"{path}:{line}: {what}")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
