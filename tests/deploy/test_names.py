"""Modules with several names are cut, saved and loaded under all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from elastify import activate, elastify, extract, graph, load, save, space
from tests.constructs.construct import example
from tests.constructs.names import CONSTRUCTS


@pytest.mark.parametrize("construct", CONSTRUCTS, ids=str)
def test_saved_and_loaded(construct: Any, tmp_path: Path) -> None:
    net, (x, _) = construct.net(), example(construct.inputs)
    elastify(net.eval(), x)
    for number, config in enumerate((space(net).min, space(net).sample(3), space(net).max)):
        small = extract(net, config)
        save(small, tmp_path / str(number))
        again = load(tmp_path / str(number), like=construct.net)
        assert list(again.state_dict()) == list(small.state_dict())
        assert torch.equal(again(x), small(x))
        with activate(net, config):
            view = graph(net, x)
        torch.testing.assert_close(view(x), small(x))
        layouts = [node.meta["layout"] for node in view.graph.nodes if node.op == "get_attr" and "layout" in node.meta]
        assert any("hidden" in text for layout in layouts for text in layout)
