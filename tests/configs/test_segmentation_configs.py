"""Every config for segmentation loads, has only keys that something reads, trains and evaluates its model."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from PIL import Image

from gatedvision.data import SegmentationFolder
from gatedvision.engine import ParamGroups
from gatedvision.engine.launch import load_config
from gatedvision.heads import LinearHead

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEAVES = sorted(path for path in CONFIGS.glob("*/*.py") if "tasks import Segmentation" in path.read_text())
ADE20K = [path for path in LEAVES if path.stem.endswith("_ade20k")]
# Few blocks and channels: what a config chooses is tested, the full networks are tested with the models.
SMALL = {
    "vig": {"dim": 32, "depth": 4, "num_heads": 2},
    "vig_h": {"dims": (32, 32, 64, 64), "depths": (1, 1, 1, 1), "num_heads": (2, 2, 4, 4)},
    "hornet": {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1)},
    "convnext": {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1)},
    "moganet": {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)},
    "msvit": {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 64},
}
SIZE = 64
each = pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)


def load(path: Path) -> Any:
    return Config.fromfile(str(path))


def reduce(config: Any) -> Any:
    """Make model and windows small; what the config chooses beside that stays."""
    backbone = config.model.backbone
    family = max((family for family in SMALL if backbone.model_name.startswith(family)), key=len)
    backbone.update({**SMALL[family], "pretrained": False})
    if config.model.head.type is not LinearHead:
        config.model.head.dim = 8
    if config.model.get("auxiliary_head"):
        config.model.auxiliary_head.dim = 8
    inference = config.model.inference if "inference" in config.model else {}
    for name, value in {"short_side": 48, "long_side": 96, "crop": 32, "stride": 22}.items():
        if name in inference:
            inference[name] = value
    return config


@each
def test_the_tools_can_load_it(path):
    # Of what it holds, nothing goes unread.
    config = load_config(path)
    assert config.work_dir == f"work_dirs/{path.stem}"
    assert "SegmentationMetrics" in str(config.test_evaluator)


@each
def test_it_says_what_it_is_for(path):
    docstring = " ".join(path.read_text().split('"""')[1].split())
    assert "Command: ``" in docstring and path.name in docstring
    if path in ADE20K:
        assert "arXiv:" in docstring and "Published: " in docstring and "Not repeated here." in docstring


@each
def test_a_step_of_training_and_one_of_evaluation(path):
    torch.manual_seed(0)
    config = reduce(load(path))
    model = MODELS.build(config.model).train()
    optim_wrapper = ParamGroups(
        {"optimizer": config.optim_wrapper.optimizer}, config.optim_wrapper.get("paramwise_cfg")
    )
    wrapper = optim_wrapper(model)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    images = torch.randint(256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    labels = torch.randint(config.model.num_classes, (2, SIZE, SIZE), dtype=torch.uint8)
    labels[:, :8] = 255
    losses = model.train_step({"inputs": images, "labels": labels, "names": ["a", "b"]}, wrapper)
    assert torch.isfinite(losses["loss"])
    parts = [name for name in losses if name.startswith("loss_")]
    assert len(parts) == 1 + bool(config.model.get("auxiliary_head")) + ("gate_loss" in config.model.backbone)
    changed = [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]
    # The first step moves a weight by the rate, unless its gradient is lost in rounding behind a small layer scale.
    assert len(changed) > 0.8 * len(before)

    predictions = model.eval().test_step({"inputs": [images[0]], "labels": [labels[0]], "names": ["a"]})
    assert predictions[0]["label_map"].shape == (SIZE, SIZE)
    assert torch.isfinite(predictions[0]["loss"])


@pytest.mark.parametrize("base", ["ade20k_512", "ade20k_640", "camvid", "cityscapes"])
def test_the_published_layout_of_the_data(base, tmp_path, monkeypatch):
    monkeypatch.setenv("GATEDVISION_DATA", str(tmp_path))
    config = load(CONFIGS / "_base_" / f"{base}.py")
    generator = np.random.default_rng(0)
    for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
        assert loader.dataset.type is SegmentationFolder
        folders = [
            Path(loader.dataset[key].replace("$GATEDVISION_DATA", str(tmp_path))) for key in ("images", "labels")
        ]
        ids = [*(loader.dataset.get("label_ids") or range(11)), *loader.dataset.ignored_ids]
        inner = {"cityscapes": "aachen/aachen_000000_000019", "camvid": "0001TP_006690"}.get(base, "ADE_00000001")
        endings = {"cityscapes": ("_leftImg8bit.png", "_gtFine_labelIds.png")}.get(base, (".jpg", ".png"))
        labels = generator.choice(ids, (60, 80)).astype(np.uint8)
        image = generator.integers(256, size=(60, 80, 3), dtype=np.uint8)
        for folder, ending, pixels in zip(folders, endings, (image, labels), strict=True):
            (folder / inner).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{inner}{ending}")
        with warnings.catch_warnings():
            # albumentations only warns of arguments that it does not know.
            warnings.simplefilter("error")
            dataset = DATASETS.build(loader.dataset)
        sample = dataset[0]
        assert sample["name"] == inner
        assert set(sample["labels"].unique().tolist()) <= {*range(len(dataset.classes)), 255}
        if loader is config.train_dataloader:
            *_, padding = loader.dataset.transforms
            assert sample["labels"].shape == (padding.min_height, padding.min_width)
            assert sample["inputs"].shape[1:] == sample["labels"].shape
        else:
            np.testing.assert_array_equal(sample["labels"] == 255, np.isin(labels, loader.dataset.ignored_ids))


@pytest.mark.parametrize("name", ["hornet_tiny_gf_upernet", "moganet_xtiny_upernet", "moganet_xtiny_fpn"])
def test_the_full_model_has_as_many_parameters_as_published(name):
    [path] = CONFIGS.glob(f"*/{name}_ade20k.py")
    published = float(re.search(r"([\d.]+)M parameters", path.read_text())[1])
    config = load(path)
    config.model.backbone.pretrained = False
    with torch.device("meta"):
        model = MODELS.build(config.model)
    # HorNet's figures are whole millions, MogaNet's have a decimal.
    decimals = 0 if published.is_integer() else 1
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, decimals) == published


