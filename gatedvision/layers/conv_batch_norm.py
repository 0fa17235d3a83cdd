"""Convolution, batch norm and ReLU over two or three dimensions."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from gatedvision.layers._hooks import has_hooks

Sizes = Union[int, Sequence[int]]


class Conv3d(nn.Conv3d):
    """A convolution of volumes that may have no bias and be exported to ONNX nevertheless."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[B, C, D, H, W]`` to ``[B, C', D', H', W']``."""
        if self.bias is None and torch.compiler.is_compiling():
            # PyTorch's exporter (2.14) makes a bias of two axes where there is none; one of zeros is compiled away.
            return self._conv_forward(input, self.weight, self.weight.new_zeros(self.out_channels))
        return super().forward(input)


_CONVS = {2: nn.Conv2d, 3: Conv3d}
_TRANSPOSED_CONVS = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def per_axis(value: Sizes, spatial_dims: int) -> tuple[int, ...]:
    """Return one number for each axis.

    Args:
        value: a number for all, or one for each.
        spatial_dims: axes: 2 for images, 3 for volumes.

    Raises:
        ValueError: for other dimensions than 2 and 3, or another count of numbers than axes.
    """
    if spatial_dims not in _CONVS:
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
    values = (value,) * spatial_dims if isinstance(value, int) else tuple(value)
    if len(values) != spatial_dims:
        raise ValueError(f"expected one number or {spatial_dims}, one for each axis, got {value}")
    return values


def make_conv(in_chans: int, dim: int, kernel_size: Sizes = 1, spatial_dims: int = 2, **kwargs: Any) -> nn.Module:
    """Return a convolution of images or volumes.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
        kernel_size: its kernel, for all axes or each.
        spatial_dims: 2 for images, 3 for volumes.
        **kwargs: further arguments of ``nn.Conv2d`` and ``nn.Conv3d``.
    """
    return _CONVS[spatial_dims](in_chans, dim, per_axis(kernel_size, spatial_dims), **kwargs)


def make_transposed_conv(
    in_chans: int, dim: int, kernel_size: Sizes, stride: Sizes, spatial_dims: int = 2, **dd: Any
) -> nn.Module:
    """Return a transposed convolution that enlarges each side by the stride, exactly.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
        kernel_size: its kernel, for all axes or each, not smaller than the stride.
        stride: factor, for all axes or each.
        spatial_dims: 2 for images, 3 for volumes.
        **dd: device and dtype.
    """
    kernel_size, stride = per_axis(kernel_size, spatial_dims), per_axis(stride, spatial_dims)
    # The kernel's centre lies on the first of the positions that its input becomes.
    padding = tuple((size - 1) // 2 for size in kernel_size)
    longer = tuple(step + 2 * cut - size for size, step, cut in zip(kernel_size, stride, padding, strict=True))
    return _TRANSPOSED_CONVS[spatial_dims](in_chans, dim, kernel_size, stride, padding, longer, **dd)


def make_batch_norm(dim: int, spatial_dims: int = 2, **dd: Any) -> nn.Module:
    """Return a batch norm of images or volumes."""
    return _BATCH_NORMS[spatial_dims](dim, **dd)


class ConvBatchNorm(nn.Sequential):
    """A convolution with bias (``conv``), a batch norm (``norm``), dropout if any, and ReLU unless left out.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
        kernel_size: odd, for all axes or each; the padding keeps the size.
        stride: step, for all axes or each.
        spatial_dims: 2 for images, 3 for volumes.
        relu: end with a ReLU.
        norm: have the batch norm.
        drop_rate: dropout between norm and ReLU, 0 to 1.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: if a kernel is even.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        kernel_size: Sizes = 3,
        stride: Sizes = 1,
        spatial_dims: int = 2,
        relu: bool = True,
        norm: bool = True,
        drop_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        sizes = per_axis(kernel_size, spatial_dims)
        if any(size % 2 == 0 for size in sizes):
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        padding = tuple(size // 2 for size in sizes)
        self.conv = make_conv(
            in_chans, dim, sizes, spatial_dims, stride=per_axis(stride, spatial_dims), padding=padding, **dd
        )
        if norm:
            self.norm = make_batch_norm(dim, spatial_dims, **dd)
        if drop_rate > 0:
            self.drop = nn.Dropout(drop_rate)
        if relu:
            self.act = nn.ReLU(inplace=True)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[B, in_chans, *S]`` to ``[B, dim, *S']``; in evaluation on a CPU by a single convolution."""
        if not torch.jit.is_scripting():
            recorded = torch.compiler.is_compiling() or torch.jit.is_tracing() or not isinstance(input, Tensor)
            # Compilers join the norm with the ReLU by themselves, and a GPU spends little on either.
            if not recorded and input.is_cpu:
                return self._forward_folded(input)
        for module in self:
            input = module(input)
        return input

    def _forward_folded(self, x: Tensor) -> Tensor:
        folded = self.fold()
        if folded is None:
            return super().forward(x)
        conv: Any = self.conv
        x = conv._conv_forward(x, *(value.to(conv.weight.dtype) for value in folded))
        for name, module in self.named_children():
            if name not in ("conv", "norm"):
                x = module(x)
        return x

    def fold(self) -> Optional[tuple[Tensor, Tensor]]:
        """Return weight and bias of the one convolution that convolution and norm are in evaluation.

        Gradients reach the parameters of both. Nothing of dropout or ReLU is in them.

        Returns:
            ``[dim, in_chans, *kernel_size]`` and ``[dim]``, in float32 or wider; None while the norm takes statistics
            of its input, in training or for want of others, and if either has hooks or was replaced by a module of
            another kind.
        """
        conv: Any = self.conv
        norm: Any = getattr(self, "norm", None)
        if type(conv) not in _CONVS.values() or type(norm) not in _BATCH_NORMS.values():
            return None
        if has_hooks(conv) or has_hooks(norm):
            return None
        if norm.training or norm.running_mean is None or norm.weight is None or conv.bias is None:
            return None
        dtype = torch.promote_types(norm.running_var.dtype, torch.float32)
        scale = norm.weight * torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
        weight = conv.weight * scale.view(-1, *[1] * (conv.weight.ndim - 1))
        return weight, (conv.bias - norm.running_mean.to(dtype)) * scale + norm.bias
