"""The timm model inside a task, with its weights."""

import difflib
import pickle
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

import gatedvision  # noqa: F401  registers our names in timm


def create_backbone(model_name: str, **options: Any) -> Any:
    """Build a timm model, with ``pretrained=True`` from a checkpoint of ``Classification`` as well.

    Such a checkpoint is named by ``pretrained_cfg_overlay=dict(file=...)``, as any weight file is.

    Raises:
        ValueError: timm knows no model of that name; the nearest names are in the message.
    """
    is_local_name = ":" not in model_name
    if is_local_name and not timm.is_model(model_name):
        close = difflib.get_close_matches(model_name.split(".")[0], timm.list_models(), n=3)
        raise ValueError(
            f"unknown model {model_name!r}; "
            + (f"did you mean {', '.join(close)}?" if close else "timm.list_models() names the known ones")
        )
    overlay = options.get("pretrained_cfg_overlay")
    if options.get("pretrained") and overlay and overlay.get("file"):
        options["pretrained_cfg_overlay"] = _open_checkpoint(dict(overlay))
    return timm.create_model(model_name, **options)


def backbone_losses(backbone: Any) -> tuple[Tensor | None, dict[str, Tensor]]:
    """What a backbone wants to be added to the loss in training, of its last forward pass.

    Such a backbone has a method ``auxiliary_losses()``, which returns scalars by name: ``"auxiliary"``, the weighted
    sum of the others, and these. mmengine minimises the sum of all that has "loss" in its name and logs the rest, so
    no name of theirs may have it.

    Returns:
        What to add, and its parts to be logged, ``auxiliary/<name>``; ``None`` and nothing of other backbones, in
        evaluation, and where there is nothing to add.
    """
    found = dict(backbone.auxiliary_losses()) if backbone.training and hasattr(backbone, "auxiliary_losses") else {}
    total = found.pop("auxiliary", None)
    return total, {f"auxiliary/{name}": loss for name, loss in found.items()}


def image_costs(backbone: Any) -> dict[str, dict[str, Tensor]]:
    """What the images of the last forward pass cost, of a backbone whose work depends on the image.

    Returns:
        ``costs``: by name a number for each image ``[B]``; nothing of other backbones.
    """
    return {"costs": backbone.image_costs()} if hasattr(backbone, "image_costs") else {}


def _open_checkpoint(overlay: dict[str, Any]) -> dict[str, Any]:
    """Put the weights of the backbone in the place of a checkpoint's file; any other file is left to timm."""
    if Path(overlay["file"]).suffix != ".pth" or not Path(overlay["file"]).is_file():
        return overlay
    try:
        checkpoint = torch.load(overlay["file"], map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError):
        return overlay
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or "meta" not in checkpoint or not all(n.startswith("backbone.") for n in weights):
        return overlay
    del overlay["file"]
    return {**overlay, "state_dict": {name.removeprefix("backbone."): value for name, value in weights.items()}}
