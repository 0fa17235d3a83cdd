"""Every config of a detector loads and builds, and each kind of them trains and evaluates a step on a few images."""

import inspect
import json
from pathlib import Path
from typing import Any

import mmengine.runner
import numpy as np
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

from gatedvision.data import CocoDetection
from gatedvision.engine import Runner
from gatedvision.engine.launch import load_config
from gatedvision.metrics import CocoMetrics
from gatedvision.tasks import Detection

pytest.importorskip("faster_coco_eval")

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEAVES = [path for path in sorted(CONFIGS.glob("[!_]*/*.py")) if "import Detection" in path.read_text()]
COCO = [path for path in LEAVES if path.stem.endswith("_coco")]
# Few blocks and channels: what a config chooses is tested, the full networks are tested with the models.
SMALL = {
    "vig": {"dim": 32, "depth": 2, "num_heads": 2},
    "vig_h": {"dims": (32, 32, 64, 64), "depths": (1, 1, 1, 1), "num_heads": (2, 2, 4, 4)},
    "hornet": {"dims": (8, 16, 32, 64), "depths": (1, 1, 1, 1)},
    "moganet": {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)},
}
FEW_PROPOSALS = {
    "rpn_post_nms_top_n_train": 20,
    "rpn_post_nms_top_n_test": 10,
    "box_batch_size_per_image": 8,
    "box_detections_per_img": 4,
}


def family(config: Config) -> str:
    return max((name for name in SMALL if config.model.backbone.model_name.startswith(name)), key=len)


def one_of_each_kind() -> list[Any]:
    """The first config of each family, detector, neck and data set."""
    found = {}
    for path in LEAVES:
        config = Config.fromfile(str(path))
        kind = family(config), config.model.detector, config.model.get("neck"), path.stem.rsplit("_")[-1]
        found.setdefault(kind, pytest.param(path, id=path.stem))
    return list(found.values())


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_it_loads_and_builds(path):
    config = Config.fromfile(str(path))
    known = set(inspect.signature(mmengine.runner.Runner.__init__).parameters) | {"amp"}
    imports = {key for key in config if isinstance(config[key], type) or inspect.isroutine(config[key])}
    own = {key for key in config if key.startswith("_") or key.endswith("_pipeline")}
    assert set(config) - imports - own <= known

    docstring = path.read_text().split('"""')[1]
    assert "Command: ``" in docstring and path.name in docstring
    # Published recipes begin with published weights, the others from scratch.
    backbone = config.model.backbone
    assert backbone.get("pretrained", False) == (path in COCO)
    assert ("Published: " in docstring) == (path in COCO)
    assert timm.is_model_pretrained(backbone.model_name)
    backbone.update(SMALL[family(config)], pretrained=False)
    with torch.device("meta"):
        assert isinstance(MODELS.build(config.model), Detection)

    train, val = config.train_dataloader, config.val_dataloader
    assert issubclass(train.dataset.type, CocoDetection) and val.dataset.type is train.dataset.type
    assert train.drop_last is True and config.test_dataloader == val and config.test_evaluator == config.val_evaluator
    has_masks = config.model.detector == "mask_rcnn"
    assert train.dataset.get("with_masks", False) == has_masks
    assert config.val_evaluator.type is CocoMetrics
    assert config.val_evaluator.iou_types == (("bbox", "segm") if has_masks else ("bbox",))
    assert config.default_hooks.checkpoint.save_best == "coco/bbox_mAP"


def write_data(folder: Path, config: Config) -> int:
    """Write two images with two objects each where a config looks for its data; return the number of classes."""
    for loader in (config.train_dataloader, config.val_dataloader):
        dataset = loader.dataset
        if "annotations" not in dataset:
            dataset.length = 2
            continue
        names = dataset.get("classes", ("first", "second"))
        content: dict[str, Any] = {
            "images": [{"id": n, "file_name": f"{n}.png", "width": 72, "height": 64} for n in range(2)],
            "categories": [{"id": label, "name": name} for label, name in enumerate(names)],
            "annotations": [],
        }
        for number, (left, top) in enumerate(((4, 4), (30, 20), (10, 8), (34, 24))):
            corners = [left, top, left + 28, top, left + 28, top + 30, left, top + 30]
            content["annotations"].append(
                {
                    "id": number,
                    "image_id": number // 2,
                    "category_id": number % 2,
                    "bbox": [left, top, 28, 30],
                    "segmentation": [corners],
                }
            )
        images, annotations = (
            Path(dataset[key].replace("$GATEDVISION_DATA", str(folder))) for key in ("images", "annotations")
        )
        images.mkdir(parents=True, exist_ok=True)
        annotations.parent.mkdir(exist_ok=True)
        annotations.write_text(json.dumps(content))
        for image in content["images"]:
            noise = np.random.default_rng(image["id"]).integers(0, 256, (64, 72, 3), dtype=np.uint8)
            Image.fromarray(noise).save(images / image["file_name"])
        loader.update(num_workers=0, persistent_workers=False, pin_memory=False)
        classes = len(names)
    return classes if "annotations" in config.train_dataloader.dataset else config.model.num_classes


