from pathlib import Path

from PIL import Image

CONFIG = Path(__file__).parents[2] / "configs" / "vig" / "vig_nano_digits.py"
SMALL = ["model.backbone.depth=1", "model.backbone.dim=16", "model.backbone.num_heads=1"]
SHORT = ["train_dataloader.batch_size=480", "train_cfg.max_epochs=4"]


def test_a_run_of_the_demo_is_trained_evaluated_and_drawn(run_tool, tmp_path):
    options = ["--cfg-options", *SMALL, *SHORT]
    code, _, errors = run_tool("train", CONFIG, "--work-dir", tmp_path, *options)
    assert code == 0, errors
    code, output, errors = run_tool("test", CONFIG, tmp_path, "--work-dir", tmp_path / "test", *options)
    assert code == 0 and "(355 images, ema weights of" in output, errors
    # 20 images take two lines of the grid.
    code, output, errors = run_tool("plot_run", CONFIG, tmp_path, "--images", "20", *options)
    assert code == 0 and f"drew {tmp_path}/run.png" in output, errors
    with Image.open(tmp_path / "run.png") as drawing:
        assert drawing.size == (1400, 630)


def test_nothing_to_draw_is_one_line(fails_with, tmp_path):
    fails_with("has this run trained?", "plot_run", CONFIG, tmp_path)


def test_a_run_that_is_no_classifier_is_one_line(fails_with, tmp_path):
    log = tmp_path / "20261130_120000" / "vis_data" / "scalars.json"
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 0.5, "epoch": 1, "iter": 10}\n{"mIoU": 40.0, "epoch": 1, "iter": 10}\n')
    fails_with("has no accuracy/top1: this draws classifiers", "plot_run", CONFIG, tmp_path)
