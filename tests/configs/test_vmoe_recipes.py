"""V-MoE's configs against the table of the published recipes, arXiv:2106.05974 and 2110.03360."""

from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch.optim import SGD, AdamW

from gatedvision.engine.param_groups import ParamGroups
from tests.models.cases import SMALL_VMOE

VMOE = Path(__file__).resolve().parents[2] / "configs" / "vmoe"

# GPUs, images each, of how many; rate, steps of warm-up, all steps; pixels.
PRE_TRAINING = {
    "vmoe_s32_last2_e8_imagenet": (8, 1024, 1_281_167, 3e-3, 10_000, 300 * 156, 224),
    "vmoe_b16_every2_e8_imagenet21k": (32, 128, 14_197_122, 8e-4, 10_000, 300 * 3466, 224),
}
FINE_TUNING = {
    "vmoe_s32_last2_e8_img384_imagenet": (8, 128, 1_281_167, 3e-3, 500, 10_000, 384),
    "vmoe_b16_every2_e8_img384_imagenet": (8, 128, 1_281_167, 3e-3, 500, 10_000, 384),
    "vmoe_b16_every2_e8_img128_cifar10": (8, 128, 50_000, 1.5e-3, 100, 1_000, 128),
    "vmoe_s32_last2_e8_m2_img128_cifar100": (8, 128, 50_000, 5e-3, 200, 2_000, 128),
}
MODEL = {
    "vmoe_s32_last2_e8_imagenet": (57_0, dict(capacity_factor=1.05, eval_capacity_factor=4.0, expert_drop_rate=0.2)),
    "vmoe_b16_every2_e8_imagenet21k": (301_0, dict(capacity_factor=1.05, head_bias=-10.0)),
    "vmoe_s32_last2_e8_img384_imagenet": (56_8, dict(capacity_factor=1.5, representation_size=0)),
    "vmoe_b16_every2_e8_img384_imagenet": (285_2, dict(capacity_factor=1.5)),
    "vmoe_b16_every2_e8_img128_cifar10": (284_1, dict(capacity_factor=1.5)),
    "vmoe_s32_last2_e8_m2_img128_cifar100": (
        56_5,
        dict(capacity_factor=1.5, num_members=2, num_selected=1, group_images=128),
    ),
}


def load(name: str) -> Config:
    return Config.fromfile(str(VMOE / f"{name}.py"))


def transform(loader) -> str:
    options = dict(loader.dataset.transform)
    return str(options.pop("type")(**options))


@pytest.mark.parametrize("name", MODEL)
def test_network(name):
    config = load(name)
    count, options = MODEL[name]
    backbone = dict(config.model.backbone)
    size = {**PRE_TRAINING, **FINE_TUNING}[name][-1]
    expected = {"model_name": name.partition("_e8")[0] + "_e8", "num_classes": backbone["num_classes"], **options}
    assert backbone == {**expected, **({"img_size": size} if size != 224 else {})}
    with torch.device("meta"):
        model = timm.create_model(backbone.pop("model_name"), **backbone)
    assert round(sum(p.numel() for p in model.parameters()) / 1e5) == count
    router = next(layer.router for _, layer in model.expert_layers())
    assert router.priority == router.eval_priority == "vanilla" and router.group_images in (8, 128)
    assert router.loss_weights == {"importance": 0.005, "load": 0.005, "gshard": 0.0}


@pytest.mark.parametrize("name", [*PRE_TRAINING, *FINE_TUNING])
def test_schedule(name):
    config = load(name)
    gpus, images, dataset, lr, warm_up, steps, _ = {**PRE_TRAINING, **FINE_TUNING}[name]
    assert config.train_dataloader.batch_size == images
    assert config.auto_scale_lr == {"enable": True, "base_batch_size": gpus * images}
    assert config.optim_wrapper.optimizer.lr == lr
    in_epoch = dataset // (gpus * images)
    first, second = config.param_scheduler
    assert first["end"] == second["begin"]
    # Whole epochs come to some steps more, 2,016 of 2,000 or so.
    assert int(first["end"] * in_epoch) == pytest.approx(warm_up, rel=0.002)
    assert config.train_cfg.max_epochs * in_epoch == pytest.approx(steps, rel=0.01)
    ratio = second["end_factor"] if name in PRE_TRAINING else second["eta_min_ratio"]
    assert ratio * lr == pytest.approx(1e-5)
    assert "custom_hooks" not in config and config.amp is None


