"""Every config for inpainting loads, has only keys that something reads, trains and evaluates its model on its data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from gatedvision.data import FreeFormMask, InpaintingFolder, InpaintingPairs
from gatedvision.engine import EMA, Runner
from gatedvision.engine.launch import load_config
from gatedvision.metrics import InpaintingMetrics

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEAVES = sorted(path for path in CONFIGS.glob("[!_]*/*.py") if "tasks import Inpainting" in path.read_text())
PUBLISHED = [path for path in LEAVES if path.stem.endswith(("_places2", "_celeba_hq"))]
each = pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)


def test_all_of_them_are_here():
    assert [path.stem for path in LEAVES] == [
        "deepfillv2_celeba_hq",
        "deepfillv2_inpaint256",
        "deepfillv2_nano_photographs",
        "deepfillv2_places2",
    ]


@each
def test_it_says_what_it_is_for(path):
    docstring = " ".join(path.read_text().split('"""')[1].split())
    assert "Command: ``" in docstring and path.name in docstring
    if path in PUBLISHED:
        assert "arXiv:1806.03589" in docstring and "Published: " in docstring and "Not repeated here." in docstring


def write_data(folder: Path, config: Any) -> None:
    """Write two images, smaller and larger than the crops, where a config looks for its data."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 280, 3), dtype=np.uint8)
    for loader in (config.train_dataloader, config.val_dataloader):
        dataset = loader.dataset
        loader.update(num_workers=0, persistent_workers=False, pin_memory=False)
        if "length" in dataset:
            dataset.length = 2
            continue
        path = Path(dataset.get("images", dataset.get("pairs")).replace("$GATEDVISION_DATA", str(folder)))
        images = path if "images" in dataset else path.parent / "images"
        (images / "below").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(images / "large.png")
        Image.fromarray(pixels[:100, :80]).save(images / "below" / "small.png")
        if "pairs" in dataset:
            Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(path.parent / "mask.png")
            records = [{"image": f"images/{name}.png", "mask": "mask.png"} for name in ("large", "below/small")]
            path.write_text(json.dumps(records))


@each
def test_a_step_of_training_and_one_of_evaluation(path, tmp_path, monkeypatch):
    monkeypatch.setenv("GATEDVISION_DATA", str(tmp_path))
    config = load_config(path, tmp_path / "run")
    write_data(tmp_path, config)
    config.model.generator.dim = 4
    config.model.discriminator = {"dims": (8,) * 6}
    config.train_dataloader.batch_size = 2
    if config.train_dataloader.dataset.get("repeats"):
        config.train_dataloader.dataset.repeats = 1
    # Learned in one step rather than 100.
    for scheduler in config.get("param_scheduler") or ():
        scheduler.update(begin=0, end=1)
    config.train_cfg.update(max_epochs=1, val_interval=1)
    config.default_hooks.checkpoint = None
    config.visualizer = None
    config.log_processor.window_size = 1
    config.amp = None
    config.experiment_name = f"step_{path.stem}"
    runner = Runner.from_cfg(config)
    before = {name: weight.clone() for name, weight in runner.model.state_dict().items()}
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert runner.iter == 1
    for name in ("loss_discriminator", "loss", "loss_l1_coarse", "loss_l1_refined", "loss_adversarial"):
        assert np.isfinite(scalars[f"train/{name}"].current())
    moved = [
        name
        for name, _ in runner.model.named_parameters()
        if not torch.equal(runner.model.state_dict()[name], before[name])
    ]
    assert len(moved) > 0.9 * len(list(runner.model.parameters()))
    assert 0 < scalars["val/SSIM"].current() < 1 and scalars["val/PSNR"].current() > 0


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_recipes(path):
    config = Config.fromfile(str(path))
    model = config.model
    assert model.generator == {"model_name": "deepfillv2"} and "discriminator" not in model
    assert model.gan_weight == 1.0 and model.separate_batches and "l1_weight" not in model
    assert config.train_dataloader.batch_size == 2 * 16
    for part in ("generator", "discriminator"):
        optimizer = config.optim_wrapper[part].optimizer
        assert (optimizer.type, optimizer.lr, optimizer.betas) == (torch.optim.Adam, 1e-4, (0.5, 0.999))
        assert "weight_decay" not in optimizer
    assert not config.get("param_scheduler") and not config.get("custom_hooks") and config.amp is None
    # Holes as the program draws them, windows of 256, no flips.
    for loader in (config.train_dataloader, config.val_dataloader):
        assert loader.dataset.type is InpaintingFolder and loader.dataset.masks == {"type": FreeFormMask}
        *_, crop = loader.dataset.transforms
        assert (crop.height, crop.width) == (256, 256) and "Flip" not in str(loader.dataset.transforms)
    images, iterations = {"places2": (1_803_460, 1e6), "celeba_hq": (28_000, 5e5)}[path.stem.split("_", 1)[1]]
    assert config.train_cfg.max_epochs * (images // 32) == pytest.approx(iterations, rel=0.02)


def test_the_recipe_of_the_pack():
    config = Config.fromfile(str(CONFIGS / "inpainting" / "deepfillv2_inpaint256.py"))
    assert config.amp == "bf16" and config.train_dataloader.batch_size >= 16
    assert config.custom_hooks[0].type is EMA and config.custom_hooks[0].only == "generator"
    assert config.val_dataloader.dataset.type is InpaintingPairs
    assert config.test_dataloader == config.val_dataloader and config.val_evaluator.type is InpaintingMetrics
    assert config.default_hooks.checkpoint.save_best == "SSIM"
