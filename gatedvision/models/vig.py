"""ViG: plain vision backbones on bidirectional gated linear attention.

Paper: B. Liao, X. Wang, L. Zhu, Q. Zhang and C. Huang, "ViG: Linear-complexity Visual Sequence Learning with
Gated Linear Attention", https://arxiv.org/abs/2405.18425 (AAAI 2025).
Published code (MIT) https://github.com/hustvl/ViG, weights (Apache-2.0) https://huggingface.co/hustvl/ViG.

The map stays channels-last, ``[B, H, W, D]``, from the stem to the last norm.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Any, Union

import torch
import torch.nn.functional as F
from timm.layers import (
    ClassifierHead,
    DropPath,
    register_notrace_function,
    trunc_normal_,
)
from timm.models import checkpoint, generate_default_cfgs, register_model
from torch import Tensor, nn

from gatedvision.layers.conv_norm import ConvStem
from gatedvision.layers.gated_linear_attention import PUBLISHED_MIXER_NAMES, GatedLinearAttention
from gatedvision.layers.swiglu import SwiGluMlp, swiglu_width
from gatedvision.models._pretrained import StateDict, build_backbone, imagenet_cfg, match_model, rename_published
from gatedvision.models._staged import StagedBackbone, drop_path_rates
from gatedvision_kernels import add_rms_norm, add_rms_norm_reference, rms_norm, rms_norm_reference

__all__ = ["ViG"]

# The output of the last branch, still to be added, and the sum of everything before it; both [B, H, W, D].
Stream = tuple[Tensor, Tensor]


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def apply_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript."""
    if torch.jit.is_scripting():
        return rms_norm_reference(x, weight, eps)
    else:
        return rms_norm(x, weight, eps=eps)


@register_notrace_function
def apply_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript."""
    if torch.jit.is_scripting():
        return add_rms_norm_reference(x, residual, weight, eps)
    else:
        return add_rms_norm(x, residual, weight, eps=eps)


@register_notrace_function
def resize_positions(table: Tensor, height: int, width: int) -> Tensor:
    """Resize ``[1, H, W, D]`` by bicubic interpolation in float32 or wider; a leaf for torch.fx."""
    if table.shape[1] == height and table.shape[2] == width:
        return table
    wide = table.to(torch.promote_types(table.dtype, torch.float32)).permute(0, 3, 1, 2)
    resized = F.interpolate(wide, size=[height, width], mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).to(table.dtype)


class RmsNorm(nn.Module):
    """Divide each token by its root mean square and scale its channels.

    Args:
        dim: channels.
        device: where the parameter is created.
        dtype: in which type the parameter is created.
    """

    def __init__(self, dim: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.eps = 1e-6
        self.weight = nn.Parameter(torch.ones(dim, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Set the scales to 1."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[..., D]``."""
        return apply_rms_norm(x, self.weight, self.eps)


