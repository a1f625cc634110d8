"""An elastic model, an extracted one and its folder remember what the example was like, and can be run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elastify import ElastifyError, elastify, extract, load, save, space
from elastify._files import sealed
from elastify._space.state import state
from elastify._verbs.examples import described_examples, example_for
from elastify.testing import check_model
from elastify.train import grow


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.last = nn.Embedding(50, 16), nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, ids: Tensor, *, mask: Tensor | None = None, scales: Any = (), twice: bool = False) -> Tensor:
        x = self.embed(ids) * scales[0]["x"]
        x = x if mask is None else x * mask[:, :, None]
        return self.last(torch.relu(self.mix(x))).mean(1) * (2 if twice else 1)


def given() -> tuple[Tensor, dict[str, Any]]:
    ids, mask = torch.randint(3, 48, (4, 7)), torch.ones(4, 7, dtype=torch.int64)
    return ids, {"mask": mask, "scales": [{"x": 0.5}, None], "twice": True}


def made() -> nn.Module:
    ids, kwargs = given()
    return elastify(Tokens(), ids, example_kwargs=kwargs)


def check(model: nn.Module) -> None:
    example = example_for(model)
    (ids,), kwargs = example.args, example.kwargs
    assert (ids.shape, ids.dtype) == ((4, 7), torch.int64)
    assert 3 <= ids.min() <= ids.max() < 48
    assert kwargs["mask"].tolist() == [[1] * 7] * 4
    assert (kwargs["scales"], kwargs["twice"]) == ([{"x": 0.5}, None], True)
    assert example(model).shape == (4, 5)


def test_an_elastic_model_an_extracted_one_and_its_folder_remember(tmp_path: Path) -> None:
    model = made()
    check(model)
    small = extract(model, 0.5)
    check(small)
    save(small, tmp_path)
    read = load(tmp_path, like=Tokens())
    check(read)
    assert described_examples(read) == described_examples(small) == state(model).examples
    (spec,) = state(model).examples
    assert spec is not None
    assert spec.args[0].samples == (0,)
    save(read, tmp_path / "again")
    check(load(tmp_path / "again", like=model))


def test_what_is_given_wins() -> None:
    model, (_, kwargs) = made(), given()
    assert example_for(model, torch.zeros(3, 2, dtype=torch.int64), kwargs).args[0].shape == (3, 2)


def test_an_extracted_model_is_made_elastic_and_checked_without_an_example() -> None:
    small = extract(made(), 0.5)
    check_model(small, configurations=2).assert_passed()
    assert space(elastify(small)).axes


def test_a_model_is_grown_without_an_example() -> None:
    model = made()
    large = grow(model, {space(model).axes[-1].name: 2.0})
    assert sum(p.numel() for p in large.parameters()) > sum(p.numel() for p in model.parameters())


def test_an_older_folder_still_loads(tmp_path: Path) -> None:
    model = made()
    save(extract(model, 0.5), tmp_path)
    notes = json.loads((tmp_path / "elastify.json").read_text())
    for name in ("examples", "sha256", "weights"):
        del notes[name]
    (tmp_path / "elastify.json").write_text(json.dumps({**notes, "format": 1}))
    with pytest.warns(UserWarning, match="of an earlier version, without a checksum"):
        small = load(tmp_path, like=model)
    assert described_examples(small) == ()
    with pytest.raises(ElastifyError, match="needs example inputs"):
        example_for(small)


@pytest.mark.parametrize("data", [3, [], {"args": {"tuple": []}}, {"args": {"os": "system"}, "kwargs": {}, "count": 1}])
def test_a_tampered_description_is_damage(tmp_path: Path, data: Any) -> None:
    model = made()
    save(extract(model, 0.5), tmp_path)
    notes = json.loads((tmp_path / "elastify.json").read_text())
    del notes["sha256"]
    (tmp_path / "elastify.json").write_text(sealed({**notes, "examples": [data]}))
    with pytest.raises(ElastifyError, match="damaged") as error:
        load(tmp_path, like=model)
    assert "not a description of an example" in str(error.value)
