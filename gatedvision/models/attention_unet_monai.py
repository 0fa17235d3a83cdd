"""Attention U-Net as the MONAI library has it: strided and transposed convolutions, gates on one grid.

Paper: O. Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", https://arxiv.org/abs/1804.03999
(MIDL 2018). For weights trained with ``monai.networks.nets.AttentionUnet`` (Apache-2.0,
https://github.com/Project-MONAI/MONAI), which publishes none.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from gatedvision.layers.attention_gate import SameGridAttentionGate
from gatedvision.layers.conv_batch_norm import (
    ConvBatchNorm,
    Sizes,
    make_batch_norm,
    make_conv,
    make_transposed_conv,
    per_axis,
)
from gatedvision.models._gated_unet import ConvStage, GatedUnet, Level, build_unet, unet_cfg
from gatedvision.models._pretrained import StateDict, match_model

__all__ = ["MonaiAttentionUnet"]


class TransposedConvBatchNorm(nn.Sequential):
    """A transposed convolution, a batch norm and ReLU.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
        kernel_size: for all axes or each.
        stride: factor, for each axis.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        kernel_size: Sizes,
        stride: tuple[int, ...],
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv = make_transposed_conv(in_chans, dim, kernel_size, stride, len(stride), **dd)
        self.norm = make_batch_norm(dim, len(stride), **dd)
        self.act = nn.ReLU(inplace=True)


class ConvInstanceNorm(nn.Sequential):
    """A convolution of three pixels, an instance norm without parameters and a PReLU of one parameter.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
        spatial_dims: 2 for images, 3 for volumes.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(self, in_chans: int, dim: int, spatial_dims: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv = make_conv(in_chans, dim, 3, spatial_dims, padding=1, **dd)
        self.norm = (nn.InstanceNorm2d if spatial_dims == 2 else nn.InstanceNorm3d)(dim)
        self.act = nn.PReLU(**dd)


class MonaiDecoderLevel(nn.Module):
    """Upsample by a transposed convolution, gate the skip connection with the result, and merge the two.

    Args:
        below_dim: channels of the level below.
        dim: channels of this level.
        kernel_size: of the transposed convolution, for all axes or each.
        stride: step to the level below, for each axis.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        below_dim: int,
        dim: int,
        kernel_size: Sizes,
        stride: tuple[int, ...],
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.up = TransposedConvBatchNorm(below_dim, dim, kernel_size, stride, **dd)
        self.gate = SameGridAttentionGate(dim, dim, spatial_dims=len(stride), **dd)
        self.merge = ConvInstanceNorm(2 * dim, dim, len(stride), **dd)

    def forward(self, x: Tensor, skip: Tensor) -> Level:
        """Map what comes from below and the skip connection ``[B, dim, *S]`` to ``[B, dim, *S]`` and attention."""
        x = self.up(x)
        gated, attention = self.gate(x=skip, gating=x, return_attention=True)
        return self.merge(torch.cat([gated, x], 1)), [attention]


