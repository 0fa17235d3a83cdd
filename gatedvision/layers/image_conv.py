"""Strided convolutions of images, which have few channels, as matrix products on a GPU.

cuDNN has no kernels for tensor cores there: cutting 256 images of 224 pixels into patches of 16 and mapping them to 384
channels in bfloat16 takes it 1.7 ms on an H200 (torch 2.11), and a product 0.18, or 0.10 compiled.
"""

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from gatedvision.layers._autocast import autocast_dtype, to_autocast_dtype
from gatedvision.layers._exporting import is_exporting

# Kernels of smaller steps overlap so much that the copied patches would be larger than what is computed of them.
SHORTEST_STEP = 4
# Matrix products in 16 bits want rows of whole 16 bytes.
ROW_MULTIPLE = 8


class ImageConv(nn.Conv2d):
    """PyTorch's convolution, which on a GPU in 16 bits is a matrix product if it takes long steps over few channels.

    Arguments, parameters and their names are those of ``nn.Conv2d``. As a product it returns its map channels-last in
    memory.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to ``[B, D, H', W']``."""
        if torch.jit.is_scripting():
            return self._conv_forward(input, self.weight, self.bias)
        else:
            if takes_product(self, input):
                return self._multiply(input)
            return self._conv_forward(input, self.weight, self.bias)

    def _multiply(self, input: Tensor) -> Tensor:
        (rows, columns), (down, right) = self.kernel_size, self.stride
        above, aside = int(self.padding[0]), int(self.padding[1])
        x = to_autocast_dtype(input)
        if above or aside:
            x = F.pad(x, (aside, aside, above, above))
        # [B, C, H', W', rows, columns], of which each patch becomes a row.
        patches = x.unfold(2, rows, down).unfold(3, columns, right).permute(0, 2, 3, 1, 4, 5).flatten(3)
        weight = self.weight.flatten(1)
        short = -weight.shape[1] % ROW_MULTIPLE
        if short:
            patches, weight = F.pad(patches, (0, short)), F.pad(weight, (0, short))
        return F.linear(patches, weight, self.bias).permute(0, 3, 1, 2)


def takes_product(conv: nn.Conv2d, x: Tensor) -> bool:
    """Tell whether a convolution is better a product: not in programs that are recorded to run elsewhere."""
    if is_exporting() or torch.jit.is_tracing() or not x.is_cuda or x.ndim != 4:
        return False
    plain = conv.groups == 1 and conv.padding_mode == "zeros" and set(conv.dilation) == {1}
    return (
        plain
        and not isinstance(conv.padding, str)
        and conv.in_channels <= 4
        and min(conv.stride) >= SHORTEST_STEP
        and autocast_dtype(x).itemsize == 2
    )


# A leaf for torch.fx. As a decorator it would hide the class from type checkers.
register_notrace_module(ImageConv)
