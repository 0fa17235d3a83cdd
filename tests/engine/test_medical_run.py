"""Medical segmentation through the engine: resumed bit for bit, drawn, and in two processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import assert_same
from medical_two_processes import CONFIG
from tiny_data import InterruptionError

from gatedvision.engine import Runner
from gatedvision.engine.checkpoint_file import read_checkpoint
from gatedvision.engine.launch import evaluate, load_config


def run(work_dir: Path, name: str, hooks: tuple[Any, ...] = (), resume: bool = False) -> None:
    config = load_config(CONFIG, work_dir)
    # Runs of the same second would share their history otherwise.
    config.experiment_name = name
    config.resume = resume
    config.custom_hooks = [*config.custom_hooks, *hooks]
    Runner.from_cfg(config).train()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    # Fixtures of a module come before the one that sees to it for each test.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run(folder, "medical_whole")
    torch.set_num_threads(threads)
    return folder


def test_interrupted_run_ends_like_an_uninterrupted_one(trained, tmp_path):
    # In the middle of the second epoch.
    with pytest.raises(InterruptionError):
        run(tmp_path, "medical_broken", ({"type": "tiny_data.Interrupt", "iteration": 7},))
    run(tmp_path, "medical_resumed", resume=True)
    resumed, whole = (read_checkpoint(folder / "epoch_2.pth") for folder in (tmp_path, trained))
    assert_same(resumed, whole)


def test_the_best_epoch_the_log_and_the_pictures_are_kept(trained):
    assert list(trained.glob("best_Dice_epoch_*.pth"))
    [scalars] = trained.glob("*/vis_data/scalars.json")
    row = json.loads(scalars.read_text().splitlines()[-1])
    assert {"Dice", "IoU", "ASD", "HD95", "Dice/small", "HD95/large"} <= row.keys()
    assert all(0 <= row[name] <= 1 for name in ("Dice", "IoU"))
    pictures = sorted(path.relative_to(trained).as_posix() for path in trained.glob("pictures/**/*.png"))
    assert pictures == [f"pictures/epoch_2/val_{index:05d}.png" for index in range(3)]


def test_another_number_of_classes_is_named(tmp_path):
    config = load_config(CONFIG, tmp_path, cfg_options={"model.num_classes": 1, "experiment_name": "medical_1"})
    with pytest.raises(ValueError, match=r"the data have 4 classes and the model 2; set model\.num_classes=4"):
        Runner.from_cfg(config).train()


def test_two_processes_evaluate_like_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script, two = Path(__file__).with_name("medical_two_processes.py"), tmp_path / "two"
    done = subprocess.run([*command, script, two], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    # An uneven split: a process computes each volume as one alone does, so all digits agree.
    metrics = json.loads((two / "metrics.json").read_text())
    assert metrics["images"] == 5 and metrics["HD95"] > 0
    expected = evaluate(CONFIG, two / "epoch_1.pth", tmp_path, cfg_options={"experiment_name": "medical_one_test"})
    assert metrics == expected
    assert sorted(path.name for path in (two / "show").iterdir()) == [f"val_{index:05d}.png" for index in range(5)]
