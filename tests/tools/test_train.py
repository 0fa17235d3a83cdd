import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "engine" / "tiny_config.py"
SHORT = ["--cfg-options", "train_cfg.max_epochs=1"]


def test_train_resume_and_start_without_a_checkpoint(run_tool, tmp_path):
    code, output, errors = run_tool("train", CONFIG, "--work-dir", tmp_path, "--resume", *SHORT)
    assert code == 0, errors
    assert f"nothing to resume in {tmp_path}: starting from scratch" in output
    assert (tmp_path / "last_checkpoint").read_text() == "epoch_1.pth\n"

    options = ["--cfg-options", "train_cfg.max_epochs=2"]
    code, output, errors = run_tool("train", CONFIG, "--work-dir", tmp_path, "--resume", *options)
    assert code == 0, errors
    assert f"resumed {tmp_path}/epoch_1.pth at epoch 1, iteration 6" in output
    assert (tmp_path / "last_checkpoint").read_text() == "epoch_2.pth\n"

    source = tmp_path / "epoch_1.pth"
    code, output, errors = run_tool("train", CONFIG, "--work-dir", tmp_path / "other", "--resume", source, *SHORT)
    assert code == 0, errors
    assert f"resumed {source}" in output


def test_a_run_from_elsewhere_leaves_what_is_there(run_tool, fails_with, tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        code, _, errors = run_tool("train", CONFIG, "--work-dir", folder, *SHORT)
        assert code == 0, errors
    options = ["--cfg-options", "train_cfg.max_epochs=4"]
    source = folders[0] / "epoch_1.pth"
    code, output, errors = run_tool("train", CONFIG, "--work-dir", folders[1], "--resume", source, *options)
    assert code == 0, errors
    assert f"{folders[1]} holds checkpoints of an earlier run" in output and (folders[1] / "epoch_1.pth").exists()
    (tmp_path / "empty").mkdir()
    place = ["--work-dir", folders[0], "--resume", tmp_path / "empty"]
    fails_with(f"no checkpoint to resume in {tmp_path / 'empty'}", "train", CONFIG, *place, *SHORT)


def test_switches_reach_the_run(run_tool, tmp_path):
    arguments = ["--work-dir", tmp_path, "--amp", "bf16", "--auto-scale-lr", "--seed", "3"]
    code, output, errors = run_tool("train", CONFIG, *arguments, *SHORT)
    assert code == 0, errors
    assert "learning rate times 0.5: a total batch of 4, base_batch_size 8" in output
    saved = torch.load(tmp_path / "epoch_1.pth")
    assert saved["meta"]["seed"] == 3
    assert "amp = 'bf16'" in saved["meta"]["cfg"]


def test_from_another_folder_without_installation(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(CONFIG.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "tools" / "train.py", CONFIG, *SHORT]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "work_dirs" / "tiny_config" / "epoch_1.pth").exists()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.py"], "no config at none.py"),
        ([CONFIG, "--cfg-options", "model.backbone.model_name=vig_tt"], "unknown model 'vig_tt'; did you mean"),
        ([CONFIG, "--cfg-options", "train_dataloadr.batch_size=2"], "did you mean 'train_dataloader'?"),
        ([CONFIG, "--cfg-options", "train_dataloader.batchsize=2"], "unexpected keyword argument 'batchsize'"),
        ([CONFIG, "--cfg-options", "train_cfg.max_epoch=2"], "unexpected keyword argument 'max_epoch'"),
        ([CONFIG, "--cfg-options", "optim_wrapper.optimizer.lrr=2"], "unexpected keyword argument 'lrr'"),
        ([CONFIG, "--cfg-options", "model.backbone.num_clases=2"], "unexpected keyword argument 'num_clases'"),
        ([CONFIG, "--cfg-options", "amp=fp8"], "got 'fp8'"),
        ([CONFIG, "--cfg-options", "optim_wrapper=None"], "tiny_config.py does not define optim_wrapper"),
        ([CONFIG, "--cfg-options", "train_dataloader.batch_size.x=1"], "cannot set train_dataloader.batch_size.x=1"),
        ([CONFIG, "--cfg-options", "model.backbone.num_classes=3"], "the data have 4 classes and the model 3; set"),
        ([CONFIG, "--auto-scale-lr", "--cfg-options", "auto_scale_lr=None"], "--auto-scale-lr needs auto_scale_lr"),
        ([CONFIG, "--launcher", "slurm"], "start with srun"),
        (
            [CONFIG, "--cfg-options", "param_scheduler.1.begin=3"],
            "begin=3 is not before its end, param_scheduler.1.end=3",
        ),
        ([CONFIG, "--resume", "none.pth"], "no checkpoint at none.pth"),
        ([CONFIG, "--cfg-options", "optim_wrapper.optimizer.type=AdamX"], "AdamX is not in the mmengine::optimizer"),
    ],
)
def test_mistakes_are_one_line(fails_with, tmp_path, monkeypatch, arguments, message):
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    fails_with(message, "train", arguments[0], "--work-dir", tmp_path, *arguments[1:])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has float16")
def test_float16_without_a_gpu_is_one_line(fails_with, tmp_path):
    fails_with("amp fp16 needs a GPU", "train", CONFIG, "--work-dir", tmp_path, "--amp", "fp16")


def test_the_log_keeps_the_traceback_of_a_mistake(run_tool, tmp_path):
    run_tool("train", CONFIG, "--work-dir", tmp_path, "--cfg-options", "model.backbone.num_clases=2")
    [log] = tmp_path.glob("*/*.log")
    assert "Traceback (most recent call last)" in log.read_text()


def test_a_config_that_does_not_load_is_one_line(fails_with, tmp_path):
    config = tmp_path / "broken.py"
    config.write_text("model = dict(")
    fails_with(f"cannot load config {config}: SyntaxError", "train", config, "--work-dir", tmp_path)
    config.write_text("from nowhere import nothing\nmodel = dict(type=nothing)\n")
    fails_with(f"Failed to import nowhere in {config}, line 1", "train", config, "--work-dir", tmp_path)


def test_divergence_is_one_line_with_the_last_good_checkpoint(fails_with, tmp_path):
    poison = ["--cfg-options", "default_hooks.poison.type=tiny_data.Poison", "default_hooks.poison.iteration=8"]
    expected = f"error: the loss is nan at iteration 8 (epoch 2, batch 2 of 6); the last good checkpoint is {tmp_path}"
    fails_with(expected, "train", CONFIG, "--work-dir", tmp_path, *poison)


def test_what_a_data_worker_raises_is_one_line(fails_with, tmp_path):
    options = ["train_dataloader.num_workers=1", "train_dataloader.dataset.broken=True"]
    fails_with(
        "error: sample 3 is broken: no such thing", "train", CONFIG, "--work-dir", tmp_path, "--cfg-options", *options
    )
