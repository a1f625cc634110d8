"""The command `elastify`: look at the search space of a model, run a recipe or the demonstration.

`inspect` builds a model from its name (or from a factory in user code), makes it elastic and prints what the library
prints. Mistakes of the user, which the library raises as ElastifyError, end with one paragraph on standard error and
exit code 2; anything else is a bug and shows its traceback. `train` and `demo` run modules of the recipes by name:
the library itself never imports them.
"""

from __future__ import annotations

import runpy
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Annotated

import typer

from elastify._elastify import elastify
from elastify._errors import ElastifyError
from elastify._space import Cost, SearchSpace, human
from elastify._verbs import cost, space
from elastify.cli.arguments import (
    build_model,
    find_recipe,
    known_recipes,
    read_choices,
    read_drawing,
    read_input,
    read_pairs,
    read_ratio,
    read_recipe_options,
)

app = typer.Typer(
    name="elastify",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_DEMO = "elastify_recipes.music_separation.demo"


def _version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"elastify {metadata.version('elastify')}")
        except metadata.PackageNotFoundError:
            typer.echo("elastify from a folder that is not installed")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Also show the traceback of an error.")] = False,
) -> None:
    """Make any PyTorch model elastic, train all its sizes at once, extract the one that fits.

    \b
    [bold]Examples[/bold]
    elastify inspect timm:deit_tiny_patch16_224
    elastify train image_classification --quick
    elastify demo
    """
    context.obj = debug


