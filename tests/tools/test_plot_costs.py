import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

from gatedvision.engine.launch import train

CONFIGS = Path(__file__).parents[2] / "configs"
DIGITS = CONFIGS / "msvit" / "msvit_nano_digits.py"
PLAIN_DIGITS = CONFIGS / "vig" / "vig_nano_digits.py"
# Gates that are undecided at the start need fewer steps to come to their target.
SMALL = {
    "model.backbone.embed_dim": 16,
    "model.backbone.depth": 1,
    "model.backbone.initial_logit": 0.3,
    "model.backbone.gate_loss.target": 0.3,
    "optim_wrapper.optimizer.lr": 1e-2,
    "train_cfg.max_epochs": 6,
    "train_dataloader.batch_size": 128,
    "custom_hooks": [],
    "experiment_name": "gate",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A run of the gate, of seconds, and what one of a plain network would leave."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    train(DIGITS, folder / "gate", cfg_options=SMALL, seed=0)
    torch.set_num_threads(threads)
    # What any other run would leave.
    plain = Config.fromfile(str(PLAIN_DIGITS))
    plain.merge_from_dict({"model.backbone.dim": 16, "model.backbone.depth": 1})
    (folder / "plain").mkdir()
    plain.dump(str(folder / "plain" / "vig_nano_digits.py"))
    state_dict = MODELS.build(plain.model).state_dict()
    torch.save({"state_dict": state_dict, "meta": {"epoch": 1, "iter": 1}}, folder / "plain" / "epoch_1.pth")
    return {path.name: path for path in folder.iterdir()}


def test_the_gate_goes_to_its_target_and_training_says_so(runs):
    [log] = runs["gate"].glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    validations = [row for row in rows if "fine_share" in row]
    assert len(validations) == 6
    shares = [row["fine_share"] for row in validations]
    # All coarse at the start.
    assert shares[0] < shares[-1] and 0.05 < shares[-1] < 0.6
    first = next(row for row in rows if "cross_entropy" in row)
    parts = {f"auxiliary/gate_{name}" for name in ("prior", "hyperprior", "temperature")}
    assert {"loss", "cross_entropy", "auxiliary"} | parts <= first.keys()
    assert first["loss"] == pytest.approx(first["cross_entropy"] + first["auxiliary"], rel=1e-4)
    assert all(0 < row["GMACs"] < 1 and row["accuracy/top1"] > 5 for row in validations[-1:])


def test_a_curve_beside_baselines_and_other_runs(run_tool, runs, tmp_path):
    out = tmp_path / "new" / "costs.png"
    others = ["--also", "plain", runs["plain"], "--also", "again", runs["gate"]]
    code, output, errors = run_tool("plot_costs", runs["gate"], "--out", out, "--device", "cpu", *others)
    assert code == 0, errors
    points = json.loads(out.with_suffix(".json").read_text())
    assert [point["series"] for point in points] == ["learned", "random", "centre", "plain", "again"]
    learned, random, centre, plain, again = points
    assert learned == {**again, "series": "learned"}
    # What is drawn at random is drawn alike in the next run.
    run_tool("plot_costs", runs["gate"], "--out", out, "--device", "cpu", "--baselines", "random")
    assert json.loads(out.with_suffix(".json").read_text()) == [learned, random]
    for baseline in (random, centre):
        assert baseline["fine_share"] == pytest.approx(learned["fine_share"], abs=0.5 / 16)
        assert baseline["quality"] != learned["quality"]
    assert plain["fine_share"] is None and plain["gmacs"] > 0
    rows = [line for line in output.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 5
    assert output.splitlines()[-1] == f"drew '{out}': 5 points"
    with Image.open(out) as picture:
        assert picture.width > 500


def test_pictures_of_the_choice_are_sorted_by_cost(run_tool, runs, tmp_path):
    out = tmp_path / "tokens.png"
    config = next(runs["gate"].glob("*.py"))
    code, output, errors = run_tool("visualize", config, runs["gate"], "--images", 20, "--out", out, "--device", "cpu")
    assert code == 0, errors
    lines = output.splitlines()
    assert lines[-1].startswith(f"drew '{out}': 20 images, the cheapest first, of ")
    assert {line.partition(":")[0] for line in lines[-4:-1]} >= {"fine_share", "GMACs"}
    with Image.open(out) as picture:
        # Eight of 160 x 320 pixels in a row.
        assert picture.size == (8 * (160 + 2), 3 * (320 + 26 + 2))
    names = ["00002", "00007"]
    code, output, errors = run_tool("visualize", config, runs["gate"], "--names", *names, "--out", out)
    assert code == 0 and "2 images" in output, errors


def test_mistakes_are_named_in_a_line(fails_with, runs, tmp_path):
    fails_with("no work directory", "plot_costs", tmp_path / "nothing")
    fails_with("no config in", "plot_costs", tmp_path)
    fails_with("has no gate of tokens but a ViG", "plot_costs", runs["plain"])
    fails_with("no run to evaluate", "plot_costs")
    fails_with("--also plain names no work directory", "plot_costs", "--also", "plain")
    fails_with("baselines must be of random, centre, got 'fine'", "plot_costs", runs["gate"], "--baselines", "fine")
    config = next(runs["gate"].glob("*.py"))
    fails_with("no image 'nobody' in the test data", "visualize", config, runs["gate"], "--names", "nobody")
    fails_with("images must be at least 1, got 0", "visualize", config, runs["gate"], "--images", 0)
