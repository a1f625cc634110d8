"""Checkpoints on disk: whole or not there, and never read when they are something else."""

from __future__ import annotations

import copy
import csv
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from elastify import ElastifyError, elastify
from elastify._files import sealed
from elastify.train import Compressible, FullPlusRandom, Sandwich, fit
from elastify.train._loop.checkpoint import pack, read_checkpoint, unpack, write_checkpoint

X, Y = torch.randn(8, 4), torch.arange(8) % 3


def net(width: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


def run(model: nn.Module, folder: Path, steps: int = 2, **kwargs: object):
    return fit(model, [(X, Y)], F.cross_entropy, steps=steps, checkpoint=folder, progress=False, **kwargs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run(net(), tmp_path / "run")
    return tmp_path / "run"


def weights(folder: Path) -> Path:
    (path,) = folder.glob("step-*.safetensors")
    return path


def edit(folder: Path, **changes: object) -> None:
    """Change what is noted, with a checksum as if it had been so from the start."""
    path = folder / "checkpoint.json"
    notes = {**json.loads(path.read_text()), **changes}
    del notes["sha256"]
    path.write_text(sealed(notes))


def refused(folder: Path, model: nn.Module | None = None, steps: int = 4, **kwargs: object) -> str:
    made = model or net()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    with pytest.raises(ElastifyError) as caught:
        run(made, folder, steps, **kwargs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_nested_state_round_trip(tmp_path: Path) -> None:
    state = {
        "tensors": [torch.arange(3), (torch.zeros(2, 0), torch.tensor(True)), torch.randn(4, 2).t()],
        "half": torch.ones(2, dtype=torch.bfloat16),
        "ints": {0: {"step": torch.tensor(3.0)}, 7: {}},
        "numbers": (1, 2.5, -0.1, math.inf, 2**127, None, True, "text"),
        "$": {"$": "tensor"},
    }
    write_checkpoint(tmp_path, 3, state)
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert found["numbers"] == state["numbers"]
    assert found["$"] == state["$"]
    assert found["ints"].keys() == {0, 7}
    for stored, given in zip(found["tensors"], state["tensors"], strict=True):
        for a, b in zip(stored, given, strict=True) if isinstance(given, tuple) else [(stored, given)]:
            assert torch.equal(a, b)
            assert a.dtype == b.dtype
    assert torch.equal(found["half"], state["half"])


def test_state_that_is_code_is_refused() -> None:
    with pytest.raises(ElastifyError, match="a checkpoint cannot hold a value of type function") as caught:
        pack({"a": [1, pack]}, {})
    assert "where: /a/1" in str(caught.value)
    with pytest.raises(ValueError, match="unknown kind 'code'"):
        unpack({"$": "code"}, {})


def test_state_that_is_code_is_refused_before_the_first_step(tmp_path: Path) -> None:
    class Halving:
        def __init__(self) -> None:
            self.by = object()

        def __call__(self, epoch: int) -> float:
            return 0.5**epoch

    with pytest.raises(ElastifyError, match="a checkpoint cannot hold a value of type object") as caught:
        run(
            net(),
            tmp_path,
            scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, Halving()),
            on_step=lambda step, losses: pytest.fail("trained"),
        )
    assert "/schedule/lr_lambdas/0/by" in str(caught.value)


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, {"a": torch.ones(2)})
    with pytest.raises(ElastifyError, match="cannot hold"):
        write_checkpoint(tmp_path, 2, {"a": torch.zeros(2), "b": object()})
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert torch.equal(found["a"], torch.ones(2))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_crash_between_the_two_files_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, 1, {"a": torch.ones(2)})

    def crash(*args: object, **kwargs: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(json, "dumps", crash)
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(tmp_path, 2, {"a": torch.zeros(2)})
    monkeypatch.undo()
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert torch.equal(found["a"], torch.ones(2))
    write_checkpoint(tmp_path, 3, {"a": torch.zeros(2)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.json", "step-00000003.safetensors"]


def test_leftovers_of_a_killed_process_go(tmp_path: Path) -> None:
    for name in (".step-00000001.safetensors.tmp", "step-00000001.safetensors"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    write_checkpoint(tmp_path, 2, {"a": torch.ones(1)})
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["checkpoint.json", "notes.txt", "step-00000002.safetensors"]
    assert (tmp_path / "checkpoint.json").stat().st_mode == (tmp_path / "notes.txt").stat().st_mode


def test_nothing_there_begins_anew(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "new") is None
    assert run(net(), tmp_path / "new").steps == 2


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    said = refused(tmp_path / "file")
    assert "a checkpoint needs a folder" in said
    assert "File exists" in said


def older_steps(folder: Path) -> list[int]:
    """Steps of the older checkpoints, each of which is read; it does not matter if the newest is there twice."""
    newest = read_checkpoint(folder)
    assert newest is not None
    steps = []
    for path in sorted(folder.glob("step-*.json")):
        with tempfile.TemporaryDirectory() as other:
            shutil.copytree(folder, other, dirs_exist_ok=True)
            shutil.copy(path, Path(other) / "checkpoint.json")
            state = read_checkpoint(Path(other))
        assert state is not None
        if len(state["losses"]) != len(newest["losses"]):
            steps.append(int(path.stem.removeprefix("step-")))
    return steps


def test_older_checkpoints_stay_and_can_be_gone_back_to(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = {"checkpoint_every": 1, "checkpoint_keep": 2}
    run(net(), folder, 3, **options)
    assert older_steps(folder) == [1, 2]
    straight = run(net(), folder, 6, **options).losses
    assert older_steps(folder) == [4, 5]
    shutil.copy(folder / "step-00000004.json", folder / "checkpoint.json")
    again = run(net(), folder, 7, checkpoint_every=3, checkpoint_keep=2).losses
    assert again[:6] == straight
    assert older_steps(folder) == [4], "5 and 6 are not before this 7, for it began at 4"
    run(net(), folder, 8, checkpoint_every=1)
    assert older_steps(folder) == []
    run(net(), folder, 9, **options)
    run(net(), folder, 2, resume=False, **options)
    assert older_steps(folder) == [1], "a run that begins anew keeps nothing of another"


class PowerFailure(BaseException):
    pass


@pytest.mark.parametrize("moment", range(6))
def test_a_crash_at_any_moment_keeps_the_newest_and_the_older_ones(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    for step in (1, 2, 3):
        write_checkpoint(folder, step, {"losses": torch.ones(step)}, older=[1, 2, 3][max(0, step - 3) : step - 1])
    left = moment

    def crashing(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerFailure
            return work(*args, **kwargs)

        return run

    monkeypatch.setattr(os, "replace", crashing(os.replace))
    monkeypatch.setattr(Path, "unlink", crashing(Path.unlink))
    with pytest.raises(PowerFailure):
        write_checkpoint(folder, 4, {"losses": torch.ones(4)}, older=[2, 3])
    monkeypatch.undo()
    state = read_checkpoint(folder)
    assert state is not None
    newest = len(state["losses"])
    assert newest == (3 if moment < 3 else 4)
    assert set(older_steps(folder)) >= {2, 3} - {newest}
    write_checkpoint(folder, 5, {"losses": torch.ones(5)}, older=[3, newest] if newest == 4 else [2, 3])
    assert older_steps(folder) == ([3, 4] if newest == 4 else [2, 3])


def long_run(folder: Path, slow: bool = True) -> list[float]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = elastify(nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.1), nn.Linear(16, 3)), X[:2] * 0 + 1, verify=False)
    data = [(torch.full((8, 4), n / 5).sin(), torch.arange(8) % 3) for n in range(5)]
    history = fit(
        model,
        data,
        F.cross_entropy,
        strategy=Sandwich(model),
        steps=60,
        checkpoint=folder,
        checkpoint_every=2,
        checkpoint_keep=2,
        log_dir=folder,
        on_step=lambda step, losses: time.sleep(0.01 if slow else 0),
        progress=False,
    )
    return [step.total for step in history.losses]


def test_a_run_killed_at_a_random_moment_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=long_run, args=(tmp_path / "killed",), daemon=True)
    process.start()
    end = time.monotonic() + 60
    while not (tmp_path / "killed" / "checkpoint.json").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    process.join()
    assert process.exitcode == -9
    left = older_steps(tmp_path / "killed")
    assert len(left) <= 3, "two, and the one that was about to go"
    losses = long_run(tmp_path / "killed", slow=False)
    assert older_steps(tmp_path / "killed") == [56, 58]
    assert losses == long_run(tmp_path / "whole", slow=False)
    rows = list(csv.DictReader((tmp_path / "killed" / "losses.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(1, 61))
    assert [float(row["loss"]) for row in rows] == losses


def test_tensorboard_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ElastifyError, match="TensorBoard is not installed") as caught:
        run(net(), tmp_path / "a", log_dir=tmp_path / "log", tensorboard=True)
    assert "pip install tensorboard" in str(caught.value)
    with pytest.raises(ElastifyError, match="TensorBoard needs a folder"):
        run(net(), tmp_path / "a", tensorboard=True)


def test_tensorboard_finds_what_the_table_has(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = elastify(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), X[:2], verify=False)
    options = {"log_dir": tmp_path / "log", "tensorboard": True, "strategy": Sandwich(model)}
    run(model, tmp_path / "a", 2, **options)
    run(model, tmp_path / "a", 4, **options)  # goes on, with event files of its own beside the first
    events = EventAccumulator(str(tmp_path / "log")).Reload()
    rows = list(csv.DictReader((tmp_path / "log" / "losses.csv").open()))
    tags = {"loss": "loss/loss", "max": "loss/max", "min": "loss/min", "random": "loss/random", "lr": "lr"}
    assert set(events.Tags()["scalars"]) == set(tags.values())
    for column, tag in tags.items():
        assert [scalar.step for scalar in events.Scalars(tag)] == [1, 2, 3, 4]
        assert [scalar.value for scalar in events.Scalars(tag)] == pytest.approx([float(row[column]) for row in rows])


class TestDamage:
    def test_truncated_tensors(self, folder: Path) -> None:
        data = weights(folder).read_bytes()
        weights(folder).write_bytes(data[:-10])
        said = refused(folder)
        assert "step-00000002.safetensors" in said
        assert "not fully covered" in said

    def test_flipped_bit(self, folder: Path) -> None:
        data = bytearray(weights(folder).read_bytes())
        data[-3] ^= 1
        weights(folder).write_bytes(bytes(data))
        assert re.search("the checksum of .* is wrong", refused(folder))

    def test_missing_tensors(self, folder: Path) -> None:
        weights(folder).unlink()
        assert "its tensors, 'step-00000002.safetensors', are missing" in refused(folder)

    def test_truncated_json(self, folder: Path) -> None:
        path = folder / "checkpoint.json"
        path.write_text(path.read_text()[:100])
        said = refused(folder)
        assert "the checkpoint is damaged or was not written by elastify" in said
        assert "resume=False to start over" in said

    @pytest.mark.parametrize("text", ["[]", "{}", '{"elastify_checkpoint": "1"}', "[" * 100000, "\x00"])
    def test_foreign_json(self, folder: Path, text: str) -> None:
        (folder / "checkpoint.json").write_text(text)
        assert "damaged or was not written by elastify" in refused(folder)

    def test_newer_format(self, folder: Path) -> None:
        edit(folder, elastify_checkpoint=99)
        assert "the checkpoint has format 99, newer than 2" in refused(folder)

    @pytest.mark.parametrize("name", ["../step-00000002.safetensors", "/etc/passwd", 3, None])
    def test_paths_out_of_the_folder(self, folder: Path, name: object) -> None:
        edit(folder, weights=name)
        assert "are missing" in refused(folder)

    @pytest.mark.parametrize("state", [None, [], {"$": "code"}, {"model": {"$": "tensor", "name": "no"}}, {}])
    def test_state_of_another_kind(self, folder: Path, state: object) -> None:
        edit(folder, state=state)
        assert "damaged or was not written by elastify" in refused(folder)


SPOILT: dict[str, object] = {
    "seconds": None,
    "passes": "3",
    "macs": None,
    "epoch": -1,
    "batch": "3",
    "written": ["3"],
    "random": {"python": 3},
    "losses": [],
    "widths": None,
    "optimizer": {"state": {}},
    "schedule": None,
    "scaler": 3,
    "strategy": {"steps": 3},
    "statistics": [[{"99": 1}, {}, {}]],
    "model": {},
    "kinds": {},
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_refused_state_has_changed_nothing(name: str, tmp_path: Path) -> None:
    def fitted(seed: int, steps: int) -> tuple[object, ...]:
        torch.manual_seed(seed)
        model = elastify(net(16), torch.randn(2, 4), verify=False)
        strategy, optimizer = Sandwich(model), torch.optim.AdamW(model.parameters(), 1e-2)
        before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), strategy.state_dict(), random.getstate()))
        torch_state = torch.get_rng_state()
        options = {"strategy": strategy, "optimizer": optimizer}
        if steps == 2:
            run(model, tmp_path, 2, **options)
            return ()
        with pytest.raises(ElastifyError) as caught:
            run(model, tmp_path, steps, **options)
        assert str(tmp_path) in caught.value.where
        after = (model.state_dict(), optimizer.state_dict(), strategy.state_dict(), random.getstate())
        assert torch.equal(torch_state, torch.get_rng_state())
        return before, after

    fitted(0, 2)
    state = json.loads((tmp_path / "checkpoint.json").read_text())["state"]
    for changed in ({**state, name: SPOILT[name]}, {key: value for key, value in state.items() if key != name}):
        edit(tmp_path, state=changed)
        if changed.keys() >= state.keys() or name not in ("written", "statistics"):  # these two may be missing
            before, after = fitted(1, 4)
            assert str(before) == str(after)


class TestForeign:
    def test_another_model(self, folder: Path) -> None:
        said = refused(folder, net(6))
        assert "the checkpoint belongs to a different model" in said
        assert "0.weight has shape [6, 4] here, [5, 4] there" in said

    def test_another_optimizer_or_scheduler_or_precision(self, folder: Path) -> None:
        assert "a different optimizer" in refused(folder, optimizer=lambda p: torch.optim.SGD(p, 0.1))
        assert "a different scheduler" in refused(folder, scheduler="cosine")
        assert "a different amp" in refused(folder, amp="bf16")

    def test_another_strategy(self, tmp_path: Path) -> None:
        model = elastify(net(8), torch.randn(2, 4))
        run(model, tmp_path, strategy=Sandwich(model))
        said = refused(tmp_path, model, strategy=FullPlusRandom(model))
        assert "a different strategy" in said
        assert "Sandwich there, FullPlusRandom here" in said

    def test_other_arguments_of_the_strategy(self, tmp_path: Path) -> None:
        model = elastify(net(8), torch.randn(2, 4))
        run(model, tmp_path, strategy=Sandwich(model, n_random=1, seed=1))
        said = refused(tmp_path, model, strategy=Sandwich(model, n_random=3, seed=1))
        assert "a different value of n_random" in said
        assert "1 there, 3 here" in said

    def test_former_names_of_axes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "elastify._plan.naming.FORMER", (lambda drafts, names: {i: name + "_units" for i, name in names.items()},)
        )
        model = elastify(net(8), torch.randn(2, 4))
        strategy = Sandwich(model)
        run(model, tmp_path, strategy=strategy)
        state = json.loads((tmp_path / "checkpoint.json").read_text())["state"]
        axes = state["arguments"]["axes"]
        for name, read in (("hidden_units", True), ("cells", False)):
            arguments = {**state["arguments"], "axes": axes.replace('"hidden"', f'"{name}"')}
            assert arguments["axes"] != axes
            edit(tmp_path, state={**state, "arguments": arguments})
            if read:
                assert run(model, tmp_path, steps=2, strategy=strategy).steps == 2
            else:
                assert "a different value of axes" in refused(tmp_path, model, strategy=strategy)

    def test_a_single_glob_as_earlier_versions_wrote_it(self, tmp_path: Path) -> None:
        model = elastify(net(8), torch.randn(2, 4))
        strategy = Compressible(model, params="all", dense="2.*", n_random=1)
        run(model, tmp_path, strategy=strategy)
        arguments = json.loads((tmp_path / "checkpoint.json").read_text())["state"]["arguments"]
        assert arguments["dense"] == '["2.*"]'
        state = json.loads((tmp_path / "checkpoint.json").read_text())["state"]
        edit(tmp_path, state={**state, "arguments": {**arguments, "dense": '"2.*"'}})
        run(model, tmp_path, steps=3, strategy=strategy)
        edit(tmp_path, state={**state, "arguments": {**arguments, "dense": '"0.*"'}})
        assert "a different value of dense" in refused(tmp_path, model, strategy=strategy)


def test_a_checkpoint_of_the_first_version_is_refused_as_one(folder: Path) -> None:
    state = json.loads((folder / "checkpoint.json").read_text())["state"]
    edit(folder, state={name: value for name, value in state.items() if name not in ("passes", "macs")})
    said = refused(folder)
    assert "written by an earlier version" in said
    assert "resume=False" in said
