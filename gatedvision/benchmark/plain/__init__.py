"""Whole models in plain PyTorch: the parameters of a model of ours, of its operators only the linear layer."""

from collections.abc import Callable
from typing import Any

from torch import nn

from gatedvision.benchmark.plain.attention_unet import plain_attention_unet
from gatedvision.benchmark.plain.deepfill import plain_deepfill
from gatedvision.benchmark.plain.hornet import plain_hornet
from gatedvision.benchmark.plain.moganet import plain_moganet
from gatedvision.benchmark.plain.msvit import plain_msvit
from gatedvision.benchmark.plain.vig import plain_vig
from gatedvision.benchmark.plain.vmoe import plain_vmoe
from gatedvision.models import (
    AttentionUnet,
    DeepFillV2,
    GridAttentionUnet,
    HorNet,
    MixedScaleTokens,
    MogaNet,
    MonaiAttentionUnet,
    SonoNetAG,
    ViG,
    ViGH,
    VMoE,
)

__all__ = ["plain_forms"]

FORMS: dict[type[nn.Module], Callable[[Any], dict[str, Callable[..., Any]]]] = {
    AttentionUnet: plain_attention_unet,
    DeepFillV2: plain_deepfill,
    GridAttentionUnet: plain_attention_unet,
    HorNet: plain_hornet,
    MixedScaleTokens: plain_msvit,
    MogaNet: plain_moganet,
    MonaiAttentionUnet: plain_attention_unet,
    SonoNetAG: plain_attention_unet,
    VMoE: plain_vmoe,
    ViG: plain_vig,
    ViGH: plain_vig,
}


def plain_forms(model: nn.Module) -> dict[str, Callable[..., Any]]:
    """Return the plain forms of a model's forward pass by their names, for evaluation.

    Args:
        model: its parameters are used, and its arguments are those of its own forward pass.

    Raises:
        ValueError: if its family has none.
    """
    for family, make in FORMS.items():
        if isinstance(model, family):
            return make(model)
    known = ", ".join(family.__name__ for family in FORMS)
    raise ValueError(f"there is no plain form of {type(model).__name__}, only of {known}")
