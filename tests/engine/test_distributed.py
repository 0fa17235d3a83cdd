"""Two processes on one CPU: the same numbers as one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compare import assert_same
from two_processes import CONFIG, SAME_EVERYWHERE, SEGMENTATION

from gatedvision.engine.checkpoint_file import read_checkpoint
from gatedvision.engine.distributed import joined_processes
from gatedvision.engine.launch import evaluate


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = Path(__file__).with_name("two_processes.py")
    done = subprocess.run([*command, script, folder], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def test_torchrun_is_noticed_and_said(two_processes):
    _, output = two_processes
    assert "started by torchrun: joining 2 processes (--launcher pytorch)" in output


def test_two_halves_of_a_batch_train_like_the_whole(two_processes, build_run, tmp_path):
    build_run(tmp_path, options=SAME_EVERYWHERE).train()
    one = read_checkpoint(tmp_path / "epoch_2.pth")
    two = read_checkpoint(two_processes[0] / "same" / "epoch_2.pth")
    for name, weight in one["state_dict"].items():
        # Adam divides by the gradient's size, so rounding shows where a gradient is nearly zero.
        torch.testing.assert_close(two["state_dict"][name], weight, rtol=1e-3, atol=1e-4, msg=name)
    scalars = [saved["message_hub"]["log_scalars"]["val/loss"]["log"] for saved in (one, two)]
    torch.testing.assert_close(*scalars, rtol=1e-4, atol=0)


def test_uneven_split_is_evaluated_exactly(two_processes, tmp_path):
    folder, _ = two_processes
    two = json.loads((folder / "metrics.json").read_text())
    one = evaluate(CONFIG, folder / "same" / "epoch_2.pth", tmp_path)
    assert two["images"] == one["images"] == 11
    assert two["accuracy/top1"] == one["accuracy/top1"]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)


def test_segmentation_of_an_uneven_split_is_evaluated_exactly_and_drawn_once(two_processes, tmp_path):
    folder = two_processes[0] / "segmentation"
    two = json.loads((folder / "metrics.json").read_text())
    one = evaluate(SEGMENTATION, folder / "epoch_1.pth", tmp_path, cfg_options={"experiment_name": "segmentation_one"})
    assert two["images"] == 5
    assert {"aAcc", "mIoU", "mAcc", "loss", "IoU/background"} < two.keys()
    # A process computes each image as one alone does, and counts are whole numbers.
    assert two == one
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == [
        f"val_{index:05d}.png" for index in range(5)
    ]


def test_interrupted_run_of_two_processes_ends_like_an_uninterrupted_one(two_processes):
    folder, _ = two_processes
    whole, resumed = (read_checkpoint(folder / name / "epoch_2.pth") for name in ("whole", "resumed"))
    assert len(whole["processes"]) == 2
    states = [process["random"]["torch"] for process in whole["processes"]]
    assert not torch.equal(*states)
    assert_same(resumed, whole)


def test_launchers_that_cannot_work_say_why(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    with joined_processes("none") as launcher:
        assert launcher == "none"
    refusals = {
        "mpi": "launcher must be one of none, pytorch, slurm, got 'mpi'",
        "pytorch": "needs RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR .*; start with torchrun",
        "slurm": "needs SLURM_PROCID, .* in the environment; start with srun",
    }
    for launcher, message in refusals.items():
        with pytest.raises(ValueError, match=message), joined_processes(launcher):
            pass
