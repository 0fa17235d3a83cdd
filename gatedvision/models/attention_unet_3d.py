"""Attention U-Net as published: volumes, gates on a coarser grid, class maps of all levels put together.

Papers: O. Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", https://arxiv.org/abs/1804.03999
(MIDL 2018); J. Schlemper et al., "Attention Gated Networks: Learning to Leverage Salient Regions in Medical Images",
https://arxiv.org/abs/1808.08114 (Medical Image Analysis 2019).
Published code https://github.com/ozan-oktay/Attention-Gated-Networks (MIT), without weights.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Optional

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from gatedvision.layers.attention_gate import GridAttentionGate
from gatedvision.layers.conv_batch_norm import ConvBatchNorm, Sizes, make_conv, make_transposed_conv, per_axis
from gatedvision.layers.resize_linear import resize_linear
from gatedvision.models._gated_unet import ConvStage, GatedUnet, Level, build_unet, two_convs, unet_cfg
from gatedvision.models._pretrained import StateDict, match_model, rename_published

__all__ = ["GridAttentionUnet"]


class DeepSupervision(nn.Module):
    """Class maps of all levels, resampled to the image and merged by a last 1x1 convolution: one loss for all.

    Args:
        dims: channels of the decoder's maps, the coarsest first.
        num_classes: channels of the logits.
        spatial_dims: 2 for images, 3 for volumes.
        align_corners: of linear resampling.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        spatial_dims: int,
        align_corners: bool,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.align_corners = align_corners
        self.levels = nn.ModuleList(make_conv(dim, num_classes, 1, spatial_dims, **dd) for dim in dims)
        self.final = make_conv(len(dims) * num_classes, num_classes, 1, spatial_dims, **dd)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Classify maps ``[B, C_i, *S_i]``, the coarsest first, at the size of the last."""
        finest = maps[-1]
        pairs = zip(self.levels, maps, strict=True)
        levels = [resize_linear(level(x), finest, self.align_corners) for level, x in pairs]
        return self.final(torch.cat(levels[::-1], 1))


class GridDecoderLevel(nn.Module):
    """Gate the skip connection, upsample, and merge the two.

    Args:
        below_dim: channels of the level below.
        dim: channels of this level.
        gating_dim: channels of the gating signal.
        num_gates: gates side by side, 0 for none.
        stride: step to the level below, for each axis.
        kernel_size: of the convolutions that merge.
        combine: put the gates' outputs together with a 1x1 convolution, batch norm and ReLU; else there is one gate.
        transposed: upsample by a transposed convolution instead of linearly.
        align_corners: of linear resampling.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        below_dim: int,
        dim: int,
        gating_dim: int,
        num_gates: int,
        stride: tuple[int, ...],
        kernel_size: Sizes,
        combine: bool,
        transposed: bool,
        align_corners: bool,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        axes = len(stride)
        self.align_corners = align_corners
        self.gates = nn.ModuleList(
            GridAttentionGate(dim, gating_dim, dim, stride, axes, align_corners=align_corners, **dd)
            for _ in range(num_gates)
        )
        self.combine = nn.Identity()
        if combine and num_gates > 0:
            self.combine = ConvBatchNorm(num_gates * dim, dim, 1, spatial_dims=axes, **dd)
        self.up: Optional[nn.Module] = None
        if transposed:
            sizes = tuple(4 if step > 1 else 1 for step in stride)
            self.up = make_transposed_conv(below_dim, dim, sizes, stride, axes, **dd)
        up_dim = dim if transposed else below_dim
        self.merge = nn.Sequential(*two_convs(dim + up_dim, dim, kernel_size, spatial_dims=axes, **dd))

    def forward(self, x: Tensor, skip: Tensor, gating: Tensor) -> Level:
        """Map what comes from below, the skip connection and the gating signal to ``[B, dim, *S]`` and attention."""
        gated, attention = [], []
        for gate in self.gates:
            y, coefficients = gate(x=skip, gating=gating, return_attention=True)
            gated.append(y)
            attention.append(coefficients)
        if gated:
            skip = self.combine(torch.cat(gated, 1) if len(gated) > 1 else gated[0])
        x = resize_linear(x, skip, self.align_corners) if self.up is None else self.up(x)
        return self.merge(torch.cat([skip, x], 1)), attention


