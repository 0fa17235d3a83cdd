"""Depthwise convolution of channels-last maps."""

from typing import Any, Optional

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn

from gatedvision.layers._autocast import to_autocast_dtype
from gatedvision_kernels import depthwise_conv2d, depthwise_conv2d_reference


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def convolve_depthwise(x: Tensor, weight: Tensor, bias: Optional[Tensor], dilation: int = 1) -> Tensor:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript; autocast applies to ``x``.

    Args:
        x: maps ``[B, H, W, C]``.
        weight: kernels ``[C, 1, k, k]``, k odd.
        bias: ``[C]`` or nothing.
        dilation: distance between the taps, pixels.

    Returns:
        ``[B, H, W, C]``, contiguous.
    """
    if torch.jit.is_scripting():
        return depthwise_conv2d_reference(x, weight, bias, dilation)
    else:
        return depthwise_conv2d(to_autocast_dtype(x), weight, bias, dilation=dilation)


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution that keeps the size of a channels-last map.

    Args:
        dim: channels.
        kernel_size: side of the kernel, pixels, odd; on a GPU, 3, 5 and 7 are fast.
        bias: add a learned constant to each channel.
        dilation: distance between the taps, pixels.
        eager_kernel: take the kernel also where nothing is compiled. It spares the GPU time, but called from Python it
            costs the host 130 us, torch's convolution 36 (H200).
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if ``kernel_size`` is even.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int,
        bias: bool = True,
        dilation: int = 1,
        eager_kernel: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, for the map to keep its size, got {kernel_size}")
        super().__init__(
            dim,
            dim,
            kernel_size,
            padding=kernel_size // 2 * dilation,
            dilation=dilation,
            groups=dim,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        self.eager_kernel = eager_kernel

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to ``[B, H, W, C]``."""
        if torch.jit.is_scripting() or self.eager_kernel or torch.compiler.is_compiling():
            return convolve_depthwise(input, self.weight, self.bias, self.dilation[0])
        # The permuted views keep channels last in memory, so nothing is copied around the convolution.
        return self._conv_forward(input.permute(0, 3, 1, 2), self.weight, self.bias).permute(0, 2, 3, 1)
