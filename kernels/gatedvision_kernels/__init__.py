"""Gated operators for vision: each a plain torch reference with Triton kernels beside it."""

from gatedvision_kernels.bidirectional_gla import bidirectional_gla, bidirectional_gla_reference

__all__ = ["bidirectional_gla", "bidirectional_gla_reference"]
