"""Gated vision backbones: importing this package makes ``timm.create_model`` know them."""

import os

# Albumentations asks the package index for a newer version at import; nobody wants that in a training job.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import timm

import gatedvision.models  # noqa: F401  registers the models
from gatedvision.inpainting import inpaint

__version__ = "0.1.0"

__all__ = ["__version__", "inpaint", "list_models"]


def list_models(filter: str = "", pretrained: bool = False) -> list[str]:
    """Return the names of this package's models that ``timm.create_model`` accepts.

    Args:
        filter: shell pattern such as ``"vig_h*"``; empty for all.
        pretrained: list the names with weights, each with the tag of its weights.
    """
    names = timm.list_models(filter, pretrained=pretrained)
    return [name for name in names if timm.model_entrypoint(name).__module__.startswith(f"{__name__}.")]
