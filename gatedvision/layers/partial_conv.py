"""Partial convolution: a convolution over the known pixels only, which keeps account of them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PartialConv2d(nn.Conv2d):
    """Partial convolution (G. Liu et al., arXiv:1804.07723, section 3.1).

    With n the number of taps under the kernel and s that of known ones::

        y = (W * (x m)) n / s + b   where s > 0, else 0
        m' = 1                      where s > 0, else 0

    Here 1 marks a **known** pixel, in the masks of networks with gated convolutions a hole.

    Args:
        in_chans: channels of the input.
        out_chans: channels of the output.
        kernel_size: side of the kernel, pixels.
        stride: step between outputs, pixels.
        padding: zeros around the map, at most half the kernel; they are not known.
        multi_channel: the mask differs between channels, and taps are counted over all of them.
        bias: add a learned constant to each channel.
        eps: added to the number of known taps; 1e-6 is enough for 16-bit numbers.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 0,
        multi_channel: bool = False,
        bias: bool = True,
        eps: float = 1e-8,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_chans, out_chans, kernel_size, stride, padding=padding, bias=bias, device=device, dtype=dtype
        )
        self.margin = padding
        self.multi_channel = multi_channel
        self.eps = eps

    # The base class takes a map alone.
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Convolve the known pixels.

        Args:
            x: ``[B, C, H, W]``.
            mask: 1 or true for known pixels, ``[B, 1, H, W]``, or ``[B, C, H, W]`` with ``multi_channel``.

        Returns:
            The map ``[B, C', H', W']`` and its mask, ``[B, 1, H', W']``, or ``[B, C', H', W']`` with
            ``multi_channel``, in the dtype of ``x``.

        Raises:
            ValueError: if the mask has another shape.
        """
        expected = (x.shape[0], self.in_channels if self.multi_channel else 1, *x.shape[2:])
        if mask.shape != expected:
            raise ValueError(f"mask must be {expected} for x {tuple(x.shape)}, got {tuple(mask.shape)}")
        mask = mask.to(torch.promote_types(x.dtype, torch.float32))
        taps = self.kernel_size[0] * self.kernel_size[1] * mask.shape[1]
        # A pooling rather than a convolution of ones, which autocast would run in 16 bits.
        known = F.avg_pool2d(mask.sum(1, keepdim=True), self.kernel_size, self.stride, self.margin, divisor_override=1)
        new_mask = (known > 0).to(known.dtype)
        ratio = taps / (known + self.eps) * new_mask
        y = F.conv2d(x.masked_fill(mask == 0, 0), self.weight, None, self.stride, self.padding)
        y = y * ratio.to(y.dtype)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)[:, None, None] * new_mask.to(y.dtype)
        if self.multi_channel:
            new_mask = new_mask.expand(-1, self.out_channels, -1, -1)
        return y, new_mask.to(x.dtype)
