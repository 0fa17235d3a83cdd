"""Attention U-Net in two dimensions, in the form that most people use.

Paper: O. Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", https://arxiv.org/abs/1804.03999
(MIDL 2018), whose own network is ``attention_unet_3d``. The popular form, with gates on one grid, is that of
https://github.com/LeeJunHyun/Image_Segmentation (no licence file, no weights).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Optional

import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from gatedvision.layers.attention_gate import SameGridAttentionGate
from gatedvision.layers.conv_batch_norm import ConvBatchNorm, per_axis
from gatedvision.models._gated_unet import ConvStage, GatedUnet, Level, build_unet, two_convs, unet_cfg
from gatedvision.models._pretrained import StateDict, match_model, rename_published

__all__ = ["AttentionUnet"]


class DecoderLevel(nn.Module):
    """Upsample by nearest neighbours, convolve, gate the skip connection with the result, and merge the two.

    Args:
        below_dim: channels of the level below.
        dim: channels of this level.
        spatial_dims: 2 for images, 3 for volumes.
        gated: have the gate.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self, below_dim: int, dim: int, spatial_dims: int, gated: bool, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        kwargs = {"spatial_dims": spatial_dims, "device": device, "dtype": dtype}
        self.up = ConvBatchNorm(below_dim, dim, **kwargs)
        self.gate: Optional[SameGridAttentionGate] = SameGridAttentionGate(dim, dim, **kwargs) if gated else None
        self.merge = nn.Sequential(*two_convs(2 * dim, dim, **kwargs))

    def forward(self, x: Tensor, skip: Tensor) -> Level:
        """Map ``[B, below_dim, *S]`` and ``[B, dim, *2S]`` to ``[B, dim, *2S]`` and a list of attention maps."""
        x = self.up(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        attention = []
        if self.gate is not None:
            skip, coefficients = self.gate(x=skip, gating=x, return_attention=True)
            attention.append(coefficients)
        return self.merge(torch.cat([skip, x], 1)), attention


class AttentionUnet(GatedUnet):
    """U-Net with a gate of the upsampled feature's grid on every skip connection, also that of full resolution.

    Args:
        in_chans: channels of the image.
        num_classes: channels of the logits; 0 returns the features of the finest level.
        dims: channels of each level, the finest first; each level halves the sides.
        gated: have the gates; else it is the plain U-Net of the same make.
        spatial_dims: 2 for images, 3 for volumes.
        init: ``"framework"`` for PyTorch's defaults, with which the published code trains, or ``"kaiming"``.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1,
        dims: Sequence[int] = (64, 128, 256, 512, 1024),
        gated: bool = True,
        spatial_dims: int = 2,
        init: str = "framework",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        stride = per_axis(2, spatial_dims)
        super().__init__(in_chans, num_classes, dims, spatial_dims, [stride] * (len(dims) - 1), init)
        stages = [ConvStage(two_convs(in_chans, dims[0], spatial_dims=spatial_dims, **dd))]
        for before, dim in pairwise(dims):
            stages.append(ConvStage(two_convs(before, dim, spatial_dims=spatial_dims, **dd), stride))
        self.stages = nn.ModuleList(stages)
        self.decoder = nn.ModuleList(
            DecoderLevel(below, dim, spatial_dims, gated, **dd) for below, dim in pairwise(reversed(dims))
        )
        self.head = self._make_head(num_classes, **dd)
        self.init_weights()


def _level(match: Any) -> str:
    return f"decoder.{5 - int(match[1])}"


PUBLISHED_NAMES = (
    (r"^Conv(\d)\.conv\.", lambda match: f"stages.{int(match[1]) - 1}.blocks."),
    (r"^Up(\d)\.up\.1\.", lambda match: f"{_level(match)}.up.conv."),
    (r"^Up(\d)\.up\.2\.", lambda match: f"{_level(match)}.up.norm."),
    (r"^Att(\d)\.W_g\.", lambda match: f"{_level(match)}.gate.proj_gating."),
    (r"^Att(\d)\.W_x\.", lambda match: f"{_level(match)}.gate.proj_x."),
    (r"^Att(\d)\.psi\.", lambda match: f"{_level(match)}.gate.psi."),
    (r"^Up_conv(\d)\.conv\.", lambda match: f"{_level(match)}.merge."),
    (r"^Conv_1x1\.", "head.fc."),
    (r"(\.gate\.\w+)\.0\.", r"\1.conv."),
    (r"(\.gate\.\w+)\.1\.", r"\1.norm."),
    (r"(\.blocks|\.merge)\.0\.", r"\1.0.conv."),
    (r"(\.blocks|\.merge)\.1\.", r"\1.0.norm."),
    (r"(\.blocks|\.merge)\.3\.", r"\1.1.conv."),
    (r"(\.blocks|\.merge)\.4\.", r"\1.1.norm."),
)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Bring a state dict in the names of the popular code, or in ours, into the model's.

    Args:
        state_dict: tensors by name, bare or under ``model``.
        model: the model to load them into.

    Raises:
        ValueError: if it is not a state dict of such a model.
    """
    return match_model(rename_published(state_dict, PUBLISHED_NAMES), model)


default_cfgs = generate_default_cfgs(
    {
        "attention_unet": unet_cfg(
            (3, 256, 256),
            1,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            classifier="head.fc",
            license="unknown",
            origin_url="https://github.com/LeeJunHyun/Image_Segmentation",
        )
    }
)


@register_model
def attention_unet(pretrained: bool = False, **kwargs: Any) -> AttentionUnet:
    """Attention U-Net as most people know it, 34.88 M parameters."""
    return build_unet(AttentionUnet, "attention_unet", pretrained, checkpoint_filter_fn, kwargs)
