"""Segmentation through the engine: resumed bit for bit, and drawn."""

from pathlib import Path
from typing import Any

import pytest
from compare import assert_same
from tiny_data import InterruptionError

from gatedvision.engine import Runner, ShowPredictions
from gatedvision.engine.checkpoint_file import read_checkpoint
from gatedvision.engine.launch import load_config

CONFIG = Path(__file__).with_name("tiny_segmentation_config.py")


def train(work_dir: Path, name: str, hooks: tuple[Any, ...] = (), resume: bool = False) -> None:
    config = load_config(CONFIG, work_dir)
    # Runs of the same second would share their history otherwise.
    config.experiment_name = name
    config.resume = resume
    config.custom_hooks = [*config.custom_hooks, *hooks]
    Runner.from_cfg(config).train()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder, "segmentation_whole")
    return folder


def test_interrupted_run_ends_like_an_uninterrupted_one(trained, tmp_path):
    # In the middle of the second epoch.
    with pytest.raises(InterruptionError):
        train(tmp_path, "segmentation_broken", ({"type": "tiny_data.Interrupt", "iteration": 7},))
    train(tmp_path, "segmentation_resumed", resume=True)
    resumed, whole = (read_checkpoint(folder / "epoch_2.pth") for folder in (tmp_path, trained))
    assert_same(resumed, whole)


def test_the_best_epoch_and_the_pictures_of_the_second_validation_are_kept(trained):
    assert list(trained.glob("best_mIoU_epoch_*.pth"))
    pictures = sorted(path.relative_to(trained).as_posix() for path in trained.glob("pictures/**/*.png"))
    assert pictures == [f"pictures/epoch_2/val_{index:05d}.png" for index in range(3)]


def test_the_hook_names_what_it_cannot_do(build_run, tmp_path):
    with pytest.raises(ValueError, match="interval and images must be at least 1"):
        ShowPredictions(interval=0)
    with pytest.raises(ValueError, match="Classification does not draw its predictions; leave the pictures out"):
        build_run(tmp_path, hooks=({"type": "gatedvision.engine.ShowPredictions"},)).train()


def test_another_number_of_classes_is_named(tmp_path):
    config = load_config(CONFIG, tmp_path, cfg_options={"model.num_classes": 3, "experiment_name": "segmentation_3"})
    with pytest.raises(ValueError, match=r"the data have 4 classes and the model 3; set model\.num_classes=4"):
        Runner.from_cfg(config).train()