@app.command()
def inspect(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="timm:NAME, torchvision:NAME, hf:TYPE or hf:CLASS, or package.module:factory (a function or class "
            "without arguments that gives a model, or a pair of a model and its example inputs).",
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="[NAME=]SHAPE[:N]",
            help="An example input, such as 2x3x224x224; ':N' draws integers below N. Once per argument of forward. "
            "Left out, inputs of the model libraries are inferred.",
        ),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config", metavar="PATTERN=VALUE", help="Show the cost of a subnet: a size (64) or a ratio (0.5)."
        ),
    ] = None,
    why: Annotated[
        list[str] | None, typer.Option("--why", metavar="PATTERN", help="Explain these axes: members, ties, reasons.")
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option("--freeze", metavar="PATTERN", help="Keep modules or axes as they are.")
    ] = None,
    choices: Annotated[
        list[str] | None,
        typer.Option("--choices", metavar="PATTERN=A,B,...", help="Legal sizes or ratios of axes and stages."),
    ] = None,
    min_ratio: Annotated[
        list[str] | None,
        typer.Option(
            "--min-ratio",
            metavar="[PATTERN=]RATIO",
            help="Smallest share of an axis or of a depth (0.25 where not given).",
        ),
    ] = None,
    multiple_of: Annotated[
        int | None, typer.Option("--multiple-of", help="Step between sizes; 8 for axes of 64 and more if left out.")
    ] = None,
    depth: Annotated[bool, typer.Option("--depth/--no-depth", help="Whether blocks may be left out.")] = True,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Whether to prove the space.")] = True,
    keep_outputs: Annotated[
        bool, typer.Option("--keep-outputs/--free-outputs", help="Whether output dimensions stay as they are.")
    ] = True,
    drawing: Annotated[
        str | None,
        typer.Option("--graph", metavar="FILE.svg|.html", help="Draw what each size runs through, into this file."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATTERN", help="Draw these axes, or modules, only.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Also show the traceback of an error.")] = False,
) -> None:
    """Print the search space of a model: axes, stages, what is frozen and why, the smallest and the largest cost.

    The model gets random weights; nothing is downloaded.

    \b
    [bold]Examples[/bold]
    elastify inspect timm:resnet50 --no-verify
    elastify inspect hf:bert --config "*.heads=6" --config "*=0.5"
    elastify inspect torchvision:vit_b_16 --freeze "*.mlp*" --min-ratio 0.5
    elastify inspect hf:BertForMaskedLM --input input_ids=2x64:30522
    elastify inspect mypackage.nets:make_net --input 2x1x16000 --choices "*=0.25,0.5,1.0"
    elastify inspect torchvision:densenet121 --graph densenet.html --only "features.denseblock1.*"
    """
    with _mistakes(debug or bool(context.obj)), _announced():
        draw = read_drawing(drawing, only)
        examples, keywords = read_input(inputs or [])
        built, own = build_model(model)
        if examples is None and not keywords:
            examples = own
        options = {"choices": read_choices(choices), "min_ratio": read_ratio(min_ratio), "multiple_of": multiple_of}
        elastic = elastify(
            built,
            examples,
            example_kwargs=keywords or None,
            freeze=tuple(freeze or ()),
            depth=depth,
            keep_outputs=keep_outputs,
            verify=verify,
            **options,
        )
        found = space(elastic)
        wishes = read_pairs("--config", config)
        typer.echo(str(found))
        for pattern in why or ():
            typer.echo(f"\n{found.why(pattern)}")
        if draw is not None:
            draw(found.graph())
        if wishes:
            typer.echo(f"\n{_subnet(found, wishes, cost(elastic), cost(elastic, wishes))}")


def _subnet(found: SearchSpace, wishes: dict[str, int | float], full: Cost, small: Cost) -> str:
    """A subnet's sizes where they are not full, and its cost beside the full network's."""
    chosen = found.config(wishes)
    sizes = {axis.name: (chosen.sizes[axis.name], axis.size) for axis in found.axes}
    sizes |= {stage.name: (len(chosen.depths[stage.name]), len(stage.blocks)) for stage in found.stages}
    lines = [f"subnet {', '.join(f'{pattern}={value}' for pattern, value in wishes.items())}"]
    lines += [f"  {name} = {size} of {whole}" for name, (size, whole) in sizes.items() if size != whole]
    for metric, whole in full.items():
        part = getattr(small, metric)
        lines.append(f"  {metric:<12} {human(part):>8} of {human(whole)}  ({100 * part / max(1, whole):.1f} %)")
    return "\n".join(lines)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def demo(context: typer.Context) -> None:
    """Train an elastic music separator for minutes, search three budgets, extract three models, write a report.

    All arguments go to the demonstration; [bold]elastify demo --help[/bold] lists them. It needs the extras
    [bold]music[/bold], [bold]search[/bold] and [bold]report[/bold].

    \b
    [bold]Examples[/bold]
    elastify demo
    elastify demo --minutes 2
    elastify demo --quick
    """
    with _mistakes(bool(context.obj)):
        _run(
            _DEMO,
            ["elastify demo", *context.args],
            "the demonstration cannot run here",
            'pip install "elastify[music,search,report]" && pip install --no-deps tinysoundfont==0.3.7',
        )


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", show_default=False, help="NAME, or NAME.MODULE.")],
) -> None:
    """Run a recipe: of the installed ones, or of the checkout that is the current folder.

    All options go to the recipe; [bold]elastify train RECIPE --help[/bold] lists them. They can stand in a JSON file
    too: [bold]--config FILE.json[/bold]; those on the command line win.

    \b
    [bold]Examples[/bold]
    elastify train image_classification --quick
    elastify train image_classification --config mine.json --epochs 2
    elastify train music_separation --help
    """
    if recipe == "--help":
        typer.echo(f"{context.get_help()}\n Recipes: {', '.join(known_recipes())}")
        raise typer.Exit
    with _mistakes(bool(context.obj)):
        if recipe.startswith("-"):
            fix = f"elastify train RECIPE ..., with one of {', '.join(known_recipes())}"
            raise ElastifyError("name a recipe first", why=f"{recipe} is an option", fix=fix)
        module, options = find_recipe(recipe), read_recipe_options(context.args)
        fix = 'install it, or pip install "elastify[test]", which has what all recipes need'
        _run(module, [f"elastify train {recipe}", *options], f"the recipe {recipe} cannot run here", fix)


def _run(module: str, arguments: list[str], what: str, fix: str) -> None:
    """Run a module as the main program, with these as its name and arguments."""
    before = sys.argv
    try:
        sys.argv = arguments
        runpy.run_module(module, run_name="__main__")
    except ModuleNotFoundError as error:
        raise ElastifyError(what, why=f"the Python package {error.name!r} is missing", fix=fix) from error
    finally:
        sys.argv = before


@contextmanager
def _mistakes(debug: bool) -> Iterator[None]:
    """What the library refuses becomes one paragraph on standard error and exit code 2."""
    try:
        yield
    except ElastifyError as error:
        if debug:
            raise
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error


@contextmanager
def _announced() -> Iterator[None]:
    """Warnings as plain lines on standard error, each once and without the line of code that gave it."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if not issubclass(category, (DeprecationWarning, FutureWarning)):
            typer.echo(f"Warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("once")
        warnings.showwarning = show
        yield
