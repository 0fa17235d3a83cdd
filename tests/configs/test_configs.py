"""Every config for classification loads, has only keys that something reads, and trains its model on a random batch."""

import inspect
from pathlib import Path
from typing import Any

import mmengine.runner
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

import gatedvision.engine

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEAVES = sorted(path for path in CONFIGS.glob("*/*.py") if "import Classification" in path.read_text())
IMAGENET = [path for path in LEAVES if path.stem.endswith(("_imagenet", "_imagenet21k", "_imagenet22k"))]
# Recipes that do as they were published.
PUBLISHED = [path for path in LEAVES if "Published: " in path.read_text()]
ENGINE_KEYS = {"amp", "compile", "weights"}
# Few blocks and channels: what a config chooses is tested, the full networks are tested with the models.
SMALL = {
    "vig": {"dim": 32, "depth": 2, "num_heads": 2},
    "vig_h": {"dims": (32, 32, 64, 64), "depths": (1, 1, 1, 1), "num_heads": (2, 2, 4, 4)},
    "hornet": {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1)},
    "moganet": {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)},
    "vmoe": {"embed_dim": 16, "depth": 2, "num_heads": 1, "expert_blocks": (1,)},
    "msvit": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "vit_small": {"embed_dim": 32, "depth": 2, "num_heads": 2},
}

pytestmark = pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)


def small_backbone(options: dict[str, Any]) -> dict[str, Any]:
    family = max((family for family in SMALL if options["model_name"].startswith(family)), key=len)
    return {**options, **SMALL[family], "pretrained": False}


def image_size(config: Config) -> int:
    return config.get("val_pipeline", {}).get("input_size") or config.model.backbone.img_size


def test_nothing_in_it_goes_unread(path):
    config = Config.fromfile(str(path))
    known = set(inspect.signature(mmengine.runner.Runner.__init__).parameters) | ENGINE_KEYS
    imports = {key for key in config if isinstance(config[key], type) or inspect.isroutine(config[key])}
    own = {key for key in config if key.startswith("_") or key.endswith("_pipeline")}
    assert set(config) - imports - own <= known


def test_it_says_what_it_is_for(path):
    docstring = path.read_text().split('"""')[1]
    assert "Command: ``" in docstring
    assert set(IMAGENET) <= set(PUBLISHED)
    if path in PUBLISHED:
        assert "arXiv:" in docstring and "Published: top-1" in docstring and path.name in docstring


def test_a_batch_gives_a_finite_loss_and_gradient(path):
    config = Config.fromfile(str(path))
    torch.manual_seed(0)
    config.model.backbone = small_backbone(config.model.backbone)
    model = MODELS.build(config.model).train()
    backbone, size = config.model.backbone, image_size(config)
    inputs = torch.rand(2, backbone.get("in_chans", 3), size, size)
    loss = model(inputs, torch.tensor([0, backbone["num_classes"] - 1]), mode="loss")["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_the_full_model_exists(path):
    backbone = {**Config.fromfile(str(path)).model.backbone, "pretrained": False}
    with torch.device("meta"):
        model = timm.create_model(backbone.pop("model_name"), **backbone)
    assert model.num_classes == backbone["num_classes"]


def test_the_optimizer_and_its_schedule_run_from_warm_up_to_the_end(path):
    config = Config.fromfile(str(path))
    # A cosine, or a line.
    *warm_ups, decay = config.param_scheduler
    for warm_up in warm_ups:
        assert warm_up["end"] == decay["begin"] < config.train_cfg.max_epochs and 0 < warm_up["start_factor"] < 1
    # Only weights that are tuned further have none.
    assert len(warm_ups) == (0 if config.model.backbone.model_name.endswith(".in22k") else 1)
    assert 0 < decay.get("eta_min_ratio", decay.get("end_factor")) < 1
    if path in IMAGENET and path.parent.name == "vig":
        (warm_up,) = warm_ups
        lr = config.optim_wrapper.optimizer.lr
        assert warm_up["start_factor"] * lr == pytest.approx(5e-7)
        assert decay["eta_min_ratio"] * lr == pytest.approx(5e-6)
        assert config.auto_scale_lr == {"enable": True, "base_batch_size": 512}


def test_the_training_transform_fits_the_model(path):
    config = Config.fromfile(str(path))
    dataset = config.train_dataloader.dataset
    assert config.val_dataloader.dataset.type is dataset.type
    assert config.test_dataloader == config.val_dataloader
    assert config.train_dataloader.drop_last is True
    assert config.train_dataloader.batch_size % 2 == 0  # mixup pairs the images of a batch
    if path not in PUBLISHED:
        assert any(hook["type"] is gatedvision.engine.EMA for hook in config.custom_hooks)
