from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

CONFIGS = Path(__file__).parents[2] / "configs" / "attention_unet"
IMAGES = CONFIGS / "attention_unet_nano_organs.py"
VOLUMES = CONFIGS / "attention_unet_3d_nano_organs.py"


@pytest.fixture
def checkpoint(tmp_path):
    """Weights of a config as they are drawn at random, as a checkpoint of a run."""

    def save(config: Path) -> Path:
        torch.manual_seed(0)
        path = tmp_path / "run" / "epoch_1.pth"
        path.parent.mkdir(exist_ok=True)
        state_dict = MODELS.build(Config.fromfile(str(config)).model).state_dict()
        torch.save({"state_dict": state_dict, "meta": {"epoch": 1, "iter": 1}}, path)
        return path

    return save


@pytest.mark.parametrize(("config", "gates", "side"), [(IMAGES, 2, 224), (VOLUMES, 1, 224)], ids=["images", "volumes"])
def test_a_grid_of_images_and_gates(run_tool, checkpoint, config, gates, side, tmp_path):
    path = checkpoint(config)
    code, output, errors = run_tool("visualize", config, path.parent, "--images", 3, "--device", "cpu")
    assert code == 0, errors
    lines = output.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == [f"gate {number}" for number in range(1, gates + 1)]
    assert lines[-1] == f"drew '{path.parent / 'attention.png'}': 3 images, {gates} gates of '{path}'"
    with Image.open(path.parent / "attention.png") as picture:
        assert picture.mode == "RGB" and picture.size == ((3 + gates) * (side + 2), 3 * (side + 26 + 2))
        pixels = np.asarray(picture)
    # The image is grey, and a gate's panel glows.
    grey = pixels[30:200, 10:200].astype(int)
    assert (grey.max(-1) == grey.min(-1)).all() and grey.std() > 10
    glow = pixels[30:200, -200:-10].astype(int)
    assert (glow[..., 0] - glow[..., 2]).max() > 50


def test_images_by_name_and_a_place_to_write_to(run_tool, checkpoint, tmp_path):
    path, out = checkpoint(IMAGES), tmp_path / "new" / "gates.png"
    names = ["val_00004", "val_00001"]
    code, output, errors = run_tool("visualize", IMAGES, path, "--out", out, "--names", *names)
    assert code == 0 and "2 images, 2 gates" in output, errors
    assert out.is_file()


def test_mistakes_are_named_in_a_line(fails_with, checkpoint, tmp_path):
    path = checkpoint(IMAGES)
    unknown = "no image 'nobody' in the test data; they are called like 'val_00000'"
    fails_with(unknown, "visualize", IMAGES, path, "--names", "nobody")
    fails_with("images must be at least 1, got 0", "visualize", IMAGES, path, "--images", 0)
    fails_with("no checkpoint in", "visualize", IMAGES, tmp_path)
    fails_with("does not fit the model of the config", "visualize", VOLUMES, path)
    other = CONFIGS.parent / "hornet" / "hornet_nano_upernet_shapes.py"
    fails_with("is no MedicalSegmentation but a Segmentation", "visualize", other, path)
    ungated = ["--cfg-options", "model.network.gated=False"]
    fails_with("does not fit the model", "visualize", IMAGES, path, *ungated)