class GridAttentionUnet(GatedUnet):
    """U-Net with the papers' gates on all skip connections but that of full resolution.

    By default each gate's signal is the decoder's map one level below, the bottleneck's through a 1x1 convolution.
    Published networks in these arguments: that for abdominal CT is the default, with one gate or two; that for stacks
    of cardiac MR slices has ``dims=(8, 16, 32, 64, 128), kernel_size=(3, 3, 1), stride=(2, 2, 1), shared_gating=True,
    deep_supervision=False``.

    Args:
        in_chans: channels of the image.
        num_classes: channels of the logits; 0 returns the features of the finest level.
        dims: channels of each level, the finest first.
        num_gates: gates side by side on each gated skip connection; 0 is the plain U-Net of the same make.
        deep_supervision: make class maps of all levels and merge them; else classify the finest map.
        kernel_size: of the convolutions, for all axes or each.
        stride: step from each level to the next, and from a skip connection to its attention.
        shared_gating: gate all skip connections with the bottleneck's signal, and use their outputs as they are.
        transposed: upsample by transposed convolutions instead of linearly.
        align_corners: let corner pixels coincide in linear resampling, as the PyTorch of the published code did.
        spatial_dims: 2 for images, 3 for volumes.
        init: ``"kaiming"`` as published, or ``"framework"`` for PyTorch's defaults.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if several gates share a signal, which would need what puts them together.
    """

    def __init__(
        self,
        in_chans: int = 1,
        num_classes: int = 4,
        dims: Sequence[int] = (16, 32, 64, 128, 256),
        num_gates: int = 1,
        deep_supervision: bool = True,
        kernel_size: Sizes = 3,
        stride: Sizes = 2,
        shared_gating: bool = False,
        transposed: bool = False,
        align_corners: bool = False,
        spatial_dims: int = 3,
        init: str = "kaiming",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if shared_gating and num_gates != 1:
            raise ValueError(f"shared_gating has one gate on each skip connection, got num_gates {num_gates}")
        dd = {"device": device, "dtype": dtype}
        step = per_axis(stride, spatial_dims)
        super().__init__(in_chans, num_classes, dims, spatial_dims, [step] * (len(dims) - 1), init)
        self.dims = tuple(dims)
        self.deep_supervision = deep_supervision
        self.shared_gating = shared_gating
        self.align_corners = align_corners
        conv_args = {"spatial_dims": spatial_dims, **dd}
        stages = [ConvStage(two_convs(in_chans, dims[0], kernel_size, **conv_args))]
        for before, dim in pairwise(dims):
            stages.append(ConvStage(two_convs(before, dim, kernel_size, **conv_args), step))
        self.stages = nn.ModuleList(stages)
        signal_dim = dims[-2] if shared_gating else dims[-1]
        # Of two levels, one is that of full resolution, which has no gates.
        has_gates = num_gates > 0 and len(dims) > 2
        self.gating = ConvBatchNorm(dims[-1], signal_dim, 1, **conv_args) if has_gates else nn.Identity()
        levels = []
        for level in reversed(range(len(dims) - 1)):
            is_coarsest = level == len(dims) - 2
            levels.append(
                GridDecoderLevel(
                    dims[level + 1],
                    dims[level],
                    signal_dim if shared_gating or is_coarsest else dims[level + 1],
                    num_gates if level > 0 else 0,
                    step,
                    kernel_size,
                    not shared_gating,
                    transposed,
                    align_corners,
                    **dd,
                )
            )
        self.decoder = nn.ModuleList(levels)
        self.head = self._make_head(num_classes, **dd)
        self.init_weights()

    def _make_head(self, num_classes: int, **dd: Any) -> nn.Module:
        if not self.deep_supervision or num_classes == 0:
            return super()._make_head(num_classes, **dd)
        return DeepSupervision(self.dims[-2::-1], num_classes, self.spatial_dims, self.align_corners, **dd)

    def _decode(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        *skips, x = self._encode(x)
        signal = self.gating(x)
        maps, attention = [], []
        for level, skip in zip(self.decoder, reversed(skips), strict=True):
            x, coefficients = self._call(level, x, skip, signal)
            if not self.shared_gating:
                signal = x
            maps.append(x)
            attention += coefficients
        return maps, attention


def _level(match: Any) -> str:
    return f"decoder.{4 - int(match[1])}"


PUBLISHED_NAMES = (
    (r"^conv(\d)\.conv", lambda match: f"stages.{int(match[1]) - 1}.blocks.conv"),
    (r"^center\.conv", "stages.4.blocks.conv"),
    (r"^gating\.conv1\.0\.", "gating.conv."),
    (r"^gating\.conv1\.1\.", "gating.norm."),
    (r"^attentionblock(\d)\.gate_block_(\d)\.", lambda match: f"{_level(match)}.gates.{int(match[2]) - 1}."),
    (r"^attentionblock(\d)\.combine_gates\.", lambda match: f"{_level(match)}.combine."),
    (r"^attentionblock(\d)\.", lambda match: f"{_level(match)}.gates.0."),
    (r"^up_concat(\d)\.conv\.conv", lambda match: f"{_level(match)}.merge.conv"),
    (r"^up_concat(\d)\.", lambda match: f"{_level(match)}."),
    (r"^dsv(\d)\.(?:dsv\.0\.)?", lambda match: f"head.levels.{4 - int(match[1])}."),
    (r"^final\.", "head.final."),
    (r"\.(blocks|merge)\.conv(\d)\.", lambda match: f".{match[1]}.{int(match[2]) - 1}."),
    (r"\.W\.", ".proj_out."),
    (r"\.theta\.", ".proj_x.conv."),
    (r"\.phi\.", ".proj_gating.conv."),
    (r"\.psi\.(?=weight|bias)", ".psi.conv."),
    (r"(\.(?:blocks|merge)\.\d|\.combine|\.proj_out)\.0\.", r"\1.conv."),
    (r"(\.(?:blocks|merge)\.\d|\.combine|\.proj_out)\.1\.", r"\1.norm."),
)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Bring a state dict in the names of the published code, or in ours, into the model's.

    Args:
        state_dict: tensors by name, bare or under ``model``.
        model: the model to load them into.

    Raises:
        ValueError: if it is not a state dict of such a model.
    """
    renamed = rename_published(state_dict, PUBLISHED_NAMES)
    if isinstance(model, GridAttentionUnet) and not model.deep_supervision:
        renamed = {name.replace("head.final.", "head.fc."): value for name, value in renamed.items()}
    return match_model(renamed, model)


DEEP_CLASSIFIER = ("head.final", *(f"head.levels.{level}" for level in range(4)))


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return unet_cfg(
        # Of patches of 160x160x96.
        (1, 160, 160),
        4,
        # Each volume is brought to mean 0 and deviation 1.
        mean=(0.0,),
        std=(1.0,),
        classifier=DEEP_CLASSIFIER,
        license="mit",
        origin_url="https://github.com/ozan-oktay/Attention-Gated-Networks",
        **kwargs,
    )


default_cfgs = generate_default_cfgs({"attention_unet_3d": _cfg(), "attention_unet_3d_multi": _cfg()})


def _create(variant: str, pretrained: bool, overrides: dict[str, Any], **model_args: Any) -> GridAttentionUnet:
    classifier = DEEP_CLASSIFIER if overrides.get("deep_supervision", True) else ("head.fc",)
    return build_unet(
        GridAttentionUnet, variant, pretrained, checkpoint_filter_fn, overrides, classifier=classifier, **model_args
    )


@register_model
def attention_unet_3d(pretrained: bool = False, **kwargs: Any) -> GridAttentionUnet:
    """Attention U-Net for abdominal CT with one gate on each skip connection, 6.21 M parameters."""
    return _create("attention_unet_3d", pretrained, kwargs)


@register_model
def attention_unet_3d_multi(pretrained: bool = False, **kwargs: Any) -> GridAttentionUnet:
    """Attention U-Net for abdominal CT with two gates on each skip connection, 6.47 M parameters."""
    return _create("attention_unet_3d_multi", pretrained, kwargs, num_gates=2)
