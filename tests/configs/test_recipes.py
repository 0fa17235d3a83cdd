"""The ImageNet configs against the table of the published recipe, arXiv:2405.18425."""

from pathlib import Path

import pytest
from mmengine.config import Config

VIG = Path(__file__).resolve().parents[2] / "configs" / "vig"

# Learning rate for a batch of 512, weight decay, drop path, images per GPU, precision.
RECIPES = {
    "vig_t": (1e-3, 0.05, 0.0, 128, None),
    "vig_s": (5e-4, 0.1, 0.2, 128, None),
    "vig_b": (1e-3, 0.05, 0.5, 64, None),
    "vig_h_t": (8e-4, 0.05, 0.2, 128, "fp16"),
    "vig_h_s": (5e-4, 0.05, 0.3, 128, "fp16"),
    "vig_h_b": (5e-4, 0.05, 0.6, 128, "fp16"),
}


@pytest.fixture(params=RECIPES)
def case(request):
    return request.param, Config.fromfile(str(VIG / f"{request.param}_imagenet.py")), RECIPES[request.param]


def test_optimiser_model_and_precision(case):
    name, config, (lr, weight_decay, drop_path_rate, batch_size, amp) = case
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.betas, optimizer.eps) == (
        lr,
        weight_decay,
        (0.9, 0.999),
        1e-8,
    )
    assert config.optim_wrapper.clip_grad == {"max_norm": 5.0}
    assert config.model.backbone == {"model_name": name, "num_classes": 1000, "drop_path_rate": drop_path_rate}
    assert config.train_dataloader.batch_size == batch_size
    assert config.get("amp") == amp


def test_schedule_and_average(case):
    _, config, _ = case
    assert config.train_cfg.max_epochs == 300
    assert config.param_scheduler[0]["end"] == 20
    assert config.custom_hooks[0]["momentum"] == pytest.approx(1 - 0.9999)


def test_augmentation_and_evaluation(case):
    _, config, _ = case
    assert config.model.mixup == {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 1.0, "switch_prob": 0.5}
    assert config.model.label_smoothing == 0.1
    train = str(config.train_dataloader.dataset.transform.type(**_without_type(config.train_pipeline)))
    assert "RandAugment(n=2" in train and "RandomErasing" in train and "size=(224, 224)" in train
    evaluation = str(config.val_pipeline.type(**_without_type(config.val_pipeline)))
    assert "Resize(size=256, interpolation=bicubic" in evaluation and "CenterCrop(size=(224, 224))" in evaluation
    assert "mean=tensor([0.4850, 0.4560, 0.4060])" in evaluation


def _without_type(pipeline):
    return {key: value for key, value in pipeline.items() if key != "type"}
