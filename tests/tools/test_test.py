import json
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[1] / "engine" / "tiny_config.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    from gatedvision.engine.launch import train

    folder = tmp_path_factory.mktemp("trained")
    train(CONFIG, folder, cfg_options={"train_cfg.max_epochs": 1, "experiment_name": "trained"})
    return folder


def test_metrics_as_a_line_and_as_json(run_tool, trained, tmp_path):
    reports = {}
    for weights in ("ema", "raw"):
        out = tmp_path / "new" / f"{weights}.json"
        arguments = ["--work-dir", tmp_path, "--out", out, "--weights", weights]
        code, output, errors = run_tool("test", CONFIG, trained / "epoch_1.pth", *arguments)
        assert code == 0, errors
        report = reports[weights] = json.loads(out.read_text())
        assert report.keys() == {"accuracy/top1", "accuracy/top5", "loss", "images", "weights", "checkpoint"}
        last = output.strip().splitlines()[-1]
        assert last.startswith(f"top1 {report['accuracy/top1']:.2f} %  top5 100.00 %  loss {report['loss']:.4f}")
        assert f"11 images, {weights} weights" in last
    assert reports["ema"]["loss"] != reports["raw"]["loss"]
    # Validation in training looked at the average.
    [scalars] = trained.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert reports["ema"]["loss"] == [row for row in rows if "val_loss" in row][-1]["val_loss"]


def test_a_work_directory_means_its_last_checkpoint(run_tool, trained, tmp_path):
    code, output, errors = run_tool("test", CONFIG, trained, "--work-dir", tmp_path, "--amp", "bf16")
    assert code == 0, errors
    assert str(trained / "epoch_1.pth") in output.strip().splitlines()[-1]


def test_the_config_of_a_run_stays_as_it_was(run_tool, fails_with, trained):
    config = trained / CONFIG.name
    before = config.read_bytes()
    assert b"optim_wrapper" in before
    code, _, errors = run_tool("test", CONFIG, trained, "--work-dir", trained)
    assert code == 0, errors
    width = ["--cfg-options", "model.backbone.embed_dim=8"]
    fails_with("does not fit the model of the config", "test", CONFIG, trained, "--work-dir", trained, *width)
    fails_with("does not fit", "train", CONFIG, "--work-dir", trained, "--resume", *width)
    assert config.read_bytes() == before


def test_mistakes_are_one_line(fails_with, trained, tmp_path):
    place = ["--work-dir", tmp_path]
    checkpoint = trained / "epoch_1.pth"
    fails_with("no config at none.py", "test", "none.py", checkpoint, *place)
    fails_with("no checkpoint at none.pth", "test", CONFIG, "none.pth", *place)
    fails_with("no checkpoint in", "test", CONFIG, tmp_path, *place)
    (tmp_path / "half.pth").write_bytes(checkpoint.read_bytes()[:5000])
    fails_with("it is damaged or no checkpoint", "test", CONFIG, tmp_path / "half.pth", *place)
    classes = ["--cfg-options", "model.backbone.num_classes=7"]
    fails_with("epoch_1.pth was trained on 4 classes, the config has 7", "test", CONFIG, checkpoint, *place, *classes)
    no_data = ["--cfg-options", "test_dataloader=None"]
    fails_with("tiny_config.py does not define test_dataloader", "test", CONFIG, checkpoint, *place, *no_data)
    show = ["--show-dir", tmp_path / "show"]
    fails_with("Classification does not draw its predictions", "test", CONFIG, checkpoint, *place, *show)
    width = ["--cfg-options", "model.backbone.embed_dim=8"]
    fails_with("does not fit the model of the config", "test", CONFIG, checkpoint, *place, *width)
