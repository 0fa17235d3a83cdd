"""Every medical config loads, has only keys that something reads, trains and evaluates its model on its data."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

from gatedvision.data import GeneratedOrgans, MedicalImageFolder, VolumeFolder
from gatedvision.engine import EMA, ParamGroups, Runner
from gatedvision.engine.launch import load_config
from gatedvision.metrics import MedicalMetrics
from gatedvision.tasks import MedicalSegmentation

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "attention_unet"
PUBLISHED = [CONFIGS / f"attention_unet_3d_{name}.py" for name in ("ct150", "ct82")]
NUCLEI = [CONFIGS / f"{name}_nuclei.py" for name in ("attention_unet", "unet", "smp_unet")]
LEAVES = sorted([*PUBLISHED, *NUCLEI, *CONFIGS.glob("*nano_organs.py")])
each = pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)


def load(path: Path) -> Any:
    return Config.fromfile(str(path))


def test_all_of_them_are_here():
    assert {path.stem for path in LEAVES} == {
        path.stem for path in CONFIGS.glob("*.py") if load(path).model.type is MedicalSegmentation
    }
    readme = (CONFIGS / "README.md").read_text()
    assert all(f"[{path.name}]({path.name})" in readme for path in LEAVES)


@each
def test_it_says_what_it_is_for(path):
    docstring = " ".join(path.read_text().split('"""')[1].split())
    assert "Command: ``" in docstring and path.name in docstring
    if path in PUBLISHED:
        assert "arXiv:1804.03999" in docstring and "Published: " in docstring and "Not repeated here." in docstring


def write_data(folder: Path, config: Any) -> None:
    """Write two images or volumes, smaller and larger than the patches, where a config looks for its data."""
    generator = np.random.default_rng(0)
    for loader in (config.train_dataloader, config.val_dataloader):
        dataset = loader.dataset
        loader.update(num_workers=0, persistent_workers=False, pin_memory=False)
        if dataset.type is GeneratedOrgans:
            dataset.update(length=2, size=(16,) * len(dataset.size))
            continue
        paths = [Path(dataset[part].replace("$GATEDVISION_DATA", str(folder))) for part in ("images", "labels")]
        is_volume = dataset.type is VolumeFolder
        for name, side in (("small", 10), ("large", 40)):
            sides = (side, side, side // 2) if is_volume else (side, side + 30)
            contents = (generator.integers(0, 255, sides), generator.integers(0, len(dataset.classes), sides))
            for path, values in zip(paths, contents, strict=True):
                path.mkdir(parents=True, exist_ok=True)
                if is_volume:
                    image = nibabel.Nifti1Image(values.astype(np.int16), np.diag([1.0, 1.0, 2.0, 1.0]))
                    nibabel.save(image, path / f"{name}.nii.gz")
                else:
                    Image.fromarray(values.astype(np.uint8)).save(path / f"{name}.png")


@each
def test_a_step_of_training_and_one_of_evaluation(path, tmp_path, monkeypatch):
    monkeypatch.setenv("GATEDVISION_DATA", str(tmp_path))
    config = load_config(path, tmp_path / "run")
    write_data(tmp_path, config)
    if "model_name" in config.model.network:
        config.model.network.dims = (4, 8, 8)
    else:
        config.model.network.update(encoder_name="tu-test_resnet", decoder_channels=(8,) * 5)
    axes = len(config.model.inference.size)
    config.model.inference.size = config.train_dataloader.dataset.patch.size = (16, 16, 16) if axes == 3 else (32, 32)
    config.train_dataloader.batch_size = 2
    # Learned in one step rather than 100.
    for scheduler in config.param_scheduler:
        scheduler.update(begin=0)
    config.param_scheduler[0].end = 1
    config.train_cfg.update(max_epochs=1, val_interval=1)
    config.default_hooks.checkpoint = None
    config.visualizer = None
    config.log_processor.window_size = 1
    config.amp = None
    config.val_evaluator = config.test_evaluator
    config.experiment_name = f"step_{path.stem}"
    runner = Runner.from_cfg(config)
    before = {name: weight.clone() for name, weight in runner.model.named_parameters()}
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert runner.iter == 1 and np.isfinite(scalars["train/loss"].current())
    moved = [name for name, weight in runner.model.named_parameters() if not torch.equal(weight, before[name])]
    assert len(moved) > 0.8 * len(before)
    assert 0 <= scalars["val/Dice"].current() <= 1 and scalars["val/HD95"].current() > 0


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_recipes(path):
    config = load(path)
    classes = config.train_dataloader.dataset.classes
    assert config.model.num_classes == len(classes) == (4 if path.stem.endswith("ct150") else 2)
    assert config.model.network == {"model_name": "attention_unet_3d", "in_chans": 1}
    assert config.model.losses == {"published_dice": 1.0}
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == (torch.optim.Adam, 1e-4, 1e-6)
    assert config.train_cfg.max_epochs == 1000 and config.train_dataloader.batch_size == 2
    [steps] = config.param_scheduler
    assert (steps.step_size, steps.gamma) == (250, 0.5)
    assert not config.get("custom_hooks") and config.amp is None
    for loader in (config.train_dataloader, config.val_dataloader):
        assert loader.dataset.type is VolumeFolder and loader.dataset.resample == 2.0
        assert loader.dataset.intensity.mode == "z_score"
    patch = config.train_dataloader.dataset.patch
    assert patch.size == config.model.inference.size == (160, 160, 96)
    assert (patch.flip, patch.rotation, patch.scale) == (0.5, 15, (0.7, 1.3))
    assert config.test_evaluator.type is MedicalMetrics and "distances" not in config.test_evaluator
    parameters = {"ct150": 6_214_151, "ct82": 6_213_613}[path.stem.rpartition("_")[2]]
    with torch.device("meta"):
        model = MODELS.build(config.model)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_programs_optimizer_as_the_readme_says():
    text = " ".join((CONFIGS / "README.md").read_text().split())
    options = text.partition("The program's optimiser: `--cfg-options ")[2].partition("`")[0].split()
    # As the tools read them.
    values = {name: {"0.9": 0.9, "True": True}.get(value, value) for name, value in (o.split("=") for o in options)}
    config = load_config(PUBLISHED[0], cfg_options=values)
    config.model.network.dims = (4, 8, 8)
    wrapper = ParamGroups({"optimizer": config.optim_wrapper.optimizer})
    optimizer = wrapper(MODELS.build(config.model)).optimizer
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.9 and optimizer.defaults["nesterov"] is True


def test_the_nuclei_differ_in_the_network_alone():
    gated, ungated, other = (load(path) for path in NUCLEI)
    assert ungated.model.network == {**gated.model.network, "gated": False}
    assert other.model.network.encoder_name == "tu-resnet50" and other.model.network.encoder_weights is None
    for config in (ungated, other):
        assert {**config.model, "network": None} == {**gated.model, "network": None}
        for key in ("train_dataloader", "val_dataloader", "optim_wrapper", "param_scheduler", "train_cfg", "amp"):
            assert config[key] == gated[key], key
    assert gated.train_dataloader.dataset.type is MedicalImageFolder and gated.custom_hooks[0].type is EMA
    counts = []
    for config in (gated, ungated, other):
        with torch.device("meta"):
            counts.append(sum(p.numel() for p in MODELS.build(config.model).parameters()))
    assert counts == [34_878_573, 34_527_041, 32_521_105]
