"""Depthwise convolution of channels-last maps."""

from typing import Any, Optional

import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def convolve_depthwise(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """Convolve each channel with a kernel of its own, zeros around the map, which keeps its size.

    Args:
        x: maps ``[B, H, W, C]``.
        weight: kernels ``[C, 1, k, k]``, k odd.
        bias: ``[C]`` or nothing.

    Returns:
        ``[B, H, W, C]``.
    """
    padding = weight.shape[-1] // 2
    # The permuted views keep channels last in memory, so nothing is copied around the convolution.
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=padding, groups=weight.shape[0])
    return y.permute(0, 2, 3, 1)


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution that keeps the size of a channels-last map.

    Args:
        dim: channels.
        kernel_size: side of the kernel, pixels, odd.
        bias: add a learned constant to each channel.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if ``kernel_size`` is even.
    """

    def __init__(self, dim: int, kernel_size: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, for the map to keep its size, got {kernel_size}")
        super().__init__(
            dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=bias, device=device, dtype=dtype
        )

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to ``[B, H, W, C]``."""
        return convolve_depthwise(input, self.weight, self.bias)
