"""Gated convolution of frames, whose values look at the frames around by a shift of channels.

Paper: Y.-L. Chang et al., "Learnable Gated Temporal Shift Module for Deep Video Inpainting",
https://arxiv.org/abs/1907.01131 (BMVC 2019), section 3.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.layers.gated_conv import PaddedConv2d, activate_gated


def temporal_shift(x: Tensor) -> Tensor:
    """Shift a quarter of the channels one frame back in time, and another one forth.

    Args:
        x: frames ``[B, T, C, H, W]``.

    Returns:
        The same shape: the first quarter of the channels from the next frame, the second from the one before, the rest
        as they were, and zeros where there is no such frame.
    """
    quarter = x.shape[2] // 4
    following, preceding, rest = x.split([quarter, quarter, x.shape[2] - 2 * quarter], 2)
    # The pairs pad the width, height, channels and frames, in this order.
    following = F.pad(following[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
    preceding = F.pad(preceding[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    return torch.cat([following, preceding, rest], 2)


class TemporalShift(nn.Module):
    """A learned kernel over three frames for each channel, which begins as :func:`temporal_shift`.

    Args:
        dim: channels.
        device: where the parameter is created.
        dtype: in which type the parameter is created.
    """

    def __init__(self, dim: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.dim = dim
        # Shares of the frame before, the frame itself and the next.
        self.weight = nn.Parameter(torch.empty(dim, 3, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make it the fixed shift."""
        quarter = self.dim // 4
        with torch.no_grad():
            self.weight.zero_()
            self.weight[:quarter, 2] = 1
            self.weight[quarter : 2 * quarter, 0] = 1
            self.weight[2 * quarter :, 1] = 1

    def forward(self, x: Tensor) -> Tensor:
        """Map frames ``[B, T, C, H, W]`` to the same shape."""
        padded = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 1))
        frames = x.shape[1]
        before, here, after = (share[:, None, None] for share in self.weight.to(x.dtype).unbind(1))
        return before * padded[:, :frames] + here * x + after * padded[:, 2:]


class GatedTemporalShiftConv2d(nn.Module):
    """Gated convolution of frames: values from shifted channels, gates from the frame alone.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
        kernel_size: side of the kernels, pixels.
        stride: step between outputs, pixels.
        dilation: distance between the taps, pixels.
        activation: of the value: ``"leaky_relu"`` (slope 0.2), ``"relu"``, ``"elu"`` or ``"identity"``.
        learnable: learn the shift; else it stays as it is.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        activation: str = "leaky_relu",
        learnable: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.activation = activation
        self.shift = TemporalShift(in_chans, **dd) if learnable else None
        self.conv_value, self.conv_gate = (
            PaddedConv2d(in_chans, dim, kernel_size, stride, dilation, "symmetric", **dd) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map frames ``[B, T, C, H, W]`` to ``[B, T, dim, H', W']``."""
        batch, frames = x.shape[:2]
        shifted = temporal_shift(x) if self.shift is None else self.shift(x)
        value, gate = self.conv_value(shifted.flatten(0, 1)), self.conv_gate(x.flatten(0, 1))
        return activate_gated(torch.cat([value, gate], 1), None, self.activation).unflatten(0, (batch, frames))
