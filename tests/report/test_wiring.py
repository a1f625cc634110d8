"""The picture of a search space: rows, lines and lanes, and text that stands by itself."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from elastify import ElastifyError, SearchSpace, elastify, space
from elastify._report import wiring, wiring_page, wiring_picture
from elastify.cli import app
from tests.small_nets import Net


@pytest.fixture(scope="module")
def found() -> SearchSpace:
    return space(elastify(Net(), torch.randn(2, 6), verify=False))


def test_a_space_is_a_graph_of_axes_and_tensors(found: SearchSpace) -> None:
    graph = found.graph()
    kinds = [values["kind"] for _, values in graph.nodes(data=True)]
    assert kinds.count("axis") == len(found.axes)
    assert kinds.count("stage") == 1
    edge = graph.edges["axis:width", "tensor:blocks.1.up.weight"]
    assert (edge["dims"], edge["summed"]) == ((1,), (1,))
    assert any("linear in blocks.1.up" in reason for reason in edge["reasons"])
    assert graph.nodes["tensor:blocks.1.up.weight"]["layout"] == ("blocks.1.hidden", "width")
    assert graph.nodes["tensor:head.weight"]["frozen"].keys() == {0}
    assert graph.edges["stage:blocks", "tensor:blocks.2.up.weight"]["block"] == 2


def test_blocks_that_look_alike_stand_once(found: SearchSpace) -> None:
    drawn = wiring(found.graph())
    assert [(row.label, len(row.alike)) for row in drawn.rows if row.heading] == [("blocks.0", 4)]
    assert [row.label for row in drawn.rows] == ["stem", "head", "blocks.0", "norm", "up", "down"]
    width, hidden = drawn.lines
    assert (width.name, width.lane) == ("width", 0)
    assert width.marks == {0: "made", 1: "taken", 3: "each", 4: "taken", 5: "made"}
    assert (hidden.lane, hidden.marks) == (1, {4: "made", 5: "taken"})
    assert drawn.axes == 5


def test_globs_choose_axes_or_modules(found: SearchSpace) -> None:
    graph = found.graph()
    assert [line.name for line in wiring(graph, ["blocks.2.hidden"]).lines] == ["blocks.2.hidden"]
    assert [row.path for row in wiring(graph, ["stem"]).rows] == ["stem"]
    with pytest.raises(ElastifyError, match="no axis and no module matches nothing"):
        wiring(graph, ["nothing"])


def test_lines_never_share_a_place() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4 + 8 * n, 8) for n in range(6))
            self.last = nn.Linear(52, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = torch.cat([x, torch.relu(layer(x))], -1)
            return self.last(x)

    drawn = wiring(space(elastify(Dense(), torch.randn(2, 4), verify=False)).graph())
    taken = [(line.lane, row) for line in drawn.lines for row in range(line.first, line.last + 1)]
    assert len(set(taken)) == len(taken)
    assert drawn.lanes == 6


def test_the_picture_stands_by_itself(found: SearchSpace) -> None:
    text = wiring_picture(wiring(found.graph()))
    root = ElementTree.fromstring(text)
    space_name = "{http://www.w3.org/2000/svg}"
    assert (root.tag, root.get("role")) == (f"{space_name}svg", "img")
    assert root.find(f"{space_name}title") is not None
    assert "width, 16 units" in (root.findtext(f"{space_name}desc") or "")
    assert len(root.findall(f"{space_name}g[@class='axis']")) == 2
    assert "prefers-color-scheme: dark" in text
    assert "href" not in text


def test_the_command_draws(tmp_path: Path) -> None:
    picture, page = tmp_path / "net.svg", tmp_path / "net.html"
    words = ["inspect", "tests.small_nets:Net", "--input", "2x6", "--no-verify", "--graph"]
    assert CliRunner().invoke(app, [*words, str(picture)]).exit_code == 0
    assert picture.read_text(encoding="utf-8").startswith("<svg")
    assert CliRunner().invoke(app, [*words, str(page), "--only", "blocks.*"]).exit_code == 0
    assert "<details>" in page.read_text(encoding="utf-8")
    wrong = CliRunner().invoke(app, [*words, "net.txt"])
    assert wrong.exit_code == 2
    assert "has to end in .svg or .html" in wrong.output
    assert CliRunner().invoke(app, ["inspect", "tests.small_nets:Net", "--only", "x"]).exit_code == 2


def test_the_page_tells_the_reasons(found: SearchSpace) -> None:
    text = wiring_page(wiring(found.graph()))
    assert "linear in blocks.0.up" in text
    assert "<td>width</td>" in text
