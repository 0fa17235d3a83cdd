"""Detection runs resume exactly, and several processes evaluate like one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compare import assert_same
from detection_two_processes import predict_noisily
from tiny_data import InterruptionError

from gatedvision.engine import Runner
from gatedvision.engine.checkpoint_file import read_checkpoint
from gatedvision.engine.launch import evaluate, load_config
from gatedvision.tasks import Detection

pytest.importorskip("faster_coco_eval")
pytest.importorskip("skimage")

CONFIG = Path(__file__).with_name("tiny_detection.py")


def train(work_dir: Path, name: str, resume: bool = False, hooks: tuple[Any, ...] = ()) -> None:
    cfg = load_config(CONFIG, work_dir)
    # Runs of one name would share their history.
    cfg.experiment_name, cfg.resume = f"detection_{name}", resume
    cfg.custom_hooks = [*cfg.custom_hooks, *hooks]
    Runner.from_cfg(cfg).train()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("detection")
    train(folder, "whole")
    return folder


# In the middle of the second epoch, and in the middle of the validation after the first.
@pytest.mark.parametrize("interruption", [{"iteration": 5}, {"val_epoch": 1}])
def test_interrupted_run_ends_like_an_uninterrupted_one(finished, tmp_path, interruption):
    name = str(interruption)
    with pytest.raises(InterruptionError):
        train(tmp_path, f"interrupted {name}", hooks=({"type": "tiny_data.Interrupt", **interruption},))
    train(tmp_path, f"resumed {name}", resume=True)
    assert_same(read_checkpoint(tmp_path / "epoch_2.pth"), read_checkpoint(finished / "epoch_2.pth"))


def test_uneven_split_is_evaluated_exactly(finished, tmp_path, monkeypatch):
    checkpoint = finished / "epoch_2.pth"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = Path(__file__).with_name("detection_two_processes.py")
    done = subprocess.run(
        [*command, script, checkpoint, tmp_path / "two"], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    monkeypatch.setattr(Detection, "_predict", predict_noisily)
    one = evaluate(CONFIG, checkpoint, tmp_path / "one")
    assert two["images"] == one["images"] == 5
    metrics = {name for name in one if name.startswith("coco/")}
    assert len(metrics) == 12
    assert 0.1 < one["coco/bbox_mAP"] < 0.9 and 0.1 < one["coco/segm_mAP"] < 0.9
    for name in metrics:
        assert two[name] == one[name], name
