"""MogaNet: convolutional vision backbones on multi-order gated aggregation.

Paper: S. Li, Z. Wang, Z. Liu, C. Tan, H. Lin, D. Wu, Z. Chen, J. Zheng and S. Z. Li, "MogaNet: Multi-order Gated
Aggregation Network", https://arxiv.org/abs/2211.03295 (ICLR 2024).
Published code and weights (Apache-2.0) https://github.com/Westlake-AI/MogaNet, and, from the authors' training
framework, https://github.com/Westlake-AI/openmixup.

The map stays channels-last, ``[B, H, W, C]``, from the stem to the last norm; convolutions and batch norms see it as
a permuted view, in the memory order that is the fastest for them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from timm.layers import ClassifierHead, DropPath, register_notrace_function, trunc_normal_
from timm.models import checkpoint_seq, generate_default_cfgs, register_model
from timm.models._manipulate import MATCH_PREV_GROUP
from torch import Tensor, nn

from gatedvision.layers.channel_aggregation import ChannelAggregationFFN
from gatedvision.layers.multi_order_gated_aggregation import MultiOrderGatedAggregation
from gatedvision.models._pretrained import StateDict, build_backbone, imagenet_cfg, match_model, rename_published
from gatedvision.models._staged import StagedBackbone, drop_path_rates

__all__ = ["MogaNet"]


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def add_scaled(x: Tensor, branch: Tensor, scale: Tensor) -> Tensor:
    """Return ``x + scale * branch`` for maps ``[B, H, W, C]`` and a layer scale ``[C]``."""
    return torch.addcmul(x, scale, branch)


class DownsampleConv(nn.Module):
    """A convolution with bias that halves the sides of the map, or so, then a batch norm.

    Args:
        in_chans: channels of the input.
        out_chans: channels of the output.
        kernel_size: side k of the kernel, pixels; stride ``k // 2 + 1``, padding ``k // 2``.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self, in_chans: int, out_chans: int, kernel_size: int = 3, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        stride, padding = kernel_size // 2 + 1, kernel_size // 2
        self.conv = nn.Conv2d(in_chans, out_chans, kernel_size, stride, padding, **dd)
        self.norm = nn.BatchNorm2d(out_chans, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to ``[B, H', W', C']``."""
        return self.norm(self.conv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


class MogaStem(nn.Module):
    """Turn an image into a map that has its channels last in memory, too.

    Args:
        in_chans: channels of the image.
        dim: channels of the output.
        num_convs: 2 for two convolutions with a GELU between, the first of half the width; 1 for a single one.
        kernel_size: side of the kernels, pixels.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        num_convs: int = 2,
        kernel_size: int = 3,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if num_convs == 2:
            parts = [
                DownsampleConv(in_chans, dim // 2, kernel_size, **dd),
                nn.GELU(),
                DownsampleConv(dim // 2, dim, kernel_size, **dd),
            ]
        else:
            parts = [DownsampleConv(in_chans, dim, kernel_size, **dd)]
        self.layers = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image ``[B, C, H, W]`` to ``[B, H', W', C']``."""
        # Convolutions keep the memory order of their input, so that only the image is copied; the order of an
        # image of one channel is not defined, and the map of such an image is copied, too.
        return self.layers(x.permute(0, 2, 3, 1).contiguous()).contiguous()


class MogaBlock(nn.Module):
    """Spatial and channel mixer, each behind a batch norm and inside a scaled residual connection.

    Args:
        dim: channels.
        hidden_dim: channels within the channel mixer.
        dilations: as in :class:`MultiOrderGatedAggregation`.
        channel_split: as in :class:`MultiOrderGatedAggregation`.
        double_gate: as in :class:`MultiOrderGatedAggregation`.
        init_value: initial layer scale.
        drop_path: probability of dropping a branch, 0 to 1.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        dilations: Sequence[int] = (1, 2, 3),
        channel_split: Sequence[int] = (1, 3, 4),
        double_gate: bool = False,
        init_value: float = 1e-5,
        drop_path: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.init_value = init_value
        self.norm_mixer = nn.BatchNorm2d(dim, **dd)
        self.mixer = MultiOrderGatedAggregation(dim, dilations, channel_split, double_gate, **dd)
        self.scale_mixer = nn.Parameter(torch.full((dim,), init_value, **dd))
        self.norm_mlp = nn.BatchNorm2d(dim, **dd)
        self.mlp = ChannelAggregationFFN(dim, hidden_dim, **dd)
        self.scale_mlp = nn.Parameter(torch.full((dim,), init_value, **dd))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def reset_parameters(self) -> None:
        """Set the layer scales to their initial value."""
        nn.init.constant_(self.scale_mixer, self.init_value)
        nn.init.constant_(self.scale_mlp, self.init_value)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to the same shape."""
        y = self.mixer(self.norm_mixer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        x = add_scaled(x, self.drop_path(y), self.scale_mixer)
        y = self.mlp(self.norm_mlp(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return add_scaled(x, self.drop_path(y), self.scale_mlp)


class MogaStage(nn.Module):
    """Step down, blocks, and the batch norm that closes the stage: what follows reads the normed map.

    Args:
        blocks: the blocks, run in order; with ``grad_checkpointing`` recomputed one by one in the backward
            pass, which moves the running statistics of their norms a second time.
        dim: channels.
        downsample: what comes before the blocks.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], dim: int, downsample: nn.Module, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(dim, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to ``[B, H', W', C']``."""
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        return self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MogaNet(StagedBackbone):
    """MogaNet: four stages at strides 4, 8, 16 and 32, each closed by a batch norm (arXiv:2211.03295).

    The options in brackets are the names of the published code. Its ``fork_feat``, the maps of all stages for
    dense prediction, is timm's ``features_only=True``.

    Args:
        in_chans: channels of the image.
        num_classes: classes of the head, 0 for none.
        global_pool: timm's name of the pooling, ``""`` for none.
        dims: channels of each stage.
        depths: blocks of each stage.
        mlp_ratios: channels within the channel mixers, as multiples of ``dims``.
        stem_convs: convolutions of the stem: 2, each of 3x3 pixels and stride 2, or 1 of ``patch_sizes[0]``
            (``patchembed_types``: ConvEmbed or Conv).
        patch_sizes: sides k of the kernels that begin the stages, pixels; their strides are ``k // 2 + 1``.
        dilations: distance between the taps of the three depthwise kernels, pixels (``attn_dw_dilation``).
        channel_split: ratio of the widths of the three groups of channels (``attn_channel_split``).
        final_dilation: false sets the dilations of the last stage to 1, 2 and 1, whose kernels fit small maps
            (``attn_final_dilation``).
        double_gate: apply SiLU twice to gate and value (a side effect of ``attn_force_fp32``). The weights of
            this package's tags with ``openmixup`` need it and get it; other files of OpenMixup, nearly all,
            need it to be asked for.
        init_value: initial layer scale.
        drop_rate: dropout before the classifier, 0 to 1.
        drop_path_rate: probability of dropping a branch of the last block, rising linearly from 0 at the first.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if the sequences differ in length, a width does not split into the groups, or the stem has
            neither one nor two convolutions, or two of another size than 3.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (3, 3, 12, 2),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        stem_convs: int = 2,
        patch_sizes: Sequence[int] = (3, 3, 3, 3),
        dilations: Sequence[int] = (1, 2, 3),
        channel_split: Sequence[int] = (1, 3, 4),
        final_dilation: bool = True,
        double_gate: bool = False,
        init_value: float = 1e-5,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if not len(dims) == len(depths) == len(mlp_ratios) == len(patch_sizes):
            raise ValueError(
                f"dims {dims}, depths {depths}, mlp_ratios {mlp_ratios} and patch_sizes {patch_sizes} must have "
                "one entry per stage"
            )
        if stem_convs not in (1, 2):
            raise ValueError(f"stem_convs must be 1 or 2, got {stem_convs}")
        if stem_convs == 2 and patch_sizes[0] != 3:
            raise ValueError(
                f"a stem of two convolutions has kernels of 3 pixels, got patch_sizes {patch_sizes}; pass stem_convs=1"
            )
        dd = {"device": device, "dtype": dtype}
        strides = [size // 2 + 1 for size in patch_sizes]
        reductions = [strides[0] ** stem_convs]
        for stride in strides[1:]:
            reductions.append(reductions[-1] * stride)
        super().__init__(in_chans, num_classes, dims, reductions)

        self.stem = MogaStem(in_chans, dims[0], stem_convs, patch_sizes[0], **dd)
        downsamples: list[nn.Module] = [nn.Identity()]
        for (before, dim), size in zip(pairwise(dims), patch_sizes[1:], strict=True):
            downsamples.append(DownsampleConv(before, dim, size, **dd))
        rates = drop_path_rates(drop_path_rate, depths)
        stages = []
        for stage, dim in enumerate(dims):
            is_last = stage == len(dims) - 1
            reaches = dilations if final_dilation or not is_last else (1, 2, 1)
            hidden_dim = int(dim * mlp_ratios[stage])
            blocks = [
                MogaBlock(dim, hidden_dim, reaches, channel_split, double_gate, init_value, rate, **dd)
                for rate in rates[stage]
            ]
            stages.append(MogaStage(blocks, dim, downsamples[stage], **dd))
        self.stages = nn.Sequential(*stages)
        # Every stage has closed with a norm of its own.
        self.norm = nn.Identity()
        self.head = ClassifierHead(dims[-1], num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw every parameter anew: kernels and linear layers from a normal of variance 2 over the fan-out."""
        super().init_weights()
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_out = module.weight[:, 0].numel() // getattr(module, "groups", 1)
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.num_classes > 0:
            trunc_normal_(self.head.fc.weight, std=0.02)

    @torch.jit.ignore()
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns; the norm that closes a stage belongs to its last block."""
        matcher = super().group_matcher(coarse)
        if not coarse:
            matcher["blocks"].insert(0, (r"^stages\.(\d+)\.norm", MATCH_PREV_GROUP))
        return matcher

    def _to_map(self, stream: Tensor, norm: bool) -> Tensor:
        return stream.permute(0, 3, 1, 2)


PUBLISHED_NAMES = (
    (r"^backbone\.", ""),
    (r"^patch_embed1\.projection\.0\.", "stem.layers.0.conv."),
    (r"^patch_embed1\.projection\.1\.", "stem.layers.0.norm."),
    (r"^patch_embed1\.projection\.3\.", "stem.layers.2.conv."),
    (r"^patch_embed1\.projection\.4\.", "stem.layers.2.norm."),
    (r"^patch_embed1\.projection\.", "stem.layers.0.conv."),
    (r"^patch_embed1\.norm\.", "stem.layers.0.norm."),
    (r"^patch_embed(\d)\.projection\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.conv."),
    (r"^patch_embed(\d)\.norm\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.norm."),
    (r"^blocks(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks."),
    (r"^norm(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.norm."),
    (r"^(stages\.\d+\.blocks\.\d+)\.norm1\.", r"\1.norm_mixer."),
    (r"^(stages\.\d+\.blocks\.\d+)\.norm2\.", r"\1.norm_mlp."),
    (r"^(stages\.\d+\.blocks\.\d+)\.layer_scale_1$", r"\1.scale_mixer"),
    (r"^(stages\.\d+\.blocks\.\d+)\.layer_scale_2$", r"\1.scale_mlp"),
    (r"^(stages\.\d+\.blocks\.\d+)\.attn\.", r"\1.mixer."),
    (r"\.mixer\.proj_1\.", ".mixer.proj_in."),
    (r"\.mixer\.gate\.", ".mixer.proj_gate."),
    (r"\.mixer\.proj_2\.", ".mixer.proj_out."),
    (r"\.mixer\.value\.DW_conv0\.", ".mixer.value.conv_low."),
    (r"\.mixer\.value\.DW_conv1\.", ".mixer.value.conv_middle."),
    (r"\.mixer\.value\.DW_conv2\.", ".mixer.value.conv_high."),
    (r"\.mixer\.value\.PW_conv\.", ".mixer.value.proj."),
    (r"\.mlp\.fc1\.", ".mlp.proj_in."),
    (r"\.mlp\.dwconv\.", ".mlp.conv_dw."),
    (r"\.mlp\.decompose\.", ".mlp.proj_common."),
    (r"\.mlp\.fc2\.", ".mlp.proj_out."),
    (r"\.sigma\.scale$", ".scale"),
    (r"^head\.(?:fc\.)?", "head.fc."),
)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Bring a state dict in the names of MogaNet's or OpenMixup's weights, or in ours, into the model's.

    Args:
        state_dict: tensors by name, bare or under ``state_dict`` or ``model``.
        model: the model to load them into.

    Raises:
        ValueError: if it is not a state dict of such a model.
    """
    published: Any = state_dict.get("state_dict", state_dict)
    renamed = match_model(rename_published(published, PUBLISHED_NAMES), model)
    # Published scales are maps of one pixel.
    return {name: value.flatten() if "scale" in name else value for name, value in renamed.items()}


RELEASE = "https://github.com/Westlake-AI/MogaNet/releases/download/moganet-in1k-weights"
OPENMIXUP_RELEASE = "https://github.com/Westlake-AI/openmixup/releases/download/moganet-in1k-weights"
# Trained with the doubled gate, which a file does not tell.
DOUBLE_GATE_TAGS = ("openmixup_in1k_256",)


def _cfg(url: str, size: int = 224) -> dict[str, Any]:
    cfg = imagenet_cfg(
        url,
        sha256="",
        input_size=(3, size, size),
        pool_size=(size // 32, size // 32),
        crop_pct=0.9,
        first_conv="stem.layers.0.conv",
        license="apache-2.0",
        paper_ids="arXiv:2211.03295",
        origin_url="https://github.com/Westlake-AI/MogaNet",
    )
    # No checksums are published.
    return {**cfg, "url": url}


default_cfgs = generate_default_cfgs(
    {
        "moganet_xtiny.in1k": _cfg(f"{RELEASE}/moganet_xtiny_sz224_8xbs128_ep300.pth.tar"),
        "moganet_xtiny.in1k_256": _cfg(f"{RELEASE}/moganet_xtiny_sz256_8xbs128_ep300.pth.tar", 256),
        "moganet_xtiny.openmixup_in1k_256": _cfg(
            f"{OPENMIXUP_RELEASE}/moga_xtiny_deit3_sz256_lr2e_3_8xb128_fp16_ep300.pth", 256
        ),
        "moganet_tiny.in1k": _cfg(f"{RELEASE}/moganet_tiny_sz224_8xbs128_ep300.pth.tar"),
        "moganet_tiny.in1k_256": _cfg(f"{RELEASE}/moganet_tiny_sz256_8xbs128_ep300.pth.tar", 256),
        "moganet_tiny.openmixup_in1k_256": _cfg(
            f"{OPENMIXUP_RELEASE}/moga_tiny_deit3_sz256_lr2e_3_8xb128_fp16_ep300.pth", 256
        ),
        "moganet_small.in1k": _cfg(f"{RELEASE}/moganet_small_sz224_8xbs128_ep300.pth.tar"),
        "moganet_base.in1k": _cfg(f"{RELEASE}/moganet_base_sz224_8xbs128_ep300.pth.tar"),
        "moganet_large.in1k": _cfg(f"{RELEASE}/moganet_large_sz224_8xbs64_ep300.pth.tar"),
        "moganet_xlarge.in1k": _cfg(f"{RELEASE}/moganet_xlarge_sz224_8xbs64_ep300.pth.tar"),
    }
)


def _create_moganet(variant: str, pretrained: bool, overrides: dict[str, Any], **model_args: Any) -> MogaNet:
    levels = range(len(overrides.get("dims", model_args["dims"])))
    # A tag by name, or within what a repository on the hub says of its weights.
    named = overrides.get("pretrained_cfg")
    tag = named.get("tag") if isinstance(named, dict) else getattr(named, "tag", named)
    model_args["double_gate"] = tag in DOUBLE_GATE_TAGS
    return build_backbone(MogaNet, variant, pretrained, checkpoint_filter_fn, levels, **{**model_args, **overrides})


@register_model
def moganet_xtiny(pretrained: bool = False, **kwargs: Any) -> MogaNet:
    """MogaNet-XT, 3.0 M parameters, 76.5 % top-1 on ImageNet-1K as published."""
    return _create_moganet("moganet_xtiny", pretrained, kwargs, dims=(32, 64, 96, 192), depths=(3, 3, 10, 2))


@register_model
def moganet_tiny(pretrained: bool = False, **kwargs: Any) -> MogaNet:
    """MogaNet-T, 5.2 M parameters, 79.0 % top-1 on ImageNet-1K as published."""
    return _create_moganet("moganet_tiny", pretrained, kwargs, dims=(32, 64, 128, 256), depths=(3, 3, 12, 2))


@register_model
def moganet_small(pretrained: bool = False, **kwargs: Any) -> MogaNet:
    """MogaNet-S, 25 M parameters, 83.4 % top-1 on ImageNet-1K as published."""
    return _create_moganet("moganet_small", pretrained, kwargs, dims=(64, 128, 320, 512), depths=(2, 3, 12, 2))


@register_model
def moganet_base(pretrained: bool = False, **kwargs: Any) -> MogaNet:
    """MogaNet-B, 44 M parameters, 84.3 % top-1 on ImageNet-1K as published."""
    return _create_moganet("moganet_base", pretrained, kwargs, dims=(64, 160, 320, 512), depths=(4, 6, 22, 3))


@register_model
def moganet_large(pretrained: bool = False, **kwargs: Any) -> MogaNet:
    """MogaNet-L, 82 M parameters, 84.7 % top-1 on ImageNet-1K as published."""
    return _create_moganet("moganet_large", pretrained, kwargs, dims=(64, 160, 320, 640), depths=(4, 6, 44, 4))


@register_model
def moganet_xlarge(pretrained: bool = False, **kwargs: Any) -> MogaNet:
    """MogaNet-XL, 181 M parameters, 85.1 % top-1 on ImageNet-1K as published."""
    return _create_moganet("moganet_xlarge", pretrained, kwargs, dims=(96, 192, 480, 960), depths=(6, 6, 44, 4))
