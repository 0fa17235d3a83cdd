"""Depthwise convolution of channels-last maps: the spatial mixing of HorNet, MogaNet and ViG.

For each channel c of a map x with a kernel w of K x K taps, K odd, dilation D and zeros around the map::

    y[h, w, c] = bias[c] + sum_(i, j) weight[c, i, j] * x[h + D (i - K // 2), w + D (j - K // 2), c]

Shapes: B batch, H height, W width, C channels, K side of the kernel, D dilation; in the kernels S pixels of a strip,
L strips of a tile, P programs that share the sums.
"""

from typing import Optional

from torch import Tensor

from gatedvision_kernels._dispatch import use_triton
from gatedvision_kernels.depthwise_conv2d._strips import KERNEL_SIZES
from gatedvision_kernels.depthwise_conv2d.operator import depthwise_conv2d_triton
from gatedvision_kernels.depthwise_conv2d.reference import depthwise_conv2d_reference

__all__ = ["depthwise_conv2d", "depthwise_conv2d_reference"]


def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, *, dilation: int = 1, backend: str = "auto"
) -> Tensor:
    """Convolve each channel of a map with a kernel of its own, keeping the size of the map.

    Args:
        x: ``[B, H, W, C]``; adjacent channels, as of a slice of a wider map, are read where they are.
        weight: ``[C, 1, K, K]``, K odd, in any floating dtype.
        bias: ``[C]`` or nothing.
        dilation: pixels between neighbouring taps, at least 1.
        backend: ``"auto"``, ``"triton"`` or ``"reference"``; there are kernels for K of 3, 5 and 7.

    Returns:
        ``[B, H, W, C]``, contiguous, in the dtype of ``x``; sums are taken in float32 or wider.

    Raises:
        ValueError: if shapes or dtypes do not fit, or the backend cannot run on these tensors.
    """
    _check(x, weight, bias, dilation)
    supported = weight.shape[3] in KERNEL_SIZES
    if backend == "triton" and not supported:
        raise ValueError(
            f"backend='triton' has kernels for K in {KERNEL_SIZES}, got K={weight.shape[3]}; use backend='auto'"
        )
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if use_triton(backend, *tensors) and supported:
        return depthwise_conv2d_triton(x, weight, bias, dilation)
    return depthwise_conv2d_reference(x, weight, bias, dilation)


def _check(x: Tensor, weight: Tensor, bias: Optional[Tensor], dilation: int) -> None:
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ValueError(f"x must be [B, H, W, C] with at least one pixel and channel, got {list(x.shape)}")
    channels, size = x.shape[3], weight.shape[-1] if weight.ndim else 0
    if weight.shape != (channels, 1, size, size) or size % 2 == 0:
        raise ValueError(
            f"weight must be [C, 1, K, K] with K odd beside x {list(x.shape)} of C = {channels}, "
            f"got {list(weight.shape)}"
        )
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"bias must be [C] beside x {list(x.shape)} of C = {channels}, got {list(bias.shape)}")
    named = {"x": x, "weight": weight} if bias is None else {"x": x, "weight": weight, "bias": bias}
    for name, tensor in named.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
    if dilation < 1:
        raise ValueError(f"dilation must be at least 1, got {dilation}")
