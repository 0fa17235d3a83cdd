"""Modules that several model families share; each holds parameters and calls an operator."""

from gatedvision.layers.channel_aggregation import ChannelAggregationFFN
from gatedvision.layers.conv_norm import ConvNorm, ConvStem
from gatedvision.layers.depthwise_conv import DepthwiseConv
from gatedvision.layers.gated_linear_attention import GatedLinearAttention
from gatedvision.layers.global_filter import GlobalLocalFilter
from gatedvision.layers.multi_order_dwconv import MultiOrderDWConv
from gatedvision.layers.multi_order_gated_aggregation import MultiOrderGatedAggregation
from gatedvision.layers.recursive_gated_conv import RecursiveGatedConv
from gatedvision.layers.swiglu import SwiGluMlp

__all__ = [
    "ChannelAggregationFFN",
    "ConvNorm",
    "ConvStem",
    "DepthwiseConv",
    "GatedLinearAttention",
    "GlobalLocalFilter",
    "MultiOrderDWConv",
    "MultiOrderGatedAggregation",
    "RecursiveGatedConv",
    "SwiGluMlp",
]
