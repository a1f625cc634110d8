"""`ElasticTrainer` on two ranks, started as users start it: the losses of one process on the joint batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.loop import trainer_job

ROOT = Path(__file__).parents[3]
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    # --cpu would start one process, and count on MPI for others; the script says which device it wants
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"],
}
FOR_ACCELERATE = ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    return trainer_job.losses(tmp_path_factory.mktemp("alone"), batch=8)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_have_the_losses_of_one_process(launcher: str, alone: list[list[float]], tmp_path: Path) -> None:
    command = [sys.executable, "-m", *LAUNCHERS[launcher], *(FOR_ACCELERATE if launcher == "accelerate" else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    script = [str(ROOT / "tests" / "train" / "loop" / "trainer_job.py"), str(tmp_path / "losses.json"), "4"]
    run = subprocess.run([*command, *script], capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads((tmp_path / "losses.json").read_text())
    assert found["ranks"] == 2
    assert len(found["losses"]) == len(alone) == 5
    for ours, expected in zip(found["losses"], alone, strict=True):
        assert ours == pytest.approx(expected, abs=1e-5)
