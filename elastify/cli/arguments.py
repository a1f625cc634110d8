"""What the command line's words mean: models, shapes, patterns with values.

Every function takes the words as typed and gives what the library takes, or raises ElastifyError with the form that
was expected.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from elastify._adapters import build, makers
from elastify._errors import ElastifyError
from elastify._files import read_object
from elastify._report import wiring, wiring_page, wiring_picture

if TYPE_CHECKING:
    import networkx as nx

_SHAPE = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:[x,]\d+)*)(?::(?P<below>\d+))?")
_FORMS = f"{', '.join(f'{prefix}:NAME' for prefix in makers())} or package.module:factory"
_HOMES = ("elastify_recipes", "recipes")  # of the installed recipes, and of the checkout that is the current folder


def build_model(word: str) -> tuple[nn.Module, Any]:
    """The model that a word names, and example inputs if its factory gave some."""
    home, colon, name = word.partition(":")
    if not colon or not home or not name:
        raise ElastifyError(f"{word!r} does not name a model", why=f"the form is {_FORMS}", fix="timm:resnet18")
    return (build(home, name), None) if home in makers() else _call_factory(home, name)


def _call_factory(module: str, name: str) -> tuple[nn.Module, Any]:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: code in the current folder can be named
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise ElastifyError(f"{module} cannot be imported", why=str(error), fix="install what it needs") from error
        near = get_close_matches(module, makers(), 1)
        raise ElastifyError(
            f"there is no Python module called {module!r}",
            why=f"a model is given as {_FORMS}",
            fix=f"{near[0]}:{name}" if near else "run from the folder that holds it, or install its package",
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = get_close_matches(part, dir(found), 3)
            raise ElastifyError(
                f"{module} has no {name!r}",
                fix=f"{module}:{near[0]}" if near else "name a function, a class or a model of that module",
            )
        found = getattr(found, part)
    if not isinstance(found, nn.Module):
        found = _called(found, f"{module}:{name}")
    model: Any
    inputs: Any
    model, inputs = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(model, nn.Module):
        raise ElastifyError(
            f"{module}:{name} returns a {type(model).__name__}, not a torch.nn.Module",
            fix="let it return a model, or a pair of a model and its example inputs",
        )
    return model.eval(), inputs


def _called(factory: Any, word: str) -> Any:
    if not callable(factory):
        raise ElastifyError(f"{word} is a {type(factory).__name__}", fix="name a function, a class or a model")
    try:
        return factory()
    except TypeError as error:
        # Only the call itself is the user's mistake; a TypeError from inside the factory has more frames.
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise
        raise ElastifyError(
            f"{word} cannot be called without arguments",
            why=str(error),
            fix="write a function without arguments around it",
        ) from error


def read_input(words: Sequence[str]) -> tuple[tuple[Tensor, ...] | None, dict[str, Tensor]]:
    """Example inputs by position and by name; None where none is positional.

    >>> args, kwargs = read_input(["2x3x8x8", "ids=2x5:10"])
    >>> args[0].shape, kwargs["ids"].shape, kwargs["ids"].dtype
    (torch.Size([2, 3, 8, 8]), torch.Size([2, 5]), torch.int64)
    """
    generator = torch.Generator().manual_seed(0)
    positional, named = [], {}
    for word in words:
        found = _SHAPE.fullmatch(word.replace(" ", ""))
        shape = [int(size) for size in re.split("[x,]", found["shape"])] if found else [0]
        if found is None or 0 in shape or found["below"] == "0":
            raise ElastifyError(
                f"--input {word!r} is not a shape",
                why="the form is [NAME=]SHAPE[:N], with N for integers below N",
                fix="--input 2x3x224x224, or --input input_ids=2x64:1000",
            )
        if found["below"]:
            tensor = torch.randint(int(found["below"]), shape, generator=generator)
        else:
            tensor = torch.randn(shape, generator=generator)
        if found["name"]:
            named[found["name"]] = tensor
        else:
            positional.append(tensor)
    return tuple(positional) or None, named


def read_pairs(option: str, words: Sequence[str] | None) -> dict[str, int | float]:
    """Patterns with a size or a ratio each.

    >>> read_pairs("--config", ["*=0.5", "layers=4"])
    {'*': 0.5, 'layers': 4}
    """
    pairs = {}
    for word in words or ():
        pattern, equals, value = word.rpartition("=")
        if not equals or not pattern:
            raise ElastifyError(f"{option} {word!r} has no value", fix=f'{option} "PATTERN=0.5", or "PATTERN=64"')
        pairs[pattern] = _number(option, value)
    return pairs


def read_choices(words: Sequence[str] | None) -> dict[str, list[int | float]] | None:
    """Patterns with a list of sizes and ratios each; None where there are none.

    >>> read_choices(["*.heads=2,4", "*.mlp*=0.25,1.0"])
    {'*.heads': [2, 4], '*.mlp*': [0.25, 1.0]}
    """
    found: dict[str, list[int | float]] = {}
    for word in words or ():
        pattern, equals, values = word.rpartition("=")
        if not equals or not pattern:
            raise ElastifyError(f"--choices {word!r} has no values", fix='--choices "PATTERN=0.25,0.5,1.0"')
        found[pattern] = [_number("--choices", value) for value in values.split(",")]
    return found or None


def read_ratio(words: Sequence[str] | None) -> float | dict[str, float]:
    """The smallest ratio of everything, or of patterns; a plain number counts for whatever no pattern matches.

    >>> read_ratio(["0.5"]), read_ratio(["*.heads=0.5", "0.1"]), read_ratio(None)
    (0.5, {'*': 0.1, '*.heads': 0.5}, 0.25)
    """
    plain = [_number("--min-ratio", word) for word in words or () if "=" not in word]
    pairs = read_pairs("--min-ratio", [word for word in words or () if "=" in word])
    smallest = float(plain[-1]) if plain else 0.25
    return {"*": smallest, **{pattern: float(value) for pattern, value in pairs.items()}} if pairs else smallest


def _number(option: str, text: str) -> int | float:
    text = text.strip()
    try:
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except ValueError:
        raise ElastifyError(
            f"{option}: {text!r} is not a number", fix="a whole number is a size, a number with a point is a ratio"
        ) from None


def read_drawing(file: str | None, only: Sequence[str] | None) -> Callable[[nx.Graph], None] | None:
    """What draws a search space into a file, of the kind that its name says; None where nothing is to be drawn."""
    if file is None:
        if only:
            raise ElastifyError("--only chooses what is drawn", fix="--graph FILE.svg --only PATTERN")
        return None
    make = {".svg": wiring_picture, ".html": wiring_page}.get(Path(file).suffix)
    if make is None:
        raise ElastifyError(
            f"--graph {file!r} has to end in .svg or .html", fix="--graph FILE.svg, or --graph FILE.html"
        )

    def draw(graph: nx.Graph) -> None:
        try:
            Path(file).write_text(make(wiring(graph, only or ())), encoding="utf-8")
        except OSError as error:
            raise ElastifyError("the picture cannot be written", where=file, why=str(error)) from None

    return draw


def find_recipe(name: str) -> str:
    """The module that a recipe's name means: `NAME.train`, or `NAME.MODULE`, installed or of the current checkout."""
    known = known_recipes()
    module = known.get(name.removesuffix(".train"))
    if module is not None:
        return module
    recipe, _, part = name.partition(".")
    exists = any(
        Path(folder, recipe, f"{part or 'train'}.py").is_file() for home in _HOMES for folder in _folders(home)
    )
    raise ElastifyError(
        f"{name} cannot be run" if exists else f"there is no recipe {name!r}",
        why="it has no function main" if exists else "" if known else "no recipes are installed",
        fix=f"one of {', '.join(known)}" if known else "pip install elastify, or run from a checkout",
    )


