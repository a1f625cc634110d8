"""The suites find what is rigid, and the coverage page says so."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from suite_first import FIRST
from suite_timm import ROWS, TIMM
from torch import nn
from torchvision import models
from zoo_check import frozen
from zoo_entry import Entry, missing
from zoo_suites import SUITES

from elastify import SearchSpace
from elastify._ir.plan import ElasticAxis, FrozenDim, Plan, Stage

NAMES = ["blocks.0.fc.weight", "blocks.1.fc.weight", "blocks.0.q.weight"]
SPACE = SearchSpace(
    Plan(
        axes=(
            ElasticAxis(0, "a", 8, (2, 4, 8), "hidden", (("blocks.0.fc.weight", 0), ("blocks.1.fc.weight", 0))),
            ElasticAxis(1, "h", 4, (1, 2, 4), "heads", (("blocks.0.q.weight", 0),)),
        ),
        stages=(Stage("blocks", "blocks", ("blocks.0", "blocks.1"), (1, 2)),),
        frozen=(
            FrozenDim("head.weight", 0, 5, "the model's interface: output in the model"),
            FrozenDim("pos", 1, 7, "a unit is picked by its position: getitem in the model"),
        ),
    )
)


@pytest.fixture(scope="module")
def zoo() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "zoo.py"
    spec = importlib.util.spec_from_file_location("zoo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def faults(stages: tuple[str, ...] = (), **elastic: str) -> list[str]:
    places = {kind.replace("_", " "): [(place[:-3], int(place[-2]))] for kind, place in elastic.items()}
    return missing(Entry("m", lambda: (nn.Identity(), (), {}), places, stages), NAMES, SPACE)


def test_what_is_elastic_is_not_missing() -> None:
    assert faults(("blocks",), MLP_hidden="blocks.*.fc.weight[0]", heads="blocks.*.q.weight[0]") == []


def test_what_is_rigid_is_missing() -> None:
    assert faults(MLP_hidden="blocks.*.fc.weight[1]") == [
        "MLP hidden: blocks.0.fc.weight[1] is not elastic (2 of 2 fitting blocks.*.fc.weight)"
    ]
    assert faults(channels="blocks.?.*.weight[0]") == []
    assert faults(("stages",)) == ["depth: stages has no stage"]


def test_a_role_must_be_named_right() -> None:
    assert faults(head_dim="blocks.*.q.weight[0]") == [
        "head dim: blocks.0.q.weight[0] is not elastic (1 of 1 fitting blocks.*.q.weight)"
    ]


def test_a_pattern_must_fit_something() -> None:
    assert faults(channels="conv.weight[0]") == ["channels: no parameter is called conv.weight"]


def test_the_first_suite_is_complete() -> None:
    names = [entry.name for entry in FIRST]
    assert len(set(names)) == len(names) == 21
    assert [sum(name.startswith(home) for name in names) for home in ("torchvision:", "timm:", "hf:")] == [6, 8, 6]
    assert all(entry.elastic for entry in SUITES["first"])


def test_the_torchvision_suite_has_everything_but_quantised_networks() -> None:
    names = {entry.name.partition(":")[2] for entry in SUITES["torchvision"]}
    known = models.list_models()
    assert {name for name in known if not name.startswith("quantized_")} <= names
    assert len(names) == len(SUITES["torchvision"]) == len(names & set(known)) + sum("." in name for name in names)


def test_the_audio_suite_names_what_must_be_elastic_in_each() -> None:
    assert len(SUITES["audio"]) == 10
    assert all(entry.elastic for entry in SUITES["audio"])


def test_frozen_dimensions_leave_out_the_obvious() -> None:
    assert frozen(SPACE) == [{"reason": SPACE.plan.frozen[1].reason, "dims": 1, "example": "pos[1]", "size": 7}]


PASSED = {
    "model": "timm:good",
    "commit": "1a2b3c4",
    "passed": True,
    "failures": [],
    "inputs": [[3, 64, 64]],
    "kinds": ["channels", "depth"],
    "roles": {"hidden": 3},
    "axes": 3,
    "stages": 1,
    "smallest_macs": 0.041,
    "smallest_params": 0.05,
    "why_large": "",
    "seconds": {"build": 4.0, "capture_all": 1.0, "analyse": 0.02, "all": 9.0},
    "worst_error": 1.2e-8,
    "torch_pruning": {"works": False, "error": "does not run"},
    "frozen": [{"reason": "looked up", "dims": 2, "example": "table[0]", "size": 9}],
}
CRASHED = {"model": "timm:bad", "passed": False, "failures": ["not finished\nafter 600 s"]}


def test_models_outside_a_suite_are_listed_with_the_reason(zoo: ModuleType) -> None:
    text = "\n".join(zoo.page({"hf": [{**PASSED, "model": "hf:bert"}]}))
    assert "### Not checked" in text
    assert "hf:dinat, hf:higgs_audio_v2_tokenizer, hf:layoutlmv2: its module needs a package" in text


def test_page(zoo: ModuleType) -> None:
    text = "\n".join(zoo.page({"first": [PASSED, CRASHED]}))
    assert "| [first](#suite-first) | well-known networks of all libraries | 1 of 21 | 1 | 1 | 0 of 1 |" in text
    assert "1 of 21 models passed (19 not run). Measured at commit 1a2b3c4." in text
    assert "| timm:good | 3x64x64 | yes | no | channels, depth | 3 | 1 | 4.1% | 5.0% | 4.0 | 25% | 20 | 1e-08 |" in text
    assert "| timm:bad |  | **no** |" in text
    assert "- timm:bad: not finished after 600 s" in text
    assert "- timm:good: `table[0]` (9 units, 2 like it): looked up" in text
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert widths == [7] * 3 + [14] * 4  # the suites, and the models of one


def test_only_what_is_due_runs(zoo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run_one(suite: str, name: str, cache: Path, limit: float, source: tuple[str, str]) -> dict[str, object]:
        ran.append(name)
        file = zoo.shard(cache, suite, name)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"model": name, "state": source[0]}), encoding="utf-8")
        return {"model": name, "passed": True, "failures": [], "total_seconds": 1.0}

    monkeypatch.setattr(zoo, "_run_one", run_one)
    options = {"limit": 1.0, "jobs": 1, "again": False}
    zoo.run_suite("first", ["a", "b"], tmp_path, **options)
    zoo.run_suite("first", ["a", "b", "c"], tmp_path, **options)
    assert ran == ["a", "b", "c"]
    monkeypatch.setattr(zoo, "source_state", lambda: "another state")
    zoo.run_suite("first", ["a"], tmp_path, **options)
    assert ran == ["a", "b", "c", "a"]
    zoo.run_suite("first", ["a", "b", "d"], tmp_path, **options, keep=True)
    assert ran == ["a", "b", "c", "a", "d"]


def test_results_of_the_page_fill_the_cache(zoo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "coverage.json").write_text(json.dumps({"first": [PASSED, CRASHED]}), encoding="utf-8")
    here = zoo.shard(tmp_path, "first", "timm:bad")
    here.parent.mkdir()
    here.write_text("{}", encoding="utf-8")
    zoo.restore("first", tmp_path)
    zoo.restore("timm", tmp_path)
    assert json.loads(zoo.shard(tmp_path, "first", "timm:good").read_text("utf-8")) == PASSED
    assert here.read_text("utf-8") == "{}"
    assert not (tmp_path / "timm").exists()


def test_a_process_that_dies_is_a_failure(zoo: ModuleType, tmp_path: Path) -> None:
    result = zoo._run_one("first", "no such model", tmp_path, 60.0, ("state", "commit"))
    assert not result["passed"]
    assert result["commit"] == "commit"
    assert result["failures"] == ["the process ended with code 1"]


def test_the_timm_suite_has_every_family() -> None:
    families = [row[0] for row in ROWS]
    assert families == sorted(set(families))
    assert len(families) == len(TIMM) == 98
    assert len({entry.name for entry in TIMM}) == 98


def test_large_suites_tell_each_kind_of_reason_once(zoo: ModuleType) -> None:
    reason = "the number 2 is written in the source: view in stage{} (net.py:33)"
    rows = [
        {"model": f"m{i}", "frozen": [{"reason": reason.format(i), "dims": i, "example": "w[0]", "size": 4}]}
        for i in (1, 3)
    ]
    assert list(zoo._frozen_kinds(rows)) == [
        (
            "the number N is written in the source",
            "4 dimensions in 2 models; `w[0]` of m3: view in stage3 (net.py:33)",
        )
    ]
