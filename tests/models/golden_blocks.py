"""Builders of the parts of networks that golden block records describe; a family adds its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gatedvision.layers.channel_aggregation import ChannelAggregationFFN
from gatedvision.layers.conv_norm import ConvNorm, ConvStem
from gatedvision.layers.gated_linear_attention import GatedLinearAttention
from gatedvision.layers.multi_order_dwconv import MultiOrderDWConv
from gatedvision.layers.multi_order_gated_aggregation import MultiOrderGatedAggregation
from gatedvision.layers.recursive_gated_conv import RecursiveGatedConv
from gatedvision.models import hornet, moganet, vig, vig_h
from gatedvision.models.moganet import MogaStem
from gatedvision.models.vig import ViGBlock
from gatedvision.models.vig_h import ViGHBlock


class BlockOnMap(nn.Module):
    """A plain ViG block without its stream: begins with a map and ends with the sum."""

    def __init__(self, block: ViGBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        branch, residual = self.block((x, x.new_zeros(()).expand_as(x)))
        return branch + residual


class StemAndStep(nn.Module):
    """The stem of ViG-H and its first step down."""

    def __init__(self, **dd: Any) -> None:
        super().__init__()
        self.stem = ConvStem(3, 96, (3, 3), (2, 2), nn.GELU, **dd)
        self.downsample = ConvNorm(96, 192, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.stem(x))


@dataclass(frozen=True)
class Part:
    """How to build and fill what a block record describes.

    Attributes:
        build: makes the module, given device and dtype.
        rules: the family's renaming of published keys.
        places: begin of a record's keys -> what stands before it in a published state dict.
        renamed: begin of the renamed keys -> begin of the module's keys.
        takes_image: the module wants ``[B, C, H, W]`` rather than ``[B, H, W, C]``.
    """

    build: Callable[..., nn.Module]
    rules: Any
    places: dict[str, str]
    renamed: dict[str, str]
    takes_image: bool = False


def recursive_gated_conv(*args: Any, **kwargs: Any) -> Part:
    """Return the part of a gnConv record; its arguments are those of the layer."""
    return Part(
        lambda **dd: RecursiveGatedConv(*args, **kwargs, **dd),
        hornet.PUBLISHED_NAMES,
        {"": "backbone.stages.0.0.gnconv."},
        {"stages.0.blocks.0.mixer.": ""},
    )


PARTS = {
    "gnconv_order2_dw_unscaled": recursive_gated_conv(16, 2),
    "gnconv_order3_dw": recursive_gated_conv(32, 3, scale=1 / 3),
    "gnconv_order4_gf_native": recursive_gated_conv(32, 4, scale=1 / 3, map_size=(14, 14)),
    "gnconv_order4_gf_resized": recursive_gated_conv(32, 4, scale=1 / 3, map_size=(14, 14)),
    "block_mixer_vig_t": Part(
        lambda **dd: GatedLinearAttention(192, 3, silu=True, **dd),
        vig.PUBLISHED_NAMES,
        {"": "blocks.0.attn."},
        {"stages.0.mixer.": ""},
    ),
    "block_vig_s": Part(
        lambda **dd: BlockOnMap(ViGBlock(384, 6, silu=False, **dd)),
        vig.PUBLISHED_NAMES,
        {"": "blocks.0."},
        {"stages.0.": "block."},
    ),
    "block_vig_h_stage0": Part(
        lambda **dd: ViGHBlock(96, 3, **dd),
        vig_h.PUBLISHED_NAMES,
        {"": "layers.0.blocks.0."},
        {"stages.0.blocks.0.": ""},
    ),
    "stem_vig_t": Part(
        lambda **dd: ConvStem(3, 192, (9, 3), (8, 2), nn.SiLU, **dd),
        vig.PUBLISHED_NAMES,
        {"": "patch_embed."},
        {"stem.": ""},
        takes_image=True,
    ),
    "stem_vig_h_t": Part(
        StemAndStep,
        vig_h.PUBLISHED_NAMES,
        {"patch_embed": "", "downsample": "layers.0."},
        {"stages.1.": "", "": ""},
        takes_image=True,
    ),
    "moga_channel_ffn": Part(
        lambda **dd: ChannelAggregationFFN(12, 24, **dd),
        moganet.PUBLISHED_NAMES,
        {"": "blocks1.0.mlp."},
        {"stages.0.blocks.0.mlp.": ""},
    ),
    "moga_gated_aggregation": Part(
        lambda **dd: MultiOrderGatedAggregation(16, **dd),
        moganet.PUBLISHED_NAMES,
        {"": "blocks1.0.attn."},
        {"stages.0.blocks.0.mixer.": ""},
    ),
    "moga_multiorder_dwconv": Part(
        lambda **dd: MultiOrderDWConv(16, **dd),
        moganet.PUBLISHED_NAMES,
        {"": "blocks1.0.attn.value."},
        {"stages.0.blocks.0.mixer.value.": ""},
    ),
    "moga_stack_stem": Part(
        lambda **dd: MogaStem(3, 16, **dd),
        moganet.PUBLISHED_NAMES,
        {"": "patch_embed1."},
        {"stem.": ""},
        takes_image=True,
    ),
}
