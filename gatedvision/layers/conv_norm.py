"""Strided convolutions followed by a layer norm over channels, on channels-last maps."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from gatedvision.layers.image_conv import ImageConv


class ConvNorm(nn.Module):
    """A convolution with bias, then a layer norm over channels (eps 1e-5).

    The convolution sees a permuted view of the channels-last map, the norm its natural layout.

    Args:
        in_chans: channels of the input.
        out_chans: channels of the output.
        kernel_size: side of the kernel, pixels; the padding is always 1.
        stride: step of the kernel, pixels.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int = 3,
        stride: int = 2,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv = ImageConv(in_chans, out_chans, kernel_size, stride, padding=1, **dd)
        self.norm = nn.LayerNorm(out_chans, eps=1e-5, **dd)

    def output_size(self, size: int) -> int:
        """Return the side of the output for a side of the input."""
        return (size + 2 - self.conv.kernel_size[0]) // self.conv.stride[0] + 1

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, H, W, C]`` to ``[B, H', W', C']``."""
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class ConvStem(nn.Module):
    """Turn an image into a map in two strided convolutions, the first of half the width.

    Args:
        in_chans: channels of the image.
        dim: channels of the output, even.
        kernel_sizes: sides of the two kernels, pixels.
        strides: steps of the two kernels, pixels.
        act_layer: activation between the two.
        device: where the parameters are created.
        dtype: in which type the parameters are created.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        kernel_sizes: Sequence[int],
        strides: Sequence[int],
        act_layer: type[nn.Module],
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv_norm1 = ConvNorm(in_chans, dim // 2, kernel_sizes[0], strides[0], **dd)
        self.act = act_layer()
        self.conv_norm2 = ConvNorm(dim // 2, dim, kernel_sizes[1], strides[1], **dd)

    def output_size(self, size: int) -> int:
        """Return the side of the map for a side of the image, both in pixels; below 1 if the image is too small."""
        return self.conv_norm2.output_size(self.conv_norm1.output_size(size))

    def forward(self, x: Tensor) -> Tensor:
        """Map an image ``[B, C, H, W]`` to ``[B, H', W', D]``."""
        return self.conv_norm2(self.act(self.conv_norm1(x.permute(0, 2, 3, 1))))
