"""MogaNet's ImageNet configs against the table of the published recipe, arXiv:2211.03295."""

from pathlib import Path

import pytest
from mmengine.config import Config

from gatedvision.engine import EMA

MOGANET = Path(__file__).resolve().parents[2] / "configs" / "moganet"

# Images per GPU (of eight), weight decay, magnitude of RandAugment, mixup, drop path, last learning rate, average.
RECIPES = {
    "moganet_xtiny": (128, 0.03, 7, 0.1, 0.05, 1e-6, False),
    "moganet_tiny": (128, 0.04, 7, 0.1, 0.1, 1e-6, False),
    "moganet_small": (128, 0.05, 9, 0.8, 0.1, 1e-5, True),
    "moganet_base": (128, 0.05, 9, 0.8, 0.2, 1e-5, True),
    "moganet_large": (128, 0.05, 9, 0.8, 0.3, 1e-5, True),
    "moganet_xlarge": (64, 0.05, 9, 0.8, 0.4, 1e-5, True),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name):
    config = Config.fromfile(str(MOGANET / f"{name}_imagenet.py"))
    batch_size, weight_decay, magnitude, mixup, drop_path_rate, last_lr, average = RECIPES[name]

    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.betas) == (1e-3, weight_decay, (0.9, 0.999))
    assert "clip_grad" not in config.optim_wrapper
    assert config.train_dataloader.batch_size == batch_size
    assert config.auto_scale_lr == {"enable": True, "base_batch_size": 8 * batch_size}
    assert config.get("amp") == (None if average else "fp16")

    warm_up, cosine = config.param_scheduler
    assert config.train_cfg.max_epochs == 310 and warm_up["end"] == 5 and cosine["end"] == 300
    assert warm_up["start_factor"] * optimizer.lr == pytest.approx(1e-5)
    assert cosine["eta_min_ratio"] * optimizer.lr == pytest.approx(last_lr)
    hooks = config.get("custom_hooks", [])
    assert [(hook["type"], hook["momentum"]) for hook in hooks] == [(EMA, pytest.approx(1 - 0.9999))] * average

    assert config.model.backbone == {"model_name": name, "num_classes": 1000, "drop_path_rate": drop_path_rate}
    assert config.model.mixup == {"mixup_alpha": mixup, "cutmix_alpha": 1.0, "prob": 1.0, "switch_prob": 0.5}
    assert config.model.label_smoothing == 0.1
    assert config.train_dataloader.dataset.transform == config.train_pipeline
    assert config.train_pipeline.auto_augment == f"rand-m{magnitude}-mstd0.5-inc1"
    train = str(build(config.train_dataloader.dataset.transform))
    assert "RandAugment(n=2" in train and "RandomErasing" in train
    assert "RandomResizedCropAndInterpolation(size=(224, 224)" in train and "interpolation=bilinear bicubic" in train
    for loader in (config.val_dataloader, config.test_dataloader):
        evaluation = str(build(loader.dataset.transform))
        assert "Resize(size=248, interpolation=bicubic" in evaluation and "CenterCrop(size=(224, 224))" in evaluation


def build(pipeline):
    return pipeline.type(**{key: value for key, value in pipeline.items() if key != "type"})
