"""An interrupted and resumed run ends with the checkpoint of an uninterrupted one, bit for bit."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import assert_same
from tiny_data import InterruptionError

from gatedvision.engine.checkpoint_file import CheckpointError, read_checkpoint


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("reference")


def finished(build_run, folder: Path, **options: Any) -> dict[str, Any]:
    """Checkpoint of an uninterrupted run, trained once for each set of options."""
    if not (folder / "last_checkpoint").exists():
        build_run(folder, **options).train()
    return read_checkpoint(folder / (folder / "last_checkpoint").read_text().strip())


BY_ITERATION = {"default_hooks.checkpoint.by_epoch": False, "default_hooks.checkpoint.interval": 4}
# An epoch of 6 iterations ends between two steps.
ACCUMULATE = {"optim_wrapper.accumulative_counts": 4}


@pytest.mark.parametrize(
    ("kind", "interruption", "loader"),
    [
        ("epochs", {"iteration": 3}, {}),
        ("epochs", {"iteration": 9}, {}),
        ("epochs", {"val_epoch": 2}, {}),
        ("epochs", {"write": "epoch_2.pth"}, {}),
        ("epochs", {"write": "best_accuracy_top1_epoch_1.pth"}, {}),
        ("epochs", {"iteration": 9}, {"num_workers": 1}),
        ("iterations", {"iteration": 11}, {}),
        ("iterations", {"iteration": 15}, {}),
        ("iterations", {"write": "iter_12.pth"}, {"num_workers": 1}),
        ("accumulate", {"iteration": 9}, {}),
    ],
)
def test_interrupted_run_ends_like_an_uninterrupted_one(build_run, tmp_path, reference, kind, interruption, loader):
    options = {"epochs": {}, "iterations": BY_ITERATION, "accumulate": ACCUMULATE}[kind]
    expected = finished(build_run, reference / kind, options=options)
    options = options | {f"train_dataloader.{name}": value for name, value in loader.items()}

    with pytest.raises(InterruptionError):
        build_run(tmp_path / "run", hooks=({"type": "tiny_data.Interrupt", **interruption},), options=options).train()
    # A work directory may move between two starts.
    shutil.move(tmp_path / "run", tmp_path / "moved")
    run = build_run(tmp_path / "moved", resume=True, options=options)
    run.train()

    assert_same(finished(build_run, tmp_path / "moved"), expected)
    assert not list((tmp_path / "moved").glob(".*.unfinished"))


def test_every_checkpoint_opens_with_the_defaults_of_torch_load(build_run, reference):
    finished(build_run, reference / "epochs")
    paths = sorted((reference / "epochs").glob("*.pth"))
    assert [path.name for path in paths][-2:] == ["epoch_2.pth", "epoch_3.pth"]
    assert len(paths) == 3, "the best one and the last two"
    for path in paths:
        assert "state_dict" in torch.load(path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_damaged_last_checkpoint_gives_way_to_the_one_before(build_run, tmp_path, reference, damage):
    expected = finished(build_run, reference / "epochs")
    shutil.copytree(reference / "epochs", tmp_path / "run")
    last = tmp_path / "run" / "epoch_3.pth"
    content = bytearray(last.read_bytes())
    if damage == "flipped":
        middle = len(content) // 2
        content[middle : middle + 8] = bytes(255 - byte for byte in content[middle : middle + 8])
    last.write_bytes(content[: {"truncated": len(content) // 2, "empty": 0, "flipped": None}[damage]])

    run = build_run(tmp_path / "run", resume=True)
    run.train()

    [log] = (tmp_path / "run").glob(f"{run.timestamp}/*.log")
    assert re.search(r"WARNING - .*epoch_3\.pth.*trying the one before", log.read_text())
    assert_same(finished(build_run, tmp_path / "run"), expected)


def test_all_checkpoints_damaged_is_an_error_and_not_a_new_start(build_run, tmp_path):
    for name in ("epoch_1.pth", "epoch_2.pth", "last_checkpoint"):
        (tmp_path / name).write_text("epoch_2.pth\n")
    with pytest.raises(CheckpointError, match="all 2 checkpoints .* are damaged"):
        build_run(tmp_path, resume=True).train()


def test_resuming_with_other_data_or_from_weights_only_is_refused(build_run, tmp_path, reference):
    finished(build_run, reference / "epochs")
    with pytest.raises(CheckpointError, match="has 6 iterations an epoch and this run 3"):
        build_run(reference / "epochs", resume=True, options={"train_dataloader.batch_size": 8}).train()
    best = next((reference / "epochs").glob("best_*.pth"))
    with pytest.raises(CheckpointError, match="weights only and cannot be resumed"):
        build_run(tmp_path, resume=True, options={"load_from": str(best)}).train()


def test_resumed_run_keeps_the_seed_of_the_checkpoint(build_run, tmp_path, reference):
    expected = finished(build_run, reference / "epochs")
    with pytest.raises(InterruptionError):
        build_run(tmp_path, hooks=({"type": "tiny_data.Interrupt", "iteration": 9},)).train()
    build_run(tmp_path, resume=True, options={"randomness.seed": 7}).train()
    assert_same(finished(build_run, tmp_path), expected)


def test_settings_that_changed_are_told_of(build_run, tmp_path, reference):
    finished(build_run, reference / "epochs")
    options = {
        "train_cfg.max_epochs": 4,
        "param_scheduler.1.end": 4,
        "optim_wrapper.optimizer.lr": 0.5,
        "optim_wrapper.optimizer.weight_decay": 0.3,
    }
    for changed in (False, True):
        shutil.copytree(reference / "epochs", tmp_path / f"{changed}")
        run = build_run(tmp_path / f"{changed}", resume=True, options=options if changed else {})
        run.train()
        log = next((tmp_path / f"{changed}" / run.timestamp).glob("*.log")).read_text()
        told = re.findall("going on with the settings of the checkpoint: .*", log)
        assert len(told) == changed
        if changed:
            assert "checkpoint: CosineAnnealingLR T_max 12, not 18; CosineAnnealingLR end 18, not 24;" in told[0]
            assert "weight_decay 0.05, not 0.3; initial_lr 0.01, not 0.5. To train its weights by those of" in told[0]
            assert told[0].endswith(f"start anew with --cfg-options load_from={tmp_path / 'True' / 'epoch_3.pth'}")


def test_resuming_with_another_number_of_schedulers_is_refused(build_run, tmp_path, reference):
    finished(build_run, reference / "epochs")
    one = {"param_scheduler": [{"type": "LinearLR", "end": 2}]}
    with pytest.raises(CheckpointError, match="was trained with 2 schedulers and the config has 1; to train its"):
        build_run(tmp_path, resume=True, options={"load_from": str(reference / "epochs"), **one}).train()


def test_killed_at_any_moment_with_a_worker(build_run, tmp_path, reference):
    expected = finished(build_run, reference / "epochs")
    driver = Path(__file__).with_name("kill_and_resume.py")
    done = subprocess.run([sys.executable, driver, tmp_path], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split("kills: ")[1].split()[0]) >= 4
    assert_same(finished(build_run, tmp_path), expected)
