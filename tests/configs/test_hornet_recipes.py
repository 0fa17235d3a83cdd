"""HorNet's ImageNet configs against the tables of the published recipes, arXiv:2207.14284."""

from pathlib import Path

import pytest
from mmengine.config import Config

from gatedvision.engine import EMA

HORNET = Path(__file__).resolve().parents[2] / "configs" / "hornet"

# Drop path, gradient norm, magnitude of RandAugment, images per GPU (of 32) and steps accumulated.
RECIPES = {
    "hornet_tiny_7x7": (0.2, 100.0, 9, 128, 1),
    "hornet_tiny_gf": (0.2, 1.0, 9, 128, 1),
    "hornet_small_7x7": (0.4, 5.0, 9, 64, 2),
    "hornet_small_gf": (0.4, 1.0, 12, 64, 2),
    "hornet_base_7x7": (0.5, 5.0, 9, 64, 2),
    "hornet_base_gf": (0.5, 1.0, 15, 64, 2),
}
MIXUP = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 1.0, "switch_prob": 0.5}


def build(pipeline):
    return str(pipeline.type(**{key: value for key, value in pipeline.items() if key != "type"}))


def total_batch(config):
    return 32 * config.train_dataloader.batch_size * config.optim_wrapper.get("accumulative_counts", 1)


def rates(config):
    """Return the learning rates at the start, the peak and the end."""
    *warm_up, cosine = config.param_scheduler
    lr = config.optim_wrapper.optimizer.lr
    return lr * (warm_up[0]["start_factor"] if warm_up else 1.0), lr, lr * cosine["eta_min_ratio"]


@pytest.mark.parametrize("name", RECIPES)
def test_from_scratch(name):
    config = Config.fromfile(str(HORNET / f"{name}_imagenet.py"))
    drop_path_rate, max_norm, magnitude, batch_size, steps = RECIPES[name]

    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.weight_decay, optimizer.betas, optimizer.eps) == (0.05, (0.9, 0.999), 1e-8)
    assert config.optim_wrapper.clip_grad == {"max_norm": max_norm}
    assert config.train_dataloader.batch_size == batch_size
    assert config.optim_wrapper.get("accumulative_counts", 1) == steps
    assert config.auto_scale_lr == {"enable": True, "base_batch_size": 4096} and total_batch(config) == 4096
    assert rates(config) == pytest.approx((0.0, 4e-3, 1e-6), abs=1e-8)
    assert config.train_cfg.max_epochs == 300 and config.param_scheduler[0]["end"] == 20
    assert [(hook["type"], hook["momentum"]) for hook in config.custom_hooks] == [(EMA, pytest.approx(1 - 0.9999))]
    assert config.get("amp") is None

    assert config.model.backbone == {"model_name": name, "num_classes": 1000, "drop_path_rate": drop_path_rate}
    assert config.model.mixup == MIXUP and config.model.label_smoothing == 0.1
    assert config.train_pipeline.auto_augment == f"rand-m{magnitude}-mstd0.5-inc1"
    train = build(config.train_dataloader.dataset.transform)
    assert "RandAugment(n=2" in train and "RandomErasing" in train and "ColorJitter" not in train
    assert "RandomResizedCropAndInterpolation(size=(224, 224)" in train and "interpolation=bicubic" in train
    for loader in (config.val_dataloader, config.test_dataloader):
        evaluation = build(loader.dataset.transform)
        assert "Resize(size=256, interpolation=bicubic" in evaluation and "CenterCrop(size=(224, 224))" in evaluation


@pytest.mark.parametrize(("name", "max_norm"), [("hornet_large_7x7", 5.0), ("hornet_large_gf", 1.0)])
def test_pre_training(name, max_norm):
    config = Config.fromfile(str(HORNET / f"{name}_imagenet22k.py"))
    assert config.model.backbone == {"model_name": name, "num_classes": 10450, "drop_path_rate": 0.2}
    assert config.model.mixup == MIXUP
    assert config.optim_wrapper.optimizer.weight_decay == 0.1
    assert config.optim_wrapper.clip_grad == {"max_norm": max_norm}
    assert config.auto_scale_lr == {"enable": True, "base_batch_size": 4096} and total_batch(config) == 4096
    assert rates(config) == pytest.approx((0.0, 4e-3, 1e-6), abs=1e-8)
    assert config.train_cfg.max_epochs == 90 and config.param_scheduler[0]["end"] == 5
    assert "custom_hooks" not in config
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert loader.dataset.root == "$GATEDVISION_DATA/imagenet22k"


@pytest.mark.parametrize("name", ["hornet_large_7x7", "hornet_large_gf_img384"])
def test_fine_tuning(name):
    config = Config.fromfile(str(HORNET / f"{name}_imagenet.py"))
    assert config.model.backbone == {"model_name": f"{name}.in22k", "num_classes": 1000, "drop_path_rate": 0.4}
    assert "mixup" not in config.model and config.model.label_smoothing == 0.1
    assert config.optim_wrapper.optimizer.weight_decay == 1e-8
    assert config.optim_wrapper.clip_grad == {"max_norm": 1.0}
    assert config.auto_scale_lr == {"enable": True, "base_batch_size": 512} and total_batch(config) == 512
    assert rates(config) == pytest.approx((5e-5, 5e-5, 1e-6)) and config.train_cfg.max_epochs == 30
    assert [(hook["type"], hook["momentum"]) for hook in config.custom_hooks] == [(EMA, pytest.approx(1 - 0.9999))]
    # Thirteen published steps from head to stem, 26 of ours.
    assert config.optim_wrapper.paramwise_cfg["layer_decay"] ** 26 == pytest.approx(0.7**13)
    assert "RandomResizedCropAndInterpolation(size=(384, 384)" in build(config.train_dataloader.dataset.transform)
    for loader in (config.val_dataloader, config.test_dataloader):
        evaluation = build(loader.dataset.transform)
        assert "Resize(size=(384, 384), interpolation=bicubic" in evaluation
