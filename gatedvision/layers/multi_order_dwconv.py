"""Depthwise convolutions of three reaches on three groups of channels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatedvision.layers.depthwise_conv import DepthwiseConv
from gatedvision.layers.linear import Linear


class MultiOrderDWConv(nn.Module):
    """Multi-order depthwise convolution on channels-last maps (MogaNet, arXiv:2211.03295, section 4.2).

    All channels pass a 5x5 kernel. Then the first group stays as it is, the second passes another 5x5 kernel
    and the third a 7x7 kernel, their taps 2 and 3 pixels apart, so that the groups see 5, 13 and 23 pixels of
    the input. A linear layer mixes the groups.

    Args:
        dim: channels, a multiple of the sum of ``channel_split``.
        dilations: distance between the taps of each of the three kernels, pixels.
        channel_split: ratio of the widths of the three groups.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if there are not three dilations and three groups, or ``dim`` does not split.
    """

    def __init__(
        self,
        dim: int,
        dilations: Sequence[int] = (1, 2, 3),
        channel_split: Sequence[int] = (1, 3, 4),
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        for name, numbers in (("dilations", dilations), ("channel_split", channel_split)):
            if len(numbers) != 3 or min(numbers) < 1:
                raise ValueError(f"{name} must be three positive numbers, got {tuple(numbers)}")
        parts = sum(channel_split)
        if dim % parts:
            raise ValueError(
                f"dim must be a multiple of {parts} to be split {tuple(channel_split)}, got {dim}; "
                "choose another dim or channel_split"
            )
        dd = {"device": device, "dtype": dtype}
        self.widths = [dim * part // parts for part in channel_split]
        self.conv_low = DepthwiseConv(dim, 5, dilation=dilations[0], **dd)
        self.conv_middle = DepthwiseConv(self.widths[1], 5, dilation=dilations[1], **dd)
        self.conv_high = DepthwiseConv(self.widths[2], 7, dilation=dilations[2], **dd)
        self.proj = Linear(dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to the same shape."""
        low, middle, high = self.conv_low(x).split(self.widths, dim=-1)
        return self.proj(torch.cat([low, self.conv_middle(middle), self.conv_high(high)], dim=-1))
