"""Study files: cut off, edited, of other options or weights; nothing is lost or mixed in silence."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from elastify import ElastifyError, elastify, search
from tests.search.test_search import FULL, QUICK, check, cost, run_search, score, space


def go_on(path: Path, n_trials: int, **options):
    return run_search(space(), cost, {"macs": FULL // 3}, score, study=path, **QUICK | {"n_trials": n_trials} | options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    go_on(tmp_path / "study.log", 6)
    return tmp_path / "study.log"


@pytest.mark.parametrize("cut", [1, 2, 30, 200, 1000, 3000])
def test_half_a_line_is_dropped_and_said(path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    before = {trial.number: trial for trial in go_on(path, 6).history}
    path.write_bytes(path.read_bytes()[:-cut])
    with caplog.at_level(logging.WARNING, "elastify"):
        result = go_on(path, 10)
    assert "was not written to its end: it is dropped" in caplog.text
    assert len(result.history) == 10
    check(result, FULL // 3)
    same = [trial for trial in result.history if before.get(trial.number) == trial]
    assert len(same) >= (5 if cut <= 200 else 1)


def test_half_a_line_of_another_process_is_dropped_before_the_next_is_written(path: Path) -> None:
    def torn(config):
        with path.open("ab") as file:
            file.write(b'{"op_code": 8, "wor')  # killed here
        return score(config)

    result = run_search(space(), cost, {"macs": FULL // 3}, torn, study=path, **QUICK | {"n_trials": 9})
    assert len(result.history) == 9
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_an_edited_digit_is_noticed(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    number, line = next((n, text) for n, text in enumerate(lines) if '"score"' in text)
    place = line.index('"score"') + 9
    digit = str((int(line[place]) + 1) % 10)
    lines[number] = line[:place] + digit + line[place + 1 :]
    path.write_text("".join(lines))
    with pytest.raises(ElastifyError, match=rf"cannot use this study file[\s\S]*line {number + 1} has been changed"):
        go_on(path, 10)


@pytest.mark.parametrize("config", ["", "{}", "[]", '{"elastify_config": 1}', "nope", None, 3])
def test_a_trial_whose_configuration_is_none(path: Path, config: object) -> None:
    logs = [json.loads(line) for line in path.read_text().splitlines()]
    record = next(log["user_attr"]["elastify"] for log in logs if "elastify" in log.get("user_attr", {}))
    record["config"] = config
    path.write_text("".join(json.dumps({k: v for k, v in log.items() if k != "crc32"}) + "\n" for log in logs))
    with pytest.raises(ElastifyError, match=rf"cannot use this study file[\s\S]*where: {path}"):
        go_on(path, 10)


def test_lines_of_earlier_versions_have_no_checksum(path: Path) -> None:
    logs = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in log.items() if k != "crc32"}) + "\n" for log in logs))
    assert len(go_on(path, 8).history) == 8


@pytest.mark.parametrize(
    "text", ["3\n", "[]\n", "{}\n", '{"op_code": 0}\n', '{"op_code": 99, "worker_id": ""}\n', "x\ny\n"]
)
def test_lines_that_are_none_of_a_study(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text + text)
    with pytest.raises(ElastifyError, match="cannot use this study file"):
        go_on(path, 10)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.log")
    with pytest.raises(ElastifyError, match="it is not a file"):
        go_on(tmp_path / "pipe.log", 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(ElastifyError, match="cannot use this study file"):
        go_on(tmp_path / "file" / "study.log", 2)


def test_other_options_are_another_study_and_said(path: Path) -> None:
    with pytest.warns(UserWarning, match="other choices of sizes, population or seed: it stays, and a new one begins"):
        other = go_on(path, 4, seed=1)
    assert len(other.history) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert go_on(path, 4, seed=1).history == other.history
        assert len(go_on(path, 7).history) == 7
        run_search(space(), cost, {"macs": FULL // 4}, score, study=path, **QUICK | {"n_trials": 2})


def test_a_study_of_an_earlier_version_goes_on_and_says_so(path: Path) -> None:
    text = path.read_text()
    name = json.loads(text.splitlines()[0])["study_name"]
    logs = [json.loads(line) for line in text.replace(name, name.rpartition(" ")[0]).splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in log.items() if k != "crc32"}) + "\n" for log in logs))
    with pytest.warns(UserWarning, match="the options of this study are not known"):
        assert len(go_on(path, 7).history) == 7


def test_scores_of_other_weights_are_said(tmp_path: Path) -> None:
    x = torch.randn(2, 4)
    model = elastify(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3)), x, verify=False)
    options = {"evaluate": lambda m: m(x).sum().item(), "study": tmp_path / "s.log", "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(model, "50%", n_trials=2, **options)
        search(model, "50%", n_trials=3, **options)
    with torch.no_grad():
        model[0].weight[0, 0] += 1
    with pytest.warns(UserWarning, match="the weights have changed since this study was made"):
        search(model, "50%", n_trials=4, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(model, "50%", n_trials=5, **options)
