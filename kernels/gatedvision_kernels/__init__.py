"""Gated operators for vision: each a plain torch reference with Triton kernels beside it."""

from gatedvision_kernels.bidirectional_gla import bidirectional_gla, bidirectional_gla_reference
from gatedvision_kernels.gated_norm_mix import gated_norm_mix, gated_norm_mix_reference
from gatedvision_kernels.rms_norm import add_rms_norm, add_rms_norm_reference, rms_norm, rms_norm_reference
from gatedvision_kernels.swiglu import swiglu, swiglu_reference

__all__ = [
    "add_rms_norm",
    "add_rms_norm_reference",
    "bidirectional_gla",
    "bidirectional_gla_reference",
    "gated_norm_mix",
    "gated_norm_mix_reference",
    "rms_norm",
    "rms_norm_reference",
    "swiglu",
    "swiglu_reference",
]
