"""A small classifier of digits by V-MoE, as a run would leave it."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS

CONFIG = Path(__file__).parents[2] / "configs" / "vmoe" / "vmoe_nano_digits.py"
SMALL = {"model.backbone.depth": 2, "model.backbone.embed_dim": 16, "model.backbone.expert_blocks": (0, 1)}


def build(**options: Any) -> tuple[Config, Any]:
    """Build config and model; options replace settings by dotted name."""
    config = Config.fromfile(str(CONFIG))
    for name, value in {**SMALL, **options}.items():
        config.merge_from_dict({name: value})
    torch.manual_seed(0)
    model = MODELS.build(config.model).eval()
    # Experts that differ, and an answer that depends on them, as after training.
    for name, parameter in model.named_parameters():
        if name.endswith(("router.weight", "head.weight", "fc1.weight", "fc2.weight")):
            torch.nn.init.normal_(parameter, std=0.5)
    return config, model


def save(folder: Path, **options: Any) -> Path:
    """Save a checkpoint of what :func:`build` builds."""
    path = folder / "epoch_1.pth"
    torch.save({"state_dict": build(**options)[1].state_dict(), "meta": {"epoch": 1, "iter": 1}}, path)
    return path