@pytest.mark.parametrize("name", PRE_TRAINING)
def test_pre_training(name):
    config = load(name)
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.weight_decay, optimizer.betas) == (AdamW, 0.1, (0.9, 0.999))
    assert config.optim_wrapper.clip_grad == {"max_norm": 1.0}
    is_large = "imagenet21k" in name
    assert config.model.mixup == {"mixup_alpha": 0.5 if is_large else 0.2, "prob": 1.0}
    assert config.model.sigmoid and "label_smoothing" not in config.model
    train = transform(config.train_dataloader)
    assert "size=(224, 224), scale=(0.05, 1.0)" in train and "RandomErasing" not in train and "Jitter" not in train
    magnitude = "m=20, mstd=0, mmax=20" if is_large else "m=10, mstd=0)"
    assert "RandAugment(n=2" in train and f"name=Rotate, p=1.0, {magnitude}" in train
    for loader in (config.val_dataloader, config.test_dataloader):
        evaluation = transform(loader)
        assert "Resize(size=256, interpolation=box" in evaluation and "CenterCrop(size=(224, 224))" in evaluation
        assert loader.dataset.root.endswith("imagenet21k") == is_large


@pytest.mark.parametrize("name", FINE_TUNING)
def test_fine_tuning(name):
    config = load(name)
    assert config.optim_wrapper.optimizer == {"type": SGD, "lr": FINE_TUNING[name][3], "momentum": 0.9}
    assert config.optim_wrapper.clip_grad == {"max_norm": 10.0}
    assert {"mixup", "label_smoothing", "sigmoid"}.isdisjoint(config.model)
    size = FINE_TUNING[name][-1]
    train = transform(config.train_dataloader)
    assert f"size=({size}, {size}), scale=(0.05, 1.0)" in train and "HorizontalFlip" in train
    assert not any(other in train for other in ("RandAugment", "Erasing", "Jitter"))
    for loader in (config.val_dataloader, config.test_dataloader):
        assert f"Resize(size=({size}, {size}), interpolation=bilinear" in transform(loader)
        assert loader.dataset.root.endswith(name.rpartition("_")[2])


def test_what_decays():
    config = load("vmoe_s32_last2_e8_imagenet")
    config.model.backbone = {**config.model.backbone, **SMALL_VMOE, "representation_size": 16, "num_experts": 4}
    model = MODELS.build(config.model)
    wrapper = ParamGroups({"optimizer": {"type": AdamW, "lr": 1.0, "weight_decay": 0.1}})(model)
    groups = {group["weight_decay"]: {id(p) for p in group["params"]} for group in wrapper.param_groups}
    decayed = {name for name, p in model.backbone.named_parameters() if id(p) in groups[0.1]}
    # What is called a kernel in the published network.
    kernels = {"head.weight", "pre_logits.fc.weight", "patch_embed.proj.weight"}
    for block in range(4):
        kernels |= {f"blocks.{block}.attn.{layer}.weight" for layer in ("qkv", "proj")}
        mlp = ("experts.fc1", "experts.fc2", "router") if block % 2 else ("fc1", "fc2")
        kernels |= {f"blocks.{block}.mlp.{layer}.weight" for layer in mlp}
    assert decayed == kernels


def test_fine_tuning_starts_as_its_command_says(tmp_path):
    small = {**SMALL_VMOE, "num_experts": 4, "patch_size": 32}
    torch.manual_seed(0)
    trained = timm.create_model("vmoe_s32_last2_e8", img_size=64, **{**small, "representation_size": 16})
    torch.nn.init.normal_(trained.head.weight)
    torch.save(trained.state_dict(), tmp_path / "vmoe_s32.pth")
    config = load("vmoe_s32_last2_e8_img384_imagenet")
    config.model.backbone = {**config.model.backbone, **small, "img_size": 96}
    options = {"pretrained": True, "pretrained_cfg_overlay.file": str(tmp_path / "vmoe_s32.pth")}
    for name, value in options.items():
        config.merge_from_dict({f"model.backbone.{name}": value})
    backbone = MODELS.build(config.model).backbone
    assert backbone.pos_embed.shape == (1, 10, 32) and not backbone.head.weight.any()
    for name, value in trained.state_dict().items():
        if not name.startswith(("head.", "pre_logits.", "pos_embed")):
            assert torch.equal(backbone.state_dict()[name], value), name


# Groups of images of one class are no fair test of routing.
@pytest.mark.parametrize("path", sorted(VMOE.glob("*.py")), ids=lambda path: path.stem)
def test_images_of_a_group_are_of_many_classes(path):
    config = Config.fromfile(str(path))
    assert config.test_dataloader.sampler.shuffle or "digits" in path.stem
