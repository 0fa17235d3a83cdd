"""A trained model ready to be looked at: config and checkpoint in, task model in evaluation mode out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from torch.utils.data import DataLoader

from gatedvision.engine.checkpoint_file import load_weights, locate_checkpoint, read_checkpoint, select_weights
from gatedvision.engine.device import find_device
from gatedvision.engine.launch import leave_out_pretrained, load_config
from gatedvision.engine.runner import Runner


@dataclass(frozen=True)
class TrainedModel:
    """What a run trained.

    Attributes:
        cfg: the run's config.
        task: the task model, in evaluation mode.
        checkpoint: where its weights are from.
        device: where they lie.
    """

    cfg: Config
    task: Any
    checkpoint: Path
    device: torch.device

    def test_data(self) -> Any:
        """Build the data set of the test data."""
        return DATASETS.build(self.cfg.test_dataloader.dataset)

    def test_loader(self, dataset: Any) -> DataLoader[Any]:
        """Build the loader of a data set from :meth:`test_data`, with the config's batches."""
        return Runner.build_dataloader({**self.cfg.test_dataloader, "dataset": dataset}, seed=0)


def load_trained(
    config: Path,
    checkpoint: Path,
    weights: Literal["ema", "raw"] = "ema",
    device: str | None = None,
    cfg_options: dict[str, Any] | None = None,
) -> TrainedModel:
    """Build the model of a config with the weights of a checkpoint.

    Args:
        config: config file of the run.
        checkpoint: its checkpoint, or its work directory, meaning the last one.
        weights: the moving average of the weights where there is one, or the weights in training.
        device: such as ``"cpu"``; the GPU where there is one by default.
        cfg_options: settings that replace those of the config, by dotted name.

    Returns:
        The model.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or it does not fit the model.
        ValueError: the config does not fit, or there is no such device.
    """
    place = find_device(device)
    cfg = load_config(config, cfg_options=cfg_options)
    found = locate_checkpoint(checkpoint)
    # Before the model is built: a wrong path should show at once.
    state_dict, _ = select_weights(read_checkpoint(found), weights)
    leave_out_pretrained(cfg)
    task: Any = MODELS.build(cfg.model)
    load_weights(task, state_dict, str(found))
    return TrainedModel(cfg, task.to(place).eval(), found, place)


def config_of_run(work_dir: Path) -> Path:
    """Find the config that a run left in its work directory, its ``--cfg-options`` in it.

    Args:
        work_dir: the work directory.

    Returns:
        The file.

    Raises:
        FileNotFoundError: there is no work directory, or no config in it.
        ValueError: it holds several.
    """
    if not work_dir.is_dir():
        raise FileNotFoundError(f"no work directory '{work_dir}'")
    found = sorted(work_dir.glob("*.py"))
    if not found:
        raise FileNotFoundError(f"no config in '{work_dir}': tools/train.py leaves one there")
    if len(found) > 1:
        raise ValueError(f"'{work_dir}' holds the configs of several runs: {', '.join(path.name for path in found)}")
    return found[0]
