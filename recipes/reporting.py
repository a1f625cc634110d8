"""What recipes share beside training: numbers that are measured once, tables, plots.

A recipe is resumed by running it again: `fit` finds its checkpoints, and `Measurements` what has been measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from rich.console import Console
from rich.table import Table

from elastify import ElastifyError
from elastify.train import History


class Measurements:
    """A JSON file of settings and named values; a value that is there is not measured again.

    Raises ElastifyError for a file that another run, with other settings, has begun.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        wanted = json.loads(json.dumps(settings, default=str))
        self.content: dict[str, Any] = {"settings": wanted, "values": {}}
        if path.exists():
            self.content = json.loads(path.read_text(encoding="utf-8"))
            other = {name for name in wanted if wanted[name] != self.content["settings"].get(name)}
            if other:
                raise ElastifyError(
                    f"the file holds measurements with other values of {', '.join(sorted(other))}",
                    where=str(path),
                    fix="another folder for --out, or the options of the run that began this one",
                )

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """The value of that name; measured, and written at once, where the file has none."""
        values = self.content["values"]
        if name not in values:
            values[name] = measure()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self.content, indent=1), encoding="utf-8")
            os.replace(temporary, self.path)
        return values[name]


def must_be_done(history: History, steps: int) -> None:
    """End the recipe where Ctrl-C has ended a training: what a half-trained network gives shall not be stored."""
    if history.interrupted and history.steps < steps:
        raise SystemExit(f"stopped after {history.steps} of {steps} steps; the same command goes on")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options that decide what is measured: all but folders, files, the seeds, and which baselines there are."""
    other = ("data", "npz", "out", "seeds", "alone", "equal_compute", "ways", "methods")
    return {name: value for name, value in vars(args).items() if name not in other}


def spread(values: Iterable[float], digits: int = 1) -> str:
    """Mean and, for two values and more, standard deviation.

    >>> spread([1.0, 2.0]), spread([3.25], 2)
    ('1.5 ± 0.7', '3.25')
    """
    found = list(values)
    mean = f"{statistics.fmean(found):.{digits}f}"
    return mean if len(found) == 1 else f"{mean} ± {statistics.stdev(found):.{digits}f}"


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on the terminal, wide enough for its text."""
    table = Table(*header, title=title)
    for cells in rows:
        table.add_row(*cells)
    Console(width=max(120, Console().width)).print(table)


def write_figure(path: Path, data: Sequence[Any], title: str, x: str, y: str, **axes: Any) -> None:
    """One self-contained HTML file with a plot."""
    figure = go.Figure(list(data))
    figure.update_layout(title=title, xaxis={"title": x}, yaxis={"title": y}, template="plotly_white", **axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(path)


def curve(name: str, points: Iterable[tuple[float, float]], mode: str = "lines+markers") -> go.Scatter:
    """A line of a plot through (x, y)."""
    x, y = zip(*points, strict=True)
    return go.Scatter(x=x, y=y, name=name, mode=mode)


def heat_map(values: Sequence[Sequence[float]], x: Sequence[Any], y: Sequence[Any], unit: str) -> go.Heatmap:
    """A cell per value; rows are along y."""
    text = [[f"{value:.1f}" for value in row] for row in values]
    return go.Heatmap(z=values, x=x, y=y, text=text, texttemplate="%{text}", colorbar={"title": unit})
