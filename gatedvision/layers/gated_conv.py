"""Convolutions that pad as published inpainting networks do, and the gated ones among them."""

from typing import Any, Optional

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor, nn

from gatedvision_kernels import gated_activation, gated_activation_reference

PADDINGS = ("same", "symmetric", "reflect")


# torch.fx keeps functions whole only if their names begin with a letter.
@register_notrace_function
def activate_gated(x: Tensor, bias: Optional[Tensor], activation: str) -> Tensor:
    """Call the operator: a leaf for torch.fx, plain torch in TorchScript."""
    if torch.jit.is_scripting():
        return gated_activation_reference(x, bias, activation)
    else:
        return gated_activation(x, bias, activation=activation)


def same_padding(size: int, kernel_size: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return TensorFlow's "SAME" padding of one axis: before and after, pixels.

    The result has ``ceil(size / stride)`` pixels; an odd total puts the larger half after.
    """
    # By the remainder, which a program that leaves sizes open knows where the size itself is unknown.
    total = max((kernel_size - 1) * dilation + 1 - (size % stride or stride), 0)
    return total // 2, total - total // 2


class PaddedConv2d(nn.Conv2d):
    """A convolution whose padding is worked out for each axis.

    Args:
        in_chans: channels of the input.
        out_chans: channels of the output.
        kernel_size: side of the kernel, pixels.
        stride: step between outputs, pixels.
        dilation: distance between the taps, pixels.
        padding: ``"same"``: TensorFlow's SAME, zeros, with the larger half after the map, so that strided layers
            sample other pixels than with ``"symmetric"``: ``dilation * (kernel_size - 1) // 2`` zeros on either
            side; ``"reflect"``: as many mirrored pixels, of which the map must have more than that.
        bias: add a learned constant to each channel.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: for another padding.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        padding: str = "same",
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
        super().__init__(
            in_chans, out_chans, kernel_size, stride, dilation=dilation, bias=bias, device=device, dtype=dtype
        )
        self.pad_mode = padding

    def convolve(self, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """Pad and convolve ``[B, C, H, W]`` with any weight and bias of the layer's shape."""
        kernel_size, stride, dilation = self.kernel_size[0], self.stride[0], self.dilation[0]
        reach = dilation * (kernel_size - 1) // 2
        if self.pad_mode == "same":
            top, bottom = same_padding(x.shape[2], kernel_size, stride, dilation)
            left, right = same_padding(x.shape[3], kernel_size, stride, dilation)
        else:
            top = bottom = left = right = reach
        if self.pad_mode == "reflect":
            x, padding = F.pad(x, (left, right, top, bottom), mode="reflect"), (0, 0)
        elif top == bottom and left == right:
            # The convolution itself then pads, without a copy of the map.
            padding = (top, left)
        else:
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, C', ceil(H / stride), ceil(W / stride)]``."""
        return self.convolve(input, self.weight, self.bias)


class GatedConv2d(PaddedConv2d):
    """Gated convolution: ``act(W x + b) * sigmoid(W' x + b')`` (J. Yu et al., arXiv:1806.03589, section 3.1).

    One convolution computes both halves, values before gates; published code calls the number of its channels,
    ``2 * dim``, the width of the layer.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
        kernel_size: side of the kernel, pixels.
        stride: step between outputs, pixels.
        dilation: distance between the taps, pixels.
        activation: of the value: ``"elu"``, ``"relu"``, ``"leaky_relu"`` (slope 0.2) or ``"identity"``.
        padding: as in :class:`PaddedConv2d`.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: for another padding.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        activation: str = "elu",
        padding: str = "same",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_chans, 2 * dim, kernel_size, stride, dilation, padding, device=device, dtype=dtype)
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, dim, ceil(H / stride), ceil(W / stride)]``."""
        # A kernel adds the bias on its way, and elsewhere the convolution does.
        if input.is_cuda:
            return activate_gated(self.convolve(input, self.weight, None), self.bias, self.activation)
        return activate_gated(self.convolve(input, self.weight, self.bias), None, self.activation)


class GatedUpsample2d(GatedConv2d):
    """A gated convolution behind nearest upsampling to twice the size ("gated deconvolution")."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, dim, 2H, 2W]``."""
        return super().forward(F.interpolate(input, scale_factor=2.0, mode="nearest"))