def known_recipes() -> dict[str, str]:
    """The modules that `elastify train` runs, those with a function `main`, by the names that it takes for them."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    found: dict[str, str] = {}
    for home in _HOMES:
        for file in sorted(file for folder in _folders(home) for file in Path(folder).glob("*/*.py")):
            # Read, not imported: what one recipe needs may be missing where another runs.
            if re.search(r"^def main\(", file.read_text(encoding="utf-8"), re.MULTILINE):
                recipe, module = file.parent.name, file.stem
                found.setdefault(recipe if module == "train" else f"{recipe}.{module}", f"{home}.{recipe}.{module}")
    return dict(sorted(found.items()))


def _folders(home: str) -> list[str]:
    spec = importlib.util.find_spec(home)
    return list(spec.submodule_search_locations or []) if spec else []


def read_recipe_options(words: Sequence[str]) -> list[str]:
    """The options of a recipe, with those of `--config FILE.json` in front, where others that are given win.

    >>> read_recipe_options(["--quick", "--epochs", "2"])
    ['--quick', '--epochs', '2']
    """
    rest, given = list(words), [number for number, word in enumerate(words) if word.partition("=")[0] == "--config"]
    if not given:
        return rest
    _, equals, file = rest.pop(given[0]).partition("=")
    if not equals:
        file = rest.pop(given[0]) if given[0] < len(rest) else ""
    try:
        options = read_object(Path(file))
    except ElastifyError as error:
        fix = '{"epochs": 2, "quick": true}'
        raise ElastifyError("the options cannot be read", where=f"--config {file}", why=error.why, fix=fix) from None
    flags: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            flags += [flag, *map(str, value if isinstance(value, list) else [value])]
    return flags + rest
