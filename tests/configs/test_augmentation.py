"""The training images of every config for classification, drawn at the rare strengths of its augmentation too."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from gatedvision.data import ImageFolder
from gatedvision.engine import Runner
from gatedvision.engine.seeded_data import SampleKey

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEAVES = sorted(path for path in CONFIGS.glob("*/*.py") if "import Classification" in path.read_text())
DRAWS = 400
# Recipes share their data.
_passed: set[str] = set()


def make_image(folder: Path) -> None:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "0.png")


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_every_training_image_can_be_drawn(path, tmp_path, monkeypatch):
    config = Config.fromfile(str(path))
    loader = config.train_dataloader
    as_published = str(loader.dataset)
    if as_published in _passed:
        return
    size = config.train_pipeline.get("input_size") or config.model.backbone.img_size
    if loader.dataset.type is ImageFolder:
        monkeypatch.setenv("GATEDVISION_DATA", str(tmp_path))
        make_image(tmp_path / Path(loader.dataset.root).name / "train" / "class")
    # With a deviation of 0.5 the greatest strength, where posterize keeps no bit, comes once in 660 images.
    transform = loader.dataset.transform
    if transform.get("auto_augment"):
        transform.auto_augment = re.sub(r"mstd[\d.]+", "mstd3", transform.auto_augment)
    dataset = Runner.build_dataloader({**loader, "num_workers": 0, "persistent_workers": False}, seed=0).dataset
    for epoch in range(DRAWS):
        image = dataset[SampleKey(epoch, 0)]["inputs"]
        assert image.shape[1:] == (size, size) and torch.isfinite(image).all(), f"epoch {epoch}"
    _passed.add(as_published)