@pytest.mark.parametrize("path", one_of_each_kind())
def test_a_step_of_training_and_one_of_evaluation(path, tmp_path, monkeypatch):
    monkeypatch.setenv("GATEDVISION_DATA", str(tmp_path))
    config = load_config(path, tmp_path / "run")
    model = config.model
    model.backbone.update(SMALL[family(config)], pretrained=False)
    model.update(num_classes=write_data(tmp_path, config), channels=32, min_size=64, max_size=96)
    model.detector_options = FEW_PROPOSALS if "rcnn" in model.detector else {"detections_per_img": 4}
    config.train_dataloader.batch_size = 2
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
    assert runner.iter == 1 and np.isfinite(scalars["train/loss"].current())
    assert any(not torch.equal(weight, before[name]) for name, weight in runner.model.state_dict().items())
    for iou_type in config.val_evaluator.iou_types:
        assert 0.0 <= scalars[f"val/coco/{iou_type}_mAP"].current() <= 1.0


@pytest.mark.parametrize(("name", "millions"), [("retinanet", 12.1), ("mask_rcnn", 22.8)])
def test_parameters_are_as_many_as_published(name, millions):
    config = Config.fromfile(str(CONFIGS / "moganet" / f"moganet_xtiny_{name}_1x_coco.py"))
    config.model.backbone.pretrained = False
    with torch.device("meta"):
        model = MODELS.build(config.model)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


# Learning rate, drop path and layer decay (a layer of ours is half of a published one), by the fact of the papers.
HORNET_3X = {
    "tiny_7x7": (2e-4, 0.4, 0.7),
    "tiny_gf": (2e-4, 0.4, 0.7),
    "small_7x7": (2e-4, 0.6, 0.7),
    "small_gf": (2e-4, 0.6, 0.7),
    "base_7x7": (2e-4, 0.7, 0.8),
    "base_gf": (2e-4, 0.7, 0.8),
    "large_7x7": (1e-4, 0.7, 0.7),
    "large_gf": (1e-4, 0.7, 0.7),
}
HORNET = {f"hornet_{name}_mask_rcnn_3x": row for name, row in HORNET_3X.items()} | {
    f"hornet_small_7x7_{neck}mask_rcnn_1x": (1e-4, 0.6, 0.95) for neck in ("", "hor_fpn_", "hor_fpn_gf_")
}
MOGANET_DROP_PATH = {"xtiny": 0.05, "tiny": 0.1, "small": 0.1, "base": 0.2, "large": 0.3}
MOGANET = {f"moganet_{size}_retinanet_1x": (1e-4, rate, 1.0) for size, rate in MOGANET_DROP_PATH.items()}
MOGANET |= {
    f"moganet_{size}_mask_rcnn_1x": (1e-4 if size in ("base", "large") else 2e-4, rate, 1.0)
    for size, rate in MOGANET_DROP_PATH.items()
}
MOGANET |= {
    f"moganet_{size}_mask_rcnn_3x": (2e-4, rate, 1.0)
    for size, rate in {"tiny": 0.1, "small": 0.1, "base": 0.3, "large": 0.3}.items()
}
VIG = {
    f"vig_h_{size}_mask_rcnn_{schedule}": (1e-4, rate, 1.0)
    for size, rate in (("t", 0.2), ("s", 0.3), ("b", 0.6))
    for schedule in ("1x", "3x")
}
RECIPES = HORNET | MOGANET | VIG


def test_every_published_recipe_has_a_row():
    assert {path.stem.removesuffix("_coco") for path in COCO} == RECIPES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name):
    config = Config.fromfile(str(CONFIGS / name.split("_")[0] / f"{name}_coco.py"))
    lr, drop_path_rate, layer_decay = RECIPES[name]
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (lr, 0.05) and "clip_grad" not in config.optim_wrapper
    decay = (config.optim_wrapper.get("paramwise_cfg") or {}).get("layer_decay", 1.0)
    assert decay**2 == pytest.approx(layer_decay)
    assert config.model.backbone.drop_path_rate == drop_path_rate and config.model.num_classes == 80
    assert config.model.get("norm_maps", False) == (not name.startswith("moganet"))

    is_long, is_cut = name.endswith("3x"), not name.startswith("moganet") and (name.endswith("3x") or name in HORNET)
    warm_up, steps = config.param_scheduler
    assert config.train_cfg.max_epochs == (36 if is_long else 12)
    assert steps["milestones"] == ([27, 33] if is_long else [8, 11]) and steps["gamma"] == 0.1
    assert warm_up["end"] == (1000 if name in VIG else 500) and warm_up["start_factor"] == 1e-3
    assert config.auto_scale_lr == {"enable": True, "base_batch_size": 16}
    assert config.train_dataloader.batch_size == 2 and config.get("amp") is None
    sides = config.model.get("min_size", 800)
    assert sides == (tuple(range(480, 801, 32)) if is_long or is_cut else 800)
    names = [transform["type"].__name__ for transform in config.train_dataloader.dataset.transforms]
    assert names == ["HorizontalFlip", *(["RandomWindow"] if is_cut else [])]
    assert config.train_dataloader.dataset.keep_empty is False and config.val_dataloader.dataset.get("keep_empty", True)