# Rate, weight decay, power of the fall, iterations of warm-up, images a step, iterations (thousands), norm of clipping.
RECIPES = {
    "hornet_tiny_7x7_upernet": (1e-4, 0.05, 1.0, 1500, 16, 160, None),
    "hornet_base_gf_upernet": (1e-4, 0.05, 1.0, 1500, 16, 160, 1.0),
    "hornet_large_gf_upernet": (1e-4, 0.05, 1.0, 1500, 16, 160, 0.1),
    "hornet_small_7x7_hor_upernet_gf": (1e-4, 0.05, 1.0, 1500, 16, 160, 0.1),
    "moganet_small_upernet": (1e-4, 0.01, 1.0, 1500, 16, 160, None),
    "moganet_small_fpn": (2e-4, 1e-4, 0.9, None, 32, 80, None),
    "vig_h_s_upernet": (6e-5, 0.01, 1.0, 1500, 16, 160, None),
    "vig_t_upernet": (1e-4, 0.05, 1.0, 1500, 32, 60, None),
}


@pytest.mark.parametrize("name", RECIPES)
def test_published_schedules(name):
    [path] = CONFIGS.glob(f"*/{name}_ade20k.py")
    config = load(path)
    lr, weight_decay, power, warm_up, batch, iterations, max_norm = RECIPES[name]
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.betas) == (lr, weight_decay, (0.9, 0.999))
    *warm_ups, fall = config.param_scheduler
    assert (fall.power, fall.eta_min) == (power, 0.0)
    assert [scheduler.end for scheduler in warm_ups] == ([] if warm_up is None else [warm_up])
    assert config.auto_scale_lr == {"enable": True, "base_batch_size": batch}
    assert 8 * config.train_dataloader.batch_size == batch
    per_epoch = 20210 // batch
    assert 0 <= config.train_cfg.max_epochs * per_epoch - 1000 * iterations < per_epoch
    assert (config.optim_wrapper.get("clip_grad") or {}).get("max_norm") == max_norm
    assert config.default_hooks.checkpoint.save_best == "mIoU"


def test_the_stages_of_hornet_learn_at_the_published_rates():
    # Group ids of the published table: stages 1 to 4, of 8 groups (T) or 14 (S, B, L) with the heads as the last.
    for name, factor, groups in (("tiny_7x7", 0.9, 8), ("base_gf", 0.9, 14), ("large_7x7", 0.8, 14)):
        config = reduce(load(CONFIGS / "hornet" / f"hornet_{name}_upernet_ade20k.py"))
        model = MODELS.build(config.model)
        wrapper = ParamGroups({"optimizer": {"type": torch.optim.SGD, "lr": 1.0}}, config.optim_wrapper.paramwise_cfg)
        rates = {id(p): group["lr"] for group in wrapper(model).param_groups for p in group["params"]}
        for stage in range(4):
            found = {rates[id(p)] for p in model.backbone.stages[stage].parameters()}
            assert list(found) == [pytest.approx(factor ** (groups - 1 - (stage + 1)))]
        for part in (model.norms, model.head, model.auxiliary_head):
            assert {rates[id(p)] for p in part.parameters()} == {1.0}
