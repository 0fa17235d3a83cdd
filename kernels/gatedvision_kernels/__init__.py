"""Gated operators for vision: each a plain torch reference with Triton kernels beside it."""

from gatedvision_kernels.additive_gate import additive_gate, additive_gate_reference
from gatedvision_kernels.bias_gelu import (
    bias_gelu,
    bias_gelu_linear,
    bias_gelu_linear_reference,
    bias_gelu_reference,
)
from gatedvision_kernels.bidirectional_gla import bidirectional_gla, bidirectional_gla_reference
from gatedvision_kernels.channel_aggregation import (
    channel_aggregation,
    channel_aggregation_linear,
    channel_aggregation_linear_reference,
    channel_aggregation_reference,
)
from gatedvision_kernels.depthwise_conv2d import depthwise_conv2d, depthwise_conv2d_reference
from gatedvision_kernels.filter_spectrum import filter_spectrum, filter_spectrum_reference
from gatedvision_kernels.gated_activation import gated_activation, gated_activation_reference
from gatedvision_kernels.gated_norm_mix import gated_norm_mix, gated_norm_mix_reference
from gatedvision_kernels.gated_product import (
    gated_product,
    gated_product_linear,
    gated_product_linear_reference,
    gated_product_reference,
)
from gatedvision_kernels.gather_tokens import (
    gather_tokens,
    gather_tokens_reference,
    scatter_tokens,
    scatter_tokens_reference,
)
from gatedvision_kernels.key_gains import key_gains, key_gains_reference
from gatedvision_kernels.layer_norm import (
    add_layer_norm,
    add_layer_norm_reference,
    layer_norm,
    layer_norm_reference,
)
from gatedvision_kernels.moe_combine import moe_combine, moe_combine_reference
from gatedvision_kernels.moe_dispatch import moe_dispatch, moe_dispatch_reference
from gatedvision_kernels.moe_slots import moe_slots, moe_slots_reference
from gatedvision_kernels.recursive_gate import recursive_gate, recursive_gate_reference
from gatedvision_kernels.rms_norm import add_rms_norm, add_rms_norm_reference, rms_norm, rms_norm_reference
from gatedvision_kernels.spatial_decomposition import spatial_decomposition, spatial_decomposition_reference
from gatedvision_kernels.swiglu import swiglu, swiglu_reference
from gatedvision_kernels.swiglu_mlp import swiglu_mlp, swiglu_mlp_reference
from gatedvision_kernels.top_k_gates import top_k_gates, top_k_gates_reference
from gatedvision_kernels.wide_linear import wide_linear, wide_linear_reference

__all__ = [
    "add_layer_norm",
    "add_layer_norm_reference",
    "add_rms_norm",
    "add_rms_norm_reference",
    "additive_gate",
    "additive_gate_reference",
    "bias_gelu",
    "bias_gelu_linear",
    "bias_gelu_linear_reference",
    "bias_gelu_reference",
    "bidirectional_gla",
    "bidirectional_gla_reference",
    "channel_aggregation",
    "channel_aggregation_linear",
    "channel_aggregation_linear_reference",
    "channel_aggregation_reference",
    "depthwise_conv2d",
    "depthwise_conv2d_reference",
    "filter_spectrum",
    "filter_spectrum_reference",
    "gated_activation",
    "gated_activation_reference",
    "gated_norm_mix",
    "gated_norm_mix_reference",
    "gated_product",
    "gated_product_linear",
    "gated_product_linear_reference",
    "gated_product_reference",
    "gather_tokens",
    "gather_tokens_reference",
    "key_gains",
    "key_gains_reference",
    "layer_norm",
    "layer_norm_reference",
    "moe_combine",
    "moe_combine_reference",
    "moe_dispatch",
    "moe_dispatch_reference",
    "moe_slots",
    "moe_slots_reference",
    "recursive_gate",
    "recursive_gate_reference",
    "rms_norm",
    "rms_norm_reference",
    "scatter_tokens",
    "scatter_tokens_reference",
    "spatial_decomposition",
    "spatial_decomposition_reference",
    "swiglu",
    "swiglu_mlp",
    "swiglu_mlp_reference",
    "swiglu_reference",
    "top_k_gates",
    "top_k_gates_reference",
    "wide_linear",
    "wide_linear_reference",
]
