"""Modules that several model families share; each holds parameters and calls an operator."""

from gatedvision.layers.attention_gate import GridAttentionGate, SameGridAttentionGate
from gatedvision.layers.attention_guided_gate import AttentionGuidedGatedConv2d, AttentionGuidedSkip
from gatedvision.layers.channel_aggregation import ChannelAggregationFFN
from gatedvision.layers.contextual_attention import ContextualAttention
from gatedvision.layers.conv_norm import ConvNorm, ConvStem
from gatedvision.layers.depthwise_conv import DepthwiseConv
from gatedvision.layers.gated_conv import GatedConv2d, GatedUpsample2d, PaddedConv2d
from gatedvision.layers.gated_conv3d import GatedConv3d
from gatedvision.layers.gated_linear_attention import GatedLinearAttention
from gatedvision.layers.global_filter import GlobalLocalFilter
from gatedvision.layers.mixed_scale_attention import MixedScaleAttention
from gatedvision.layers.mixed_scale_gate import MixedScaleGate
from gatedvision.layers.moe import ExpertMlp, MoeMlp, SoftMoeMlp
from gatedvision.layers.moe_routers import ExpertChoiceRouter, SoftRouter, TopKRouter
from gatedvision.layers.multi_order_dwconv import MultiOrderDWConv
from gatedvision.layers.multi_order_gated_aggregation import MultiOrderGatedAggregation
from gatedvision.layers.partial_conv import PartialConv2d
from gatedvision.layers.recursive_gated_conv import RecursiveGatedConv
from gatedvision.layers.resize_nearest import resize_nearest_aligned
from gatedvision.layers.seamless import clone_seamlessly, membrane
from gatedvision.layers.swiglu import SwiGluMlp
from gatedvision.layers.temporal_shift import GatedTemporalShiftConv2d, TemporalShift, temporal_shift

__all__ = [
    "AttentionGuidedGatedConv2d",
    "AttentionGuidedSkip",
    "ChannelAggregationFFN",
    "ConvNorm",
    "ConvStem",
    "ContextualAttention",
    "DepthwiseConv",
    "ExpertChoiceRouter",
    "ExpertMlp",
    "GatedConv2d",
    "GatedConv3d",
    "GatedLinearAttention",
    "GatedTemporalShiftConv2d",
    "GatedUpsample2d",
    "GlobalLocalFilter",
    "GridAttentionGate",
    "MixedScaleAttention",
    "MixedScaleGate",
    "MoeMlp",
    "MultiOrderDWConv",
    "MultiOrderGatedAggregation",
    "PaddedConv2d",
    "PartialConv2d",
    "RecursiveGatedConv",
    "SameGridAttentionGate",
    "SoftMoeMlp",
    "SoftRouter",
    "SwiGluMlp",
    "TemporalShift",
    "TopKRouter",
    "resize_nearest_aligned",
    "temporal_shift",
    "clone_seamlessly",
    "membrane",
]