class AddRmsNorm(RmsNorm):
    """Add the last branch to the stream and normalise the sum, in one pass over the memory."""

    def forward(self, stream: Stream) -> Stream:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Turn branch and stream into the normalised sum and the sum, all ``[..., D]``."""
        return apply_add_rms_norm(stream[0], stream[1], self.weight, self.eps)


class PositionEmbedding(nn.Module):
    """A learned vector per cell of a grid, resized to the grid of each input.

    Args:
        grid_size: rows and columns of the table.
        dim: channels.
        device: where the parameter is created.
        dtype: in which type the parameter is created.
    """

    def __init__(self, grid_size: tuple[int, int], dim: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, *grid_size, dim, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Draw the table from a normal distribution of deviation 0.02."""
        trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return the positions of ``x`` ``[B, H, W, D]``, in its shape."""
        return resize_positions(self.weight, x.shape[1], x.shape[2]).expand(x.shape[0], -1, -1, -1)


class ViGBlock(nn.Module):
    """Token mixer and gated MLP, each behind an RMS norm and beside a residual stream (arXiv:2405.18425).

    Args:
        dim: channels.
        num_heads: attention heads.
        silu: SiLU in the token mixer, as in ViG-T.
        drop_path: probability of dropping a branch, 0 to 1.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self, dim: int, num_heads: int, silu: bool, drop_path: float = 0.0, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.grad_checkpointing = False
        self.norm_mixer = AddRmsNorm(dim, **dd)
        self.mixer = GatedLinearAttention(dim, num_heads, silu, **dd)
        self.drop_path_mixer = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm_mlp = AddRmsNorm(dim, **dd)
        self.mlp = SwiGluMlp(dim, swiglu_width(dim, 256), **dd)
        self.drop_path_mlp = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, stream: Stream) -> Stream:
        """Pass on the last branch and the sum of all before it, each ``[B, H, W, D]``."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint(self._run, stream)
        return self._run(stream)

    def _run(self, stream: Stream) -> Stream:
        x, residual = self.norm_mixer(stream)
        x, residual = self.norm_mlp((self.drop_path_mixer(self.mixer(x)), residual))
        return self.drop_path_mlp(self.mlp(x)), residual


class ViG(StagedBackbone):
    """Plain ViG: one resolution, learned positions, every block a stage (arXiv:2405.18425).

    Args:
        img_size: side or height and width for which the table of positions is made, pixels; images may
            have any other size.
        in_chans: channels of the image.
        num_classes: classes of the head, 0 for none.
        global_pool: timm's name of the pooling, ``""`` for none.
        dim: channels.
        depth: blocks.
        num_heads: attention heads.
        stem_kernel_sizes: sides of the stem's two kernels, pixels.
        stem_strides: steps of the stem's two kernels, pixels.
        silu: SiLU in the token mixers, as in ViG-T.
        drop_rate: dropout before the classifier, 0 to 1.
        drop_path_rate: probability of dropping a branch of the last block, rising linearly from 0 at the first.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if ``img_size`` is too small for the stem or ``dim`` does not divide into the heads.
    """

    # A branch, and the sum of all before it.
    passed_on = None

    def __init__(
        self,
        img_size: Union[int, tuple[int, int]] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        stem_kernel_sizes: Sequence[int] = (9, 3),
        stem_strides: Sequence[int] = (8, 2),
        silu: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(in_chans, num_classes, [dim] * depth, [stem_strides[0] * stem_strides[1]] * depth)
        self.stem = ConvStem(in_chans, dim, stem_kernel_sizes, stem_strides, nn.SiLU, **dd)
        sides = (img_size, img_size) if isinstance(img_size, int) else img_size
        height, width = (self.stem.output_size(side) for side in sides)
        if min(height, width) < 1:
            raise ValueError(f"img_size {img_size} is too small for a stem of kernels {tuple(stem_kernel_sizes)}")
        self.pos_embed = PositionEmbedding((height, width), dim, **dd)
        self.stages = nn.ModuleList(
            ViGBlock(dim, num_heads, silu, rate, **dd) for rate in drop_path_rates(drop_path_rate, [depth])[0]
        )
        self.norm = RmsNorm(dim, **dd)
        self.head = ClassifierHead(dim, num_classes, global_pool, drop_rate, **dd)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw every parameter anew: linear layers outside the mixers from a normal of deviation 0.02."""
        super().init_weights()
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and ".mixer." not in name:
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _embed(self, x: Tensor) -> Stream:  # pyright: ignore[reportIncompatibleMethodOverride]
        # The first norm adds the two: positions begin the residual stream, tokens are its first branch.
        tokens = self.stem(x)
        return tokens, self.pos_embed(tokens)

    def _to_map(self, stream: Stream, norm: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = stream[0] + stream[1]
        return (self.norm(x) if norm else x).permute(0, 3, 1, 2)


PUBLISHED_NAMES = (
    (r"^pos_embed$", "pos_embed.weight"),
    (r"^patch_embed\.proj\.0\.", "stem.conv_norm1.conv."),
    (r"^patch_embed\.proj\.1\.", "stem.conv_norm1.norm."),
    (r"^patch_embed\.proj\.3\.", "stem.conv_norm2.conv."),
    (r"^patch_embed\.proj\.4\.", "stem.conv_norm2.norm."),
    (r"^blocks\.", "stages."),
    (r"^(stages\.\d+)\.attn_norm\.", r"\1.norm_mixer."),
    (r"^(stages\.\d+)\.mlp_norm\.", r"\1.norm_mlp."),
    (r"^(stages\.\d+)\.mlp\.gate_proj\.", r"\1.mlp.proj_in."),
    (r"^(stages\.\d+)\.mlp\.down_proj\.", r"\1.mlp.proj_out."),
    *((rf"^(stages\.\d+)\.attn\.{old}", rf"\1.mixer.{new}") for old, new in PUBLISHED_MIXER_NAMES),
    (r"^head\.", "head.fc."),
)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Bring a state dict in the published names, or in ours, into the model's; positions are resized to its grid.

    Args:
        state_dict: tensors by name, bare or under ``model``.
        model: the model to load them into.

    Raises:
        ValueError: if it is not a state dict of such a model.
    """
    state_dict = match_model(rename_published(state_dict, PUBLISHED_NAMES), model)
    table = state_dict["pos_embed.weight"]
    if table.ndim == 3:
        side = isqrt(table.shape[1])
        if side**2 != table.shape[1]:
            raise ValueError(f"pos_embed must have a square number of rows, got {table.shape[1]}")
        table = table.unflatten(1, (side, side))
    _, height, width, _ = model.state_dict()["pos_embed.weight"].shape
    return {**state_dict, "pos_embed.weight": resize_positions(table, height, width)}


def _cfg(file: str, sha256: str) -> dict[str, Any]:
    return imagenet_cfg(
        f"https://huggingface.co/hustvl/ViG/resolve/main/{file}",
        sha256,
        pool_size=(14, 14),
        first_conv="stem.conv_norm1.conv",
        license="apache-2.0",
        paper_ids="arXiv:2405.18425",
        origin_url="https://github.com/hustvl/ViG",
    )


default_cfgs = generate_default_cfgs(
    {
        "vig_t.in1k": _cfg("vig_t_77p2acc.pth", "a1eb2901db2331df033d3d6f8f20fb6d0561287f4972d98fc293c746cc70bfbb"),
        "vig_s.in1k": _cfg("vig_s_81p7acc.pth", "ad1c62e85af5f527fbbb193077ab3192ed8f77c76631a91599e87fdae9dee0e6"),
        "vig_b.in1k": _cfg("vig_b_82p6acc.pth", "0a681ccacf5c012a6a432a39e9ad773fae053ac863696c42bb261e300af9f158"),
    }
)


def _create_vig(variant: str, pretrained: bool, overrides: dict[str, Any], **model_args: Any) -> ViG:
    # Dense tasks read four maps; every third of twelve blocks, the last included.
    depth = overrides.get("depth", model_args["depth"])
    levels = sorted({(quarter * depth + 3) // 4 - 1 for quarter in range(1, 5)})
    return build_backbone(ViG, variant, pretrained, checkpoint_filter_fn, levels, **{**model_args, **overrides})


@register_model
def vig_t(pretrained: bool = False, **kwargs: Any) -> ViG:
    """ViG-T, 6 M parameters, 77.2 % top-1 on ImageNet-1K as published."""
    return _create_vig("vig_t", pretrained, kwargs, dim=192, depth=12, num_heads=3, silu=True)


@register_model
def vig_s(pretrained: bool = False, **kwargs: Any) -> ViG:
    """ViG-S, 23 M parameters, 81.7 % top-1 on ImageNet-1K as published."""
    return _create_vig("vig_s", pretrained, kwargs, dim=384, depth=12, num_heads=6)


@register_model
def vig_b(pretrained: bool = False, **kwargs: Any) -> ViG:
    """ViG-B, 89 M parameters, 82.6 % top-1 on ImageNet-1K as published."""
    return _create_vig("vig_b", pretrained, kwargs, dim=768, depth=12, num_heads=12)
