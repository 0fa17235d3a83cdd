import json
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

CONFIGS = Path(__file__).parents[2] / "configs"
CONFIG = CONFIGS / "vmoe" / "vmoe_nano_digits.py"
SMALL = ["model.backbone.depth=2", "model.backbone.embed_dim=16", "model.backbone.expert_blocks=0,1"]
SHORT = ["train_dataloader.batch_size=480", "train_cfg.max_epochs=2"]
SHORT += ["param_scheduler.0.end=1", "param_scheduler.1.begin=1"]


def test_the_demo_is_trained_and_its_dials_are_turned(run_tool, tmp_path):
    options = ["--cfg-options", *SMALL, *SHORT]
    code, _, errors = run_tool("train", CONFIG, "--work-dir", tmp_path, *options)
    assert code == 0, errors
    quick = ["--seconds", 0.001, "--device", "cpu"]
    code, output, errors = run_tool("sweep_capacity", CONFIG, tmp_path, "--capacity", 0.25, "inf", *quick, *options)
    assert code == 0, errors
    lines = output.strip().splitlines()
    assert lines[2].startswith("| priority | experts a token | capacity | accuracy/top1 | loss |")
    assert [line.split(" | ")[:3] for line in lines[4:8]] == [
        [f"| {priority}", "2", capacity] for priority in ("vanilla", "batch") for capacity in ("0.25", "inf")
    ]
    assert lines[-1] == f"drew '{tmp_path / 'capacity.png'}'"
    assert (tmp_path / "capacity.md").read_text().splitlines() == lines[:8]
    rows = json.loads((tmp_path / "capacity.json").read_text())["rows"]
    assert [row["accuracy/top1"] for row in rows][1::2] == [rows[1]["accuracy/top1"]] * 2
    with Image.open(tmp_path / "capacity.png") as drawing:
        assert drawing.size == (1440, 540)

    # By the number of experts instead, into another folder.
    out = tmp_path / "new" / "folder"
    which = ["--num-selected", 1, 2, 4, "--capacity", 0.5, "--priority", "batch", "-o", out]
    code, output, errors = run_tool("sweep_capacity", CONFIG, tmp_path, *which, *quick, *options)
    assert code == 0 and (out / "capacity.png").is_file(), errors
    assert [line.split(" | ")[:3] for line in output.splitlines()[4:7]] == [["| batch", k, "0.5"] for k in "124"]

    code, output, errors = run_tool("visualize", CONFIG, tmp_path, "--device", "cpu", *options)
    assert code == 0, errors
    blocks = [line.partition(":")[0] for line in output.strip().splitlines()[:-1]]
    assert blocks == ["block 0", "block 1"]
    drawn = f"drew '{tmp_path / 'experts.png'}', 2 blocks, and '{tmp_path / 'experts_patches.png'}', 4 images, of "
    assert output.strip().splitlines()[-1].startswith(drawn)


def save(config: Path, path: Path) -> Path:
    torch.save({"state_dict": MODELS.build(Config.fromfile(str(config)).model).state_dict()}, path)
    return path


def test_mistakes_are_named_in_a_line(fails_with, tmp_path):
    path = save(CONFIG, tmp_path / "epoch_1.pth")
    fails_with("num_selected must be 1 to 4, the experts, got 9", "sweep_capacity", CONFIG, path, "--num-selected", 9)
    fails_with("capacity_factor must be above 0, got 0.0", "sweep_capacity", CONFIG, path, "--capacity", 0.5, 0)
    fails_with("seconds must be positive, got 0.0", "sweep_capacity", CONFIG, path, "--seconds", 0)
    fails_with("no checkpoint at", "sweep_capacity", CONFIG, tmp_path / "nothing")
    fails_with("images must be at least 1, got 0", "visualize", CONFIG, path, "--images", 0)
    unknown = "no image 'nobody' in the test data; they are called like '00000'"
    fails_with(unknown, "visualize", CONFIG, path, "--names", "nobody", "--device", "cpu")
    for tool in ("visualize", "sweep_capacity"):
        fails_with("cannot use --device toaster: ", tool, CONFIG, path, "--device", "toaster")
    soft = ["--cfg-options", "model.backbone.routing=soft", "model.backbone.num_slots=1"]
    fails_with("does not fit the model", "sweep_capacity", CONFIG, path, *soft)
    other = CONFIGS / "vig" / "vig_nano_digits.py"
    own = save(other, tmp_path / "vig.pth")
    fails_with("is no classifier by V-MoE: it has no slots to give", "sweep_capacity", other, own)
    assert not list(tmp_path.glob("*.png")) and not list(tmp_path.glob("*.json"))