class MonaiAttentionUnet(GatedUnet):
    """MONAI's ``AttentionUnet``, whose arguments stand in brackets where they have another name.

    Args:
        in_chans: channels of the image (``in_channels``).
        num_classes: channels of the logits (``out_channels``); 0 returns the features of the finest level.
        dims: channels of each level, the finest first (``channels``).
        strides: step from each level to the next, for all axes or each.
        spatial_dims: 2 for images, 3 for volumes.
        kernel_size: of the encoder's convolutions; those that merge have 3.
        up_kernel_size: of the transposed convolutions.
        drop_rate: dropout in the encoder, 0 to 1 (``dropout``).
        init: ``"framework"`` for PyTorch's defaults, which MONAI has, or ``"kaiming"``.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if there is not one stride from each level to the next.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1,
        dims: Sequence[int] = (16, 32, 64, 128, 256),
        strides: Sequence[Sizes] = (2, 2, 2, 2),
        spatial_dims: int = 2,
        kernel_size: Sizes = 3,
        up_kernel_size: Sizes = 3,
        drop_rate: float = 0.0,
        init: str = "framework",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if len(strides) != len(dims) - 1:
            raise ValueError(f"expected {len(dims) - 1} strides for dims {tuple(dims)}, got {tuple(strides)}")
        dd = {"device": device, "dtype": dtype}
        steps = [per_axis(stride, spatial_dims) for stride in strides]
        super().__init__(in_chans, num_classes, dims, spatial_dims, steps, init)
        conv_args = {"spatial_dims": spatial_dims, "drop_rate": drop_rate, **dd}
        stages = []
        for before, dim, step in zip((in_chans, *dims), dims, (1, *steps), strict=False):
            blocks = [
                ConvBatchNorm(before, dim, kernel_size, step, **conv_args),
                ConvBatchNorm(dim, dim, kernel_size, **conv_args),
            ]
            stages.append(ConvStage(blocks))
        self.stages = nn.ModuleList(stages)
        self.decoder = nn.ModuleList(
            MonaiDecoderLevel(below, dim, up_kernel_size, step, **dd)
            for (below, dim), step in zip(pairwise(reversed(dims)), reversed(steps), strict=True)
        )
        self.head = self._make_head(num_classes, **dd)
        self.init_weights()


LEAVES = (
    (r"\.adn\.N\.", ".norm."),
    (r"\.adn\.A\.", ".act."),
    (r"^attention\.(\w+)\.0\.conv\.", r"attention.\1.conv."),
    (r"^attention\.(\w+)\.1\.", r"attention.\1.norm."),
    (r"^attention\.W_g\.", "gate.proj_gating."),
    (r"^attention\.W_x\.", "gate.proj_x."),
    (r"^attention\.psi\.", "gate.psi."),
    (r"^upconv\.up\.", "up."),
    (r"^(?:0\.)?conv\.(\d)\.", r"blocks.\1."),
)


def _rename(name: str, levels: int) -> str:
    """Return our name for one of MONAI's, in which each level lies within the one above it."""
    if name.startswith("model.2."):
        return name.replace("model.2.conv.", "head.fc.")
    if not name.startswith("model."):
        return name
    # The outermost three are the first stage, what the first level encloses with its decoder, and the head.
    inside = name.startswith("model.1.")
    path = name.removeprefix("model.1." if inside else "model.")
    depth = 0
    while path.startswith("submodule.1."):
        path = path.removeprefix("submodule.1.")
        depth += 1
    encoder = path.startswith("submodule.")
    path = path.removeprefix("submodule.")
    for pattern, replacement in LEAVES:
        path = re.sub(pattern, replacement, path)
    if encoder or not inside:
        return f"stages.{depth + 1 if encoder else 0}.{path}"
    return f"decoder.{levels - 2 - depth}.{path}"


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Bring a state dict in MONAI's names, or in ours, into the model's.

    Args:
        state_dict: tensors by name, bare or under ``model`` or ``state_dict``.
        model: the model to load them into.

    Raises:
        ValueError: if it is not a state dict of such a model.
    """
    tensors: Any = state_dict
    for key in ("state_dict", "model"):
        if isinstance(tensors.get(key), dict):
            tensors = tensors[key]
    if not any(name.startswith("stages.") for name in tensors):
        levels = len(getattr(model, "stages", ()))
        tensors = {_rename(name, levels): value for name, value in tensors.items()}
    return match_model(tensors, model)


default_cfgs = generate_default_cfgs(
    {
        "attention_unet_monai": unet_cfg(
            (3, 256, 256),
            1,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            classifier="head.fc",
            license="apache-2.0",
            origin_url="https://github.com/Project-MONAI/MONAI",
        )
    }
)


@register_model
def attention_unet_monai(pretrained: bool = False, **kwargs: Any) -> MonaiAttentionUnet:
    """Attention U-Net as in MONAI, in two dimensions unless ``spatial_dims=3``, 1.99 M or 5.91 M parameters."""
    return build_unet(MonaiAttentionUnet, "attention_unet_monai", pretrained, checkpoint_filter_fn, kwargs)
